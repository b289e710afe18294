"""What a ros2_control joint trajectory controller does, for the simulated robot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class JointTrajectoryController:
    """Interpolates joint trajectories and holds the last point, as ros2_control's controller does.

    A new trajectory replaces the running one and starts from the position desired at its arrival
    (`interpolate_from_desired_state`). All times in seconds of one clock, positions in rad or m.
    """

    def __init__(self, names: Sequence[str], positions: np.ndarray) -> None:
        self.names = tuple(names)
        self.hold(positions)

    def hold(self, positions: np.ndarray) -> None:
        """Drop any trajectory and stay at `positions` [D]."""
        self._times = np.zeros(1)
        self._points = np.array(positions, dtype=np.float64)[None]

    def accept(
        self,
        names: Sequence[str],
        points: np.ndarray,
        times_from_start: np.ndarray,
        stamp: float,
        now: float,
    ) -> None:
        """Take a trajectory.

        Args:
            names: joint names of the columns; any order, every joint of the robot exactly once.
            points: [P, D] positions.
            times_from_start: [P] s after `stamp`, strictly increasing.
            stamp: start time; 0 means now.
            now: current time.

        Raises:
            ValueError: names the fault; the running trajectory goes on.
        """
        if sorted(names) != sorted(self.names):
            wrong = sorted(set(names) ^ set(self.names)) or list(names)
            raise ValueError(
                f"the trajectory must name every joint exactly once: look at {', '.join(wrong)}"
            )
        points = np.asarray(points, dtype=np.float64)
        times = np.asarray(times_from_start, dtype=np.float64)
        if points.shape != (len(times), len(self.names)) or not len(times):
            raise ValueError(
                f"{len(times)} times do not fit points of shape {points.shape} "
                f"for {len(self.names)} joints"
            )
        if not np.isfinite(points).all():
            raise ValueError("the trajectory holds NaN or infinite positions")
        if (np.diff(times) <= 0).any():
            raise ValueError("time_from_start must increase strictly from point to point")
        start = stamp if stamp > 0 else now
        if start + times[-1] < now:
            raise ValueError("the trajectory ends in the past: check the clocks of both machines")
        order = [list(names).index(name) for name in self.names]
        current = self.sample(now)
        due = start + times
        keep = due > now
        keep[-1] = True
        self._times = np.concatenate([[now], due[keep]])
        self._points = np.concatenate([current[None], points[keep][:, order]])

    def sample(self, now: float) -> np.ndarray:
        """Desired positions [D] at time `now`; before and after the trajectory its ends hold."""
        times = self._times
        if now >= times[-1]:
            return self._points[-1].copy()
        if now <= times[0]:
            return self._points[0].copy()
        i = int(np.searchsorted(times, now, side="right"))
        part = (now - times[i - 1]) / (times[i] - times[i - 1])
        return self._points[i - 1] + part * (self._points[i] - self._points[i - 1])
