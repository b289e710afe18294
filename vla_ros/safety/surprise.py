"""When the world model's surprise slows or holds the robot."""

from __future__ import annotations

import math

from vla_ros.safety.config import GateConfig

UNKNOWN = -1.0  # the surprise that nobody told
# Two frames of the world model, s: the first ones after a pause show a robot that stood still and
# starts, which is not what was commanded.
_RECOVERY = 0.4


class SurpriseMonitor:
    """The newest surprise, and the pause that it caused. See CommandGate for the calls."""

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self.forget()

    def forget(self) -> None:
        self.value = UNKNOWN  # of the newest frame that is not too old
        self._stamp = -math.inf
        self._paused_at = -math.inf  # when the last hold by surprise began
        self._pause_reason = ""

    def update(self, value: float, stamp: float, now: float) -> str:
        if not (math.isfinite(value) and math.isfinite(stamp) and math.isfinite(now)):
            return "the surprise or its stamp is not finite"
        if value < 0.0 and value != UNKNOWN:
            return f"the surprise is negative, but not {UNKNOWN:g} for unknown"
        if stamp <= self._stamp:
            return ""
        # No ages in these texts: the same fault should read the same, frame after frame.
        if stamp - now > self._config.future_tolerance:
            return "the surprise is stamped in the future: synchronise the clocks"
        if now - stamp > self._config.surprise_timeout:
            return f"the surprise is of a frame older than {self._config.surprise_timeout:g} s"
        self.value = value
        self._stamp = stamp
        return ""

    def expire(self, now: float) -> None:
        """Forget a surprise that has grown old: whoever told it may be gone."""
        if now - self._stamp > self._config.surprise_timeout:
            self.value = UNKNOWN

    def exceeds(self, threshold: float, active_since: float) -> bool:
        """Whether the newest surprise is above the threshold (0: never) and counts.

        Those of frames from before the gate was active, and shortly after, do not: what happened
        to a robot at rest is over, and a robot that was held did not do what was commanded.
        `active_since` is infinite while the gate is not active.
        """
        return self._stamp > active_since + _RECOVERY and 0.0 < threshold < self.value

    def pause(self, now: float, active_since: float) -> str:
        """A surprise above `surprise_hold` holds for `surprise_pause`, whatever comes meanwhile.

        So one spike costs one pause, and a fault that lasts pauses again and again.
        """
        config = self._config
        if now - self._paused_at < config.surprise_pause:
            return self._pause_reason
        if not self.exceeds(config.surprise_hold, active_since):
            return ""
        self._paused_at = now
        self._pause_reason = (
            "the camera shows what was not expected: "
            f"surprise {self.value:.3g} over {config.surprise_hold:.3g}"
        )
        return self._pause_reason
