"""Limits and times of the command gate, checked when they are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_PER_JOINT = ("lower", "upper", "velocity", "margin", "tracking", "jump_velocity")


@dataclass
class GateConfig:
    """Limits and times of a gate, D joints in the order of `names`.

    Array fields take one number for all joints or D numbers. Raises ValueError on a value that
    makes no safe gate.
    """

    names: Sequence[str]
    lower: np.ndarray  # [D] rad or m: no command ever goes below
    upper: np.ndarray  # [D] rad or m: no command ever goes above
    velocity: np.ndarray  # [D] rad/s or m/s: fastest that any command asks for
    margin: np.ndarray | float = 0.0  # [D] rad or m: targets stay this far inside the limits
    # [D] rad or m: largest |command - measured| in motion. A finite one that spans all positions of
    # a joint says that it may rest anywhere short of its command: a finger that grips.
    tracking: np.ndarray | float = np.inf
    lookahead: float = 0.04  # s: a command is due this long after it is sent
    chunk_timeout: float = 0.15  # s: age of the observation behind a chunk at which to hold
    state_timeout: float = 0.2  # s: age of the joint states at which to hold
    hold_time: float = 0.3  # s: how long a hold is repeated before the gate falls silent
    future_tolerance: float = 0.05  # s: stamps may run ahead of `now` by this much
    surprise_slow: float = 0.0  # go slower above this surprise (unit of the world model); 0: never
    surprise_hold: float = 0.0  # hold above this surprise; 0: never
    slowdown: float = 0.1  # share of `velocity` while slowed, above 0, up to 1
    surprise_pause: float = 1.0  # s: how long one hold by surprise lasts
    surprise_timeout: float = 1.0  # s: a surprise of an older frame says nothing
    # [D] rad/s or m/s: joint states that change faster are not believed; None: twice `velocity`
    jump_velocity: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.names = tuple(self.names)
        if not self.names:
            raise ValueError("names is empty: name the joints to command")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names holds a joint twice: {', '.join(self.names)}")
        if self.jump_velocity is None:
            self.jump_velocity = 2.0 * np.asarray(self.velocity, dtype=np.float64)
        for field in _PER_JOINT:
            setattr(self, field, self._per_joint(field))
        for field in ("velocity", "tracking"):
            if not (getattr(self, field) > 0.0).all():
                raise ValueError(f"{field} must be above 0 for every joint")
        if (self.jump_velocity < self.velocity).any():
            raise ValueError("jump_velocity must not be below velocity")
        if (self.margin < 0.0).any():
            raise ValueError("margin must not be negative")
        empty = self.lower + self.margin > self.upper - self.margin
        if empty.any():
            raise ValueError(
                f"no position of {self.names[int(empty.argmax())]} is allowed: "
                "its lower limit plus margin lies above its upper limit minus margin"
            )
        self._check_times()
        self._check_surprise()

    def _per_joint(self, field: str) -> np.ndarray:
        value = np.asarray(getattr(self, field), dtype=np.float64)
        if value.shape not in ((), (1,), (len(self.names),)):
            raise ValueError(
                f"{field} has shape {value.shape}, but there are {len(self.names)} joints: "
                "give one number, or one for each joint"
            )
        if np.isnan(value).any() or (field != "tracking" and np.isinf(value).any()):
            raise ValueError(f"{field} is not finite: {value.tolist()}")
        return np.broadcast_to(value, len(self.names)).copy()

    def _check_times(self) -> None:
        above_zero = ("lookahead", "chunk_timeout", "state_timeout")
        for field in (*above_zero, "surprise_pause", "surprise_timeout"):
            if not 0.0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be above 0 s and finite")
        for field in ("hold_time", "future_tolerance"):
            if not 0.0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be 0 s or more and finite")

    def _check_surprise(self) -> None:
        for field in ("surprise_slow", "surprise_hold"):
            if not 0.0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be 0 (never) or more and finite")
        if 0.0 < self.surprise_hold < self.surprise_slow:
            raise ValueError(
                f"surprise_slow ({self.surprise_slow:g}) is above surprise_hold "
                f"({self.surprise_hold:g}): the robot would be held before it is slowed"
            )
        if not 0.0 < self.slowdown <= 1.0:
            raise ValueError("slowdown must be above 0, up to 1: to stop, set surprise_hold")
