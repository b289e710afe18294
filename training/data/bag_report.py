"""What is in a recording and how well it was recorded: `vla bag report PATH`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.paths import to_path
from vla_ros.training.data.alignment import clock_jumps
from vla_ros.training.data.bag import SECOND, Bag, Topic
from vla_ros.training.data.ranges import check_ranges, recorded_ranges, report
from vla_ros.training.data.sources import Kind, add_msg_argument, sources

if TYPE_CHECKING:
    from vla_ros.training.data.recordings import Robot

_UNSTEADY = 0.5  # spread of the middle half of all periods, in periods, of what is not periodic
_LATE = 1.5  # periods between two messages from which one in between is missing
_GAPS = 2  # with more of them, and messages twice as fast between them as on the whole: bursts
_OFF = 0.02  # of stamps against receipt, above what clocks of computers differ by
_ENOUGH = 10  # messages that tell how fast a clock runs
_ALIKE = 0.15  # clocks that differ by less run alike, as far as receipt on a busy machine tells
_LONGEST_LAG = 86400.0  # s; more is no lag, but another clock


@dataclass(frozen=True)
class Jump:
    """A header stamp that stepped by `step` s while `elapsed` s passed between the receipts."""

    at: float  # s after the first message of the recording
    step: float
    elapsed: float


@dataclass(frozen=True)
class TopicReport:
    """How one topic was recorded. Rates and gaps are of header stamps where there are any."""

    name: str
    type: str
    count: int
    first: float  # s after the first message of the recording
    last: float
    rate: float  # 1/s, nominal: of the median period; NaN below two messages
    mean: float  # 1/s, over all of its time; NaN below two messages
    gap: float  # s, the largest between two messages; NaN below two
    drops: int | None  # messages missing from the nominal rate; None: it is not periodic
    jumps: tuple[Jump, ...]
    stamped: bool
    lag: float  # s from stamp to receipt, median; NaN without stamps, or of another clock
    clock: float  # s of stamps a second of receipt; NaN without stamps, or too few to tell
    problem: str = ""  # why its messages cannot be read


@dataclass(frozen=True)
class BagReport:
    """The topics of a recording, and what is not as it should be though it can be read."""

    path: Path
    start: float  # s since 1970, receipt of the first message
    duration: float  # s
    topics: tuple[TopicReport, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, path: str | Path | Bag) -> BagReport:
        """Look at a recording; of its messages only the first and last of each topic are decoded.

        Raises:
            ValueError: empty, corrupt or truncated.
        """
        bag = path if isinstance(path, Bag) else Bag(path)
        spoken = [topic for topic in bag.topics.values() if len(topic)]
        start = min(int(topic.received[0]) for topic in spoken)
        end = max(int(topic.received[-1]) for topic in spoken)
        topics, notes = [], list(bag.notes)
        for topic in bag.topics.values():
            problem, left = _unreadable(bag, topic)
            if left > 3:  # CDR itself fills up to four
                notes.append(f"{topic.name}: {left} bytes after the end of its messages")
            topics.append(_topic_report(topic, start, problem))
        return cls(
            path=bag.path,
            start=start / SECOND,
            duration=(end - start) / SECOND,
            topics=tuple(topics),
            notes=tuple(notes),
        )

    def lines(self) -> Iterator[str]:
        """The report as text."""
        count = sum(topic.count for topic in self.topics)
        yield f"{self.path}: {self.duration:.3f} s, {count} messages"
        width = max(len(topic.name) for topic in self.topics)
        yield (
            f"  {'topic':{width}}  {'count':>7} {'rate/s':>8} {'mean/s':>8} {'gap s':>8} "
            f"{'drops':>6} {'lag s':>8}  type"
        )
        for topic in self.topics:
            yield (
                f"  {topic.name:{width}}  {topic.count:7} {_number(topic.rate, 2)} "
                f"{_number(topic.mean, 2)} {_number(topic.gap, 3)} "
                f"{'-' if topic.drops is None else topic.drops:>6} {_number(topic.lag, 3)}  "
                f"{topic.type}"
            )
        for topic in self.topics:
            for jump in topic.jumps:
                yield (
                    f"  {topic.name}: clock jump {jump.at:.3f} s in: the stamp stepped by "
                    f"{jump.step:+.3f} s within {jump.elapsed:.3f} s"
                )
        yield from self._clocks()
        for topic in self.topics:
            if topic.problem:
                yield f"  skipped: {topic.problem}"
        for note in self.notes:
            yield f"  note: {note}"

    def _clocks(self) -> Iterator[str]:
        """Stamps that do not run with the time of receipt: those that run alike on one line."""
        if any(topic.stamped and topic.count and np.isnan(topic.lag) for topic in self.topics):
            yield "  stamps are of another clock than receipt (simulated time?), so there is no lag"
        off = [topic for topic in self.topics if abs(topic.clock - 1) > _OFF]
        usual = np.median([topic.clock for topic in off]) if off else np.nan
        alike = [topic for topic in off if abs(topic.clock / usual - 1) < _ALIKE]
        why = "a simulation that is slower or faster than real time, or wrong stamps"
        if len(alike) > 1:
            off = [topic for topic in off if topic not in alike]
            least, most = (pick(topic.clock for topic in alike) for pick in (min, max))
            yield (
                f"  {', '.join(topic.name for topic in alike)}: stamps run at {least:.2f} to "
                f"{most:.2f} of the time of receipt: {why}"
            )
        for topic in off:
            yield (
                f"  {topic.name}: its stamps run at {topic.clock:.2f} of the time of receipt: {why}"
            )


def _number(value: float, digits: int) -> str:
    return f"{'-':>8}" if np.isnan(value) else f"{value:8.{digits}f}"


def _unreadable(bag: Bag, topic: Topic) -> tuple[str, int]:
    """Why the messages cannot be read (empty: they can), and bytes left over after one.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        topic.check()
    except ValueError as error:
        return str(error), 0
    left = 0
    ends = {0, len(topic) - 1} if len(topic) else set()
    for data in bag.raw(topic, sorted(ends)):
        try:
            left = topic.decode(data)[1]
        except ValueError as error:
            return str(error), 0
    return "", left


