"""What a robot was asked to do in a recording, and whether it succeeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from vla_ros.training.data.alignment import Lookup, Span
from vla_ros.training.data.bag import SECOND, Bag, Topic
from vla_ros.training.data.bag_contract import INSTRUCTION, TASK_STATUS, Contract

_TEXT, _FLAG = "std_msgs/msg/String", "std_msgs/msg/Bool"
# What a message says of the task: it succeeded, it failed, nothing yet.
_OUTCOMES: dict[str, Callable[[Any], bool | None]] = {
    "vla_ros/msg/TaskStatus": lambda message: {1: True, 2: False}.get(message.outcome),
    _FLAG: lambda message: bool(message.data),
}


def absent(bag: Bag, contract: Contract) -> list[str]:
    """Notes on topics that the contract names for itself and the recording lacks."""
    notes = []
    for name, usual, what in (
        (contract.instruction, INSTRUCTION, "instruction"),
        (contract.task_status, TASK_STATUS, "outcome"),
    ):
        topics = {topic.lstrip("/") for topic in bag.topics}
        named = name.lstrip("/") != usual and what not in bag.custom
        if named and name.lstrip("/") not in topics:
            notes.append(
                f"there is no topic {name}, so no {what}; there are {', '.join(bag.topics)}"
            )
    return notes


class TaskReader:
    """Instructions and outcomes within one stretch of a recording."""

    def __init__(self, bag: Bag, contract: Contract, span: Span) -> None:
        self._bag, self._contract, self._span = bag, contract, span

    def instructed(
        self, stamps: np.ndarray, received: np.ndarray
    ) -> Iterator[tuple[str | None, np.ndarray]]:
        """Each instruction, and which frames are under it; last those under none, if there are.

        Args:
            stamps, received: int64 [T], ns, of the frames.

        Yields:
            The text, None for no instruction; bool [T].

        Raises:
            ValueError: the topic is of another type.
        """
        topic = self._topic(self._contract.instruction)
        if topic is None:
            yield self._bag.custom.get("instruction", ""), np.ones(len(stamps), dtype=bool)
            return
        if topic.type != _TEXT:
            raise ValueError(f"{self._bag.path}: {topic.name} is {topic.type}; expected {_TEXT}")
        texts = [message.data.strip() for message in self._bag.messages(topic)]
        rows = Lookup(topic, self._span).rows_at(stamps, received, None)
        first = np.append(self._first_of(topic, texts), -1)[rows]
        idle = np.array([row < 0 or not texts[row] for row in rows], dtype=bool)
        for row in np.unique(first[~idle]):
            yield texts[row], ~idle & (first == row)
        if idle.any():
            yield None, idle

    def _first_of(self, topic: Topic, texts: Sequence[str]) -> np.ndarray:
        """For each instruction, the message that gave it first: one that is repeated goes on."""
        first = np.arange(len(texts))
        for row in range(1, len(texts)):
            since, now = topic.received[first[row - 1]], topic.received[row]
            over = any(since < time <= now for time in self._ends)
            if texts[row] == texts[row - 1] and not over:
                first[row] = first[row - 1]
        return first

    def outcome(self, first: int, last: int) -> bool | None:
        """Whether the task succeeded of the frames received from `first` to `last`, ns.

        Raises:
            ValueError: the topic that tells is of another type.
        """
        told = self._bag.custom.get("outcome")
        if told in ("succeeded", "failed"):
            return told == "succeeded"
        during = [done for time, done in self._changes if first <= time <= last]
        after = [done for time, done in self._changes if last < time <= last + SECOND]
        if self._is_flag:  # one that is false afterwards may have been reset for what comes next
            after = [done for done in after if done or not during]
        decided = [done for done in (*during, *after) if done is not None]
        return decided[-1] if decided else None

    @property
    def _is_flag(self) -> bool:
        topic = self._topic(self._contract.task_status)
        return topic is not None and topic.type == _FLAG

    @cached_property
    def _changes(self) -> list[tuple[int, bool | None]]:
        """When the task's status changed, ns, and to what; of flags, every message.

        A status that goes on to be published says nothing of the task that comes next.
        """
        topic = self._topic(self._contract.task_status)
        if topic is None:
            return []
        if topic.type not in _OUTCOMES:
            raise ValueError(
                f"{self._bag.path}: {topic.name} is {topic.type}; expected {' or '.join(_OUTCOMES)}"
            )
        found, before = [], None
        messages = map(_OUTCOMES[topic.type], self._bag.messages(topic))
        for time, done in zip(topic.received.tolist(), messages, strict=True):
            if done != before or self._is_flag:
                found.append((time, done))
            before = done
        return found

    @cached_property
    def _ends(self) -> list[int]:
        """When tasks were decided, ns: a flag that is false says nothing yet."""
        found, before = [], None
        for time, done in self._changes:
            if done != before and (done if self._is_flag else done is not None):
                found.append(time)
            before = done
        return found

    def _topic(self, name: str) -> Topic | None:
        try:
            return self._bag.topic(name)
        except ValueError:
            return None
