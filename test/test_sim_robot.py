"""The simulated robot as its own process, met only through its topics and services."""

import time

import numpy as np
import pytest
from probe import NodeProcess, Probe, wait_for
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.msg import TaskStatus
from vla_ros.robots import panda
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros import qos
from vla_ros.ros.messages import seconds, to_duration, to_time
from vla_ros.sim.tasks import sample_task
from vla_ros.srv import SetTask

NAMESPACE = "/simulated"
CAMERAS = ("camera", "wrist_camera")
TOPICS = {
    "/clock": (Clock, qos.sensor(100)),
    "joint_states": (JointState, qos.standard(100)),
    "camera/image_raw": (Image, qos.sensor(10)),
    "camera/camera_info": (CameraInfo, qos.sensor(10)),
    "camera/depth/image_raw": (Image, qos.sensor(10)),
    "camera/depth/camera_info": (CameraInfo, qos.sensor(10)),
    "wrist_camera/depth/image_raw": (Image, qos.sensor(10)),
    "wrist_camera/depth/camera_info": (CameraInfo, qos.sensor(10)),
    "wrist_camera/image_raw": (Image, qos.sensor(10)),
    "wrist_camera/camera_info": (CameraInfo, qos.sensor(10)),
    "sim_robot/task_status": (TaskStatus, qos.latched()),
}


class Client(Probe):
    """Hears everything that the robot says, and commands it."""

    def __init__(self) -> None:
        super().__init__("client", NAMESPACE)
        self.trajectories = self.node.create_publisher(
            JointTrajectory, "joint_trajectory", qos.standard(1)
        )
        for topic, (kind, profile) in TOPICS.items():
            self.listen(kind, topic, profile)
        self.start()

    def set_task(self, family, seed=0) -> SetTask.Response:
        request = SetTask.Request(family=family, seed=seed)
        return self.call(SetTask, "sim_robot/set_task", request)

    def reset(self) -> None:
        assert self.call(Trigger, "sim_robot/reset", Trigger.Request()).success

    def now(self) -> float:
        return seconds(self.heard["/clock"][-1][1].clock)

    def positions(self) -> np.ndarray:
        return np.array(self.next("joint_states").position)

    def send(self, positions, names=panda.JOINT_NAMES, duration=0.5, stamp=0.0):
        point = JointTrajectoryPoint(positions=positions, time_from_start=to_duration(duration))
        message = JointTrajectory(joint_names=names, points=[point])
        message.header.stamp = to_time(stamp)
        self.trajectories.publish(message)

    def sleep(self, duration):
        """Wait for so much simulated time."""
        end = self.now() + duration
        wait_for(lambda: self.now() >= end)


