"""Time is time: where frames are missing, an episode ends and another begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.training.data.episode import Episode, FrameReader

# Periods between two frames of one episode. A camera that is nearly as fast as the frames are
# wanted leaves up to 1.8 between them at times; two are a frame that is missing.
LONGEST_STEP = 1.85
_PART = ", part "
SLOWEST = 1.25  # periods between frames, in the middle, from which on they have another period


def steady_parts(episode: Episode) -> Iterator[Episode]:
    """The parts of an episode between which frames are missing; itself if none are.

    What follows a frame in a part followed it `dt` later, so action chunks, histories and clips
    never take what came after a gap for what came next. A success is that of the last part, and
    whether those before it had done their share nobody knows.

    Raises:
        ValueError: `dt` is not the time between frames.
    """
    steps = np.diff(episode.stamps)
    if len(steps) > 1 and np.median(steps) > LONGEST_STEP * episode.dt:
        raise ValueError(
            f"{episode.name} has a frame every {np.median(steps):.3g} s, though its dt is "
            f"{episode.dt:g} s: correct dt"
        )
    gaps = np.flatnonzero(steps > LONGEST_STEP * episode.dt)
    if not len(gaps):
        yield episode
        return
    begins, ends = [0, *(gaps + 1)], [*(gaps + 1), len(episode)]
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        notes = episode.notes if number == 0 else ()
        if end < len(episode):
            notes += (
                f"cut after {episode.stamps[end - 1] - episode.stamps[0]:.2f} s: no frame for "
                f"{steps[end - 1]:.2f} s",
            )
        done = episode.outcome
        yield replace(
            episode,
            name=f"{episode.name}{_PART}{number}",
            stamps=episode.stamps[begin:end],
            proprioception=episode.proprioception[begin:end],
            actions=episode.actions[begin:end],
            actions_known=episode.actions_known[begin:end],
            pictures=_moved(episode.pictures, begin),
            depths=_moved(episode.depths, begin),
            outcome=None if done and end < len(episode) else done,
            notes=notes,
        )


def together(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Episodes, in order, those that are parts of one in one list."""
    groups: list[list[Episode]] = []
    before = None
    for episode in episodes:
        whole, part, _ = episode.name.rpartition(_PART)
        if part and whole == before:
            groups[-1].append(episode)
        else:
            groups.append([episode])
        before = whole if part else None
    return groups


def _moved(readers: Mapping[str, FrameReader], begin: int) -> dict[str, FrameReader]:
    return {camera: _Moved(reader, begin) for camera, reader in readers.items()}


@dataclass(frozen=True)
class _Moved:
    """A reader whose frame 0 is another's frame `begin`; can be sent where that can."""

    reader: FrameReader
    begin: int

    def __call__(self, first: int, last: int) -> Iterator[np.ndarray]:
        return self.reader(self.begin + first, self.begin + last)
