"""What a world model expects of a recorded episode: imagined afterwards, from what was recorded.

Nothing is used that was not known at the time: a frame is imagined from the pictures before it and
from the plan that the robot had then, by the code and at the moments of the live node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from std_msgs.msg import Header

from vla_ros.film.states import Recording, View
from vla_ros.film.timeline import Expectations
from vla_ros.models.genie.genie import WorldModel
from vla_ros.nodes.plan_reader import PlanReader
from vla_ros.robots import panda
from vla_ros.ros.messages import UNKNOWN_SURPRISE, joint_state_message, to_time
from vla_ros.ros.robot_history import RobotHistory
from vla_ros.safety.gate import Chunk

_CLOSE = 1e-3  # s that times of the same moment may differ
_PERIOD = 1.0  # s between two imaginations, as in config/arm.yaml


@dataclass
class Commands:
    """What the robot was told and whether it obeyed, as it was published."""

    chunks: list[Chunk] = field(default_factory=list)
    gate: list[tuple[float, bool]] = field(default_factory=list)  # stamp, s; whether it was active


def can_be_expected(recording: Recording, dt: float) -> list[int]:
    """Frames of an episode's film for which a frame was seen before: all but the first or two."""
    first = recording.views[0].time + dt / 2 - _CLOSE if recording.views else float("inf")
    return [k for k, time in enumerate(recording.times) if time >= first]


def imagine_afterwards(
    world: WorldModel, recording: Recording, commands: Commands, expectations: Expectations
) -> None:
    """Add to `expectations` what is missing of an episode: frames that were to be expected at the
    times of its film, and the surprise by what came."""
    _Afterwards(world, recording, commands, expectations).run()


class _Afterwards:
    def __init__(
        self,
        world: WorldModel,
        recording: Recording,
        commands: Commands,
        expectations: Expectations,
    ) -> None:
        self._world, self._dt = world, world.config.dt
        self._expectations = expectations
        self._views = recording.views
        self._seen = _every(recording.views, self._dt)
        times = [recording.times[k] for k in can_be_expected(recording, self._dt)]
        self._missing = [t for t in times if not expectations.imagined(t, recording.began)]
        self._chunks = sorted(commands.chunks, key=lambda chunk: chunk.stamp)
        self._gate = sorted(commands.gate)
        self._history = RobotHistory()
        self._plans = PlanReader(self._history, world.config)
        self._until = float("-inf")  # s: what came before is in the history

    def run(self) -> None:
        if not self._seen or not self._is_needed():
            return
        dream, before = self._world.start(), None
        due = self._seen[0].time
        for view in self._seen:
            self._remember(view.time)
            stamp = to_time(view.time)
            led = before and self._plans.led_to(view.time, before, self._dt / 4)
            actions, felt = led or (None, None)
            observed = dream.observe(view.frame, actions=actions, proprioception=felt)
            before = stamp
            frames = []
            if view.time > due - self._dt / 2:
                due = view.time + _PERIOD
                # As far as the next imagination's first frame, and only what is missing.
                if horizon := self._wanted(view.time, due + self._dt / 2):
                    plan = self._plans.to_follow(stamp, horizon)
                    actions, felt = plan or (None, None)
                    frames = [
                        one.frame
                        for one in dream.imagine(horizon, actions=actions, proprioception=felt)
                    ]
            known = self._expectations.surprise(view.time, self._dt / 2)
            surprise = observed.surprise
            if surprise is None or known is not None:
                surprise = UNKNOWN_SURPRISE  # or better known
            self._expectations.add_imagination(view.time, self._dt, frames, surprise, live=False)

    def _is_needed(self) -> bool:
        late = [view.time for view in self._seen[1:]]
        unknown = [t for t in late if self._expectations.surprise(t, self._dt) is None]
        return bool(self._missing or unknown)

    def _wanted(self, made: float, until: float) -> int:
        """How many frames must be imagined after `made` for what is missing until then."""
        missing = [time for time in self._missing if made < time <= until + _CLOSE]
        return max((round((time - made) / self._dt + 1e-6) or 1 for time in missing), default=0)

    def _remember(self, now: float) -> None:
        """Put into the history what was published until then."""

        def fresh(times: Sequence[float]) -> slice:
            return slice(bisect_right(times, self._until), bisect_right(times, now + _CLOSE))

        for view in self._views[fresh([view.time for view in self._views])]:
            header = Header(stamp=to_time(view.time))
            self._history.add_joint_states(
                joint_state_message(panda.JOINT_NAMES, view.joints, header)
            )
        for chunk in self._chunks[fresh([chunk.stamp for chunk in self._chunks])]:
            self._history.add_chunk(chunk)
        for stamp, active in self._gate[fresh([stamp for stamp, _ in self._gate])]:
            self._history.add_gate_status(stamp, active)
        self._until = now + _CLOSE


def _every(views: Sequence[View], dt: float) -> list[View]:
    """Of the camera's frames those that are `dt` apart."""
    chosen: list[View] = []
    for view in views:
        if not chosen or view.time - chosen[-1].time > dt - _CLOSE:
            chosen.append(view)
    return chosen
