"""ROS 2 recordings as episodes: which topics hold what, brought to the frames of one camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.images import (
    depth_from_compressed,
    depth_from_message,
    image_from_compressed,
    image_from_message,
)
from vla_ros.observations import proprioception
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.training.data.alignment import Align, Lookup, Span, Stream, steady_spans
from vla_ros.training.data.bag import SECOND, Bag, Topic
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bag_values import VALUES
from vla_ros.training.data.episode import Episode

_PICTURES = {
    "sensor_msgs/msg/Image": image_from_message,
    "sensor_msgs/msg/CompressedImage": image_from_compressed,
}
_DEPTHS = {
    "sensor_msgs/msg/Image": depth_from_message,
    "sensor_msgs/msg/CompressedImage": depth_from_compressed,
}
_SUCCEEDED, _FAILED = 1, 2  # TaskStatus.outcome
_TOOL = ("tool_x", "tool_y", "tool_z", "finger_opening")


def open_bag(path: str | Path, contract: Contract) -> Iterator[Episode]:
    """Episodes of a recording; their pictures are read from it when asked for.

    An episode ends where a clock jumps. What was left out stands in the episode's notes.

    Raises:
        ValueError: the recording cannot be read, lacks a topic, has one of another type, a stream
            is older than its contract allows, or no frame is left.
    """
    bag = Bag(path)
    made, left_out = 0, []
    for span in steady_spans(_wanted(bag, contract)):
        for episode in _SpanReader(bag, contract, span, left_out).episodes(made):
            made += 1
            left_out = []
            yield episode
    if not made:
        reasons = "; ".join(left_out) or "the first camera is silent"
        raise ValueError(f"{bag.path} holds no episode: {reasons}")


def _wanted(bag: Bag, contract: Contract) -> list[Topic]:
    """The topics that have to be there, their types checked before anything is read."""
    wanted = []
    for streams, types in (
        (contract.cameras.values(), _PICTURES),
        (contract.depth.values(), _DEPTHS),
        ((contract.state, contract.command), VALUES),
    ):
        for stream in streams:
            topic = bag.topic(stream.topic)
            if topic.type not in types:
                raise ValueError(
                    f"{bag.path}: {topic.name} is {topic.type}; expected {' or '.join(types)}"
                )
            topic.check()
            wanted.append(topic)
    return wanted


class _SpanReader:
    """Episodes of one stretch of a recording with steady clocks."""

    def __init__(self, bag: Bag, contract: Contract, span: Span, notes: list[str]) -> None:
        self._bag, self._contract, self._span = bag, contract, span
        self._notes = [*notes, *(() if span.after_jump else bag.notes)]
        if span.after_jump:
            self._notes.append("a clock jumped before this episode")

    def episodes(self, first_number: int) -> Iterator[Episode]:
        cameras = list(self._contract.cameras.values())
        reference = Lookup(self._bag.topic(cameras[0].topic), self._span)
        rows = {cameras[0].topic: self._thinned(reference)}
        streams = [*cameras[1:], *self._contract.depth.values()]
        for stream in (*streams, self._contract.state, self._contract.command):
            rows = self._with(stream, reference.topic, rows, cameras[0].topic)
        for number, (text, part) in enumerate(self._instructed(reference.topic, rows)):
            yield self._episode(first_number + number, text, part)
            self._notes = []

    def _thinned(self, reference: Lookup) -> np.ndarray:
        """Rows of frames, one each dt as nearly as the camera's period allows."""
        dt = round(self._contract.action.dt * SECOND)
        fresh = np.diff(reference.stamps, prepend=-1) > 0
        self._note(len(fresh) - int(fresh.sum()), "of a stamp that was there already")
        rows, stamps = reference.rows[fresh], reference.stamps[fresh]
        if len(rows) > 2 and np.median(np.diff(stamps)) > 1.25 * dt:
            rate = SECOND / np.median(np.diff(stamps))
            raise ValueError(
                f"{self._bag.path}: {reference.topic.name} has {rate:.3g} pictures a second, the "
                f"contract wants one each {self._contract.action.dt:g} s: raise dt"
            )
        kept, due = [], -1
        for row, stamp in zip(rows.tolist(), stamps.tolist(), strict=True):
            if stamp >= due - dt // 4:
                kept.append(row)
                due = stamp + dt if stamp - due > dt else due + dt
        return np.array(kept, dtype=np.int64)

    def _with(
        self, stream: Stream, frames: Topic, rows: dict[str, np.ndarray], reference: str
    ) -> dict[str, np.ndarray]:
        """`rows` with those of another stream, and without the frames for which it has none."""
        at = rows[reference]
        lookup = Lookup(self._bag.topic(stream.topic), self._span)
        tolerance = None if stream.align is Align.HOLD else stream.tolerance
        found = lookup.rows_at(frames.stamps[at], frames.received[at], tolerance)
        missing = found < 0
        if stream.align is Align.AS_OF and missing.any():
            stamp = frames.stamps[at[np.argmax(missing)]] / SECOND
            raise ValueError(
                f"{self._bag.path}: {lookup.topic.name} has nothing of the {stream.tolerance:g} s "
                f"before the frame at {stamp:.3f} s: align it by 'drop' to leave such frames out"
            )
        age = "" if tolerance is None else f" of the last {tolerance:g} s"
        self._note(int(missing.sum()), f"without {lookup.topic.name}{age}")
        return {name: r[~missing] for name, r in rows.items()} | {stream.topic: found[~missing]}

    def _note(self, count: int, what: str) -> None:
        if count:
            self._notes.append(f"{count} frame{'s' if count > 1 else ''} left out: {what}")

    def _instructed(
        self, frames: Topic, rows: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """The stretches of frames under one instruction."""
        at = next(iter(rows.values()))
        try:
            topic = self._bag.topic(self._contract.instruction)
        except ValueError:
            if len(at):
                yield self._bag.custom.get("instruction", ""), rows
            return
        said = Lookup(topic, self._span).rows_at(frames.stamps[at], frames.received[at], None)
        texts = [message.data.strip() for message in self._bag.messages(topic)]
        idle = np.array([row < 0 or not texts[row] for row in said], dtype=bool)
        self._note(int(idle.sum()), "without an instruction")
        for row in np.unique(said[~idle]):
            yield texts[row], {name: r[said == row] for name, r in rows.items()}

    def _episode(self, number: int, text: str, rows: dict[str, np.ndarray]) -> Episode:
        contract, action = self._contract, self._contract.action
        frames = self._bag.topic(next(iter(contract.cameras.values())).topic)
        at = next(iter(rows.values()))
        try:
            felt, told = self._numbers(rows)
        except ValueError as error:
            raise ValueError(f"{self._bag.path}, episode {number}: {error}") from None
        return Episode(
            name=f"{self._bag.path}, episode {number}",
            robot=self._bag.custom.get("robot", action.robot_type.value),
            control_mode=action.control_mode,
            instruction=text,
            dt=action.dt,
            action_names=action.action_names,
            proprioception_names=action.proprioception_names,
            stamps=frames.stamps[at] / SECOND,
            proprioception=felt,
            actions=told,
            pictures=self._readers(contract.cameras, rows, _PICTURES),
            depths=self._readers(contract.depth, rows, _DEPTHS),
            outcome=self._outcome(frames.received[at[0]], frames.received[at[-1]]),
            notes=tuple(self._notes),
        )

    def _readers(
        self,
        streams: Mapping[str, Stream],
        rows: dict[str, np.ndarray],
        decoders: Mapping[str, Callable[[Any], np.ndarray]],
    ) -> dict[str, partial]:
        readers = {}
        for name, stream in streams.items():
            topic = self._bag.topic(stream.topic)
            decode = decoders[topic.type]
            readers[name] = partial(_pictures, self._bag, topic, decode, rows[stream.topic])
        return readers

    def _numbers(self, rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Proprioception [T, P] and actions [T, A]."""
        action, state, command = self._contract.action, self._contract.state, self._contract.command
        in_joints = bool(action.joint_names)
        offset = in_joints and action.control_mode == "end_effector_offset"
        tool = in_joints and tuple(action.proprioception_names) == _TOOL
        felt_names = action.joint_names if tool else action.proprioception_names
        felt = self._values(state.topic, rows[state.topic], felt_names)
        told_names = action.joint_names if offset else action.action_names
        told = self._values(command.topic, rows[command.topic], told_names)
        if not (offset or tool):
            return felt, told
        kinematics = ArmKinematics()
        measured = felt if tool else self._values(state.topic, rows[state.topic], told_names)
        places = np.array([proprioception(joints, kinematics) for joints in measured])
        if offset:
            told = np.array([proprioception(joints, kinematics) for joints in told])
            told[:, :3] -= places[:, :3]
        return (places if tool else felt), told

    def _values(self, name: str, rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Numbers of the messages at `rows`, float64 [T, len(names)]; each is read once."""
        topic = self._bag.topic(name)
        once, inverse = np.unique(rows, return_inverse=True)
        values = np.empty((len(once), len(names)))
        if not names:
            return np.empty((len(rows), 0))
        for i, message in enumerate(self._bag.messages(topic, once)):
            values[i] = VALUES[topic.type](message, names)
        return values[inverse]

    def _outcome(self, first: int, last: int) -> bool | None:
        told = self._bag.custom.get("outcome")
        if told in ("succeeded", "failed"):
            return told == "succeeded"
        try:
            topic = self._bag.topic(self._contract.task_status)
        except ValueError:
            return None
        during = np.flatnonzero((topic.received >= first) & (topic.received <= last + SECOND))
        outcomes = [message.outcome for message in self._bag.messages(topic, during)]
        decided = [value for value in outcomes if value in (_SUCCEEDED, _FAILED)]
        return decided[-1] == _SUCCEEDED if decided else None


def _pictures(
    bag: Bag,
    topic: Topic,
    decode: Callable[[Any], np.ndarray],
    rows: np.ndarray,
    first: int,
    last: int,
) -> Iterator[np.ndarray]:
    shown = -1  # a picture that is held is decoded once
    wanted = rows[first:last].tolist()
    fresh = [row for row, before in zip(wanted, [-1, *wanted], strict=False) if row != before]
    messages = bag.messages(topic, fresh)
    for row in wanted:
        if row != shown:
            shown, message = row, next(messages)
            try:
                picture = decode(message)
            except ValueError as error:
                stamp = topic.stamps[row] / SECOND
                raise ValueError(
                    f"{bag.path}: {topic.name}, message {row} at {stamp:.3f} s: {error}"
                ) from None
        yield picture