@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def robot(client, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sim_robot")
    arguments = ("-p", "image_size:=96", "-p", "image_width:=128")
    process = NodeProcess(folder, NAMESPACE, "sim_robot", *arguments)
    try:
        client.next("wrist_camera/image_raw")
        wait_for(client.trajectories.get_subscription_count)
        yield process
    finally:
        code = process.end()
    assert code == 0, process.output
    assert "Traceback" not in process.output


@pytest.fixture
def still(client, robot):
    """The robot at the start of a task, with the time after a reset in which it forgets."""
    client.reset()
    client.next("joint_states")
    client.sleep(0.5)


# --- what it says ---------------------------------------------------------------------------------


def test_rates_are_those_of_a_ros2_control_robot(client, robot):
    start = time.time()
    client.sleep(2.0)
    stamps = [seconds(m.header.stamp) for m in client.messages("joint_states", start)]
    np.testing.assert_allclose(np.diff(stamps), 0.01, atol=1e-6)
    clock = [(at, seconds(m.clock)) for at, m in client.heard["/clock"] if at > start]
    assert len(clock) >= 100 and clock == sorted(clock)
    # Slower on a busy machine, but never faster; 0.1 s may be caught up.
    (began, first), (ended, last) = clock[0], clock[-1]
    assert last - first < ended - began + 0.15
    images = client.messages("camera/image_raw", start)
    frames = np.array([seconds(m.header.stamp) for m in images])
    assert len(frames) >= 20
    steps = np.diff(frames) / 0.05  # best effort: a frame may be lost
    np.testing.assert_allclose(steps, steps.round(), atol=1e-4)


def test_joint_states_are_complete(client, robot):
    message = client.next("joint_states")
    assert tuple(message.name) == panda.JOINT_NAMES
    assert len(message.position) == len(message.velocity) == len(message.effort) == 8
    assert np.isfinite([*message.position, *message.velocity, *message.effort]).all()


def test_both_cameras_see_the_same_moment(client, robot):
    start = time.time()
    topics = [f"{c}/{what}" for c in CAMERAS for what in ("image_raw", "camera_info")]

    def moments(topic):
        stamps = [message.header.stamp for message in client.messages(topic, start)]
        return {(stamp.sec, stamp.nanosec) for stamp in stamps}

    # Any moment: a camera's message may be lost, as they are best effort.
    wait_for(lambda: set.intersection(*map(moments, [*topics, "joint_states"])))


@pytest.mark.parametrize("camera", CAMERAS)
def test_images_and_camera_info_fit(client, robot, camera):
    image = client.next(f"{camera}/image_raw")
    info = client.next(f"{camera}/camera_info")
    assert (image.height, image.width, image.step, image.encoding) == (96, 128, 384, "rgb8")
    assert image.header.frame_id == info.header.frame_id == f"{camera}_optical_frame"
    assert np.frombuffer(image.data, np.uint8).std() > 10
    assert (info.height, info.width, info.distortion_model) == (96, 128, "plumb_bob")
    assert list(info.d) == [0.0] * 5
    matrix = info.k.reshape(3, 3)
    assert matrix[0, 0] == matrix[1, 1] > 0 and (matrix[0, 2], matrix[1, 2]) == (63.5, 47.5)
    np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], matrix)


@pytest.mark.parametrize("camera", CAMERAS)
def test_depth_is_in_metres_and_registered_to_the_image(client, robot, camera):
    message = client.next(f"{camera}/depth/image_raw")
    assert (message.encoding, message.height, message.width) == ("32FC1", 96, 128)
    assert message.header.frame_id == f"{camera}_optical_frame"
    depth = np.frombuffer(message.data, "<f4")
    assert 0.03 < depth.min() < 1.0 < depth.max() < 5.0
    info, image = client.next(f"{camera}/depth/camera_info"), client.next(f"{camera}/camera_info")
    assert info.header.frame_id == image.header.frame_id
    np.testing.assert_array_equal(info.k, image.k)


# --- tasks ----------------------------------------------------------------------------------------


def test_a_task_is_set_judged_and_reset(client, robot):
    task = sample_task("reach", 5)
    before = client.now()
    answer = client.set_task("reach", 5)
    assert answer.success and answer.instruction == task.instruction
    status = client.next("sim_robot/task_status", lambda s: (s.family, s.seed) == ("reach", 5))
    assert status.outcome == TaskStatus.RUNNING
    assert status.instruction == task.instruction and status.elapsed < 2.0

    client.sleep(0.5)
    item = task.objects[0]
    target = np.array([*item.position, 2 * item.half_extents[1] + 0.05])
    joints = ArmKinematics().solve(client.positions()[:-1], target, iterations=50)
    client.send([*joints, 0.04], duration=1.0)
    decided = client.next(
        "sim_robot/task_status", lambda status: status.outcome != TaskStatus.RUNNING
    )
    assert decided.outcome == TaskStatus.SUCCEEDED and decided.reason == "fulfilled"

    client.reset()
    status = client.next("sim_robot/task_status", lambda s: s.outcome == TaskStatus.RUNNING)
    assert (status.family, status.seed) == ("reach", 5)
    assert client.now() > before
    stamps = [seconds(m.header.stamp) for m in client.messages("joint_states")]
    assert stamps == sorted(stamps)  # also over the resets


