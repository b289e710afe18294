"""Which message was the newest known at a frame. Never one of the future: running has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from vla_ros.training.data.bag import SECOND, Topic

JUMP = SECOND // 2  # ns: header stamps that step so far against times of receipt jumped
Span = tuple[int, int]  # times of receipt [from, to), ns


class Align(str, Enum):
    """What a frame gets from a stream, always the newest message not after it."""

    HOLD = "hold"  # however old
    AS_OF = "as_of"  # not older than the tolerance; older is an error
    DROP = "drop"  # not older than the tolerance; else the frame is left out


@dataclass(frozen=True)
class Stream:
    """A topic and how it is brought to the frames of the first camera.

    Args:
        topic: its name, with or without the leading slash.
        align: see `Align`.
        tolerance: s.
    """

    topic: str
    align: Align = Align.DROP
    tolerance: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "align", Align(self.align))


def newest(frames: np.ndarray, stamps: np.ndarray, tolerance: int | None = None) -> np.ndarray:
    """Index of the newest of `stamps` (increasing) not after each frame, -1 where there is none.

    Args:
        frames: int64 [T], ns.
        stamps: int64 [N], ns.
        tolerance: ns; older counts as none. None: any age will do.

    Returns:
        int64 [T].
    """
    found = np.searchsorted(stamps, frames, side="right") - 1
    if tolerance is not None and len(stamps):
        found[frames - stamps[found] > tolerance] = -1
    return found


def clock_jumps(topic: Topic) -> np.ndarray:
    """Indices of messages whose header stamp jumped: backwards, or ahead of the times of receipt.

    Small steps backwards are messages out of order, not jumps of the clock.
    """
    if not topic.stamped:
        return np.zeros(0, dtype=np.int64)
    made, received = np.diff(topic.stamps), np.diff(topic.received)
    return np.flatnonzero((made < -JUMP) | (made - received > JUMP)) + 1


def steady_spans(topics: Sequence[Topic]) -> list[Span]:
    """Stretches of a recording without a jump of any topic's clock.

    Topics see one jump at slightly different times. What comes between (a second at most from one
    to the next) belongs to no stretch: frames of before would meet joints of after.
    """
    jumps = np.sort(np.concatenate([t.received[clock_jumps(t)] for t in topics]))
    spans, begin = [], 0
    for first in np.flatnonzero(np.diff(jumps, prepend=-2 * SECOND) > SECOND):
        same = jumps[first:]
        steps = np.flatnonzero(np.diff(same) > SECOND)
        last = same[steps[0] if len(steps) else -1]
        spans.append((begin, int(jumps[first])))
        begin = int(last)
    return [*spans, (begin, np.iinfo(np.int64).max)]


class Lookup:
    """The messages of a topic within a span, to be found by time."""

    def __init__(self, topic: Topic, span: Span) -> None:
        self.topic = topic
        inside = np.flatnonzero((topic.received >= span[0]) & (topic.received < span[1]))
        order = np.argsort(topic.stamps[inside], kind="stable")
        self.rows = inside[order]  # int64 [N], by stamp
        self.stamps = topic.stamps[self.rows]

    def rows_at(
        self, stamps: np.ndarray, received: np.ndarray, tolerance: float | None
    ) -> np.ndarray:
        """Row in the topic of the newest message at each frame, -1 where there is none.

        Messages without a stamp of their own are told apart by their receipt, and so is the frame
        then: a robot's clock need not be the recorder's.

        Args:
            stamps: int64 [T], ns, of the frames.
            received: int64 [T], ns, of the frames.
            tolerance: s, None for any age.
        """
        limit = None if tolerance is None else round(tolerance * SECOND)
        found = newest(stamps if self.topic.stamped else received, self.stamps, limit)
        return np.where(found < 0, -1, self.rows[found] if len(self.rows) else -1)
