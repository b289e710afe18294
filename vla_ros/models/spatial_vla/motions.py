"""Between a robot's action chunks and the motions, frame by frame, that action tokens say."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.models.spatial_vla.layout import SPATIAL, SpatialLayout
from vla_ros.robots.action_config import ActionConfig

# What the actions of a chunk are told from: where the tool was at its first, or the one before.
_FROM_THE_FIRST = "end_effector_offset"
_FROM_THE_LAST = ("end_effector_delta", "end_effector_velocity")
_PLACE = 3  # x, y, z of the seven numbers


class Motions:
    """A robot's chunks [..., K, A] as motions [..., K, 7] of one frame each, and back.

    Offsets from where the tool was at a chunk's first frame become differences from one action to
    the next, and are summed up again; deltas and velocities are told as they are. The gripper is 0
    (closed) to 1 (open).

    Args:
        action: the robot's contract.
        layout: which of its numbers are the seven.

    Raises:
        ValueError: actions of another control mode, which no motion of the tool tells.
    """

    def __init__(self, action: ActionConfig, layout: SpatialLayout) -> None:
        modes = (_FROM_THE_FIRST, *_FROM_THE_LAST)
        if action.control_mode not in modes:
            raise ValueError(
                f"action tokens say motions of the tool, not {action.control_mode}: record or "
                f"convert actions as {' or '.join(modes)}"
            )
        self.action, self.layout = action, layout
        self._summed = action.control_mode == _FROM_THE_FIRST
        self._low, self._high = np.array(action.action_bounds).T

    def of_chunks(self, chunks: Any) -> np.ndarray:
        """[..., K, A] in the robot's units to [..., K, 7], the gripper from 0 to 1."""
        seven = self.layout.to_spatial(chunks)
        if self._summed:
            seven[..., 1:, :_PLACE] -= seven[..., :-1, :_PLACE].copy()
        return seven

    def known(self, known: np.ndarray) -> np.ndarray:
        """Which motions are known, bool [..., K], of which actions are."""
        if not self._summed:
            return known
        before = np.concatenate([np.ones_like(known[..., :1]), known[..., :-1]], axis=-1)
        return known & before

    def to_chunks(self, motions: Any) -> np.ndarray:
        """[..., K, 7] to [..., K, A] in the robot's units, within its bounds."""
        seven = np.array(motions, dtype=np.float64)
        if seven.ndim < 2 or seven.shape[-1] != len(SPATIAL):
            raise ValueError(f"motions are {list(seven.shape)}, not [..., K, {len(SPATIAL)}]")
        if self._summed:
            seven[..., :_PLACE] = np.cumsum(seven[..., :_PLACE], axis=-2)
        return np.clip(self.layout.from_spatial(seven), self._low, self._high)
