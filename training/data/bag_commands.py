"""What a robot was told at each frame: trajectories at their time, deltas as the sum of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.alignment import Lookup
from vla_ros.training.data.bag import SECOND, Bag, Topic
from vla_ros.training.data.bag_values import JOINTS, TWISTS, VALUES, by_name, row_of
from vla_ros.training.data.gaps import LONGEST_STEP

_TRAJECTORY, _CHUNK = "trajectory_msgs/msg/JointTrajectory", "vla_ros/msg/ActionChunk"
TYPES = (*VALUES, _TRAJECTORY, _CHUNK)
# Of a control mode, what is read of a JointState, and of the points of a JointTrajectory.
_FIELDS = {
    "joint_velocity": ("velocity", "velocities"),
    "joint_effort": ("effort", "effort"),
    "joint_torque": ("effort", "effort"),
}
_PLACES = "position", "positions"
# (topic's time, ns) -> where the named joints were by then, or None
Measured = Callable[[int], np.ndarray | None]
SUMMED = 1.2  # commands a frame that are worth a word
_GRIPPERS = ("gripper", "finger")  # in names of what is told as a place, deltas beside it or not


def values_at(
    bag: Bag,
    topic: Topic,
    rows: np.ndarray,
    times: np.ndarray,
    names: Sequence[str],
    action: ActionConfig,
    measured: Measured,
    by_place: Sequence[str] = (),
) -> np.ndarray:
    """The set point in force at each frame, float64 [T, len(names)]; each message is read once.

    A trajectory or a chunk of many points gives the one of the frame's time, and the last once it
    is over. A single point is the command itself, however long it may take.

    Args:
        rows: int64 [T], of the topic's message in force.
        times: int64 [T], ns, of the frames by the clock of the topic's stamps.
        measured: where the joints were: a trajectory leads there from its first point.
        by_place: what a message that names nothing holds, in its order; `names` if left out.

    Raises:
        ValueError: a message does not command `names`; the topic is named.
    """
    once, inverse = np.unique(rows, return_inverse=True)
    groups = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    values = np.empty((len(rows), len(names)))
    for row, group, message in zip(once, groups, bag.messages(topic, once), strict=True):
        begin = int(topic.stamps[row])
        elapsed = (times[group] - begin) / SECOND
        try:
            if topic.type == _TRAJECTORY:
                start = partial(measured, begin)
                values[group] = _of_trajectory(message, names, elapsed, action, start)
            elif topic.type == _CHUNK:
                values[group] = _of_chunk(message, names, elapsed, by_place)
            else:
                values[group] = row_of(topic.type, message, names, by_place)
        except ValueError as error:
            raise ValueError(f"{topic.name}: {error}") from None
    return values


def lasting(bag: Bag, topic: Topic) -> np.ndarray | None:
    """How long each message goes on to be what is commanded, int64 [N], ns; None: it is no plan."""
    if topic.type == _TRAJECTORY:
        ends = (m.points[-1].time_from_start if m.points else None for m in bag.messages(topic))
        return np.array([end.sec * SECOND + end.nanosec if end else 0 for end in ends], np.int64)
    return None  # a policy that goes on says the next chunk with the next frame


def joint_field(topic: Topic, action: ActionConfig) -> str | None:
    """What is read of each message that names joints, one number each; None: it is no such topic.

    Such messages may tell of some of the joints, as those of a state may.
    """
    if topic.type != JOINTS or is_delta(action):
        return None
    return _FIELDS.get(action.control_mode, _PLACES)[0]


def is_delta(action: ActionConfig) -> bool:
    """Whether an action is a way to go in one step, so that those of a step add up."""
    return "delta" in action.control_mode


def summed_deltas(
    bag: Bag,
    lookup: Lookup,
    rows: np.ndarray,
    times: np.ndarray,
    names: Sequence[str],
    action: ActionConfig,
    by_place: Sequence[str] = (),
) -> tuple[np.ndarray, float]:
    """Deltas told from each frame until the next, added up; and how many there were a frame.

    Each message counts once: from the one in force at a frame to the last before that of the next
    frame. A delta told less often than there are frames moves the robot once, not on each of them.
    Grippers, and what is binary, are told as places: those are as they were at the frame.

    Args:
        rows, times, by_place: as for `values_at`.

    Raises:
        ValueError: as `values_at`.
    """
    topic, dt = lookup.topic, action.dt * SECOND
    place = np.empty(len(topic), dtype=np.int64)
    place[lookup.rows] = np.arange(len(lookup.rows))
    now = place[rows]
    # Beyond a gap, another step begins; what was told in it leads nowhere that was seen.
    steps = np.append(np.diff(times), dt)
    ends = times + np.where(steps > LONGEST_STEP * dt, dt, steps).astype(np.int64)
    later = np.searchsorted(lookup.stamps, ends, side="right") - 1
    if len(lookup.stamps) > 1 and ends[-1] - lookup.stamps[later[-1]] >= np.median(
        np.diff(lookup.stamps)
    ):
        later[-1] += 1  # after the last frame, nothing is in force at a next one
    fresh = np.diff(now, prepend=-1) > 0
    first = np.where(fresh, now, now + 1)
    end = np.maximum(later, now + 1)
    lowest, highest = int(now.min()), int(end.max())
    told = np.empty((highest - lowest, len(names)))
    messages = bag.messages(topic, lookup.rows[lowest:highest].tolist())
    for number, message in enumerate(messages):
        try:
            if topic.type not in VALUES:
                raise ValueError(f"{topic.type} tells no deltas: record one of {', '.join(VALUES)}")
            told[number] = row_of(topic.type, message, names, by_place)
        except ValueError as error:
            raise ValueError(f"{topic.name}: {error}") from None
    total = np.concatenate([np.zeros((1, len(names))), np.cumsum(told, axis=0)])
    values = total[end - lowest] - total[first - lowest]
    for column, name in enumerate(names):
        if name in action.binary_names or any(word in name for word in _GRIPPERS):
            values[:, column] = told[now - lowest, column]
    count = float(np.mean(end - first))
    if count > SUMMED and topic.type in TWISTS:
        raise ValueError(
            f"{topic.name} has {count:.3g} messages a frame of {topic.type}, which are velocities "
            f"and do not add up to a way, as control mode {action.control_mode} wants: choose one "
            "without delta, such as end_effector_velocity"
        )
    return values, count


def _of_trajectory(
    message: Any,
    names: Sequence[str],
    elapsed: np.ndarray,
    action: ActionConfig,
    start: Callable[[], np.ndarray | None],
) -> np.ndarray:
    """Set points [n, A] of a JointTrajectory, `elapsed` s after its begin.

    Between two points as a joint_trajectory_controller goes: straight, or by their velocities, and
    accelerations if those are told, too.
    """
    kind = _FIELDS.get(action.control_mode, _PLACES)[1]
    points = message.points
    if not points:
        raise ValueError("a joint trajectory without points")
    if not all(len(getattr(point, kind)) == len(message.joint_names) for point in points):
        there = [
            one for one in ("positions", "velocities", "effort") if len(getattr(points[0], one))
        ]
        raise ValueError(
            f"a joint trajectory has {' and '.join(there) or 'no numbers'} "
            f"in its points, but control mode {action.control_mode} learns {kind} of each joint: "
            "record what commands those"
            + (", or choose control_mode: joint_velocity" if there == ["velocities"] else "")
        )
    places = np.array([by_name(message.joint_names, getattr(p, kind), names) for p in points])
    if len(points) == 1:
        return np.repeat(places, len(elapsed), axis=0)
    times = np.array([p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in points])
    if np.diff(times).min() <= 0:
        raise ValueError("the points of a joint trajectory have times that do not increase")
    slopes, bends = None, None
    if kind == "positions" and all(len(p.velocities) == len(p.positions) for p in points):
        slopes = np.array([by_name(message.joint_names, p.velocities, names) for p in points])
        if all(len(p.accelerations) == len(p.positions) for p in points):
            bends = np.array([by_name(message.joint_names, p.accelerations, names) for p in points])
    # A first point that is due within a step is the command; on the way to one that is due later
    # the robot is told to be in between.
    if times[0] > 1.5 * action.dt and elapsed.min() < times[0] and (here := start()) is not None:
        times, places = np.append(0.0, times), np.vstack([here, places])
        slopes = None if slopes is None else np.vstack([np.zeros(len(names)), slopes])
        bends = None if bends is None else np.vstack([np.zeros(len(names)), bends])
    at = np.clip(elapsed, times[0], times[-1])
    index = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    width = np.diff(times)[index][:, None]
    part = (at - times[index])[:, None] / width
    before, after = places[index], places[index + 1]
    if slopes is None:
        return before + part * (after - before)
    # Hermite, of the third degree or, where accelerations are told, of the fifth: x(part) is what
    # straight motion from `before` leaves, which is 0 in both points.
    rise = after - before
    left, right = width * slopes[index] - rise, width * slopes[index + 1] - rise
    away = part * (1 - part)
    found = before + part * rise + away * ((1 - part) * left - part * right)
    if bends is not None:
        # What the third degree has of acceleration in the points, and what is wanted of it.
        begin = width**2 * bends[index] + 4 * left + 2 * right
        end = width**2 * bends[index + 1] - 2 * left - 4 * right
        found += 0.5 * away**2 * ((1 - part) * begin + part * end)
    return found


def _of_chunk(
    message: Any, names: Sequence[str], elapsed: np.ndarray, by_place: Sequence[str]
) -> np.ndarray:
    """The points of a chunk that are due next, [n, A]; see ActionChunk.msg."""
    if not message.dof or not message.horizon or not message.dt > 0.0:
        raise ValueError("an action chunk without points")
    points = np.asarray(message.data, dtype=np.float64).reshape(message.horizon, message.dof)
    index = np.clip(np.floor(elapsed / message.dt + 0.25), 0, message.horizon - 1).astype(int)
    found = points[index]
    if message.control_mode == message.EE_DELTA:  # told from where the tool was at the stamp
        late = index > 0
        found[late, :3] -= points[index[late] - 1, :3]
    there = [*message.joint_names] or [*by_place] or [*names]
    if message.dof != len(there):
        raise ValueError(f"an action chunk of {message.dof} numbers is not {', '.join(there)}")
    return np.array([by_name(there, point, names) for point in found])
