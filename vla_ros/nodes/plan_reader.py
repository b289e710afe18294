"""Which robot actions led to a camera's frame, and which are to follow it, as a world model reads
them: for the live node, and for whoever imagines afterwards what there was no time for."""

from __future__ import annotations

import math

import numpy as np
from builtin_interfaces.msg import Time

from vla_ros.models.genie.config import WorldModelConfig
from vla_ros.observations import proprioception
from vla_ros.robots import panda
from vla_ros.robots.actions import joint_chunk_to_end_effector
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros.messages import seconds
from vla_ros.ros.robot_history import STAMP_ROUNDING, RobotHistory

Plan = tuple[np.ndarray, np.ndarray]  # actions [P, A] in physical units, proprioception [F]


class PlanReader:
    """Reads a robot's history.

    Args:
        history: that others add to.
        config: of the world model.

    Attributes:
        problem: why the joint positions that were asked for last are not known; "" if they are.
    """

    def __init__(self, history: RobotHistory, config: WorldModelConfig) -> None:
        self._history, self._robot, self._dt = history, config.robot, config.dt
        self._kinematics = ArmKinematics()
        self.problem = ""

    def felt(self, stamp: Time) -> np.ndarray:
        """Proprioception [F] at a frame. Raises ValueError when it is not known."""
        return proprioception(self._positions(stamp), self._kinematics)

    def led_to(self, end: float, begin: Time, tolerance: float) -> Plan | None:
        """What the robot was told in the step from the frame of `begin` to that of `end`, s, and
        what it felt when that began; None: unknown.

        As in training: of every frame in between, the first point of the chunk decided on it.
        """
        since = seconds(begin)
        if self._robot is None or not self._history.obeys(since, end):
            return None
        if abs(end - since - self._dt) > tolerance:
            return None
        points = [self._point(since, k) for k in range(self._robot.points)]
        if any(point is None for point in points):
            return None
        return self._from_tool(begin, np.stack(points))

    def may_become_known(self, end: float, since: float | None) -> bool:
        """Whether joint states of the time `end`, or the last of the chunks that led there from the
        frame of `since`, are still to come."""
        if self._robot is None:
            return False
        if self._history.joints_complete < end - STAMP_ROUNDING:
            return True
        chunk = self._history.chunk
        if since is None or chunk is None:
            return False
        last = self._robot.points - 1
        missing = self._point(since, last) is None
        due = since + last * self._robot.dt
        return missing and chunk.stamp < due and self._history.obeys(since, end)

    def to_follow(self, begin: Time, horizon: int) -> Plan | None:
        """What is to follow the frame of `begin`, for at most so many frames; None: no plan.

        Point k of a chunk is what the chunk k frames later should begin with.
        """
        robot, chunk, stamp = self._robot, self._history.chunk, seconds(begin)
        if robot is None or chunk is None or not self._history.obeys(stamp, math.inf):
            return None
        if abs(chunk.stamp - stamp) > self._dt:
            return None
        times = stamp + robot.dt * np.arange(horizon * robot.points)
        index = np.round((times - chunk.stamp) / chunk.dt).astype(int)
        # Whole steps of the model, if most of their points are known.
        steps = round(int((index < len(chunk.points)).sum()) / robot.points)
        if not steps:
            return None
        index = index[: steps * robot.points].clip(0, len(chunk.points) - 1)
        return self._from_tool(begin, chunk.points[index])

    def _point(self, since: float, k: int) -> np.ndarray | None:
        return self._history.point(since + k * self._robot.dt, self._robot.dt / 2)

    def _from_tool(self, stamp: Time, points: np.ndarray) -> Plan | None:
        """Joint targets [K, D] as the model's actions, and proprioception at a frame."""
        try:
            measured = self._positions(stamp)
        except ValueError as error:
            self.problem = str(error)
            return None
        self.problem = ""
        actions = joint_chunk_to_end_effector(self._kinematics, measured, points)
        return actions, proprioception(measured, self._kinematics)

    def _positions(self, stamp: Time) -> np.ndarray:
        return self._history.joint_positions(panda.JOINT_NAMES, stamp)