def test_an_unknown_family_is_refused_and_changes_nothing(client, robot):
    answer = client.set_task("dance")
    assert not answer.success and "reach, push, pick, pad, bowl" in answer.message
    assert client.next("sim_robot/task_status").family != "dance"


# --- commands -------------------------------------------------------------------------------------


def test_a_trajectory_moves_the_arm(client, still):
    target = client.positions() + np.array([0.2, 0, 0, 0, 0, 0, -0.1, -0.02])
    client.send(list(target), stamp=client.now())
    wait_for(lambda: np.abs(client.positions() - target).max() < 5e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ["elbow", *panda.JOINT_NAMES[1:]]}, "elbow"),
        ({"positions": [float("nan")] * 8}, "NaN"),
        ({"positions": [0.0] * 7}, "one position for each joint"),
        ({"stamp": 0.001}, ""),  # from before the reset: not even worth a warning
    ],
)
def test_a_bad_trajectory_is_rejected_and_the_arm_holds(client, still, robot, changes, words):
    before = client.positions()
    client.send(**{"positions": list(before + 0.2), "duration": 0.1} | changes)
    client.sleep(0.5)
    np.testing.assert_allclose(client.positions(), before, atol=2e-3)
    # Warnings are throttled, but the first of them stands in the log.
    wait_for(lambda: not words or "trajectory rejected" in robot.output)


def test_commands_from_before_a_reset_are_forgotten(client, still):
    target = client.positions() + 0.2
    stamp = client.now()
    client.reset()
    before = client.positions()
    client.send(list(target), stamp=stamp, duration=10.0)
    client.sleep(0.6)
    np.testing.assert_allclose(client.positions(), before, atol=2e-3)


def test_a_hold_on_its_way_when_the_reset_came_is_forgotten(client, still):
    def moves():
        target = client.positions() + 0.2
        client.reset()
        before = client.positions()
        client.send(list(target))
        client.sleep(0.6)
        return np.abs(client.positions() - before).max() > 2e-3

    # It has no stamp: on a busy machine it may come after the time in which it is forgotten.
    assert not (moves() and moves() and moves())


# --- the process ----------------------------------------------------------------------------------


def test_with_system_time_it_stamps_and_takes_stamps_of_that(client, robot, tmp_path):
    topic = "/wall/joint_states"
    subscription = client.listen(JointState, topic, qos.standard(100))
    publisher = client.node.create_publisher(
        JointTrajectory, "/wall/joint_trajectory", qos.standard(1)
    )
    process = NodeProcess(tmp_path, "/wall", "sim_robot", "-p", "publish_clock:=false")
    try:
        wait_for(lambda: len(client.heard[topic]) > 50 and publisher.get_subscription_count())
        at, message = client.next_at(topic)
        assert abs(seconds(message.header.stamp) - at) < 1.0
        assert client.node.count_publishers("/clock") == 1  # that of the other robot
        target = np.array(message.position) + 0.1 * np.r_[np.ones(7), -0.1]
        point = JointTrajectoryPoint(positions=list(target), time_from_start=to_duration(1.0))
        message = JointTrajectory(joint_names=panda.JOINT_NAMES, points=[point])
        message.header.stamp = to_time(time.time())
        publisher.publish(message)
        client.next(topic, lambda m: np.abs(np.array(m.position) - target).max() < 5e-3)
    finally:
        code = process.end()
        client.node.destroy_subscription(subscription)
        client.node.destroy_publisher(publisher)
    assert code == 0, process.output


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("family:=dance", "choose from reach"),
        ("camera_rate:=0.0", "camera_rate"),
        ("visuals:=wireframe", "hulls, meshes"),
    ],
)
def test_a_bad_parameter_ends_with_one_clear_line(tmp_path, parameter, words):
    process = NodeProcess(tmp_path, NAMESPACE, "sim_robot", "-p", parameter)
    assert process.wait() == 1
    last = process.output.strip().splitlines()[-1]
    assert last.startswith("error: ") and words in last
