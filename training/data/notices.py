"""What was left out of recordings, or mended, on the terminal: the one place that says it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from vla_ros.training.data.episode import Episode

_EACH = 3  # of notices that differ in numbers only; the others are counted


def say(text: str) -> None:
    """A line on the standard error stream, beside a progress bar or not."""
    tqdm.write(text, file=sys.stderr)


def announced(episodes: Iterable[Episode]) -> Iterator[Episode]:
    """The same episodes, their notes said as they come."""
    counts: dict[str, int] = {}
    try:
        for episode in episodes:
            for note in episode.notes:
                kind = re.sub(r"[\d.]+", "#", note.replace("1 frame ", "1 frames "))
                counts[kind] = counts.get(kind, 0) + 1
                if counts[kind] <= _EACH:
                    say(f"{episode.name}: {note}")
            yield episode
    finally:
        for kind, count in counts.items():
            if count > _EACH:
                more = "1 more episode" if count == _EACH + 1 else f"{count - _EACH} more episodes"
                say(f"{more}: {kind.replace('#', '...')}")
