"""What is in a recording and how well it was recorded: `vla bag report PATH`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.training.data.alignment import clock_jumps
from vla_ros.training.data.bag import SECOND, Bag, Topic

_UNSTEADY = 0.5  # spread of the middle half of all periods, in periods, of what is not periodic
_LATE = 1.5  # periods between two messages from which one in between is missing


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
    gap: float  # s, the largest between two messages; NaN below two
    drops: int | None  # messages missing from the nominal rate; None: it is not periodic
    jumps: tuple[Jump, ...]
    stamped: bool
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
    def of(cls, path: str | Path) -> BagReport:
        """Look at a recording; of its messages only the first and last of each topic are decoded.

        Raises:
            ValueError: empty, corrupt or truncated, or a topic's messages are not of its type.
        """
        bag = Bag(path)
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
        yield f"  {'topic':{width}}  {'count':>7} {'rate/s':>8} {'gap s':>8} {'drops':>6}  type"
        for topic in self.topics:
            yield (
                f"  {topic.name:{width}}  {topic.count:7} {topic.rate:8.2f} {topic.gap:8.3f} "
                f"{'-' if topic.drops is None else topic.drops:>6}  {topic.type}"
            )
        for topic in self.topics:
            for jump in topic.jumps:
                yield (
                    f"  {topic.name}: clock jump {jump.at:.3f} s in: the stamp stepped by "
                    f"{jump.step:+.3f} s within {jump.elapsed:.3f} s"
                )
        for topic in self.topics:
            if topic.problem:
                yield f"  skipped: {topic.problem}"
        for note in self.notes:
            yield f"  note: {note}"


def _unreadable(bag: Bag, topic: Topic) -> tuple[str, int]:
    """Why the messages cannot be read (empty: they can), and bytes left over after one.

    Raises:
        ValueError: they could, were they of the type that the topic claims.
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
            raise ValueError(f"{bag.path}: {error}") from None
    return "", left


def _topic_report(topic: Topic, start: int, problem: str) -> TopicReport:
    times = np.sort(topic.stamps)
    jumps = clock_jumps(topic)
    if len(jumps):  # header stamps tell no rate across a jump
        times = topic.received
    periods = np.diff(times) / SECOND
    rate, gap, drops = np.nan, np.nan, None
    if len(periods):
        early, period, late = np.percentile(periods, (25, 50, 75))
        gap = float(periods.max())
        rate = float(1 / period) if period > 0 else np.nan
        if late - early < _UNSTEADY * period:
            missing = periods[periods > _LATE * period] / period - 1
            drops = int(np.round(missing).sum())
    first, last = ((topic.received[[0, -1]] - start) / SECOND) if len(topic) else (np.nan, np.nan)
    return TopicReport(
        name=topic.name,
        type=topic.type,
        count=len(topic),
        first=float(first),
        last=float(last),
        rate=rate,
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
        problem=problem,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="folder of a recording, or one of its files"
    )


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 1 when one of the recordings cannot be read."""
    code = 0
    for path in arguments.paths:
        try:
            lines = [*BagReport.of(path).lines()]
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
        else:
            print("\n".join(lines))
    return code
