"""The command gate: every command to the robot passes here, and nothing unsafe leaves.

A chunk of future joint positions goes in (`accept`), single set points come out (`command`).
The gate is closed until a valid chunk meets fresh joint states, follows the newest chunk while
both stay fresh, and holds the last commanded position otherwise:

    CLOSED --chunk and joint states--> ACTIVE --stale, finished, off track--> HOLD --fresh--> ACTIVE
       ^------------------------- time went backwards, reset() -------------------------'

A world model may say how much the newest camera frame surprised it (`update_surprise`): above one
threshold the robot goes slower, above another it holds for a while. That is advice. Its absence
stops nothing, so a gate without a world model is as safe as a gate was before there was one.

There is no clock inside: every call takes the time, float seconds on the one clock that also
stamps chunks and joint states. Nothing is locked: call it from one thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

# A limit counts as having changed a command from this on (rad or m): below is rounding.
_CHANGED = 1e-9
# Time given to a hold that the robot has reached already, s.
_ARRIVED = 0.01
# Two frames of the world model, s: the first ones after a pause show a robot that stood still and
# starts, which is not what was commanded.
_RECOVERY = 0.4

UNKNOWN = -1.0  # the surprise that nobody told


class State(IntEnum):
    """What the gate does now; the values are those of vla_ros/msg/GateStatus."""

    CLOSED = 0
    ACTIVE = 1
    HOLD = 2


@dataclass
class GateConfig:
    """Limits and times of a gate, D joints in the order of `names`.

    Array fields take one number for all joints or D numbers. Raises ValueError on a value that
    makes no safe gate.
    """

    names: Sequence[str]
    lower: np.ndarray  # [D] rad or m: no command ever goes below
    upper: np.ndarray  # [D] rad or m: no command ever goes above
    velocity: np.ndarray  # [D] rad/s or m/s: fastest change between commands
    margin: np.ndarray | float = 0.0  # [D] rad or m: targets stay this far inside the limits
    tracking: np.ndarray | float = np.inf  # [D] rad or m: largest |command - measured| in motion
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

    def __post_init__(self) -> None:
        self.names = tuple(self.names)
        if not self.names:
            raise ValueError("names is empty: name the joints to command")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names holds a joint twice: {', '.join(self.names)}")
        for field in ("lower", "upper", "velocity", "margin", "tracking"):
            value = np.asarray(getattr(self, field), dtype=np.float64)
            if value.shape not in ((), (1,), (len(self.names),)):
                raise ValueError(
                    f"{field} has shape {value.shape}, but there are {len(self.names)} joints: "
                    "give one number, or one for each joint"
                )
            if np.isnan(value).any() or (field != "tracking" and np.isinf(value).any()):
                raise ValueError(f"{field} is not finite: {value.tolist()}")
            setattr(self, field, np.broadcast_to(value, len(self.names)).copy())
        for field, minimum in (("velocity", 0.0), ("tracking", 0.0)):
            if not (getattr(self, field) > minimum).all():
                raise ValueError(f"{field} must be above 0 for every joint")
        if (self.margin < 0.0).any():
            raise ValueError("margin must not be negative")
        empty = self.lower + self.margin > self.upper - self.margin
        if empty.any():
            raise ValueError(
                f"no position of {self.names[int(empty.argmax())]} is allowed: "
                "its lower limit plus margin lies above its upper limit minus margin"
            )
        times = ("lookahead", "chunk_timeout", "state_timeout")
        for field in (*times, "surprise_pause", "surprise_timeout"):
            if not 0.0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be above 0 s and finite")
        for field in ("hold_time", "future_tolerance"):
            if not 0.0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be 0 s or more and finite")
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


@dataclass
class Chunk:
    """Joint positions to come: point k is due at stamp + (k + 1) * dt."""

    stamp: float  # s: when the observation behind it was taken
    dt: float  # s between points
    names: Sequence[str]  # D joints, in any order
    points: np.ndarray  # [K, D] rad or m


@dataclass
class Command:
    """One set point for the robot, joints in the order of GateConfig.names."""

    positions: np.ndarray  # [D] rad or m, its own copy
    time_from_start: float  # s after `stamp` (after "now" for a hold) at which it is due
    stamp: float  # s: the observation it answers; 0 for a hold
    hold: bool


class CommandGate:
    """See the module's text. Counters never go back, not even on reset()."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self.state = State.CLOSED
        self.reason = ""  # why the gate is not ACTIVE; "" while it is
        self.accepted = 0  # chunks taken
        self.rejected = 0  # chunks refused
        self.limited = 0  # commands changed by a position or velocity limit
        self.last_rejection = ""
        self.slowed = False  # whether the newest command had to keep to the slower limits
        self._inner_lower = config.lower + config.margin
        self._inner_upper = config.upper - config.margin
        self._orders: dict[tuple[str, ...], np.ndarray | str] = {}
        self.reset("started")

    def reset(self, reason: str) -> None:
        """Close, forgetting chunk, joint states, surprise, the last command and the time."""
        self.state = State.CLOSED
        self.reason = reason
        self.slowed = False
        self._no_chunk = f"{reason}: waiting for an action chunk"
        self._state_fault = f"{reason}: waiting for joint states"
        self.chunk: Chunk | None = None  # the one in use, points in the order of config.names
        self.last: np.ndarray | None = None  # [D] last commanded positions
        self.measured: np.ndarray | None = None  # [D] newest measured positions
        self.measured_stamp = -math.inf
        self.surprise = UNKNOWN  # of the newest frame that is not too old
        self._surprise_stamp = -math.inf
        self._paused_at = -math.inf  # when the last hold by surprise began
        self._active_since = math.inf
        self._pause_reason = ""
        self._now = -math.inf
        self._last_time = -math.inf
        self._hold_since = -math.inf
        self._due = -math.inf  # when the last command is to be reached

    # --- inputs ---------------------------------------------------------------------------

    def update_state(self, names: Sequence[str], positions: Sequence[float], stamp: float) -> str:
        """Take measured positions (rad or m; any order, more joints than needed are fine).

        Returns "" or why they are refused. A stamp that steps back by more than
        `future_tolerance` is a restarted clock and closes the gate.
        """
        fault = self._state_problem(names, positions, stamp)
        if fault:
            self._state_fault = fault
            return fault
        if stamp < self.measured_stamp:
            if self.measured_stamp - stamp <= self.config.future_tolerance:
                return "joint states older than those already here"
            self.reset("time went backwards")
        order = self._order(names, exact=False)
        self.measured = np.asarray(positions, dtype=np.float64)[order]
        self.measured_stamp = stamp
        self._state_fault = ""
        return ""

    def accept(self, chunk: Chunk, now: float) -> str:
        """Take a chunk to follow from the next `command` on.

        Returns "" or the reason for which it is refused, named also in `last_rejection`; a
        refused chunk changes nothing but the counter.
        """
        self._advance(now)
        problem = self._chunk_problem(chunk, now)
        if problem:
            return self.reject(problem)
        points = np.array(np.asarray(chunk.points, dtype=np.float64)[:, self._order(chunk.names)])
        self.chunk = Chunk(chunk.stamp, chunk.dt, self.config.names, points)
        self.accepted += 1
        return ""

    def reject(self, reason: str) -> str:
        """Count a chunk as refused (also one that could not even be read). Returns `reason`."""
        self.rejected += 1
        self.last_rejection = reason
        return reason

    def update_surprise(self, value: float, stamp: float, now: float) -> str:
        """Take how much the frame of `stamp` surprised the world model, 0 or more, or UNKNOWN.

        Returns "" or why it is refused; what is refused changes nothing. One that is not newer
        than the newest is passed over without a word: imagined videos carry it too, and are late.
        """
        if not (math.isfinite(value) and math.isfinite(stamp)):
            return "the surprise or its stamp is not finite"
        if value < 0.0 and value != UNKNOWN:
            return f"the surprise is negative, but not {UNKNOWN:g} for unknown"
        if stamp <= self._surprise_stamp:
            return ""
        # No ages in these texts: the same fault should read the same, frame after frame.
        if stamp - now > self.config.future_tolerance:
            return "the surprise is stamped in the future: synchronise the clocks"
        if now - stamp > self.config.surprise_timeout:
            return f"the surprise is of a frame older than {self.config.surprise_timeout:g} s"
        self.surprise = value
        self._surprise_stamp = stamp
        return ""

    # --- output ---------------------------------------------------------------------------

    def command(self, now: float) -> Command | None:
        """The command to send at `now`, or None to send nothing. Call at 50 Hz or faster."""
        self._advance(now)
        self.reason = self._obstacle(now)
        self.slowed = not self.reason and self._is_surprised(self.config.surprise_slow)
        if self.reason:
            return self._hold(now)

        config, chunk = self.config, self.chunk
        if self.state is not State.ACTIVE:
            # During a hold that is still being sent the robot is going to the last command, so
            # the stream goes on from there; else nothing is known but where the robot is.
            if not self._commanding(now):
                self._start_from_measured(now)
            self.state = State.ACTIVE
            self._active_since = now

        # A clock that lags behind the stamps (within the tolerance) must not ask for the past.
        due = max(now, chunk.stamp) + config.lookahead
        wanted = _interpolate(chunk, due)
        target = np.minimum(np.maximum(wanted, self._inner_lower), self._inner_upper)
        # Slower limits, not a slower clock: what is wanted is still the chunk's point at its time,
        # so a robot that would move faster than the limits falls behind its chunk, and one that
        # moves with care anyway does not change. To fall behind is what is meant here: a policy
        # plans again from where the robot is with every frame, so the lag is that of one chunk and
        # does not add up; and nothing has to be caught up with when the surprise is over.
        velocity = config.velocity * config.slowdown if self.slowed else config.velocity
        # Never more time than the command gives the robot, however late this call comes.
        step = velocity * min(max(now - self._last_time, 0.0), config.lookahead)
        target = np.minimum(np.maximum(target, self.last - step), self.last + step)
        if np.abs(target - wanted).max() > _CHANGED:
            self.limited += 1
        self._last_time = max(now, self._last_time)
        self.last = target
        self._due = due
        return Command(target.copy(), due - chunk.stamp, chunk.stamp, False)

    def _hold(self, now: float) -> Command | None:
        if self.state is State.CLOSED:
            return None
        if self.state is State.ACTIVE:
            self.state = State.HOLD
            self._hold_since = now
        if not self._commanding(now):
            return None
        self._last_time = max(now, self._last_time)
        # Due when the last command was: asking for more time with every repetition would make the
        # robot creep towards it instead of arriving.
        return Command(self.last.copy(), max(self._due - now, _ARRIVED), 0.0, True)

    def _commanding(self, now: float) -> bool:
        """Whether the robot is going to `last`: not closed, nor silent after a hold."""
        if self.state is State.HOLD:
            return now - self._hold_since <= self.config.hold_time
        return self.state is State.ACTIVE

    def _start_from_measured(self, now: float) -> None:
        self.last = np.minimum(np.maximum(self.measured, self.config.lower), self.config.upper)
        self._last_time = now - self.config.lookahead

    def _advance(self, now: float) -> None:
        """Close when the clock restarted; a small step back only counts as no time passed.

        A surprise that has grown old is forgotten: whoever told it may be gone.
        """
        if now < self._now - self.config.future_tolerance:
            self.reset("time went backwards")
        self._now = max(now, self._now)
        if now - self._surprise_stamp > self.config.surprise_timeout:
            self.surprise = UNKNOWN

    # --- checks: each returns "" or what is wrong -------------------------------------------

    def _obstacle(self, now: float) -> str:
        """Why no command can follow the chunk at `now`."""
        config, chunk = self.config, self.chunk
        if self.measured is None:
            return self._state_fault
        age = now - self.measured_stamp
        if age > config.state_timeout:
            return self._state_fault or f"joint states are older than {config.state_timeout:g} s"
        if age < -config.future_tolerance:
            return f"joint states are stamped {-age:.3f} s in the future: synchronise the clocks"
        if self._commanding(now):
            problem = self._off_track()
            if problem:
                return problem
        if chunk is None:
            return self._no_chunk
        if now - chunk.stamp > config.chunk_timeout:
            return f"the action chunk is older than {config.chunk_timeout:g} s"
        if now + config.lookahead > chunk.stamp + len(chunk.points) * chunk.dt + 1e-6:
            return "the action chunk is finished"
        problem = "" if self.state is State.ACTIVE else self._outside()
        # Last: a pause begins only where the robot would have moved.
        return problem or self._pause(now)

    def _pause(self, now: float) -> str:
        """A surprise above `surprise_hold` holds for `surprise_pause`, whatever comes meanwhile.

        So one spike costs one pause, and a fault that lasts pauses again and again.
        """
        config = self.config
        if now - self._paused_at < config.surprise_pause:
            return self._pause_reason
        if not self._is_surprised(config.surprise_hold):
            return ""
        self._paused_at = now
        self._pause_reason = (
            "the camera shows what was not expected: "
            f"surprise {self.surprise:.3g} over {config.surprise_hold:.3g}"
        )
        return self._pause_reason

    def _is_surprised(self, threshold: float) -> bool:
        """Whether the newest surprise is above the threshold (0: never) and counts.

        Those of frames from before the gate was active, and shortly after, do not: what happened
        to a robot at rest is over, and a robot that was held did not do what was commanded.
        """
        if self.state is not State.ACTIVE:
            return False
        counts = self._surprise_stamp > self._active_since + _RECOVERY
        return counts and 0.0 < threshold < self.surprise

    def _off_track(self) -> str:
        """A joint far from its command is blocked or was moved: hold it where it is."""
        error = np.abs(self.last - self.measured)
        if not (error > self.config.tracking).any():
            return ""
        worst = int((error - self.config.tracking).argmax())
        self.last = np.minimum(np.maximum(self.measured, self.config.lower), self.config.upper)
        self._due = self._now + self.config.lookahead
        self.chunk = None
        self._no_chunk = f"{self.config.names[worst]} was {error[worst]:.3g} off its command"
        return self._no_chunk

    def _outside(self) -> str:
        """Motion starts at the measured positions, so these must be possible ones."""
        config = self.config
        slack = config.velocity * config.lookahead
        beyond = (self.measured < config.lower - slack) | (self.measured > config.upper + slack)
        if not beyond.any():
            return ""
        joint = int(beyond.argmax())
        return (
            f"{config.names[joint]} is measured at {self.measured[joint]:.3f}, outside its limits "
            f"{config.lower[joint]:.3f} to {config.upper[joint]:.3f}"
        )

    def _state_problem(self, names: Sequence[str], positions: Sequence[float], stamp: float) -> str:
        order = self._order(names, exact=False)
        if isinstance(order, str):
            return f"joint states: {order}"
        if len(positions) != len(names):
            return f"joint states hold {len(names)} names but {len(positions)} positions"
        if not np.isfinite(np.asarray(positions, dtype=np.float64)[order]).all():
            return "joint states are not finite"
        return "" if math.isfinite(stamp) else "the stamp of the joint states is not finite"

    def _chunk_problem(self, chunk: Chunk, now: float) -> str:
        order = self._order(chunk.names)
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
        age = now - chunk.stamp
        if age < -self.config.future_tolerance:
            return f"stamped {-age:.3f} s in the future"
        if age > self.config.chunk_timeout:
            return f"{age:.3f} s old, older than {self.config.chunk_timeout:g} s"
        if self.chunk is not None and chunk.stamp < self.chunk.stamp:
            return "older than the chunk in use"
        return ""

    def _order(self, names: Sequence[str], exact: bool = True) -> np.ndarray | str:
        """Where each joint of the gate stands in `names`, or what is wrong with `names`."""
        key = (*names, "" if exact else "...")
        order = self._orders.get(key)
        if order is None:
            order = _find_order(self.config.names, tuple(names), exact)
            if len(self._orders) < 16:  # senders are few; a mad one must not fill the memory
                self._orders[key] = order
        return order


def _find_order(wanted: tuple[str, ...], names: tuple[str, ...], exact: bool) -> np.ndarray | str:
    missing = [name for name in wanted if name not in names]
    if missing:
        return f"joint {missing[0]} is missing"
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        return f"joint {twice[0]} is given twice"
    unknown = [name for name in names if name not in wanted]
    if exact and unknown:
        return f"joint {unknown[0]} is unknown"
    return np.array([names.index(name) for name in wanted])


def _interpolate(chunk: Chunk, time: float) -> np.ndarray:
    """Positions [D] of the chunk at `time`, linear between its points, clamped at its ends."""
    place = (time - chunk.stamp) / chunk.dt - 1.0
    last = len(chunk.points) - 1
    if place <= 0.0:
        return chunk.points[0]
    if place >= last:
        return chunk.points[last]
    index = int(place)
    share = place - index
    return chunk.points[index] * (1.0 - share) + chunk.points[index + 1] * share
