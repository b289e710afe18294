"""Which message was the newest known at a frame. Never one of the future: running has none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from vla_ros.joint_states import CLOCK_RESTART
from vla_ros.training.data.bag import SECOND, Topic

JUMP = CLOCK_RESTART  # ns: header stamps that step so far against times of receipt jumped


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
        tolerance: s; None: what suits it, 0.2 s for numbers, for cameras see `bag_contract`.
        names: of a state, the joints that are taken of it; of a state or a command, what its
            messages hold by place where they name nothing. All that is wanted if left out.
    """

    topic: str
    align: Align = Align.DROP
    tolerance: float | None = None
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "align", Align(self.align))
        if self.tolerance is not None and not 0.0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance is {self.tolerance}: give seconds, 0 or more")


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


class Span:
    """A stretch of a recording within which no clock jumps: for each topic, times of receipt.

    Topics see the same jump at slightly different times, so each has its own bounds; those without
    a clock have those of the topic that saw it first.
    """

    def __init__(self, begins: Mapping[str, int], ends: Mapping[str, int]) -> None:
        self._begins, self._ends = begins, ends

    @property
    def after_jump(self) -> bool:
        return bool(self._begins)

    def inside(self, topic: Topic) -> np.ndarray:
        """Indices of the topic's messages in this stretch."""
        begin = self._begins.get(topic.name, self._begins.get("", 0))
        end = self._ends.get(topic.name, self._ends.get("", np.iinfo(np.int64).max))
        return np.flatnonzero((topic.received >= begin) & (topic.received < end))


def steady_spans(topics: Sequence[Topic]) -> list[Span]:
    """Stretches of a recording without a jump of any topic's clock.

    Jumps of several topics are one if at most a second lies between one and the next.
    """
    own = {topic.name: topic.received[clock_jumps(topic)] for topic in topics}
    jumps = np.sort(np.concatenate(list(own.values())))
    begins, spans = {}, []
    for group in np.split(jumps, np.flatnonzero(np.diff(jumps) > SECOND) + 1):
        if len(group) == 0:
            continue
        inside = {name: t[(t >= group[0]) & (t <= group[-1])] for name, t in own.items()}
        seen = {name: times for name, times in inside.items() if len(times)}
        spans.append(Span(begins, {"": group[0]} | {n: t[0] for n, t in seen.items()}))
        begins = {"": group[0]} | {name: times[-1] for name, times in seen.items()}
    return [*spans, Span(begins, {})]


class Lookup:
    """The messages of a topic within a span, to be found by time."""

    def __init__(self, topic: Topic, span: Span) -> None:
        self.topic = topic
        inside = span.inside(topic)
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


def other_clock(frames: Topic, at: np.ndarray, topic: Topic) -> str:
    """A note if stamps of the topic and of the frames have nothing in common, else ""."""
    if not (topic.stamped and frames.stamped and len(topic) and len(at)):
        return ""
    first, last = topic.stamps.min() / SECOND, topic.stamps.max() / SECOND
    begin, end = frames.stamps[at].min() / SECOND, frames.stamps[at].max() / SECOND
    if first <= end and begin <= last:
        return ""
    return (
        f"{topic.name} is stamped {first:.1f} to {last:.1f} s, {frames.name} {begin:.1f} to "
        f"{end:.1f} s: are they on one clock?"
    )
