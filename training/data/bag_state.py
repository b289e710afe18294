"""What is told of joints at the frames of a recording, by the rule of vla_ros.joint_states."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vla_ros.joint_states import MissingJoints, Source, contradiction, merge, read_positions
from vla_ros.training.data.alignment import Lookup, Span, Stream, newest
from vla_ros.training.data.bag import SECOND, Bag
from vla_ros.training.data.bag_contract import held_for
from vla_ros.training.data.bag_values import JOINTS, VALUES

_WHOLE = 20_000  # messages of a topic that are all looked at; of more, blocks
_BLOCK = 300
_BLOCKS_KEPT = 8


class StateReader:
    """Reads positions by name from one topic or several that together give the state.

    What is notable but no fault stands in `notes`.

    Args:
        field: of JointState; None: its positions, of a robot, which cannot jump there and back as
            what is commanded may.

    Raises:
        ValueError: a topic lacks a joint, or contradicts itself.
    """

    def __init__(
        self,
        bag: Bag,
        streams: Sequence[Stream],
        span: Span,
        names: Sequence[str],
        field: str | None = None,
    ) -> None:
        self._bag, self._names = bag, tuple(names)
        what = "the state" if field is None else "the command"
        made = (_StateTopic(bag, one, span, names, field) for one in streams)
        self._topics = [*made] if names else []
        self.notes = [note for topic in self._topics for note in topic.notes]
        known = [name for topic in self._topics for name in topic.known]
        told = any(topic.all_names for topic in self._topics)
        if told and (missing := [name for name in names if name not in known]):
            there = "; ".join(
                f"{topic.name} has {', '.join(topic.all_names)}" for topic in self._topics
            )
            raise ValueError(f"{bag.path}: no topic of {what} has {', '.join(missing)}: {there}")

    def at(self, stamps: np.ndarray, received: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Positions at frames, float64 [T, D], and of each frame why it has none ("": it has).

        Args:
            stamps, received: int64 [T], ns, of the frames.

        Raises:
            ValueError: a message cannot be read; topic and frame are named.
        """
        values, missing = np.zeros((len(stamps), len(self._names))), [""] * len(stamps)
        for topic in self._topics:
            topic.prepare(stamps, received)
        for frame in range(len(stamps)) if self._names else ():
            sources = [topic.source(frame) for topic in self._topics]
            try:
                values[frame] = merge(sources, self._names)
            except MissingJoints as error:
                missing[frame] = str(error)
            except ValueError as error:
                at = f"the frame at {stamps[frame] / SECOND:.3f} s"
                raise ValueError(f"{self._bag.path}, {at}: {error}") from None
        return values, missing


class _StateTopic:
    """Messages of one topic within a span, by stamp; each is decoded once or seldom twice."""

    def __init__(
        self, bag: Bag, stream: Stream, span: Span, names: Sequence[str], field: str | None
    ) -> None:
        topic = bag.topic(stream.topic)
        self._field, self._may_jump = field or "position", field is not None
        self._bag, self._topic, self._lookup = bag, topic, Lookup(topic, span)
        self.name = topic.name
        self._wanted = [name for name in names if not stream.names or name in stream.names]
        self._by_place = tuple(stream.names) or tuple(names)
        age = held_for(stream)
        self._longest = None if age is None else round(age * SECOND)
        self._read: dict[int, Mapping[str, float]] = {}
        self._blocks: OrderedDict[int, list[Mapping[str, float]]] = OrderedDict()
        self.notes: list[str] = []
        self.all_names: dict[str, None] = {}  # in their order
        self._look()
        self.known = {name for name in self._wanted if name in self.all_names}

    def _look(self) -> None:
        """Look for contradictions, and at what the messages name."""
        count = len(self._lookup.rows)
        begins, length = [0], count
        if count > _WHOLE:
            length = _BLOCK
            begins = np.linspace(0, count - length, _WHOLE // length).astype(int).tolist()
        nameless = False
        for begin in begins:
            said = []
            rows = self._lookup.rows[begin : begin + length].tolist()
            for index, message in enumerate(self._bag.messages(self._topic, rows), begin):
                if self._topic.type != JOINTS:
                    self.all_names |= dict.fromkeys(self._by_place)
                    return
                if not len(message.name) and len(getattr(message, self._field)):
                    nameless = True
                    self.all_names |= dict.fromkeys(self._by_place)
                self.all_names |= dict.fromkeys(message.name)
                try:
                    positions = self._positions(message)
                except ValueError:
                    continue  # told when a frame needs it
                said.append(positions)
                if count <= _WHOLE:
                    self._read[index] = positions
            if not self._may_jump and (how := contradiction(said, self._wanted)):
                raise ValueError(
                    f"{self._bag.path}: {self.name} contradicts itself: {how}. Two publishers tell "
                    "of one joint: record it again with the one that measures it alone"
                )
        if nameless:
            self.notes.append(
                f"{self.name} names no joints: its positions are taken by place, as "
                f"{', '.join(self._by_place)}"
            )

    def prepare(self, stamps: np.ndarray, received: np.ndarray) -> None:
        """Read what is the newest at frames, in one pass."""
        self._times = stamps if self._topic.stamped else received
        self._newest = newest(self._times, self._lookup.stamps)
        wanted = [i for i in np.unique(self._newest).tolist() if i >= 0 and i not in self._read]
        rows = self._lookup.rows[wanted].tolist()
        for index, message in zip(wanted, self._bag.messages(self._topic, rows), strict=True):
            try:
                self._read[index] = self._positions(message)
            except ValueError as error:
                stamp = self._lookup.stamps[index] / SECOND
                raise ValueError(f"{self._bag.path}, at {stamp:.3f} s: {error}") from None

    def source(self, frame: int) -> Source:
        return Source(self.name, self.known, self._back(frame), self._longest)

    def _back(self, frame: int) -> Iterator[tuple[int, Mapping[str, float]]]:
        for index in range(int(self._newest[frame]), -1, -1):
            age = int(self._times[frame] - self._lookup.stamps[index])
            yield age, self._read[index] if index in self._read else self._from_block(index)

    def _from_block(self, index: int) -> Mapping[str, float]:
        """Of a message that is not the newest of a frame; such come in rows."""
        number = index // _BLOCK
        if number not in self._blocks:
            rows = self._lookup.rows[number * _BLOCK : (number + 1) * _BLOCK].tolist()
            messages = self._bag.messages(self._topic, rows)
            self._blocks[number] = list(map(self._positions, messages))
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return self._blocks[number][index % _BLOCK]

    def _positions(self, message: Any) -> Mapping[str, float]:
        if self._topic.type == JOINTS:
            return read_positions(message, self._wanted, self.name, self._by_place, self._field)
        values = VALUES[self._topic.type](message, self._by_place)
        return dict(zip(self._by_place, values.tolist(), strict=True))
