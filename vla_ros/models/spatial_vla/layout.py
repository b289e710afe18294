"""Which numbers of a robot's action are the seven that spatial action tokens can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.robots.action_config import ActionConfig

SPATIAL = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ABSENT = "-"
_GRIPPERS = ("gripper", "gripper_open", "gripper_opening", "finger_opening", "gripper_closedness")
_PREFIXES = ("", "d", "delta_", "ee_", "tool_", "end_effector_")


@dataclass(frozen=True)
class SpatialLayout:
    """A robot's A numbers as x, y, z, roll, pitch, yaw and gripper, and back.

    Args:
        names: the robot's action_names.
        columns: which of them each of the seven is; None: it has none.
        gripper: (closed, open) in the robot's unit.

    Raises:
        ValueError: one of the robot's numbers is none of the seven, or two of them.
    """

    names: tuple[str, ...]
    columns: tuple[int | None, ...]
    gripper: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        used = [column for column in self.columns if column is not None]
        if len(self.columns) != len(SPATIAL) or sorted(used) != list(range(len(self.names))):
            raise ValueError(
                f"action tokens say {', '.join(SPATIAL)}, once each, and these must be all of the "
                f"robot's numbers: {', '.join(self.names)}"
            )

    @classmethod
    def of(cls, action: ActionConfig, columns: Sequence[str] = ()) -> SpatialLayout:
        """Of a robot, by the names of its numbers, or as told.

        Args:
            columns: the robot's names for the seven in their order, "-" for what it has not; by
                default they are found by their names.

        Raises:
            ValueError: they are not told, and not all can be found; or a name is wrong.
        """
        names = tuple(action.action_names)
        if columns and len(columns) != len(SPATIAL):
            raise ValueError(
                f"{len(columns)} columns: give seven, for {', '.join(SPATIAL)} ({ABSENT} for none)"
            )
        if unknown := [name for name in columns if name not in (*names, ABSENT)]:
            raise ValueError(f"no action {unknown[0]!r}: the robot's are {', '.join(names)}")
        found = list(columns) or [_find(wanted, names) for wanted in SPATIAL]
        if missing := [name for name in names if name not in found]:
            raise ValueError(
                f"{missing[0]} is none of {', '.join(SPATIAL)}, so tokens cannot say it: they are "
                "for robots that are commanded by motions of the end effector and a gripper; name "
                "the seven by --columns where the robot has them under other names"
            )
        places = tuple(None if name == ABSENT else names.index(name) for name in found)
        grip = places[-1]
        return cls(names, places, (0.0, 1.0) if grip is None else action.action_bounds[grip])

    def to_spatial(self, actions: Any) -> np.ndarray:
        """[..., A] in the robot's units to [..., 7]: 0 for what it has not, the gripper 0 to 1."""
        values = np.asarray(actions, dtype=np.float64)
        if values.ndim == 0 or values.shape[-1] != len(self.names):
            raise ValueError(f"actions are {list(values.shape)}, not [..., {len(self.names)}]")
        seven = np.zeros((*values.shape[:-1], len(SPATIAL)))
        for place, column in enumerate(self.columns):
            if column is not None:
                seven[..., place] = values[..., column]
        closed, opened = self.gripper
        if self.columns[-1] is not None:
            seven[..., -1] = (seven[..., -1] - closed) / (opened - closed)
        return seven

    def from_spatial(self, actions: Any) -> np.ndarray:
        """[..., 7] to [..., A] in the robot's units."""
        values = np.asarray(actions, dtype=np.float64)
        if values.ndim == 0 or values.shape[-1] != len(SPATIAL):
            raise ValueError(f"actions are {list(values.shape)}, not [..., {len(SPATIAL)}]")
        closed, opened = self.gripper
        back = np.empty((*values.shape[:-1], len(self.names)))
        for place, column in enumerate(self.columns):
            if column is not None:
                back[..., column] = values[..., place]
        if (column := self.columns[-1]) is not None:
            back[..., column] = closed + values[..., -1] * (opened - closed)
        return back


def _find(wanted: str, names: Sequence[str]) -> str:
    known = _GRIPPERS if wanted == SPATIAL[-1] else tuple(f"{each}{wanted}" for each in _PREFIXES)
    found = [name for name in names if name in known]
    return found[0] if len(found) == 1 else ABSENT
