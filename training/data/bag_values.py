"""Numbers of recorded states and commands, by their names or places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla_ros.observations import joints_from_message


def by_name(there: Sequence[str], values: Sequence[float], names: Sequence[str]) -> np.ndarray:
    """Those of `values` that `names` tell, float64 [len(names)]. Raises ValueError."""
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


JOINTS = "sensor_msgs/msg/JointState"
TWISTS = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped")
# Types of which a message is one row of numbers.
VALUES: dict[str, Callable[[Any, Sequence[str]], np.ndarray]] = {
    JOINTS: joints_from_message,
    "std_msgs/msg/Float64MultiArray": _of_array,
    **dict.fromkeys(TWISTS, _of_twist),
}


def row_of(
    kind: str, message: Any, names: Sequence[str], by_place: Sequence[str] = ()
) -> np.ndarray:
    """Numbers of a message of one of those types, float64 [len(names)].

    Args:
        kind: the type.
        names: what is wanted.
        by_place: what a message without names holds, in its order; `names` if left out.

    Raises:
        ValueError: it does not have them.
    """
    if not by_place or (kind == JOINTS and len(message.name)):
        return VALUES[kind](message, names)
    return by_name(by_place, VALUES[kind](message, by_place), names)
