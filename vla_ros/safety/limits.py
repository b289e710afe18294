"""How fast the robot is asked to move, whatever the gate is doing.

A controller goes in a straight line from where it is to each new set point, and arrives when that
is due. What was sent is kept here, so that the next set point can be checked against where the
controller is on that line; that knowledge outlives a reset of the gate, as the controller does.
"""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-6  # s: the resolution of float seconds since 1970 is 2.4e-7
# A call that comes later than this after the one before: is it late, or did the clock step?
_LATE = 0.15  # s; the slowest gates send at 10 Hz


class SetPoint:
    """The set point that the robot's controller follows. Positions [D] in rad or m, times in s.

    Where the controller is can be uncertain, for a clock may step: each joint has a range of
    places, which closes as the time runs on.
    """

    def __init__(self, velocity: np.ndarray) -> None:
        self._velocity = velocity  # [D] per s
        self.target: np.ndarray | None = None  # [D] the last one sent; None: none ever was
        self._now = self._steady = -np.inf

    def place(self, positions: np.ndarray) -> None:
        """Take it that the controller, of which nothing is known yet, stands at `positions`."""
        self._low = self._high = self._start_low = self._start_high = self.target = positions
        self._remaining = 0.0

    def advance(self, now: float, steady: float | None = None) -> None:
        """Let the controller move on until `now`, by a second clock that never steps: `steady`.

        Of two clocks the slower counts, and none while the time is not finite or steps, or may
        have: the range to the target holds every place that the controller can have come to
        meanwhile. One whose own clock stepped back stands where its line begins, for nobody knows
        how long.
        """
        steady = now if steady is None else steady
        if not np.isfinite(now):
            self._steady = np.nan
            return
        passed, self._now = now - self._now, now
        slower, self._steady = steady - self._steady, steady
        if self.target is None:
            return
        if passed < 0.0:
            self._low = np.minimum(self._low, self._start_low)
            self._high = np.maximum(self._high, self._start_high)
            self._remaining = np.inf  # until it is told anew
        passed = np.minimum(passed, slower)  # NaN if one of them is
        if not 0.0 <= passed <= _LATE:
            return
        share = passed / self._remaining if passed < self._remaining else 1.0
        self._low = self._low + share * (self.target - self._low)
        self._high = self._high + share * (self.target - self._high)
        self._remaining = max(self._remaining - passed, 0.0)

    def send(self, positions: np.ndarray, duration: float) -> None:
        """Note that the controller is told to be at `positions` in `duration`, above 0."""
        self._low, self._high = self._start_low, self._start_high = self._places()
        self.target, self._remaining = positions, duration

    def time_to(self, positions: np.ndarray) -> float:
        """The time that the velocity limits want for going to `positions`."""
        low, high = self._places()
        return self.time_for(np.maximum(positions - low, high - positions))

    def time_for(self, distance: np.ndarray) -> float:
        """The time that the velocity limits want for a distance [D]."""
        return float((distance / self._velocity).max())

    def within(self, positions: np.ndarray, duration: float) -> np.ndarray:
        """The nearest to `positions` to which `time_to` is `duration` at most.

        There is one where `time_to` the target is not more.
        """
        low, high = self._places()
        reach = self._velocity * duration
        return np.minimum(np.maximum(positions, high - reach), low + reach)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest place [D] where the controller may be."""
        return np.minimum(self._low, self.target), np.maximum(self._high, self.target)
