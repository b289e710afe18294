"""Where a robot's joints are at a moment, from all messages that tell of them.

One rule for the live nodes and for recordings: of each joint, the newest position not after the
moment. Drivers may tell of arm and gripper in messages of their own, on one topic or on several,
and stamps may step back a little. Messages are read by their fields only, times are whole
nanoseconds, and nothing here imports ROS.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

SECOND = 1_000_000_000  # ns
# A stamp that steps back by more is of a clock that began anew, by less of a message that is late:
# two drivers are seldom in step, and one that is busy sends in another order than it stamped.
CLOCK_RESTART = SECOND // 2  # ns

_KEPT = 3 * SECOND  # ns of joint states that are remembered
_WAITED = SECOND // 50  # ns: messages that are usually later than this are not waited for
_BEFORE = 2_000  # ns: a message as late as another was may be on its way, also in float seconds
# Most that is kept of what a sender may make endless: messages whose stamps stand still, names that
# change from message to message, and how long all names of one message are, in characters.
_MOST_KEPT = 10_000
_MOST_NAMES = 1_000
_LONGEST_NAMES = 100_000
_LOOKED_AT = 300  # messages in which contradictions are looked for
_LOOKED_EVERY = SECOND // 4  # ns
_APART = 0.02  # rad, m or whatever a joint is told in: nearer is not told apart from noise
_AGAIN = 3  # so many times is no accident
_OFTEN = 0.05  # share of messages

_NUMBERS = {"position": "positions", "velocity": "velocities", "effort": "efforts"}

T = TypeVar("T")


class MissingJoints(ValueError):
    """There is no position that is new enough."""


class History(Generic[T]):
    """What came on one topic in the last `span`, by stamp; in any unit of time.

    Late messages are put where they belong. A stamp that steps back by more than `restart` is of a
    clock that began anew: what was before it is forgotten.
    """

    def __init__(self, span: float, restart: float = CLOCK_RESTART) -> None:
        self._span, self._restart = span, restart
        self._stamps: list[float] = []
        self._entries: list[T] = []

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp: float, entry: T) -> bool:
        """Returns whether the clock began anew."""
        restarted = bool(self._stamps) and stamp < self._stamps[-1] - self._restart
        if restarted:
            self._stamps.clear()
            self._entries.clear()
        place = bisect_right(self._stamps, stamp)
        self._stamps.insert(place, stamp)
        self._entries.insert(place, entry)
        old = bisect_left(self._stamps, self._stamps[-1] - self._span)
        old = max(old, len(self._stamps) - _MOST_KEPT)
        del self._stamps[:old], self._entries[:old]
        return restarted

    @property
    def newest(self) -> tuple[float, T] | None:
        return (self._stamps[-1], self._entries[-1]) if self._stamps else None

    def back_from(self, stamp: float) -> Iterator[tuple[float, T]]:
        """Those not after `stamp`, the newest first; of one stamp, the one that came last first."""
        for place in range(bisect_right(self._stamps, stamp) - 1, -1, -1):
            yield self._stamps[place], self._entries[place]


@dataclass
class Source:
    """What one topic tells of joints before a moment.

    Args:
        topic: its name, for messages to people.
        known: the joints that it ever told of.
        back: (age in ns, positions by name), the newest first.
        longest: ns that a position may be old, None for any age.
    """

    topic: str
    known: Collection[str]
    back: Iterator[tuple[int, Mapping[str, float]]]
    longest: int | None


def merge(sources: Sequence[Source], names: Sequence[str]) -> np.ndarray:
    """The newest position of each of `names`, float64 [len(names)].

    Raises:
        MissingJoints: one has none that is new enough.
        ValueError: two topics tell of one joint.
    """
    owners: dict[str, str] = {}  # joint -> topic
    found: dict[str, float] = {}
    for source in sources:
        missing = {name for name in names if name in source.known}
        if twice := sorted(missing & owners.keys()):
            raise ValueError(
                f"{owners[twice[0]]} and {source.topic} both tell of {', '.join(twice)}: leave one "
                "of the two topics out, or say which joints each is for (names: [...])"
            )
        owners |= dict.fromkeys(missing, source.topic)
        for age, positions in source.back if missing else ():
            if source.longest is not None and age > source.longest:
                break
            for name in missing & positions.keys():
                found[name] = positions[name]
            missing -= positions.keys()
            if not missing:
                break
    if missing := [name for name in names if name not in found]:
        raise MissingJoints(_why_missing(sources, owners, missing))
    return np.array([found[name] for name in names], dtype=np.float64)


def _why_missing(
    sources: Sequence[Source], owners: Mapping[str, str], missing: Sequence[str]
) -> str:
    topics = " and ".join(source.topic for source in sources)
    if owners and (unknown := [name for name in missing if name not in owners]):
        known = ", ".join(name for source in sources for name in source.known)
        return f"{topics} lacks {', '.join(unknown)}: it has {known}"
    parts = []
    for source in sources:
        late = [name for name in missing if owners.get(name, source.topic) == source.topic]
        if late:
            age = "" if source.longest is None else f" of the last {source.longest / SECOND:g} s"
            silent = {name for name, topic in owners.items() if topic == source.topic} <= {*late}
            what = "" if silent else f"{', '.join(late)} on "
            parts.append(f"without {what}{source.topic}{age}")
    return " and ".join(parts)


def read_positions(
    message: Any,
    names: Sequence[str],
    topic: str = "joint_states",
    by_place: Sequence[str] = (),
    field: str = "position",
) -> dict[str, float]:
    """Positions (rad, m) of those of `names` that a sensor_msgs/JointState tells of.

    Args:
        message: read by its fields.
        names: those wanted.
        topic: for messages to people.
        by_place: what a message without any names tells of; `names` if left out.
        field: what is read: "position", "velocity" or "effort".

    Raises:
        ValueError: a joint is named twice, is not finite (it is named) or has no position.
    """
    there, values, what = message.name, getattr(message, field), _NUMBERS[field]
    if not len(there) and len(values):
        there = by_place or names
        if len(values) != len(there):
            raise ValueError(
                f"{topic} names no joints and holds {len(values)} {what}, but {len(there)} are "
                f"wanted ({', '.join(there)}): let the driver name them, or give their names in "
                f"the order of the {what} (names: [...])"
            )
    wanted = set(names)
    places = [(name, place) for place, name in enumerate(there) if name in wanted]
    if len({name for name, _ in places}) < len(places):
        known = [name for name, _ in places]
        twice = sorted({name for name in known if known.count(name) > 1})
        raise ValueError(f"{topic} names {', '.join(twice)} twice in one message")
    if places and len(values) != len(there):
        raise ValueError(f"{topic} names {len(there)} joints but has {len(values)} {what}")
    positions = {name: float(values[place]) for name, place in places}
    if bad := [name for name, value in positions.items() if not np.isfinite(value)]:
        raise ValueError(f"{topic} holds NaN or infinity for {', '.join(bad)}")
    return positions


def contradiction(said: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    """Whether messages, in the order of their stamps, are of two robots; "" or how it shows.

    Two publishers of one joint, such as a driver and a joint_state_publisher that says zeros, make
    it jump there and back from message to message, which no joint can.
    """
    if zeros := _returning_zeros(said):
        return f"{zeros} times there is 0 for every joint, in between messages that agree otherwise"
    elsewhere: Counter[int] = Counter()  # message -> joints that it puts far out of their way
    for name in names:
        telling = [place for place, positions in enumerate(said) if name in positions]
        values = np.array([said[place][name] for place in telling])
        levels = np.unique(values)
        if len(levels) < 8:  # a gripper that is told as open or closed
            continue
        steps = np.diff(values)
        there, back = steps[:-1], steps[1:]
        size = np.minimum(abs(there), abs(back))
        spikes = (
            (there * back < 0)
            & (size > max(_APART, 3 * np.diff(levels).min()))  # of an encoder: not its last digit
            & (abs(there + back) <= 0.1 * size)
        )
        count = int(spikes.sum())
        if count < _AGAIN:
            continue
        far = 0.1 * np.median(size[spikes])
        if count < _OFTEN * len(values):
            jumps = np.append(spikes, False) | np.append(False, spikes)
            if np.quantile(abs(steps[~jumps]), 0.99) <= far:
                elsewhere.update(telling[place + 1] for place in np.flatnonzero(spikes))
            continue
        # Of two trains, each is smooth by itself: of three messages, two are of the same.
        along = np.minimum(size, abs(there + back))
        if np.quantile(along, 0.75) <= far:
            return f"{name} jumps there and back {count} times in {len(values)} messages"
    # Seldom; one joint alone may be a gripper that snaps, several at once are of another robot.
    count = sum(joints > 1 for joints in elsewhere.values())
    if count >= _AGAIN:
        return f"{count} of {len(said)} messages are far from those around them, which agree"
    return ""


def _returning_zeros(said: Sequence[Mapping[str, float]]) -> int:
    """How often messages of nothing but 0 come between two that are elsewhere, and agree.

    The two may be of some of the joints, as those of an arm and of a gripper.
    """
    count, before = 0, {}
    zeros: Collection[str] = ()  # joints that were said to be 0 since
    for positions in said:
        if len(positions) > 1 and not any(positions.values()):
            zeros = positions.keys()
            continue
        if both := [name for name in positions if name in zeros and name in before]:
            size = max(abs(before[name]) for name in both)
            away = sum(abs(before[name]) > _APART for name in both)
            moved = max(abs(positions[name] - before[name]) for name in both)
            count += 2 * away >= len(both) and moved <= 0.5 * size
            zeros = ()
        before |= positions
    return count if count >= _AGAIN else 0


class JointHistory:
    """Joint states as they come, of the last seconds.

    Args:
        topics: those that together give the state.
    """

    def __init__(self, topics: Sequence[str] = ("joint_states",)) -> None:
        self._histories = {topic: History[Any](_KEPT) for topic in topics}
        self._known: dict[str, dict[str, None]] = {topic: {} for topic in topics}
        self._late: deque[tuple[int, int]] = deque()  # ns: when a message was late, and by how much
        self._looked = 0  # ns: newest stamp when contradictions were looked for
        self._contradiction = ""
        self.nameless: set[str] = set()  # topics whose messages name no joints

    def add(self, topic: str, stamp: int, message: Any) -> None:
        """Take a sensor_msgs/JointState stamped `stamp` ns, unless its names are of no robot."""
        if sum(map(len, message.name)) > _LONGEST_NAMES:
            return
        newest = self.newest
        if self._histories[topic].add(stamp, message):
            self._known[topic], newest, self._looked, self._contradiction = {}, None, 0, ""
            self._late.clear()
        if len(self._known[topic]) > _MOST_NAMES:
            self._known[topic] = {}
        self._known[topic].update(dict.fromkeys(message.name))
        if not len(message.name) and len(message.position):
            self.nameless.add(topic)
        if newest is not None and 0 < newest - stamp <= _WAITED:
            self._late.append((newest, newest - stamp))
        while self._late and (
            self._late[0][0] < self.newest - _KEPT or len(self._late) > _MOST_KEPT
        ):
            self._late.popleft()

    @property
    def newest(self) -> int | None:
        """Stamp in ns of the newest message; None: there is none."""
        newest = [history.newest[0] for history in self._histories.values() if len(history)]
        return max(newest, default=None)

    @property
    def complete(self) -> int | None:
        """Up to when, in ns, all messages are here, as far as one can know; None: there are none.

        When messages come out of order, those of the newest's last milliseconds may be on the way.
        """
        newest = self.newest
        if newest is None or not self._late:
            return newest
        return newest - max(by for _, by in self._late) - _BEFORE

    def positions(self, names: Sequence[str], stamp: int, timeout: int) -> np.ndarray:
        """The newest position of each joint not after `stamp`: what training saw, float64 [D].

        Args:
            names: of D joints.
            stamp: ns.
            timeout: ns that a position may be older than `stamp`.

        Raises:
            MissingJoints: a joint has no such position.
            ValueError: messages cannot be read, or contradict each other.
        """
        newest = self.newest
        if newest is not None and newest - self._looked >= _LOOKED_EVERY:
            self._looked = newest
            self._contradiction = self._look_for_contradiction(names)
        if self._contradiction:
            raise ValueError(self._contradiction)
        before = [next(history.back_from(stamp), None) for history in self._histories.values()]
        if not any(one is not None and stamp - one[0] <= timeout for one in before):
            raise MissingJoints(
                f"no joint states of the {timeout / SECOND:g} s before the image on "
                f"{' or '.join(self._histories)}: is the robot's driver running, and on the same "
                "clock as the camera?"
            )
        return merge(
            [self._source(topic, names, stamp, timeout) for topic in self._histories], names
        )

    def _source(self, topic: str, names: Sequence[str], stamp: int, timeout: int) -> Source:
        def back() -> Iterator[tuple[int, dict[str, float]]]:
            for at, message in self._histories[topic].back_from(stamp):
                yield stamp - at, read_positions(message, names, topic)

        known = names if topic in self.nameless else self._known[topic]
        return Source(topic, known, back(), timeout)

    def _look_for_contradiction(self, names: Sequence[str]) -> str:
        for topic, history in self._histories.items():
            said = []
            for _, message in islice(history.back_from(math.inf), _LOOKED_AT):
                with suppress(ValueError):  # told when its moment is asked for
                    said.append(read_positions(message, names, topic))
            if how := contradiction(said, names):
                return (
                    f"{topic} contradicts itself: {how}. Two publishers tell of one joint: stop "
                    "the one that does not measure it"
                )
        return ""
