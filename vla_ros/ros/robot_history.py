"""What the robot did of late: how it moved, which chunks it got, whether it followed them.

Times are stamps, in s. Messages are ordered by them; see vla_ros.joint_states for those that are
late and for clocks that begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from sensor_msgs.msg import JointState

from vla_ros.joint_states import CLOCK_RESTART, SECOND, History, JointHistory
from vla_ros.msg import ActionChunk
from vla_ros.robots import panda
from vla_ros.ros.graph import publishers
from vla_ros.ros.messages import chunk_from_message, nanoseconds
from vla_ros.safety.gate import Chunk

STAMP_ROUNDING = 1e-6  # s: stamps are whole nanoseconds, float seconds are not
RESTART = CLOCK_RESTART / SECOND  # s

_STATE_TIMEOUT = 0.2  # s that joint states may be older than what they are asked for
_STATUS_TIMEOUT = 0.5  # s, of gate_status, which comes at 10 Hz


class RobotHistory:
    """Joint states, action chunks and states of the gate, of the last seconds or so.

    Args:
        state_topics: those whose joint states together are the robot's.
    """

    def __init__(self, state_topics: Sequence[str] = ("joint_states",)) -> None:
        self._joints = JointHistory(state_topics)
        self._chunks: History[Chunk] = History(3.0, RESTART)
        self._gate: History[bool] = History(10.0, RESTART)  # whether it was active

    def add_joint_states(self, message: JointState, topic: str = "joint_states") -> None:
        self._joints.add(topic, nanoseconds(message.header.stamp), message)

    def add_chunk(self, chunk: Chunk) -> None:
        self._chunks.add(chunk.stamp, chunk)

    def add_gate_status(self, stamp: float, active: bool) -> None:
        self._gate.add(stamp, active)

    def obeys(self, begin: float, end: float) -> bool:
        """Whether chunks were executed all the time, as far as is known."""
        for stamp, active in self._gate.back_from(end):
            if not active:
                return False
            if stamp <= begin:
                return begin - stamp < _STATUS_TIMEOUT
        return False

    def point(self, stamp: float, within: float) -> np.ndarray | None:
        """First point [D] of the chunk nearest to `stamp`, not further away than `within`."""
        chunks = (chunk for _, chunk in self._chunks.back_from(math.inf))
        nearest = min(chunks, key=lambda chunk: abs(chunk.stamp - stamp), default=None)
        if nearest is None or abs(nearest.stamp - stamp) > within + STAMP_ROUNDING:
            return None
        return nearest.points[0]

    @property
    def chunk(self) -> Chunk | None:
        """The newest."""
        return self._chunks.newest[1] if self._chunks.newest else None

    @property
    def joints_complete(self) -> float:
        """Stamp up to which all joint states are here, as far as one can know; infinity: there are
        none, and none to wait for."""
        complete = self._joints.complete
        return math.inf if complete is None else complete / SECOND

    @property
    def nameless(self) -> str:
        """Which joint states name no joints, in words; "" if all do."""
        if not self._joints.nameless:
            return ""
        topics = ", ".join(sorted(self._joints.nameless))
        return f"{topics} names no joints: positions are taken by place, in the robot's order"

    def joint_positions(
        self, names: Sequence[str], stamp: Time, timeout: float = _STATE_TIMEOUT
    ) -> np.ndarray:
        """The newest positions not after `stamp`, float64 [len(names)], rad or m: what training
        saw, and never the future.

        Raises:
            ValueError: there are none, they are more than `timeout` s older, cannot be read, or
                contradict each other.
        """
        return self._joints.positions(names, nanoseconds(stamp), round(timeout * SECOND))


def several_publishers(node: Node, topics: Sequence[str]) -> str:
    """Who else publishes on a topic that has more than one publisher, in words; "" if none does."""
    parts = []
    for topic in topics:
        names = publishers(node, topic)
        if len(names) > 1:
            parts.append(f"{topic} is published by {', '.join(names)}")
    return "; ".join(parts)


def arm_chunk(message: ActionChunk) -> Chunk:
    """A chunk that this arm can follow.

    Raises:
        ValueError: it cannot: other joints, no points, NaN or infinity, no time between points.
    """
    chunk = chunk_from_message(message)
    if chunk.names != panda.JOINT_NAMES:
        raise ValueError(f"they move {', '.join(chunk.names)}")
    if not len(chunk.points) or not np.isfinite(chunk.points).all() or not chunk.dt > 0:
        raise ValueError("they hold no points, NaN or infinity, or no time between points")
    return chunk
