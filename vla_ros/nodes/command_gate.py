"""Node command_gate: the only one that moves the robot.

`action_chunk` and `joint_states` in, `joint_trajectory` and `gate_status` out; the surprise in
`imagination` is advice, and nothing waits for it. All decisions are those of vla_ros.safety.gate;
this file moves messages, and looks who else commands the robot.

Its parameters are fixed when the node starts: nobody on the network can raise a limit.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vla_ros.msg import ActionChunk, GateStatus, Imagination
from vla_ros.robots import panda
from vla_ros.ros import qos
from vla_ros.ros.graph import other_publishers, publishers
from vla_ros.ros.lifecycle import OK, WARN, LifecycleNode
from vla_ros.ros.messages import (
    chunk_from_message,
    filled,
    seconds,
    to_time,
    trajectory_message,
)
from vla_ros.ros.parameters import Parameter
from vla_ros.ros.running import run
from vla_ros.ros.texts import kind, shorten
from vla_ros.safety.gate import Command, CommandGate, GateConfig, State

_STATUS_PERIOD = 0.1  # s
_LOOK_PERIOD = 0.2  # s between two looks at who publishes what

PARAMETERS = {
    "joint_names": Parameter(
        list(panda.JOINT_NAMES), "Joints to command; a chunk must hold exactly these, in any order."
    ),
    "position_lower": Parameter(
        panda.LOWER.tolist(),
        "Lowest position of each joint, rad or m.",
        -1e3,
        1e3,
        per="joint_names",
    ),
    "position_upper": Parameter(
        panda.UPPER.tolist(),
        "Highest position of each joint, rad or m.",
        -1e3,
        1e3,
        per="joint_names",
    ),
    "position_margin": Parameter(
        panda.MARGIN.tolist(),
        "Targets stay this far inside the position limits; one or one per joint.",
        0.0,
        10.0,
        per="joint_names",
    ),
    "velocity_limit": Parameter(
        panda.VELOCITY.tolist(),
        "Largest speed of each joint, rad/s or m/s.",
        1e-6,
        100.0,
        per="joint_names",
    ),
    "velocity_scale": Parameter(1.0, "Share of velocity_limit to use.", 0.01, 1.0),
    "tracking_tolerance": Parameter(
        panda.TRACKING.tolist(),
        "A joint further than this from its command is blocked or was moved: hold it where it is. "
        "Rad or m, one or one per joint. A finger that grips never reaches its command.",
        1e-3,
        1e3,
        per="joint_names",
    ),
    "rate": Parameter(50.0, "Commands per second.", 10.0, 1000.0),
    "lookahead": Parameter(
        0.04, "A command is due this long after it is sent, s; two periods or more.", 0.005, 0.5
    ),
    "chunk_timeout": Parameter(
        0.15, "Hold when the observation behind the chunk is older than this, s.", 0.02, 5.0
    ),
    "state_topics": Parameter(
        ["joint_states"],
        "Topics of joint states that together give the robot's, such as arm and gripper.",
    ),
    "state_timeout": Parameter(
        0.2, "Hold when the joint states are older than this, s.", 0.02, 5.0
    ),
    "hold_time": Parameter(0.3, "Repeat a hold for this long, then be silent, s.", 0.0, 5.0),
    "future_tolerance": Parameter(
        0.05, "Stamps may be ahead of the clock by this much, s.", 0.0, 1.0
    ),
    "surprise_slow": Parameter(
        0.0,
        "Go slower while the world model's surprise is above this, in its unit; 0: never. Without "
        "a world model, or when it is late, nothing is slowed or held.",
        0.0,
        1e6,
    ),
    "surprise_hold": Parameter(
        0.0, "Hold for surprise_pause when the surprise is above this; 0: never.", 0.0, 1e6
    ),
    "slowdown": Parameter(0.1, "Share of the velocity limits to use while slowed.", 0.01, 1.0),
    "surprise_pause": Parameter(
        1.0,
        "A hold by surprise lasts this long, s; then the robot goes on, and is held again if what "
        "it sees from 0.4 s later on still surprises.",
        0.1,
        60.0,
    ),
    "surprise_timeout": Parameter(
        1.0, "A surprise of a frame older than this says nothing, s.", 0.1, 10.0
    ),
    "base_frame": Parameter(panda.BASE_FRAME, "Frame named in gate_status and joint_trajectory."),
}
# All of them are limits, or decide when there is a command: to change one, start the node anew.
PARAMETERS = {name: replace(entry, read_only=True) for name, entry in PARAMETERS.items()}


class CommandGateNode(LifecycleNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("command_gate", PARAMETERS, **kwargs)
        self._gate: CommandGate | None = None

    def configure(self) -> None:
        params = self.params
        if params.lookahead * params.rate < 1.0:
            raise ValueError(
                f"lookahead ({params.lookahead:g} s) is shorter than a period of rate "
                f"({params.rate:g} Hz): the robot would stop between commands"
            )
        if self._gate is None:  # one for all time: it knows what the robot was told last
            self._gate = CommandGate(self._config())
        self._trajectories = self.publisher(JointTrajectory, "joint_trajectory", qos.standard(1))
        self._statuses = self.publisher(GateStatus, "gate_status", qos.latched())

    def _config(self) -> GateConfig:
        params = self.params
        return GateConfig(
            names=params.joint_names,
            lower=params.position_lower,
            upper=params.position_upper,
            velocity=[params.velocity_scale * limit for limit in params.velocity_limit],
            margin=params.position_margin,
            tracking=params.tracking_tolerance,
            lookahead=params.lookahead,
            chunk_timeout=params.chunk_timeout,
            state_timeout=params.state_timeout,
            hold_time=params.hold_time,
            future_tolerance=params.future_tolerance,
            surprise_slow=params.surprise_slow,
            surprise_hold=params.surprise_hold,
            slowdown=params.slowdown,
            surprise_pause=params.surprise_pause,
            surprise_timeout=params.surprise_timeout,
            # Of the robot itself: others may move it faster than this gate does.
            jump_velocity=[2.0 * limit for limit in params.velocity_limit],
        )

    def activate(self) -> None:
        self._gate.reset("started")
        self._stamp = to_time(0.0)  # of the observation behind the chunk in use
        self._reported: tuple[State, str, int, bool] | None = None
        self._logged_state = ""
        self._status_due = -1.0
        self._look_around()
        self.subscribe(ActionChunk, "action_chunk", self._on_chunk, qos.standard(1))
        # Not only the newest: one that is true must not be lost among many that are false.
        for topic in self.params.state_topics:
            self.subscribe(JointState, topic, self._on_joint_states, qos.standard())
        # Not only the newest: an imagined video follows the surprise of a newer frame.
        self.subscribe(Imagination, "imagination", self._on_imagination, qos.standard())
        self.every(1.0 / self.params.rate, self._tick)
        self.every(_LOOK_PERIOD, self._look_around, steady=True)
        self._tick()  # the first status; a gate that just started sends no command

    def deactivate(self) -> None:
        """Leave the robot with a command to stay, and everyone told that no more will come."""
        command = self._gate.stop("deactivated", self.now, self._steady)
        if command is not None:
            self._publish(command)
        self._report(self.now)

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        gate = self._gate
        details = {
            "accepted": gate.accepted,
            "rejected": gate.rejected,
            "limited": gate.limited,
            "last_rejection": gate.last_rejection,
            "surprise": gate.surprise,
            "slowed": gate.slowed,
        }
        level = OK if gate.state is State.ACTIVE and not self._policies else WARN
        details["several_policies"] = self._policies
        return level, f"{gate.state.name}: {gate.reason}".removesuffix(": "), details

    # --- others -----------------------------------------------------------------------------

    def _look_around(self) -> None:
        """One robot, one gate; and the chunks of one policy."""
        others = other_publishers(self, self._trajectories.topic_name)
        rival = f"the robot is also commanded by {', '.join(others)}: stop one of the two"
        self._rival = shorten(rival) if others else ""
        self._gate.interlock(self._rival)
        # Chunks of several policies are within the limits each, and one of a killed policy may
        # seem to be there for a while: no reason to stop.
        policies = publishers(self, "action_chunk")
        self._policies = f"action_chunk has several publishers: {', '.join(policies)}"
        self._policies = shorten(self._policies) if len(policies) > 1 else ""
        self.log_edge("policies", self._policies)

    # --- messages ---------------------------------------------------------------------------

    def _on_joint_states(self, message: JointState) -> None:
        stamp = seconds(message.header.stamp)
        self._gate.update_state(message.name, message.position, stamp, partial=True)

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            problem = self._gate.accept(chunk_from_message(message), self.now)
        except ValueError as error:
            problem = self._gate.reject(str(error))
        self.log_edge("chunk", problem and f"action chunk rejected: {problem}")
        if not problem:
            self._stamp = message.header.stamp
            self._tick()

    def _on_imagination(self, message: Imagination) -> None:
        stamp = seconds(message.header.stamp)
        problem = self._gate.update_surprise(message.surprise, stamp, self.now)
        self.log_edge("surprise", problem and f"surprise ignored: {problem}")

    def _tick(self) -> None:
        now = self.now
        command = self._gate.command(now, self._steady)
        if command is not None:
            self._publish(command)
        gate = self._gate
        if self._reported != (gate.state, gate.reason, gate.rejected, gate.slowed):
            self._report(now)
        elif not 0.0 < self._status_due - now < 1.0:
            self._report(now)

    @property
    def _steady(self) -> float | None:
        """Time that no correction of a clock makes step. Simulated controllers know but /clock."""
        return None if self.get_parameter("use_sim_time").value else time.monotonic()

    def _publish(self, command: Command) -> None:
        header = Header(frame_id=self.params.base_frame)
        if not command.hold:
            header.stamp = self._stamp
        self._trajectories.publish(trajectory_message(command, self._gate.config.names, header))

    def _report(self, now: float) -> None:
        gate = self._gate
        self._reported = (gate.state, gate.reason, gate.rejected, gate.slowed)
        self._status_due = now + _STATUS_PERIOD
        text = shorten(f"{gate.state.name}: {gate.reason}".removesuffix(": "))
        if kind(text) != kind(self._logged_state):
            self._logged_state = text
            if gate.state is State.HOLD or self._rival:
                self.get_logger().warning(text)
            else:  # rclpy wants one severity a line of code
                self.get_logger().info(text)
        slowed = "slowed: the camera shows what was not expected" if gate.slowed else ""
        self.log_edge("slowed", slowed)
        stamp = self._stamp
        seen = gate.accepted > 0
        status = GateStatus(
            state=int(gate.state),
            reason=shorten(gate.reason),
            observation_stamp=stamp,
            observation_age=now - seconds(stamp) if seen else -1.0,
            accepted=gate.accepted,
            rejected=gate.rejected,
            limited=gate.limited,
            last_rejection=shorten(gate.last_rejection),
            surprise=gate.surprise,
            slowed=gate.slowed,
            joint_names=self._gate.config.names,
        )
        status.header.stamp = to_time(max(now, 0.0))
        status.header.frame_id = self.params.base_frame
        if gate.last is not None:
            status.command = filled("d", gate.last)
        self._statuses.publish(status)


def main(args: list[str] | None = None) -> int:
    return run(CommandGateNode, args)


if __name__ == "__main__":
    sys.exit(main())
