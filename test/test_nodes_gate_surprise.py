"""A gate in its own process hears from a world model how surprising the newest frame was."""

import math
from itertools import groupby

import numpy as np
import pytest
from probe import NodeProcess, Probe, wait_for
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vla_ros.msg import ActionChunk, GateStatus, Imagination
from vla_ros.robots import panda
from vla_ros.ros import qos
from vla_ros.ros.messages import chunk_message, joint_state_message, seconds

NAMESPACE = "/surprised"
PAUSE = 0.5  # s
# Long timeouts: on a busy machine nothing but surprise should hold this robot.
PARAMETERS = {
    "surprise_slow": 1.0,
    "surprise_hold": 2.0,
    "surprise_pause": PAUSE,
    "surprise_timeout": 3.0,
    "chunk_timeout": 5.0,
    "state_timeout": 5.0,
}


class Robot(Probe):
    """Stands at home, and the policy wants it there; `see` is what its world model says."""

    def __init__(self) -> None:
        super().__init__("probe", NAMESPACE)
        node = self.node
        self._joints = node.create_publisher(JointState, "joint_states", qos.standard())
        self._chunks = node.create_publisher(ActionChunk, "action_chunk", qos.standard(1))
        self.imagination = node.create_publisher(Imagination, "imagination", qos.standard())
        self.listen(JointTrajectory, "joint_trajectory", qos.standard(100))
        self.listen(GateStatus, "gate_status", qos.latched())
        node.create_timer(0.05, self._publish)
        self.start()

    def _publish(self) -> None:
        header = Header(stamp=self.node.get_clock().now().to_msg())
        self._joints.publish(joint_state_message(panda.JOINT_NAMES, panda.HOME, header))
        points = np.tile(panda.HOME, (200, 1))
        self._chunks.publish(chunk_message(points, panda.JOINT_NAMES, 0.05, header=header))

    def see(self, surprise: float) -> None:
        header = Header(stamp=self.node.get_clock().now().to_msg())
        self.imagination.publish(Imagination(header=header, surprise=surprise))


def is_motion(command: JointTrajectory) -> bool:
    return seconds(command.header.stamp) > 0.0  # that of a hold is zero


@pytest.fixture(scope="module")
def robot():
    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def gate(robot, tmp_path_factory):
    """The node, moving the robot."""
    arguments = [word for name, value in PARAMETERS.items() for word in ("-p", f"{name}:={value}")]
    process = NodeProcess(tmp_path_factory.mktemp("gate"), NAMESPACE, "command_gate", *arguments)
    try:
        wait_for(robot.imagination.get_subscription_count)
        robot.next("gate_status", lambda status: status.state == GateStatus.ACTIVE)
        yield process
    finally:
        code = process.end()
        print(process.output)
    assert code == 0


def test_high_surprise_holds_with_its_reason_and_the_robot_goes_on_after(robot, gate):
    start = robot.next_at("joint_trajectory", is_motion)[0]

    def is_held():  # frames of just after it began to move do not count
        robot.see(3.25)
        return robot.messages("gate_status")[-1].state == GateStatus.HOLD

    wait_for(is_held)
    # The first that says so: on a busy machine there may be later ones of the same pause by now.
    reason = "the camera shows what was not expected: surprise 3.25 over 2"
    held = next(m for m in robot.messages("gate_status", start) if m.reason == reason)
    assert held.state == GateStatus.HOLD
    assert held.surprise == 3.25 and not held.slowed
    on = robot.next("gate_status", lambda status: status.state == GateStatus.ACTIVE)
    assert seconds(on.header.stamp) - seconds(held.header.stamp) >= PAUSE - 0.001
    robot.next("joint_trajectory", is_motion)
    motion = [is_motion(m) for at, m in robot.heard["joint_trajectory"] if at >= start]
    assert [key for key, _ in groupby(motion)] == [True, False, True]


def test_raised_surprise_slows_until_it_is_old(robot, gate):
    wait_for(lambda: not robot.messages("gate_status")[-1].slowed)

    def slowed():  # frames of just after a pause do not count
        robot.see(1.5)
        return robot.messages("gate_status")[-1].slowed

    wait_for(slowed)
    status = robot.messages("gate_status")[-1]
    assert status.state == GateStatus.ACTIVE and status.surprise == 1.5 and status.reason == ""
    status = robot.next("gate_status", lambda status: not status.slowed)
    assert status.state == GateStatus.ACTIVE and status.surprise == -1.0
    assert "slowed: the camera shows what was not expected" in gate.output


def test_bad_surprise_is_named_in_the_log_and_moves_nothing(robot, gate):
    robot.next("gate_status", lambda status: status.surprise == -1.0)
    start = robot.next_at("gate_status")[0]
    robot.see(math.nan)
    wait_for(lambda: "surprise ignored: the surprise or its stamp is not finite" in gate.output)
    robot.see(0.25)
    wait_for(lambda: "no longer: surprise ignored" in gate.output)
    robot.next("gate_status", lambda status: status.surprise == 0.25)
    heard = robot.messages("gate_status", start)
    assert all(status.state == GateStatus.ACTIVE and not status.slowed for status in heard)
