"""Numbers of recorded states and commands, by their names or places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla_ros.observations import joints_from_message


def _of_trajectory(message: Any, names: Sequence[str]) -> np.ndarray:
    if not message.points:
        raise ValueError("a joint trajectory without points")
    return _by_name(message.joint_names, message.points[0].positions, names)


def _of_chunk(message: Any, names: Sequence[str]) -> np.ndarray:
    first = np.asarray(message.data)[: message.dof]
    return _by_name(message.joint_names, first, names) if len(message.joint_names) else first


def _by_name(there: Sequence[str], values: Sequence[float], names: Sequence[str]) -> np.ndarray:
    index = {name: i for i, name in enumerate(there)}
    if missing := [name for name in names if name not in index]:
        raise ValueError(f"a command lacks {', '.join(missing)}: it has {', '.join(index)}")
    return np.array([values[index[name]] for name in names], dtype=np.float64)


def _of_array(message: Any, names: Sequence[str]) -> np.ndarray:
    if len(message.data) != len(names):
        raise ValueError(f"an array of {len(message.data)} numbers is not {', '.join(names)}")
    return np.asarray(message.data, dtype=np.float64)


def _of_twist(message: Any, names: Sequence[str]) -> np.ndarray:
    twist = getattr(message, "twist", message)
    try:
        pairs = [name.split("_")[-2:] for name in names]
        return np.array([getattr(getattr(twist, kind), axis) for kind, axis in pairs])
    except (AttributeError, ValueError):
        raise ValueError(
            f"a twist has linear and angular x, y, z, not {', '.join(names)}"
        ) from None


VALUES: dict[str, Callable[[Any, Sequence[str]], np.ndarray]] = {
    "sensor_msgs/msg/JointState": joints_from_message,
    "trajectory_msgs/msg/JointTrajectory": _of_trajectory,
    "vla_ros/msg/ActionChunk": _of_chunk,
    "std_msgs/msg/Float64MultiArray": _of_array,
    "geometry_msgs/msg/Twist": _of_twist,
    "geometry_msgs/msg/TwistStamped": _of_twist,
}
