"""What the command gate believes of what it is told: each check returns "" or what is wrong.

The texts hold no ages and no measured values, so that a fault that lasts reads the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.safety.config import GateConfig

# Stamps of joint states are this uncertain, s.
_JITTER = 0.02
# Longest name that is written into a reason, and most characters of names that are remembered:
# a sender that is out of its mind must fill neither the log nor the memory.
_LONGEST_NAME = 60
_MOST_REMEMBERED = 10_000


@dataclass
class Chunk:
    """Joint positions to come: point k is due at stamp + (k + 1) * dt."""

    stamp: float  # s: when the observation behind it was taken
    dt: float  # s between points
    names: Sequence[str]  # D joints, in any order
    points: np.ndarray  # [K, D] rad or m


class Names:
    """Where the gate's joints stand in what others send."""

    def __init__(self, wanted: tuple[str, ...]) -> None:
        self._wanted = wanted
        self._orders: dict[tuple[str, ...], np.ndarray | str] = {}

    def order(self, names: Sequence[str], exact: bool = True) -> np.ndarray | str:
        """Index of each joint of the gate in `names`, or what is wrong with them.

        `exact`: they must be just the gate's joints.
        """
        key = (*names, "" if exact else "...")
        order = self._orders.get(key)
        if order is None:
            order = self._find(tuple(names), exact)
            if len(self._orders) < 16 and sum(map(len, key)) < _MOST_REMEMBERED:
                self._orders[key] = order
        return order

    def present(self, names: Sequence[str]) -> np.ndarray:
        """Places of those of the gate's joints that `names` has, in the gate's order."""
        return np.array([i for i, name in enumerate(self._wanted) if name in names], dtype=int)

    def _find(self, names: tuple[str, ...], exact: bool) -> np.ndarray | str:
        missing = [name for name in self._wanted if name not in names]
        if missing:
            return f"joint {missing[0]} is missing"
        twice = [name for name in self._wanted if names.count(name) > 1]
        if twice:
            return f"joint {twice[0]} is given twice"
        unknown = [name for name in names if name not in self._wanted] if exact else []
        if unknown:
            name = unknown[0]
            return f"joint {name[:_LONGEST_NAME]}{'...' * (len(name) > _LONGEST_NAME)} is unknown"
        return np.array([names.index(name) for name in self._wanted])


def chunk_problem(chunk: Chunk, order: np.ndarray | str, config: GateConfig, now: float) -> str:
    """Why a chunk cannot be followed at `now`; `order` as Names.order gives it."""
    if isinstance(order, str):
        return order
    points = np.asarray(chunk.points)
    if points.ndim != 2 or not len(points) or points.shape[1] != len(order):
        return f"points have shape {points.shape}, wanted (1 or more, {len(order)})"
    if not np.isfinite(points).all():
        return "a position is NaN or infinite"
    if not 0.0 < chunk.dt < math.inf:
        return f"dt is {chunk.dt} s: it must be above 0 and finite"
    if not math.isfinite(chunk.stamp):
        return "the stamp is not finite"
    if not math.isfinite(now):
        return "the time is not finite: look at the clock"
    if chunk.stamp - now > config.future_tolerance:
        return "stamped in the future: synchronise the clocks"
    if now - chunk.stamp > config.chunk_timeout:
        return f"older than {config.chunk_timeout:g} s"
    return ""


@dataclass
class _Other:
    """Positions that were not believed, of one set of joints."""

    positions: np.ndarray
    stamp: float
    since: float  # stamp of the first of them


class JointStates:
    """Measured positions that can be believed.

    A robot does not jump. What moved faster than `jump_velocity` since what was believed last is
    refused, and believed after all when nothing else has come for `state_timeout` and it has been
    of a piece: then it is the robot that was set somewhere else (a simulation began anew), and not
    a glitch or a second driver.
    """

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self._positions = np.full(len(config.names), np.nan)  # what was believed last
        self._stamps = np.full(len(config.names), -math.inf)
        self._others: dict[bytes, _Other] = {}  # by the joints that they are of
        self.moved = False  # whether the last ones were refused long enough to be believed

    def jump(self, joints: np.ndarray, positions: np.ndarray, stamp: float) -> str:
        """Take positions [P] of the gate's joints [P]: "" or which one jumped."""
        far = self._too_far(joints, positions, stamp, self._positions[joints], self._stamps[joints])
        self.moved = far is not None
        if far is not None:
            key, other = joints.tobytes(), self._others.get(joints.tobytes())
            since = stamp
            if other is not None and stamp >= other.stamp:
                args = joints, positions, stamp, other.positions, other.stamp
                since = other.since if self._too_far(*args) is None else stamp
            self._others[key] = _Other(positions, stamp, since)
            if stamp - since < self._config.state_timeout:
                return f"joint states jumped: {self._config.names[far]} cannot move so fast"
        self._positions[joints], self._stamps[joints] = positions, stamp
        for key in [k for k in self._others if np.isin(np.frombuffer(k, int), joints).any()]:
            del self._others[key]
        return ""

    def _too_far(
        self,
        joints: np.ndarray,
        positions: np.ndarray,
        stamp: float,
        before: np.ndarray,
        before_stamps: np.ndarray | float,
    ) -> int | None:
        """The joint that moved too fast since `before`."""
        with np.errstate(over="ignore", invalid="ignore"):
            # After a step back of the stamps nothing is known of the time, but much of the place.
            passed = np.maximum(stamp - before_stamps, 0.0) + _JITTER
            excess = np.abs(positions - before) - self._config.jump_velocity[joints] * passed
        beyond = excess > 0.0  # never of NaN: of that joint nothing is known yet
        return int(joints[np.where(beyond, excess, -1.0).argmax()]) if beyond.any() else None


def joint_states_problem(
    names: Sequence[str], positions: Sequence[float], order: np.ndarray | str, stamp: float
) -> str:
    """Why joint states cannot be read; `order` says where in them the wanted joints stand."""
    if isinstance(order, str):
        return f"joint states: {order}"
    if len(positions) != len(names):
        return f"joint states hold {len(names)} names but {len(positions)} positions"
    if not np.isfinite(np.asarray(positions, dtype=np.float64)[order]).all():
        return "joint states are not finite"
    return "" if math.isfinite(stamp) else "the stamp of the joint states is not finite"
