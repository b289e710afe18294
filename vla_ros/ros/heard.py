"""What was heard of a robot: how it moved, what it was told, and whether it obeyed.

All times are stamps, in s. A topic whose stamps go back begins anew: its clock did.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from sensor_msgs.msg import JointState

from vla_ros.msg import ActionChunk
from vla_ros.robots import panda
from vla_ros.ros.messages import chunk_from_message
from vla_ros.safety.gate import Chunk

STAMP_ROUNDING = 1e-6  # s: stamps are whole nanoseconds, float seconds are not

_STATE_TIMEOUT = 0.2  # s that joint states may be older than what they are asked for
_STATUS_TIMEOUT = 0.5  # s, of gate_status, which comes at 10 Hz


class Heard:
    """Joint states, action chunks and states of the gate, of the last seconds or so."""

    def __init__(self) -> None:
        self._joints: deque[tuple[float, JointState]] = deque(maxlen=300)
        self._chunks: deque[Chunk] = deque(maxlen=60)
        self._gate: deque[tuple[float, bool]] = deque(maxlen=100)  # whether it was active

    def felt(self, stamp: float, message: JointState) -> None:
        _append(self._joints, stamp, (stamp, message))

    def told(self, chunk: Chunk) -> None:
        if self._chunks and chunk.stamp < self._chunks[-1].stamp:
            self._chunks.clear()  # the clock began anew
        self._chunks.append(chunk)

    def gated(self, stamp: float, active: bool) -> None:
        _append(self._gate, stamp, (stamp, active))

    def obeys(self, begin: float, end: float) -> bool:
        """Whether chunks were executed all the time, as far as is known."""
        before = [entry for entry in self._gate if entry[0] <= begin]
        return (
            bool(before)
            and begin - before[-1][0] < _STATUS_TIMEOUT
            and before[-1][1]
            and all(active for stamp, active in self._gate if begin < stamp <= end)
        )

    def point(self, stamp: float, within: float) -> np.ndarray | None:
        """First point [D] of the chunk nearest to `stamp`, not further away than `within`."""
        nearest = min(self._chunks, key=lambda chunk: abs(chunk.stamp - stamp), default=None)
        if nearest is None or abs(nearest.stamp - stamp) > within + STAMP_ROUNDING:
            return None
        return nearest.points[0]

    @property
    def chunk(self) -> Chunk | None:
        """The newest."""
        return self._chunks[-1] if self._chunks else None

    @property
    def newest_joints(self) -> float:
        """Stamp of the newest joint states; infinity: there are none, and none to wait for."""
        return self._joints[-1][0] if self._joints else math.inf

    def joints(self, stamp: float, timeout: float = _STATE_TIMEOUT) -> JointState:
        """The newest not after `stamp`: what training saw, and never the future.

        Raises:
            ValueError: there are none, or they are more than `timeout` s older.
        """
        for time_, message in reversed(self._joints):
            if time_ <= stamp + STAMP_ROUNDING:
                if stamp - time_ > timeout:
                    break
                return message
        raise ValueError(
            f"no joint states of the {timeout:g} s before the image on joint_states: is the "
            "robot's driver running, and on the same clock as the camera?"
        )


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


def _append(history: deque, stamp: float, entry: tuple) -> None:
    if history and stamp < history[-1][0]:
        history.clear()  # the clock began anew
    history.append(entry)
