"""ROS 2 recordings as episodes: which topics hold what, brought to the frames of one camera."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.cameras import TOGETHER
from vla_ros.images import (
    depth_from_compressed,
    depth_from_message,
    image_from_compressed,
    image_from_message,
)
from vla_ros.observations import CameraCalibration, proprioception
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.training.data.alignment import Align, Lookup, Span, Stream, other_clock, steady_spans
from vla_ros.training.data.bag import SECOND, Bag, Topic
from vla_ros.training.data.bag_camera_info import calibrations_of, topic_for
from vla_ros.training.data.bag_commands import (
    SUMMED,
    TYPES,
    is_delta,
    joint_field,
    lasting,
    summed_deltas,
    values_at,
)
from vla_ros.training.data.bag_contract import Contract, held_for
from vla_ros.training.data.bag_state import StateReader
from vla_ros.training.data.bag_task import TaskReader, absent
from vla_ros.training.data.bag_values import VALUES
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.gaps import SLOWEST, steady_parts

_PICTURES = {
    "sensor_msgs/msg/Image": image_from_message,
    "sensor_msgs/msg/CompressedImage": image_from_compressed,
}
_DEPTHS = {
    "sensor_msgs/msg/Image": depth_from_message,
    "sensor_msgs/msg/CompressedImage": depth_from_compressed,
}
_AS_FAST = 0.9  # periods of a camera in dt from which on each of its frames is taken
# No topics have such names.
_STATE, _COMMAND = "state of the robot", "commands by joint"


class NoEpisode(ValueError):
    """A recording that can be read has no frame to learn from."""


def open_bag(path: str | Path | Bag, contract: Contract) -> Iterator[Episode]:
    """Episodes of a recording, opened or not; their pictures are read from it when asked for.

    An episode ends where a clock jumps and where frames are missing. What was left out stands in
    the episodes' notes.

    Raises:
        ValueError: the recording cannot be read, lacks a topic, has one of another type, a stream
            is older than its contract allows, or no frame is left.
    """
    bag = path if isinstance(path, Bag) else Bag(path)
    numbers, left_out, last = itertools.count(), [*bag.notes, *absent(bag, contract)], None
    wanted, calibrations = _wanted(bag, contract), calibrations_of(bag, contract.camera_info)
    for span in steady_spans(wanted):
        reader = _SpanReader(bag, contract, span, left_out, numbers, calibrations)
        for episode in reader.episodes():
            if last is not None:
                yield last
            last = episode
        left_out = reader.notes
    if last is None:
        reasons = "; ".join(left_out) or "the first camera is silent"
        raise NoEpisode(f"{bag.path} holds no episode: {reasons}")
    yield replace(last, notes=(*last.notes, *left_out))


def _wanted(bag: Bag, contract: Contract) -> list[Topic]:
    """The topics that have to be there, their types checked before anything is read."""
    wanted = []
    for streams, types in (
        (contract.cameras.values(), _PICTURES),
        (contract.depth.values(), _DEPTHS),
        (contract.states, VALUES),
        ([contract.command], TYPES),
    ):
        for stream in streams:
            deep = types is _DEPTHS
            topic = topic_for(bag, stream.topic, "depth") if deep else bag.topic(stream.topic)
            if topic.type not in types:
                raise ValueError(
                    f"{bag.path}: {topic.name} is {topic.type}; expected {' or '.join(types)}"
                )
            try:
                topic.check()
            except ValueError as error:
                raise ValueError(f"{bag.path}: {error}") from None
            wanted.append(topic)
    return wanted


class _SpanReader:
    """Episodes of one stretch of a recording with steady clocks."""

    def __init__(
        self,
        bag: Bag,
        contract: Contract,
        span: Span,
        notes: Sequence[str],
        numbers: Iterator[int],
        calibrations: Mapping[str, CameraCalibration],
    ) -> None:
        self._calibrations = calibrations
        self._bag, self._contract, self._span, self._counter = bag, contract, span, numbers
        self.notes = [*notes]  # of what was left out since the last episode
        self._task = TaskReader(bag, contract, span)
        self._state = StateReader(bag, contract.states, span, contract.state_names)
        if span.after_jump:
            self.notes.append("a clock jumped before this episode")

    def episodes(self) -> Iterator[Episode]:
        first, *others = self._contract.cameras.values()
        reference = Lookup(self._bag.topic(first.topic), self._span)
        rows = {first.topic: self._thinned(reference)}
        for stream in (*others, *self._contract.depth.values()):
            rows = self._with(stream, reference.topic, rows, camera=True)
        rows = self._with_state(reference.topic, rows)
        rows = self._with_command(reference.topic, rows)
        for text, part in self._instructed(reference.topic, rows):
            episode = self._episode(next(self._counter), text, part)
            self.notes = []
            yield from steady_parts(episode)

    def _thinned(self, reference: Lookup) -> np.ndarray:
        """Rows of frames, one each dt as nearly as the camera's period allows."""
        dt = round(self._contract.action.dt * SECOND)
        fresh = np.diff(reference.stamps, prepend=-1) > 0
        self._note(len(fresh) - int(fresh.sum()), "of a stamp that was there already")
        rows, stamps = reference.rows[fresh], reference.stamps[fresh]
        period = float(np.median(np.diff(stamps))) if len(rows) > 2 else dt
        if period > SLOWEST * dt:
            raise ValueError(
                f"{self._bag.path}: {reference.topic.name} has {SECOND / period:.3g} pictures a "
                f"second, the contract wants one each {dt / SECOND:g} s: raise dt"
            )
        every = period > _AS_FAST * dt
        if every:  # frame, then, but for what comes in a burst
            dt = round(period)
            if abs(period - self._contract.action.dt * SECOND) > (1 - _AS_FAST) * period:
                self.notes.append(
                    f"{reference.topic.name} has a picture each {period / SECOND:.3g} s, dt is "
                    f"{self._contract.action.dt:g} s"
                )
        kept, due = [], -1
        for row, stamp in zip(rows.tolist(), stamps.tolist(), strict=True):
            if stamp >= due - dt // (2 if every else 4):
                kept.append(row)
                # After a gap, time is counted anew; no frame follows another at once.
                due = stamp + dt if every or stamp - due > 3 * dt // 4 else due + dt
        return np.array(kept, dtype=np.int64)

    def _with(
        self, stream: Stream, frames: Topic, rows: dict[str, np.ndarray], camera: bool = False
    ) -> dict[str, np.ndarray]:
        """`rows` with those of another stream, and without the frames for which it has none."""
        at, dt = next(iter(rows.values())), self._contract.action.dt
        lookup = Lookup(self._bag.topic(stream.topic), self._span)
        period, together = None, 0.0
        if camera:  # live, too, a picture that is seen with the first camera's belongs to it
            many = len(lookup.stamps) > 1
            period = float(np.median(np.diff(lookup.stamps))) / SECOND if many else dt
            together = min(
                TOGETHER, dt / 4, np.inf if stream.tolerance is None else stream.tolerance
            )
        age = held_for(stream, period)
        late = round(together * SECOND)
        seen = frames.stamps[at] + late, frames.received[at] + late
        if age is None or (plans := lasting(self._bag, lookup.topic)) is None:
            found = lookup.rows_at(*seen, None if age is None else age + together)
        else:  # a plan is as old as what its end is
            found = lookup.rows_at(*seen, None)
            since = seen[not lookup.topic.stamped] - lookup.topic.stamps[found] - plans[found]
            found = np.where(since > age * SECOND, -1, found)
        missing = found < 0
        within = "" if age is None else f" of the last {age:.3g} s"
        reason = f"without {lookup.topic.name}{within}"
        reasons = [reason if one else "" for one in missing]
        self._leave_out(frames, at, [lookup.topic], reasons, stream.align)
        return {name: r[~missing] for name, r in rows.items()} | {stream.topic: found[~missing]}

    def _with_state(self, frames: Topic, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`rows` with the state of the robot, and without the frames at which it is not known."""
        self._states, rows = self._by_joint(
            self._state, self._contract.states, _STATE, frames, rows
        )
        return rows

    def _with_command(self, frames: Topic, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`rows` with what was commanded, and without the frames at which it is not known."""
        stream, action = self._contract.command, self._contract.action
        field = joint_field(self._bag.topic(stream.topic), action)
        if field is None:
            return self._with(stream, frames, rows)
        names = action.joint_names if self._contract.tool_offsets else action.action_names
        reader = StateReader(self._bag, [stream], self._span, names, field)
        self._commands, rows = self._by_joint(reader, [stream], _COMMAND, frames, rows)
        return rows

    def _by_joint(
        self,
        reader: StateReader,
        streams: Sequence[Stream],
        name: str,
        frames: Topic,
        rows: dict[str, np.ndarray],
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Numbers, and `rows` with those of them that are known, called `name`."""
        at = next(iter(rows.values()))
        self.notes += reader.notes
        values, reasons = reader.at(frames.stamps[at], frames.received[at])
        topics = [self._bag.topic(stream.topic) for stream in streams]
        strict = any(stream.align is Align.AS_OF for stream in streams)
        self._leave_out(frames, at, topics, reasons, Align.AS_OF if strict else Align.DROP)
        known = np.array([not reason for reason in reasons], dtype=bool)
        kept = {topic: r[known] for topic, r in rows.items()}
        return values, kept | {name: np.flatnonzero(known)}

    def _leave_out(
        self,
        frames: Topic,
        at: np.ndarray,
        topics: Sequence[Topic],
        reasons: Sequence[str],
        align: Align,
    ) -> None:
        """Note the frames that something is missing for.

        Args:
            frames: topic of the first camera.
            at: int64 [T], rows of the frames.
            topics: those of which something is missing at times.
            reasons: of each frame, "" where nothing is missing.

        Raises:
            ValueError: no frame may be left out, or so few are left that they are not `dt` apart.
        """
        missing = np.array([bool(reason) for reason in reasons], dtype=bool)
        if not missing.any():
            return
        first = int(np.argmax(missing))
        stamp = frames.stamps[at[first]] / SECOND
        if align is Align.AS_OF:
            raise ValueError(
                f"{self._bag.path}: the frame at {stamp:.3f} s is {reasons[first]}: align it by "
                "'drop' to leave such frames out"
            )
        kept, dt = at[~missing], self._contract.action.dt
        steps = np.diff(frames.stamps[kept])
        if len(steps) > 1 and np.median(steps) > SLOWEST * dt * SECOND:
            raise ValueError(
                f"{self._bag.path}: {' or '.join(one.name for one in topics)} is too slow for a "
                f"frame each {dt:g} s: {len(kept)} of {len(at)} frames are left, others "
                f"{reasons[first]}; raise its tolerance or dt"
            )
        for reason, count in Counter(filter(None, reasons)).items():
            self._note(count, reason)
        if missing.all():
            self.notes += filter(None, (other_clock(frames, at, one) for one in topics))

    def _note(self, count: int, what: str) -> None:
        if count:
            self.notes.append(f"{count} frame{'s' if count > 1 else ''} left out: {what}")

    def _instructed(
        self, frames: Topic, rows: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """The stretches of frames under one instruction."""
        at = next(iter(rows.values()))
        if not len(at):
            return
        stretches = [*self._task.instructed(frames.stamps[at], frames.received[at])]
        self._note(sum(int(m.sum()) for t, m in stretches if t is None), "without an instruction")
        for text, inside in stretches:
            if text is not None:
                yield text, {name: r[inside] for name, r in rows.items()}

    def _episode(self, number: int, text: str, rows: dict[str, np.ndarray]) -> Episode:
        contract, action = self._contract, self._contract.action
        frames = self._bag.topic(next(iter(contract.cameras.values())).topic)
        at = next(iter(rows.values()))
        try:
            felt, told = self._numbers(rows)
        except ValueError as error:
            reason = str(error).removeprefix(f"{self._bag.path}: ")
            raise ValueError(f"{self._bag.path}, episode {number}: {reason}") from None
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
            outcome=self._task.outcome(frames.received[at[0]], frames.received[at[-1]]),
            notes=tuple(self.notes),
            calibrations=self._calibrations,
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
        action, contract = self._contract.action, self._contract
        offset, tool = contract.tool_offsets, contract.tool_felt
        state = self._states[rows[_STATE]]
        felt = state[:, self._columns(action.proprioception_names)] if not tool else state
        told_names = action.joint_names if offset else action.action_names
        told = self._told(rows, told_names)
        if not (offset or tool):
            return felt, told
        kinematics = ArmKinematics()
        measured = state[:, self._columns(action.joint_names)]
        places = np.array([proprioception(joints, kinematics) for joints in measured])
        if offset:
            told = np.array([proprioception(joints, kinematics) for joints in told])
            told[:, :3] -= places[:, :3]
        return (places if tool else felt), told

    def _columns(self, names: Sequence[str]) -> list[int]:
        """Where those stand in the state that was read."""
        return [self._contract.state_names.index(name) for name in names]

    def _times(self, topic: Topic, rows: dict[str, np.ndarray]) -> np.ndarray:
        """Times of the frames by the clock that stamps the topic, int64 [T], ns."""
        frames = self._bag.topic(next(iter(self._contract.cameras.values())).topic)
        at = next(iter(rows.values()))
        return frames.stamps[at] if topic.stamped else frames.received[at]

    def _told(self, rows: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
        """What was commanded at the frames, float64 [T, len(names)]."""
        if _COMMAND in rows:
            return self._commands[rows[_COMMAND]]
        stream, action = self._contract.command, self._contract.action
        topic = self._bag.topic(stream.topic)
        what = rows[stream.topic], self._times(topic, rows), names, action
        if not is_delta(action):
            measured = partial(self._measured, names, topic)
            return values_at(self._bag, topic, *what, measured, stream.names)
        lookup = Lookup(topic, self._span)
        told, count = summed_deltas(self._bag, lookup, *what, stream.names)
        if count > SUMMED:
            self.notes.append(f"{count:.3g} commands of {topic.name} a frame are added up")
        return told

    def _measured(self, names: Sequence[str], command: Topic, time: int) -> np.ndarray | None:
        """Where the joints were at a time of the clock that stamps `command`, if anything tells."""
        if any(self._bag.topic(s.topic).stamped != command.stamped for s in self._contract.states):
            return None
        try:
            reader = StateReader(self._bag, self._contract.states, self._span, names)
        except ValueError:
            return None  # it has other joints
        values, missing = reader.at(np.array([time]), np.array([time]))
        return None if missing[0] else values[0]


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
