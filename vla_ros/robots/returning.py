"""The way back to where an arm began, over what stands on the table."""

from __future__ import annotations

import numpy as np

from vla_ros.robots.kinematics import ArmKinematics

_SPEED = 0.25  # m/s
_LEAD = 0.02  # m that the tool may lag behind its target
_DESCENT = 0.07  # m below the height of the end at which the tool may leave the vertical
_NEAR = 0.02  # m from the end that count as there
_PATIENCE = 4.0  # s after which an arm that is blocked stays where it is


class Return:
    """Straight up, then over to `end` [3] (m, base frame), from `began` (s) on; the fingers stay as
    they are commanded: what is held is kept."""

    def __init__(self, kinematics: ArmKinematics, end: np.ndarray, began: float) -> None:
        self._kinematics, self._end, self._began = kinematics, end, began

    def is_over(self, measured: np.ndarray, now: float) -> bool:
        """Whether the arm at joint positions [n + 1] (rad, m) is there, or does not get there."""
        tool, _ = self._kinematics.forward(measured[:-1])
        near = np.linalg.norm(self._end - tool) < _NEAR
        return bool(near) or not 0.0 <= now - self._began < _PATIENCE

    def chunk(self, measured: np.ndarray, opening: float, horizon: int, dt: float) -> np.ndarray:
        """End-effector offsets and finger opening [horizon, 4] from joint positions [n + 1]."""
        tool, _ = self._kinematics.forward(measured[:-1])
        above = np.append(tool[:2], max(tool[2], self._end[2] - _DESCENT))
        up, over = above - tool, self._end - above
        heights = np.array([np.linalg.norm(up), np.linalg.norm(over)])
        actions = np.full((horizon, 4), opening)
        for k in range(horizon):
            way = _LEAD + _SPEED * (k + 1) * dt
            shares = np.clip((way - np.array([0.0, heights[0]])) / np.maximum(heights, 1e-9), 0, 1)
            actions[k, :3] = shares[0] * up + shares[1] * over
        return actions
