"""What the world model's node observes, knows, imagines and answers."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from probe import NodeProcess, Probe, feel, header, nodes_of, wait_for
from sensor_msgs.msg import Image, JointState
from tiny_world import tiny_config, untrained

from vla_ros.images import image_from_message
from vla_ros.models.genie.genie import Dream, WorldModel
from vla_ros.msg import ActionChunk, GateStatus, Imagination
from vla_ros.nodes.world_model import WorldModelNode
from vla_ros.observations import preprocess_image, proprioception
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import FAILURE
from vla_ros.ros.messages import (
    UNKNOWN_SURPRISE,
    chunk_message,
    image_message,
    joint_state_message,
    seconds,
)
from vla_ros.srv import Imagine
from vla_ros.training.data.episode import Episode
from vla_ros.training.genie_robot_actions import plan

ARM = ActionConfig.get_arm_config()
CONFIG = tiny_config(
    longest=12,
    calibration=((-9.0, 1.0), (-9.0, 1.0)),  # any frame surprises
)
HORIZON = 5
NAMESPACE = "/imagining"
PICTURES = np.random.default_rng(0).integers(0, 255, (32, 24, 32, 3), dtype=np.uint8)


def saved(folder, config=CONFIG):
    untrained(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("world"))


@pytest.fixture
def make():
    with nodes_of(WorldModelNode, horizon=HORIZON, imagine_period=0.0) as make:
        yield make


def awake(node):
    """Active, keeping the imaginations that it publishes, as if there were a reader."""
    assert node.bring_up() == ""
    node.published = []
    node._publisher.publish = node.published.append
    node._publisher.get_subscription_count = lambda: 1
    return node


@pytest.fixture
def node(make, world_folder):
    return awake(make(world_folder))


@pytest.fixture
def observed(monkeypatch):
    """Robot actions and proprioception of every observation."""
    observe, calls = Dream.observe, []

    def watch(dream, frame, *, actions=None, proprioception=None):
        calls.append(None if actions is None else (actions, proprioception))
        return observe(dream, frame, actions=actions, proprioception=proprioception)

    monkeypatch.setattr(Dream, "observe", watch)
    return calls


def picture(number):
    return PICTURES[number % len(PICTURES)]


def show(node, stamp, number=None):
    number = round(stamp / 0.05) if number is None else number
    node._on_image(image_message(picture(number), header(stamp)))


def tell(node, stamp, offsets, joints=panda.HOME):
    """A chunk of tool offsets, decided at `stamp` with those joints."""
    points = end_effector_chunk_to_joints(ArmKinematics(), joints, np.atleast_2d(offsets))
    node._on_chunk(chunk_message(points, panda.JOINT_NAMES, 0.05, header=header(stamp)))


def planned(node):
    """What the robot is to do after the newest frame."""
    return node._plans.to_follow(node._seen.header.stamp, node.params.horizon)


def gate(node, stamp, state=GateStatus.ACTIVE):
    node._on_gate_status(GateStatus(header=header(stamp), state=state))


def stamps(node):
    return [round(seconds(message.header.stamp), 6) for message in node.published]


def surprises(node):
    return [message.surprise for message in node.published]


# --- frames ---------------------------------------------------------------------------------------


def test_a_frame_is_observed_every_dt_and_those_between_are_passed_over(node):
    for k in range(13):
        show(node, 10.0 + 0.05 * k)
    assert stamps(node) == [10.0, 10.2, 10.4, 10.6]
    assert surprises(node)[0] == UNKNOWN_SURPRISE and min(surprises(node)[1:]) >= 0.0
    assert all(not message.frames and message.dt == 0.2 for message in node.published)
    assert node.published[0].header.frame_id == "camera_optical_frame"


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([0.0, 0.05, 0.11, 0.14, 0.185, 0.25], [0.0, 0.185]),  # it was as near as can be
        ([0.0, 0.05, 0.1, 0.15, 0.174, 0.201], [0.0, 0.201]),  # of 0.174 that cannot be said
        ([k / 30 for k in range(13)], [0.0, 0.2, 0.4]),
        ([0.0, 0.05, 0.25, 0.3, 0.45], [0.0, 0.25, 0.45]),  # a lost one
    ],
)
def test_what_is_a_frame_is_said_by_the_stamps(node, times, wanted):
    for time_ in times:
        show(node, 10.0 + time_)
    np.testing.assert_allclose(stamps(node), 10.0 + np.array(wanted), atol=1e-6)
    assert surprises(node).count(UNKNOWN_SURPRISE) == 1


@pytest.mark.parametrize("then", [10.55, 3.0])  # after more than 1.5 dt; the clock's restart
def test_a_gap_and_a_clock_that_goes_back_begin_anew(node, then):
    def frames(first, begin):
        for k in range(5):
            show(node, begin + 0.05 * k, first + k)

    frames(0, 10.0)
    frames(0, then)
    assert surprises(node)[0] == surprises(node)[2] == UNKNOWN_SURPRISE
    assert surprises(node)[1] == surprises(node)[3] > 0.0  # nothing of before is left


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (image_message(np.zeros((24, 32), np.float32), header(11.0)), "32FC1"),
        (image_message(np.zeros((8, 32, 3), np.uint8), header(11.0)), "32x8"),
    ],
)
def test_images_it_cannot_use_are_named_and_good_ones_go_on(node, image, words):
    node._on_image(image)
    assert not node.published and words in node.diagnose()[1]
    show(node, 11.05)
    assert len(node.published) == 1 and words not in node.diagnose()[1]


# --- what the robot was told ----------------------------------------------------------------------


def test_robot_actions_are_those_of_training(node, observed):
    """A moving arm: the episode that training reads and the topics give the same plan."""
    rng, kinematics = np.random.default_rng(1), ArmKinematics()
    joints = panda.HOME + rng.normal(scale=0.02, size=(9, 8)).cumsum(axis=0) * ([1] * 7 + [0])
    offsets = rng.uniform(-0.02, 0.02, (9, 4))
    offsets[:, 3] = rng.uniform(0.0, 0.04, 9)
    felt = np.stack([proprioception(row, kinematics) for row in joints])
    episode = Episode(
        name="",
        robot="panda",
        control_mode=ARM.control_mode,
        instruction="",
        dt=0.05,
        action_names=ARM.action_names,
        proprioception_names=ARM.proprioception_names,
        stamps=0.05 * np.arange(9),
        proprioception=felt,
        actions=offsets.astype(np.float32),
        pictures={"camera": lambda first, last: iter(PICTURES[first:last])},
        outcome=True,
    )
    for k in range(9):
        stamp = 10.0 + 0.05 * k
        feel(node, stamp - 0.001, joints[k])
        gate(node, stamp - 0.001)
        show(node, stamp)
        tell(node, stamp + 1e-7, [offsets[k], np.full(4, 0.01)], joints[k])
    feel(node, 10.41)
    assert len(observed) == 3 and observed[0] is None
    for (actions, told), begin in zip(observed[1:], (0, 4), strict=True):
        np.testing.assert_allclose(actions, plan(episode, begin, 4), atol=2e-3)
        np.testing.assert_array_equal(told, felt[begin])


def step(node, leave_out=(), hold_at=None, joints=True, status=True):
    """One step of the model, from 10.0 s to 10.2 s."""
    if joints:
        feel(node, 10.0)
    if status:
        gate(node, 9.99)
    for k in range(5):
        stamp = 10.0 + 0.05 * k
        show(node, stamp)
        if k not in leave_out and k < 4:
            tell(node, stamp, np.zeros(4))
        if k == hold_at:
            gate(node, stamp + 0.01, GateStatus.HOLD)
            gate(node, stamp + 0.02)
    node._observe_when_known(10.4)  # time goes on


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"leave_out": [0]}, False),
        ({"leave_out": [2]}, False),
        ({"leave_out": [3]}, False),
        ({"hold_at": 1}, False),
        ({"joints": False}, False),
        ({"status": False}, False),
    ],
    ids=lambda value: str(value),
)
def test_what_is_not_known_of_a_step_is_not_made_up(node, observed, changes, known):
    step(node, **changes)
    assert len(observed) == 2 and (observed[1] is not None) == known
    assert node.published[1].surprise >= 0.0


def test_a_frame_waits_for_the_chunk_before_it_but_not_long(node, observed):
    step(node, leave_out=[3])
    assert observed[1] is None
    for k in range(4, 8):
        gate(node, 10.0 + 0.05 * k)
        tell(node, 10.0 + 0.05 * k, np.zeros(4))
        show(node, 10.0 + 0.05 * (k + 1))
        feel(node, 10.0 + 0.05 * (k + 1))
        if k == 6:
            break
    show(node, 10.4)
    feel(node, 10.45)
    assert len(observed) == 2  # the chunk of 10.35 s is on its way
    tell(node, 10.35, np.zeros(4))
    assert len(observed) == 3 and observed[2] is not None


def test_a_frame_waits_for_the_joints_of_its_time_but_not_long(node):
    feel(node, 9.99)
    show(node, 10.0)
    assert not node.published
    feel(node, 10.0)
    assert stamps(node) == [10.0]
    show(node, 10.2)
    show(node, 10.25)
    assert stamps(node) == [10.0]
    show(node, 10.31)
    assert stamps(node) == [10.0, 10.2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_chunks_that_are_none_are_passed_over(node, observed, value):
    points = np.tile(panda.HOME, (8, 1))
    points[3, 2] = value
    node._on_chunk(chunk_message(points, panda.JOINT_NAMES, 0.05, header=header(10.0)))
    node._on_chunk(chunk_message(points[:, :3], ("a", "b", "c"), 0.05, header=header(10.0)))
    step(node, leave_out=[0])
    assert observed[1] is None


# --- imagining ------------------------------------------------------------------------------------


def imagined(node):
    return [message for message in node.published if message.frames]


def work(node):
    while node._imaginings:
        node._imagine_frame()


def test_imagined_is_every_period_and_what_comes_meanwhile_changes_nothing(
    make, world_folder, monkeypatch
):
    monkeypatch.setattr(WorldModelNode, "now", property(lambda _: 1e6))
    node = awake(make(world_folder, imagine_period=1.0))
    dream = WorldModel.from_pretrained(world_folder).start()
    for k in range(41):
        show(node, 10.0 + 0.05 * k)
        if k % 4 == 0:
            node._imagine_frame()  # between two real frames
        if k <= 20 and k % 4 == 0:
            dream.observe(preprocess_image(picture(200 + k), 16))
    wanted = list(dream.imagine(HORIZON))
    work(node)
    first, second = imagined(node)
    assert [seconds(x.header.stamp) for x in (first, second)] == [11.0, 12.0]
    assert first.surprise == node.published[5].surprise >= 0.0
    assert list(first.latent_actions) == [one.latent_action for one in wanted]
    for k, (message, one) in enumerate(zip(first.frames, wanted, strict=True)):
        np.testing.assert_array_equal(image_from_message(message), one.frame)
        assert seconds(message.header.stamp) == pytest.approx(11.0 + 0.2 * (k + 1))


def test_a_gap_ends_what_was_being_imagined_but_not_what_was_asked_for(make, world_folder):
    node = awake(make(world_folder, imagine_period=0.2))
    show(node, 10.0)
    show(node, 10.2)
    asked = node._ask(Imagine.Request(horizon=2))
    assert len(node._imaginings) == 2
    show(node, 11.0)
    work(node)
    assert not imagined(node) and asked.result()[0] == ""
    assert seconds(asked.result()[1].header.stamp) == 10.2


def test_a_real_frame_is_not_missed_for_an_imagined_one(node, monkeypatch):
    now = {"now": 10.0}
    monkeypatch.setattr(WorldModelNode, "now", property(lambda _: now["now"]))
    show(node, 10.0)
    asked = node._ask(Imagine.Request(horizon=HORIZON))

    def frames():
        return len(node._imaginings[0].imagined)

    node._imagine_frame()
    node._imagining_time = 0.16
    now["now"] = 10.15  # it would last until 10.31
    node._imagine_frame()
    assert frames() == 1
    show(node, 10.2)
    node._imagine_frame()  # one for each real frame, however long it takes
    assert frames() == 2
    now["now"] = 11.0  # no camera any more
    work(node)
    assert asked.done()


def test_the_plan_is_the_newest_chunks_as_far_as_it_reaches(node):
    show(node, 10.0)
    feel(node, 10.0)
    gate(node, 10.0)
    assert planned(node) is None  # nothing is planned
    path = np.linspace(0.005, 0.04, 8)[:, None] * [1.0, 0.0, -0.5, 0.0]
    tell(node, 9.95, path)
    actions, felt = planned(node)
    wanted = path[np.minimum(np.arange(1, 9), 7)]  # two steps, the last point twice
    np.testing.assert_allclose(actions, wanted, atol=1e-3)
    np.testing.assert_array_equal(felt, proprioception(panda.HOME, ArmKinematics()))
    tell(node, 9.95, path[:2])
    assert planned(node) is None  # too short
    tell(node, 9.95, path)
    gate(node, 10.05, GateStatus.HOLD)
    assert planned(node) is None


# --- what cannot be configured --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control_mode": "joint_position"}, "control_mode joint_position"),
        ({"action_names": ["x", "y", "z", "twist"]}, "action_names x, y, z, twist"),
    ],
)
def test_a_checkpoint_of_another_robot_does_not_configure(
    make, world_folder, tmp_path, change, words
):
    folder = shutil.copytree(world_folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config["robot"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    node = make(folder)
    assert node.trigger_configure() == FAILURE
    assert words in node.failure and "choose another" in node.failure
    assert node.state == "unconfigured"


def test_what_the_checkpoint_cannot_do_does_not_configure(make, world_folder, checkpoint):
    for folder, changes, words in (
        ("nowhere", {}, "no checkpoint 'nowhere'"),
        (checkpoint, {}, "missing settings of WorldModelConfig"),
        (world_folder, {"horizon": 13}, "horizon is 13.*give 1 to 12"),
    ):
        node = make(folder, **changes)
        assert node.trigger_configure() == FAILURE
        assert re.search(words, node.failure)


def test_the_camera_is_the_checkpoints_unless_it_is_named(make, tmp_path):
    folder = saved(tmp_path, dataclasses.replace(CONFIG, robot=None, camera="front"))
    assert awake(make(folder))._topic == "front/image_raw"
    node = awake(make(folder, camera_topic="side/image"))
    assert node._topic == "side/image"
    step(node)  # a model of video alone does without the robot
    assert node.published[1].surprise >= 0.0
    with pytest.raises(ValueError, match="without robot actions"):
        node._ask(Imagine.Request(horizon=1, dof=4, actions=[0.0] * 16))


# --- over ROS -------------------------------------------------------------------------------------


class Robot(Probe):
    """The other side of the topics: camera, joints, policy and gate, at 20 Hz of its own time."""

    def __init__(self) -> None:
        super().__init__("robot", NAMESPACE)
        node = self.node
        self._images = node.create_publisher(Image, "camera/image_raw", qos.sensor())
        self._joints = node.create_publisher(JointState, "joint_states", qos.standard())
        self._chunks = node.create_publisher(ActionChunk, "action_chunk", qos.standard(1))
        self._gate = node.create_publisher(GateStatus, "gate_status", qos.latched())
        self.listen(Imagination, "imagination", qos.standard())
        self.listen(Image, "imagination/image", qos.standard(1))
        self.listen(DiagnosticArray, "/diagnostics", qos.standard())
        self._tick = 0
        self.send = True
        self.kind = np.uint8
        node.create_timer(0.05, self._publish)
        self.start()

    def _publish(self) -> None:
        if not self.send:
            return
        self._tick += 1
        now = header(100.0 + 0.05 * self._tick)
        self._joints.publish(joint_state_message(panda.JOINT_NAMES, panda.HOME, now))
        self._gate.publish(GateStatus(header=now, state=GateStatus.ACTIVE))
        image = picture(self._tick) if self.kind is np.uint8 else np.zeros((24, 32), self.kind)
        self._images.publish(image_message(image, now))
        points = np.tile(panda.HOME, (8, 1))
        self._chunks.publish(chunk_message(points, panda.JOINT_NAMES, 0.05, header=now))

    def imagine(self, **fields) -> Imagine.Response:
        return self.call(Imagine, "imagine", Imagine.Request(**fields))

    def change(self, transition) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert self.call(ChangeState, "world_model/change_state", request).success

    def details(self):
        """Of the newest diagnostics."""
        for _, message in reversed(self.heard["/diagnostics"]):
            (status,) = message.status
            return status.message, {value.key: value.value for value in status.values}
        return "", {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("process")


@pytest.fixture(scope="module")
def running(folder, world_folder):
    """The node as a process, and the robot that it watches."""
    robot = Robot()
    settings = {"checkpoint": world_folder, "horizon": HORIZON, "imagine_period": 0.4}
    arguments = [word for key, value in settings.items() for word in ("-p", f"{key}:={value}")]
    process = NodeProcess(folder, NAMESPACE, "world_model", *arguments)
    robot.output = lambda: process.output
    try:
        wait_for(lambda: robot.heard["imagination"])
        yield robot
    finally:
        code = process.end()
        robot.close()
        print(process.output)
    assert code == 0


def test_imagination_comes_with_frames_stamps_and_surprise(running):
    real = running.next("imagination", lambda message: message.surprise >= 0.0)
    assert not real.frames and not real.latent_actions and np.isfinite(real.surprise)
    message = running.next("imagination", lambda message: message.frames)
    assert len(message.frames) == len(message.latent_actions) == HORIZON
    assert message.dt == 0.2 and message.header.frame_id == "camera_optical_frame"
    begin = seconds(message.header.stamp)
    for k, frame in enumerate(message.frames):
        assert image_from_message(frame).shape == (16, 16, 3)
        assert seconds(frame.header.stamp) == pytest.approx(begin + 0.2 * (k + 1))
    assert set(message.latent_actions) <= set(range(8))
    wait_for(lambda: int(running.details()[1].get("with_known_actions", 0)))
    wait_for(lambda: float(running.details()[1]["imagining_ms"]))


def test_what_was_imagined_last_is_one_picture_with_the_real_frame_first(running):
    strip = running.next("imagination/image")
    pixels = image_from_message(strip)
    assert pixels.shape == (16, 16 * (1 + HORIZON), 3)
    tick = round((seconds(strip.header.stamp) - 100.0) / 0.05)
    np.testing.assert_array_equal(pixels[:, :16], preprocess_image(picture(tick), 16))


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ({"latent_actions": [3, 0, 7]}, [3, 0, 7]),
        ({"actions": [0.01, 0.0, 0.0, 0.04] * 12, "dof": 4}, None),
        ({}, None),
    ],
    ids=["latent", "robot", "neither"],
)
def test_asked_it_imagines_so_many_frames(running, given, codes):
    answer = running.imagine(horizon=3, **given)
    assert answer.success and answer.message == ""
    message = answer.imagination
    assert len(message.frames) == len(message.latent_actions) == 3
    assert codes is None or list(message.latent_actions) == codes
    assert seconds(message.header.stamp) > 100.0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"horizon": 1, "actions": [0.0] * 12, "dof": 3}, "dof is 3.*x, y, z, finger_opening"),
        ({"horizon": 2, "actions": [0.0] * 16, "dof": 4}, "16 numbers .* 2 frames: give 32"),
        ({"horizon": 2, "dof": 4}, "dof is 4, but there are no actions"),
        ({"horizon": 1, "actions": [np.nan] * 16, "dof": 4}, "NaN"),
        ({"horizon": 1, "latent_actions": [8]}, "latent action 8 is unknown: give 0 to 7"),
        ({"horizon": 2, "latent_actions": [1]}, "horizon is 2 frames, but there are 1"),
        ({"horizon": 0}, "horizon is 0 frames: give 1 to 12"),
        ({"horizon": 13}, "horizon is 13 frames: give 1 to 12"),
        (
            {"horizon": 1, "actions": [0.0] * 16, "dof": 4, "latent_actions": [1]},
            "both actions and latent_actions",
        ),
    ],
)
def test_what_it_cannot_imagine_is_refused_with_the_reason(running, request_, words):
    answer = running.imagine(**request_)
    assert not answer.success and not answer.imagination.frames
    assert re.search(words, answer.message)


def test_inactive_it_says_so_and_active_again_it_begins_anew(running):
    running.change(Transition.TRANSITION_DEACTIVATE)
    answer = running.imagine(horizon=1)
    assert not answer.success and "world_model is inactive" in answer.message
    running.send = False
    count = len(running.heard["imagination"])
    try:
        running.change(Transition.TRANSITION_ACTIVATE)
        answer = running.imagine(horizon=1)
        assert not answer.success and "nothing was seen yet" in answer.message
    finally:
        running.send = True
    wait_for(lambda: len(running.heard["imagination"]) > count)
    assert running.heard["imagination"][count][1].surprise == UNKNOWN_SURPRISE
    assert running.imagine(horizon=1).success


def test_a_wrong_encoding_is_named_once(running):
    running.kind = np.uint16
    try:
        wait_for(lambda: "16UC1" in running.output() and "16UC1" in running.details()[0])
        wait_for(lambda: len(running.heard["/diagnostics"]) > 1)
    finally:
        running.kind = np.uint8
    wait_for(lambda: "no longer: frames are not observed" in running.output())
    (named,) = (
        line
        for line in running.output().splitlines()
        if "frames are not observed: " in line and "no longer" not in line
    )
    assert "camera/image_raw: image encoding '16UC1'" in named


def test_an_unknown_checkpoint_ends_it_with_one_line(folder):
    process = NodeProcess(folder, NAMESPACE, "world_model", "-p", "checkpoint:=nowhere")
    assert process.wait() == 1
    last = process.output.strip().splitlines()[-1]
    assert last.startswith("error: world_model: no checkpoint 'nowhere'")
    assert "Traceback" not in process.output
