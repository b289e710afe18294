"""The command gate: every command to the robot passes here, and nothing unsafe leaves.

A chunk of future joint positions goes in (`accept`), single set points come out (`command`).
The gate is closed until a valid chunk meets fresh joint states, follows the newest chunk while
both stay fresh, and holds the last commanded position otherwise:

    CLOSED --chunk and joint states--> ACTIVE --stale, finished, off track--> HOLD --fresh--> ACTIVE
       ^------------------------- time went backwards, reset() -------------------------'

In every state and from each to each, no command asks for more than the velocity limits: neither
of a controller that goes on from where it was last told to be (limits.SetPoint), nor, in a hold, of
one that starts from where the robot is measured.

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

from vla_ros.safety.checks import Chunk, JointStates, Names, chunk_problem, joint_states_problem
from vla_ros.safety.config import GateConfig
from vla_ros.safety.limits import ROUNDING, SetPoint
from vla_ros.safety.surprise import UNKNOWN, SurpriseMonitor

__all__ = ["UNKNOWN", "Chunk", "Command", "CommandGate", "GateConfig", "State"]

# A limit counts as having changed a command from this on (rad or m): below is rounding.
_CHANGED = 1e-9
# Time given to a hold that the robot has reached already, s.
_ARRIVED = 0.01


class State(IntEnum):
    """What the gate does now; the values are those of vla_ros/msg/GateStatus."""

    CLOSED = 0
    ACTIVE = 1
    HOLD = 2


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
        # Beyond this from anywhere is where no joint is, whatever is measured.
        self._farthest = 2.0 * (config.upper - config.lower)
        # Joints that may rest anywhere short of their command, as a finger that grips does: where
        # they are measured is not where they were going, and going there would let go.
        self._gripping = np.isfinite(config.tracking)
        self._gripping &= config.tracking >= config.upper - config.lower
        self._names = Names(config.names)
        self._all = np.arange(len(config.names))
        # A reset forgets neither: the robot and its controller are where they were.
        self._joint_states = JointStates(config)
        self._set_point = SetPoint(config.velocity)
        self._interlock = ""
        self._surprise = SurpriseMonitor(config)
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
        self.measured_stamp = -math.inf  # of the oldest of them
        self._positions = np.full(len(self.config.names), np.nan)  # of each joint, as they come
        self._stamps = np.full(len(self.config.names), -math.inf)
        self._jump = ""  # what joint states were not believed, and when
        self._jumped_at = -math.inf
        self._surprise.forget()
        self._active_since = math.inf
        self._now = -math.inf
        self._last_time = -math.inf
        self._hold_since = -math.inf
        self._due = -math.inf  # when the last command is to be reached

    @property
    def surprise(self) -> float:
        """Of the newest frame that is not too old, or UNKNOWN."""
        return self._surprise.value

    # --- inputs ---------------------------------------------------------------------------

    def update_state(
        self, names: Sequence[str], positions: Sequence[float], stamp: float, partial: bool = False
    ) -> str:
        """Take measured positions (rad or m; any order, more joints than needed are fine).

        `partial`: they may be of some joints alone, as drivers of arm and gripper send them; then
        each joint's newest position counts.

        Returns "" or why they are refused. A stamp that steps back by more than
        `future_tolerance` is a restarted clock and closes the gate. Positions that the robot
        cannot have reached so fast are not believed at first: the gate holds.
        """
        joints, order = self._all, self._names.order(names, exact=False)
        if partial and isinstance(order, str):
            joints = self._names.present(names)
            if not len(joints) and not len(names) and len(positions):
                self._state_fault = "joint states name no joints: let the driver name them"
                return self._state_fault
            if not len(joints):
                return "joint states of other joints"
            order = Names(tuple(np.take(self.config.names, joints))).order(names, exact=False)
        fault = joint_states_problem(names, positions, order, stamp)
        if fault:
            self._state_fault = fault
            return fault
        newest = float(self._stamps[joints].max())
        if stamp < newest:
            if newest - stamp <= self.config.future_tolerance:
                return "joint states older than those already here"
            self.reset("time went backwards")
        measured = np.asarray(positions, dtype=np.float64)[order]
        fault = self._joint_states.jump(joints, measured, stamp)
        if fault:
            self._jump, self._jumped_at, self._state_fault = fault, self._now, fault
            return fault
        if self._joint_states.moved:  # that was no glitch, and is over
            self._jumped_at = -math.inf
        self._positions[joints], self._stamps[joints] = measured, stamp
        unknown = np.isnan(self._positions)
        if unknown.any():
            name = self.config.names[int(unknown.argmax())]
            self._state_fault = f"joint states: joint {name} is missing"
            return ""
        self._state_fault = ""
        self.measured = self._positions.copy()
        self.measured_stamp = float(self._stamps.min())
        return ""

    def accept(self, chunk: Chunk, now: float) -> str:
        """Take a chunk to follow from the next `command` on.

        Returns "" or the reason for which it is refused, named also in `last_rejection`; a
        refused chunk changes nothing but the counter.
        """
        self._advance(now)
        order = self._names.order(chunk.names)
        problem = chunk_problem(chunk, order, self.config, now)
        if not problem and self.chunk is not None and chunk.stamp < self.chunk.stamp:
            problem = "older than the chunk in use"
        if problem:
            return self.reject(problem)
        points = np.array(np.asarray(chunk.points, dtype=np.float64)[:, order])
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
        return self._surprise.update(value, stamp, now)

    def interlock(self, reason: str) -> None:
        """Hold, or stay closed, for as long as there is a reason outside; "" when there is none."""
        self._interlock = reason

    # --- output ---------------------------------------------------------------------------

    def command(self, now: float, steady: float | None = None) -> Command | None:
        """The command to send at `now`, or None to send nothing. Call at 50 Hz or faster.

        `steady`: the time, s, of a clock that never steps, as those of robots do not. Without it
        a step forward of 0.15 s or less is taken for a call that comes late.
        """
        self._advance(now)
        self.slowed = False
        self.reason = self._obstacle(now)
        self._set_point.advance(now, steady)
        if not math.isfinite(now):
            now = self._now  # the time of a call that had one
        if not self.reason and not self._commanding(now):
            self._begin(now)
        enough = self.config.lookahead + ROUNDING
        # A controller that follows the last set point still goes from there to the new place.
        if not self.reason and self._set_point.time_to(self.last) > enough:
            self.reason = "the robot was moved since its last command: waiting for its controller"
        if self.reason:
            return self._hold(now)
        if self.state is not State.ACTIVE:
            self.state = State.ACTIVE
            self._active_since = now
        return self._follow(now)

    def stop(self, reason: str, now: float, steady: float | None = None) -> Command | None:
        """Close for `reason`. Returns the last command to send, None when the robot is at rest."""
        self._set_point.advance(now, steady)
        if not math.isfinite(now):
            now = self._now
        command = self._hold(now) if self._commanding(now) else None
        self.reset(reason)
        return command

    def _follow(self, now: float) -> Command:
        config, chunk = self.config, self.chunk
        # A clock that lags behind the stamps (within the tolerance) must not ask for the past.
        due = max(now, chunk.stamp) + config.lookahead
        wanted = _interpolate(chunk, due)
        target = np.minimum(np.maximum(wanted, self._inner_lower), self._inner_upper)
        # Slower limits, not a slower clock: what is wanted is still the chunk's point at its time,
        # so a robot that would move faster than the limits falls behind its chunk, and one that
        # moves with care anyway does not change. To fall behind is what is meant here: a policy
        # plans again from where the robot is with every frame, so the lag is that of one chunk and
        # does not add up; and nothing has to be caught up with when the surprise is over.
        self.slowed = self._surprise.exceeds(config.surprise_slow, self._active_since)
        velocity = config.velocity * config.slowdown if self.slowed else config.velocity
        # Never more time than the command gives the robot, however late this call comes.
        step = velocity * min(max(now - self._last_time, 0.0), config.lookahead)
        target = np.minimum(np.maximum(target, self.last - step), self.last + step)
        target = self._set_point.within(target, config.lookahead)
        if np.abs(target - wanted).max() > _CHANGED:
            self.limited += 1
        self._last_time = max(now, self._last_time)
        self._set_point.send(target, due - now)
        self.last = target
        self._due = due
        return Command(target.copy(), due - chunk.stamp, chunk.stamp, False)

    def _hold(self, now: float) -> Command | None:
        if self.state is State.CLOSED:
            return None
        if self.state is State.ACTIVE:
            self.state = State.HOLD
            self._hold_since = now
            self._active_since = math.inf
        if not self._commanding(now):
            return None
        # Due when the last command was: asking for more time with every repetition would make the
        # robot creep towards it instead of arriving. But a controller that did not follow (its
        # clock is wrong, it refused) starts from where the robot is, and gets the time for that.
        time = max(self._due - now, _ARRIVED, self._set_point.time_to(self.last))
        if self.measured is not None:
            away = np.minimum(np.abs(self.last - self.measured), self._farthest)
            time = max(time, self._set_point.time_for(away))
        self._set_point.send(self.last, time)
        self._last_time = max(now, self._last_time)
        return Command(self.last.copy(), time, 0.0, True)

    def _commanding(self, now: float) -> bool:
        """Whether the robot is going to `last`: not closed, nor silent after a hold."""
        if self.state is State.HOLD:
            return now - self._hold_since <= self.config.hold_time
        return self.state is State.ACTIVE

    def _begin(self, now: float) -> None:
        """Start where the robot is, in a hold that ends when its controller can be there too.

        Nothing else is known when nothing was sent for a while; but what was sent last may still
        be in force.
        """
        self.state = State.HOLD
        self._hold_since = now
        self._go_where_measured(now)
        self._last_time = now - self.config.lookahead

    def _go_where_measured(self, now: float) -> None:
        target = np.minimum(np.maximum(self.measured, self.config.lower), self.config.upper)
        if self._set_point.target is None:
            self._set_point.place(target)
        else:
            target = np.where(self._gripping, self._set_point.target, target)
        self.last = target
        self._due = now + self.config.lookahead

    def _advance(self, now: float) -> None:
        """Close when the clock restarted; a small step back only counts as no time passed."""
        if not math.isfinite(now):
            return
        if now < self._now - self.config.future_tolerance:
            self.reset("time went backwards")
        self._now = max(now, self._now)
        self._surprise.expire(now)

    # --- checks: each returns "" or what is wrong -------------------------------------------

    def _obstacle(self, now: float) -> str:
        """Why no command can follow the chunk at `now`."""
        config, chunk = self.config, self.chunk
        if not math.isfinite(now):
            return "the time is not finite: look at the clock"
        if self.measured is None:
            return self._interlock or self._state_fault
        age = now - self.measured_stamp
        if age > config.state_timeout:
            old = now - self._stamps > config.state_timeout
            of = "" if old.all() else f" of {config.names[int(old.argmax())]}"
            stale = f"joint states{of} are older than {config.state_timeout:g} s"
            return self._interlock or self._state_fault or stale
        if age < -config.future_tolerance:
            return "joint states are stamped in the future: synchronise the clocks"
        off_track = self._off_track(now) if self._commanding(now) else ""
        if off_track or self._interlock:
            return off_track or self._interlock
        if now - self._jumped_at < config.state_timeout:
            return self._jump
        if chunk is None:
            return self._no_chunk
        if now - chunk.stamp > config.chunk_timeout:
            return f"the action chunk is older than {config.chunk_timeout:g} s"
        if now + config.lookahead > chunk.stamp + len(chunk.points) * chunk.dt + 1e-6:
            return "the action chunk is finished"
        problem = "" if self.state is State.ACTIVE else self._outside()
        # Last: a pause begins only where the robot would have moved.
        return problem or self._surprise.pause(now, self._active_since)

    def _off_track(self, now: float) -> str:
        """A joint far from its command is blocked or was moved: hold it where it is."""
        error = np.abs(self.last - self.measured)
        if not (error > self.config.tracking).any():
            return ""
        worst = int((error - self.config.tracking).argmax())
        self._go_where_measured(now)
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