def _topic_report(topic: Topic, start: int, problem: str) -> TopicReport:
    times = np.sort(topic.stamps)
    jumps = clock_jumps(topic)
    if len(jumps):  # header stamps tell no rate across a jump
        times = topic.received
    periods = np.diff(times) / SECOND
    rate, mean, gap, drops = np.nan, np.nan, np.nan, None
    if len(periods):
        early, period, late = np.percentile(periods, (25, 50, 75))
        gap, whole = float(periods.max()), float(periods.sum())
        rate = float(1 / period) if period > 0 else np.nan
        mean = float(len(periods) / whole) if whole > 0 else np.nan
        gaps = periods[periods > _LATE * period]
        # Messages that come in bursts leave gaps, too, but none is missing there.
        bursts = len(gaps) > _GAPS and period * mean < _LATE / 3
        if late - early < _UNSTEADY * period and not bursts:
            drops = int(np.round(gaps / period - 1).sum())
    first, last = ((topic.received[[0, -1]] - start) / SECOND) if len(topic) else (np.nan, np.nan)
    return TopicReport(
        name=topic.name,
        type=topic.type,
        count=len(topic),
        first=float(first),
        last=float(last),
        rate=rate,
        mean=mean,
        gap=gap,
        drops=drops,
        jumps=tuple(
            Jump(
                at=float(topic.received[i] - start) / SECOND,
                step=float(topic.stamps[i] - topic.stamps[i - 1]) / SECOND,
                elapsed=float(topic.received[i] - topic.received[i - 1]) / SECOND,
            )
            for i in jumps
        ),
        stamped=topic.stamped,
        lag=_lag(topic),
        clock=np.nan if len(jumps) else _clock(topic),
        problem=problem,
    )


def _lag(topic: Topic) -> float:
    if not topic.stamped or not len(topic):
        return np.nan
    lag = float(np.median(topic.received - topic.stamps)) / SECOND
    return lag if abs(lag) < _LONGEST_LAG else np.nan


def _clock(topic: Topic) -> float:
    """Seconds of stamps a second of receipt, by the middles of the first and the last tenth."""
    few = max(len(topic) // 10, 1)
    if not topic.stamped or len(topic) < _ENOUGH:
        return np.nan
    stamps, received = (
        np.median(times[-few:]) - np.median(times[:few])
        for times in (topic.stamps - topic.stamps[0], topic.received - topic.received[0])
    )
    return float(stamps / received) if received > SECOND else np.nan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        type=to_path,
        metavar="PATH",
        help="a recording, one of its files, or a folder of recordings",
    )
    parser.add_argument(
        "--robot",
        metavar="NAME|YAML",
        help="also read the episodes of this robot, and report the range of each of their numbers",
    )
    add_msg_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 1 when one of the recordings cannot be read.

    Raises:
        ValueError: something is wrong with the robot.
    """
    robot = None if arguments.robot is None else _robot(arguments.robot, arguments.msg)
    code, seen = 0, set()
    for each in arguments.paths:
        try:
            for kind, place in sources(each, damaged=True, seen=seen):
                code |= _print(kind, place, arguments.msg)
        except (OSError, ValueError) as error:
            code |= _print(Kind.DAMAGED, error, ())
    return code if robot is None else code | _print_ranges(robot, arguments.paths)


def _robot(name: str, msg: Sequence[Path]) -> Robot:
    from vla_ros.training.data.recordings import Robot  # which reads more than bags

    return Robot.load(name, msg)


def _print_ranges(robot: Robot, paths: Sequence[Path]) -> int:
    """Report on the numbers of all recordings together; returns 1 if they cannot be right."""
    try:
        episodes = [*robot.episodes(paths)]
        if not episodes:
            return 1
        ranges = recorded_ranges(episodes, robot.action)
        print("\n".join(report(ranges)))
        check_ranges(ranges)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _print(kind: Kind, place: Any, msg: Sequence[Path]) -> int:
    """Report on one source; returns 1 if it cannot be read."""
    lines = [f"{place}: {kind.value}, of which this report tells nothing"]
    try:
        if kind is Kind.DAMAGED:
            raise place
        if kind is Kind.BAG:
            lines = [*BagReport.of(Bag(place, msg)).lines()]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0
