"""Each node as its own process, exchanging real messages: what a robot's computer would run."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from probe import PATIENCE, NodeProcess, Probe, wait_for
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vla_ros.action import FollowInstruction
from vla_ros.msg import ActionChunk, GateStatus, Narration, VisualTokens
from vla_ros.robots import panda
from vla_ros.ros import qos
from vla_ros.ros.messages import chunk_message, image_message, joint_state_message, seconds, to_time
from vla_ros.scene_language.descriptions import DESCRIPTION_WORDS
from vla_ros.scene_language.instructions import VOCABULARY

PARAMS = Path(__file__).parents[1] / "config" / "arm.yaml"
NAMESPACE = "/tested"
IMAGE = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
INSTRUCTION = "reach for the red cube"


class Robot(Probe):
    """The other side of the topics: publishes camera and joints, listens to everything."""

    def __init__(self) -> None:
        super().__init__("probe", NAMESPACE)
        self.images: set[int] = set()  # stamps, ns
        node = self.node
        self._cameras = [
            node.create_publisher(Image, f"{camera}/image_raw", qos.sensor())
            for camera in ("camera", "wrist_camera")
        ]
        self._joints = node.create_publisher(JointState, "joint_states", qos.standard())
        self.chunks = node.create_publisher(ActionChunk, "action_chunk", qos.standard(1))
        self.instruction = node.create_publisher(String, "instruction", qos.latched())
        self.follow = ActionClient(node, FollowInstruction, "follow_instruction")
        self.listen(VisualTokens, "visual_tokens", qos.sensor())
        self.listen(ActionChunk, "action_chunk", qos.standard(1))
        self.listen(JointTrajectory, "joint_trajectory", qos.standard(100))
        self.listen(GateStatus, "gate_status", qos.latched())
        self.send_images = self.send_joints = True
        node.create_timer(0.05, self._publish_images)
        node.create_timer(0.01, self._publish_joints)
        self.start()

    def header(self) -> Header:
        return Header(stamp=self.node.get_clock().now().to_msg(), frame_id="camera_optical_frame")

    def _publish_images(self):
        if self.send_images:
            header = self.header()
            self.images.add(nanoseconds(header))
            for camera in self._cameras:
                camera.publish(image_message(IMAGE, header))

    def _publish_joints(self):
        if self.send_joints:
            message = joint_state_message(panda.JOINT_NAMES, panda.HOME, self.header())
            self._joints.publish(message)

    def state_of(self, name):
        answer = self.call(GetState, f"{name}/get_state", GetState.Request())
        return answer.current_state.label

    def goal(self, instruction, time_limit=0.0):
        """Send a goal; return its handle, the future of its result, and its feedback so far."""
        assert self.follow.wait_for_server(PATIENCE)
        feedback = []
        goal = FollowInstruction.Goal(instruction=instruction, time_limit=time_limit)

        async def send():
            return await self.follow.send_goal_async(
                goal, lambda message: feedback.append(message.feedback)
            )

        # In the thread that spins: from another, rclpy can lose an answer that comes quickly.
        sent = self.executor.create_task(send)
        wait_for(sent.done)
        assert sent.result().accepted
        return sent.result(), sent.result().get_result_async(), feedback

    def result(self, future):
        wait_for(future.done)
        return future.result().status, future.result().result


@pytest.fixture(scope="module")
def robot():
    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def policy_arguments(checkpoint):
    return ("--params-file", str(PARAMS), "-p", f"checkpoint:={checkpoint}")


@pytest.fixture(scope="module")
def stack(robot, folder, policy_arguments):
    """The three nodes, active, each a process."""
    processes = {
        "vision_encoder": NodeProcess(folder, NAMESPACE, "vision_encoder", *policy_arguments),
        "action_policy": NodeProcess(folder, NAMESPACE, "action_policy", *policy_arguments),
        "command_gate": NodeProcess(
            folder, NAMESPACE, "command_gate", "--params-file", str(PARAMS)
        ),
    }
    try:
        for name in processes:
            wait_for(lambda name=name: robot.state_of(name) == "active")
        yield processes
    finally:
        codes = {name: process.end() for name, process in processes.items()}
        for process in processes.values():
            print(process.output)
    assert codes == dict.fromkeys(codes, 0)


@pytest.fixture
def following(robot, stack):
    """The policy follows an instruction and the gate lets it."""
    robot.instruction.publish(String(data=INSTRUCTION))
    robot.next("gate_status", lambda status: status.state == GateStatus.ACTIVE)
    yield stack
    robot.instruction.publish(String(data=""))
    robot.next("gate_status", lambda status: status.state == GateStatus.HOLD)


def nanoseconds(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def test_an_image_becomes_a_command_and_its_stamp_goes_all_the_way(robot, following):
    tokens = robot.next("visual_tokens")
    assert nanoseconds(tokens.header) in robot.images and list(tokens.shape) == [2, 16, 16, 32]
    assert tokens.header.frame_id == "camera_optical_frame"
    chunk = robot.next("action_chunk")
    assert nanoseconds(chunk.header) in robot.images and chunk.instruction == INSTRUCTION
    assert tuple(chunk.joint_names) == panda.JOINT_NAMES and chunk.horizon * chunk.dof == 64
    # Of a chunk: on a busy machine the gate may hold now and then.
    trajectory = robot.next("joint_trajectory", lambda message: nanoseconds(message.header) > 0)
    assert nanoseconds(trajectory.header) in robot.images
    (point,) = trajectory.points
    due = seconds(trajectory.header.stamp) + seconds(point.time_from_start)
    assert due > time.time() - 0.5
    positions = np.array(point.positions)
    assert (positions >= panda.LOWER).all() and (positions <= panda.UPPER).all()
    assert np.abs(positions - panda.HOME).max() < 0.5


def test_every_frame_is_followed_by_a_chunk(robot, following):
    start = time.time()

    def ticks(since):
        return [message.tick for message in robot.messages("action_chunk", since)]

    wait_for(lambda: len(ticks(time.time() - 2.0)) >= 30)  # of 40 frames; the machine may be busy
    assert ticks(start) == sorted(set(ticks(start)))


def test_stopped_camera_holds(robot, following):
    robot.send_images, stopped = False, time.time()
    try:
        at, _ = robot.next_at("gate_status", lambda status: status.state == GateStatus.HOLD)
    finally:
        robot.send_images = True
    assert at - stopped < 2.0
    robot.next("gate_status", lambda status: status.state == GateStatus.ACTIVE)


def test_stopped_joint_states_hold(robot, following):
    robot.send_joints, stopped = False, time.time()
    try:
        at, status = robot.next_at("gate_status", lambda status: status.state == GateStatus.HOLD)
    finally:
        robot.send_joints = True
    assert at - stopped < 2.0
    assert "joint states" in status.reason or "chunk" in status.reason
    robot.next("gate_status", lambda status: status.state == GateStatus.ACTIVE)


@pytest.mark.parametrize("victim", ["action_policy", "vision_encoder"])
def test_killed_node_means_a_hold_within_a_quarter_second_and_its_return_recovers(
    robot, following, folder, policy_arguments, victim
):
    following[victim].kill()
    killed = time.time()
    following[victim] = NodeProcess(folder, NAMESPACE, victim, *policy_arguments)
    # On a busy machine the gate may have held before already.
    robot.next("gate_status", lambda status: status.state == GateStatus.HOLD)
    wait_for(lambda: nanoseconds(robot.messages("joint_trajectory")[-1].header) == 0)
    commands = list(robot.heard["joint_trajectory"])
    at, last = next(x for x in reversed(commands) if nanoseconds(x[1].header) > 0)
    assert at - killed < 0.25
    np.testing.assert_array_equal(commands[-1][1].points[0].positions, last.points[0].positions)
    robot.next("gate_status", lambda status: status.state == GateStatus.ACTIVE)


@pytest.mark.parametrize("how", ["kill", "end"])
def test_gate_that_ends_moves_nothing_more_and_goes_on_when_it_returns(
    robot, following, folder, how
):
    getattr(following["command_gate"], how)()
    ended = time.time()
    time.sleep(0.4)
    assert not robot.messages("joint_trajectory", ended)  # nobody else moves the robot
    if how == "end":  # it had the time to say so
        wait_for(lambda: nanoseconds(robot.messages("joint_trajectory")[-1].header) == 0)
        wait_for(lambda: robot.messages("gate_status")[-1].reason.startswith("deactivated"))
        assert robot.messages("gate_status")[-1].state == GateStatus.CLOSED
    following["command_gate"] = NodeProcess(
        folder, NAMESPACE, "command_gate", "--params-file", str(PARAMS)
    )
    robot.next("joint_trajectory", lambda message: nanoseconds(message.header) > 0)


# --- the action ---------------------------------------------------------------------------------


def test_goal_gives_feedback_and_can_be_cancelled(robot, stack):
    goal, result, feedback = robot.goal(INSTRUCTION)
    wait_for(lambda: len(feedback) >= 10)
    steps = [item.step for item in feedback]
    assert steps == sorted(set(steps)) and feedback[-1].elapsed > 0.0
    wait_for(lambda: feedback[-1].gate_state == GateStatus.ACTIVE)
    # While nothing narrates, the policy itself says what it is doing.
    wait_for(lambda: feedback[-1].narration)
    assert set(feedback[-1].narration.split()) <= {*VOCABULARY, *DESCRIPTION_WORDS}
    narrator = robot.node.create_publisher(Narration, "narration", qos.standard())
    wait_for(narrator.get_subscription_count)
    narrator.publish(Narration(header=robot.header(), text="as you see", instruction=INSTRUCTION))
    wait_for(lambda: feedback[-1].narration == "as you see")
    goal.cancel_goal_async()
    status, result = robot.result(result)
    assert status == GoalStatus.STATUS_CANCELED and not result.success
    assert result.reason == "cancelled" and result.steps >= 10


def test_unknown_word_aborts_and_is_named(robot, stack):
    _, result, _ = robot.goal("frobnicate the cube")
    status, result = robot.result(result)
    assert status == GoalStatus.STATUS_ABORTED
    assert not result.success and "frobnicate" in result.reason


def test_time_limit_ends_a_goal(robot, stack):
    _, result, _ = robot.goal(INSTRUCTION, time_limit=0.5)
    status, result = robot.result(result)
    assert status == GoalStatus.STATUS_ABORTED and "time limit of 0.5 s" in result.reason
    assert 0.5 <= result.duration < 5.0  # the policy looks at the clock between two frames


def test_newer_goal_replaces_the_older(robot, stack):
    _, first, _ = robot.goal(INSTRUCTION)
    second_goal, second, _ = robot.goal("lift the blue cube")
    status, result = robot.result(first)
    assert status == GoalStatus.STATUS_ABORTED
    assert result.reason == "replaced by: lift the blue cube"
    second_goal.cancel_goal_async()
    robot.result(second)


def test_goal_succeeds_when_the_policy_judges_it_done(robot, stack):
    def set_threshold(value):
        parameter = Parameter("done_threshold", value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        (answer,) = robot.call(SetParameters, "action_policy/set_parameters", request).results
        assert answer.successful

    set_threshold(0.0)  # the untrained policy is as sure as it need be
    try:
        _, result, _ = robot.goal(INSTRUCTION)
        status, result = robot.result(result)
    finally:
        set_threshold(0.9)
    assert status == GoalStatus.STATUS_SUCCEEDED and result.success
    assert result.reason == "fulfilled" and result.steps == 5


# --- one node alone -------------------------------------------------------------------------------


SPOILED = {
    "NaN": lambda chunk: chunk.data.__setitem__(3, float("nan")),
    "panda_joint1 is missing": lambda chunk: setattr(chunk, "joint_names", ["a"] * 8),
    "9 points": lambda chunk: setattr(chunk, "horizon", 9),
    "dt is 0": lambda chunk: setattr(chunk, "dt", 0.0),
    "older than": lambda chunk: setattr(chunk.header, "stamp", to_time(1.0)),
    "control mode": lambda chunk: setattr(chunk, "control_mode", ActionChunk.TWIST),
}


def test_bad_chunks_give_no_command_and_a_good_one_then_does(robot, folder):
    topics = {"action_chunk": "own_chunk", "gate_status": "own_status", "joint_trajectory": "own"}
    remaps = [word for old, new in topics.items() for word in ("-r", f"{old}:={new}")]
    process = NodeProcess(folder, NAMESPACE, "command_gate", *remaps)
    node, statuses, commands = robot.node, [], []
    chunks = node.create_publisher(ActionChunk, "own_chunk", qos.standard(1))
    node.create_subscription(GateStatus, "own_status", statuses.append, qos.latched())
    commanded = node.create_subscription(JointTrajectory, "own", commands.append, qos.standard(100))
    wait_for(lambda: statuses and "chunk" in statuses[-1].reason)  # joint states arrive
    wait_for(lambda: commanded.get_publisher_count() and chunks.get_subscription_count())

    def send(spoil):
        points = np.tile(panda.HOME, (8, 1))
        chunk = chunk_message(points, panda.JOINT_NAMES, 0.05, header=robot.header())
        spoil(chunk)
        chunks.publish(chunk)

    for number, (reason, spoil) in enumerate(SPOILED.items(), start=1):
        send(spoil)
        wait_for(lambda number=number: statuses[-1].rejected == number)
        assert reason in statuses[-1].last_rejection
        assert statuses[-1].state == GateStatus.CLOSED and statuses[-1].accepted == 0
    time.sleep(0.1)
    assert not commands

    def commanded_by_another_chunk():  # one may come too late on a busy machine
        send(lambda chunk: None)
        time.sleep(0.1)
        return commands

    wait_for(commanded_by_another_chunk)
    np.testing.assert_allclose(commands[0].points[0].positions, panda.HOME)
    assert process.end() == 0


def test_killed_simulation_starts_over_and_so_does_the_time(robot, folder, policy_arguments):
    """The whole stack as processes; /clock goes back to zero when the simulation returns."""
    namespace, statuses = "/simulated", []
    sim_time = ("-p", "use_sim_time:=true")
    arguments = {
        "sim_robot": ("--params-file", str(PARAMS)),
        "vision_encoder": (*policy_arguments, *sim_time),
        "action_policy": (*policy_arguments, *sim_time, "-p", f"instruction:={INSTRUCTION}"),
        "command_gate": ("--params-file", str(PARAMS), *sim_time),
    }

    def start(name):
        return NodeProcess(folder, namespace, name, *arguments[name])

    def active():
        return bool(statuses) and statuses[-1].state == GateStatus.ACTIVE

    def now():
        return seconds(statuses[-1].header.stamp)

    robot.node.create_subscription(
        GateStatus, f"{namespace}/gate_status", statuses.append, qos.latched()
    )

    def wait_while_running(condition):
        """However long a busy machine takes to start four processes and OpenGL."""

        def holds():
            assert all(process.is_running for process in processes.values())
            return condition()

        wait_for(holds, 3 * PATIENCE)

    processes = {name: start(name) for name in arguments}
    try:
        # So late that whoever takes a while to discover the next clock still sees it step back.
        wait_while_running(lambda: active() and now() > 4.0)
        before = now()
        processes["sim_robot"].kill()
        processes["sim_robot"] = start("sim_robot")
        wait_while_running(lambda: now() < before)
        again = now()
        # Not what was left from before.
        wait_while_running(lambda: active() and now() > again + 1.0)
    finally:
        codes = {name: process.end() for name, process in processes.items()}
        for process in processes.values():
            print(process.output)
    assert codes == dict.fromkeys(codes, 0)


def test_lifecycle_services_start_and_stop_a_node(robot, folder):
    process = NodeProcess(
        folder, NAMESPACE, "command_gate", "-p", "autostart:=false", "-r", "__node:=managed"
    )

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return robot.call(ChangeState, "managed/change_state", request).success

    robot.client(ChangeState, "managed/change_state")  # so that no answer to it is lost
    assert robot.state_of("managed") == "unconfigured"
    assert change(Transition.TRANSITION_CONFIGURE) and robot.state_of("managed") == "inactive"
    assert change(Transition.TRANSITION_ACTIVATE) and robot.state_of("managed") == "active"
    assert change(Transition.TRANSITION_DEACTIVATE) and robot.state_of("managed") == "inactive"
    assert change(Transition.TRANSITION_CLEANUP) and robot.state_of("managed") == "unconfigured"
    assert process.end() == 0


@pytest.mark.parametrize(
    ("node", "arguments", "words"),
    [
        ("command_gate", ["-p", "rate:=-1.0"], ["rate"]),
        ("command_gate", ["-p", "chunk_timeout:=soon"], ["chunk_timeout", "a number is wanted"]),
        ("action_policy", ["-p", "checkpoint:=nowhere"], ["nowhere", "give a folder"]),
        ("vision_encoder", ["-p", "camera_topics:=[one]"], ["camera_topics", "wrist_camera"]),
    ],
)
def test_bad_configuration_ends_with_one_clear_line(folder, checkpoint, node, arguments, words):
    if node == "vision_encoder":
        arguments = [*arguments, "-p", f"checkpoint:={checkpoint}"]
    process = NodeProcess(folder, NAMESPACE, node, *arguments)
    assert process.wait() == 1
    last = process.output.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in process.output
    assert all(word in last for word in words)


def test_tests_have_a_domain_of_their_own():
    assert os.environ["ROS_DOMAIN_ID"] != "0"
