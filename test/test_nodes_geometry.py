"""What the encoder's node makes of depth: tokens as offline, clouds for who listens, errors."""

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from depth_recordings import FRAMES, HEIGHT, ROBOT, WIDTH, K, fused, metres, pixels, rgbd
from probe import Probe, header, nodes_of, wait_for
from rclpy.parameter import Parameter
from recordings import write_bag
from sensor_msgs.msg import CameraInfo, PointCloud2

from vla_ros.bringup import Stack
from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.nodes.sim_robot import SimRobot
from vla_ros.nodes.vision_encoder import VisionEncoderNode
from vla_ros.observations import preprocess_image
from vla_ros.robots.action_config import ActionConfig
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import FAILURE, OK, WARN
from vla_ros.ros.messages import image_message, seconds, tokens_from_message
from vla_ros.sim.arm import CAMERAS
from vla_ros.training.data.recordings import Robot
from vla_ros.training.recorded_evaluation import Recordings
from vla_ros.training.rollout import Rollout

TOPICS = {"camera_topics": ["front/image_raw"]}
DEPTH, INFO = "front/depth/image_raw", "front/camera_info"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy that fuses the depth camera's geometry, and its folder."""
    folder = tmp_path_factory.mktemp("policy")
    model = fused()
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def make(monkeypatch):
    """What makes active nodes, which keep what they publish in `published` and `clouds`."""

    def wake(node, listened):
        assert node.bring_up() == ""
        node.published, node.clouds = [], []
        for publisher, kept in (
            (node._publisher, node.published),
            *((cloud, node.clouds) for cloud in node._clouds),
        ):
            monkeypatch.setattr(publisher, "publish", kept.append)
            count = int(kept is node.published or listened)
            monkeypatch.setattr(publisher, "get_subscription_count", lambda count=count: count)
        return node

    with nodes_of(VisionEncoderNode, **TOPICS) as make:
        yield lambda folder, listened=False, **parameters: wake(
            make(folder, **parameters), listened
        )


def info(k=K, size=(WIDTH, HEIGHT)):
    return CameraInfo(
        height=size[1], width=size[0], distortion_model="plumb_bob", d=[0.0] * 5, k=list(k)
    )


def depth_message(depth, stamp):
    return image_message(np.round(1000 * depth).astype(np.uint16), header(stamp))


def show(node, number, stamp, depth=None, calibration=True):
    if calibration:
        node._on_camera_info(0, info())
    node._on_image(0, image_message(pixels(number), header(stamp)))
    node._on_image(1, depth_message(metres(number) if depth is None else depth, stamp))


def test_tokens_are_those_of_a_recording_bit_for_bit(make, policy, tmp_path):
    model, folder = policy
    node = make(folder)
    for i in range(FRAMES):
        show(node, i, 100.0 + 0.1 * i)
    path = tmp_path / "robot.yaml"
    path.write_text(ROBOT)
    bag, robot, offline = write_bag(tmp_path / "bag", rgbd()), Robot.load(str(path)), fused()
    seen, encode = [], offline.encode
    offline.encode = lambda *inputs: seen.append(encode(*inputs)) or seen[-1]
    recordings = Recordings(offline, robot, "it")
    (one,) = robot.seeing(node._encoder.needs).episodes([bag])
    recordings.follow(replace(one, instruction="push the red cube"))
    assert len(node.published) == len(seen) == FRAMES
    for message, tokens in zip(node.published, seen, strict=True):
        np.testing.assert_array_equal(tokens_from_message(message), tokens)
    assert node.published[0].encoder_id == model.encoder_id


@pytest.mark.parametrize("encoding", ["mm", "m"])
def test_depth_is_read_in_m_and_in_mm(make, policy, encoding):
    node = make(policy[1])
    node._on_camera_info(0, info())
    node._on_image(0, image_message(pixels(0), header(10.0)))
    depth = metres(0)
    given = image_message(depth, header(10.0)) if encoding == "m" else depth_message(depth, 10.0)
    node._on_image(1, given)
    (message,) = node.published
    points = node._encoder.points_of(10.0)
    assert 0.3 <= float(points.points[..., 2][points.valid].min())
    assert float(points.points[..., 2].max()) <= 2.0 and tokens_from_message(message).any()


def test_points_are_published_while_somebody_listens(make, policy):
    quiet, node = make(policy[1]), make(policy[1], listened=True)
    for one in (quiet, node):
        show(one, 0, 10.0)
    assert not quiet.clouds and len(quiet.published) == 1
    (cloud,) = node.clouds
    assert cloud.header.frame_id == "camera_optical_frame" and seconds(cloud.header.stamp) == 10.0
    assert (cloud.height, cloud.width) == (64, 64) and not cloud.is_dense
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "confidence"]
    points = np.frombuffer(cloud.data, "<f4").reshape(64, 64, 5)
    assert len(cloud.data) == cloud.row_step * cloud.height
    z = points[..., 2]
    assert np.isnan(z[:6]).all() and np.isfinite(z[10:]).all(), "what was not measured is NaN"
    # x to the right, y down, z forward: the picture's left is at negative x, its top at negative y.
    assert (points[10:, :30, 0] < 0).all() and (points[10:, 34:, 0] > 0).all()
    assert (points[10:30, :, 1] < 0).all() and (points[34:, :, 1] > 0).all()
    red = points[..., 3].copy().view(np.uint32) >> 16
    np.testing.assert_array_equal(red, preprocess_image(pixels(0), 64)[..., 0])


def test_geometry_has_a_rate_of_its_own(make, policy):
    node = make(policy[1], listened=True, geometry_rate=5.0)
    far = metres(0) * 2
    for k in range(5):
        show(node, 0, 10.0 + 0.05 * k, depth=far if k % 4 else metres(0))
    tokens = [tokens_from_message(message) for message in node.published]
    assert len(node.clouds) == 2 and len(tokens) == 5
    for cached in tokens[1:]:
        np.testing.assert_array_equal(tokens[0], cached)
    node.set_parameters([Parameter("geometry_rate", value=0.0)])
    show(node, 0, 10.25, depth=far)
    assert (tokens_from_message(node.published[-1]) != tokens[0]).any()


def test_a_calibration_that_changes_is_taken(make, policy):
    node = make(policy[1])
    show(node, 0, 10.0)
    node._on_camera_info(0, info((2 * K[0], *K[1:])))
    show(node, 0, 10.1, calibration=False)
    one, other = map(tokens_from_message, node.published)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("show_it", "words"),
    [
        (
            lambda node: node._on_image(0, image_message(pixels(0), header(10.0))),
            f"no depth on {DEPTH}, .*'depth_camera' needs: switch on .* topics in depth_topics",
        ),
        (
            lambda node: show(node, 0, 10.0, calibration=False),
            f"no camera_info on {INFO}, .*'depth_camera' needs: have it published",
        ),
        (
            lambda node: show(node, 0, 10.0, depth=np.zeros((HEIGHT, WIDTH))),
            f"{DEPTH}: nothing was measured yet .* look at the camera, and at the unit",
        ),
        (
            lambda node: show(node, 0, 10.0, depth=20 + metres(0)),  # such as tenths of mm
            f"{DEPTH}: nothing was measured yet within the range",
        ),
        (
            lambda node: show(node, 0, 10.0, depth=np.ones((80, 80))),
            f"{DEPTH}: depth of 80x80 is not of the view of its 96x72 image",
        ),
    ],
)
def test_what_geometry_lacks_is_named_in_one_line(make, policy, show_it, words):
    node = make(policy[1])
    show_it(node)
    level, message, _ = node.diagnose()
    assert level == WARN and not node.published and "\n" not in message
    assert re.search(words, message), message
    for number, stamp in enumerate((10.5, 10.6)):
        show(node, number, stamp)
    assert node.published and node.diagnose()[0] == OK


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (info(size=(640, 480)), f"{INFO}: camera_info is of 640x480 pictures, but they have 96x72"),
        (info((float("nan"), *K[1:])), f"{INFO}: its K is no pinhole matrix: nan, 0, 47.5"),
        (info((0.0,) * 9), f"{INFO}: the camera is not calibrated"),
    ],
)
def test_a_wrong_calibration_is_named(make, policy, calibration, words):
    node = make(policy[1])
    node._on_camera_info(0, calibration)
    show(node, 0, 10.0, calibration=False)
    level, message, _ = node.diagnose()
    assert level == WARN and words in message and not node.published


def test_an_unknown_encoding_of_depth_is_named(make, policy):
    node = make(policy[1])
    node._on_camera_info(0, info())
    node._on_image(0, image_message(pixels(0), header(10.0)))
    broken = image_message(np.zeros((HEIGHT, WIDTH), np.uint8), header(10.0))
    node._on_image(1, broken)
    message = node.diagnose()[1]
    assert f"{DEPTH}: depth encoding 'mono8' is not supported: publish one of 32FC1" in message


def test_a_blind_moment_is_encoded_as_it_is_in_training(make, policy):
    node = make(policy[1])
    show(node, 0, 10.0)
    show(node, 0, 10.1, depth=np.zeros((HEIGHT, WIDTH)))
    assert len(node.published) == 2


def test_topics_are_beside_the_images_or_as_many(policy):
    with nodes_of(VisionEncoderNode, **TOPICS) as make:
        node = make(policy[1], depth_topics=["a", "b"])
        assert node.trigger_configure() == FAILURE
        assert "depth_topics names 2 topics, camera_topics 1" in node.failure
        node = make(policy[1], depth_topics=["aligned/depth"])
        assert node.bring_up() == "" and node._depth_topics == ["aligned/depth"]
        assert node._info_topics == [INFO]


def test_a_checkpoint_with_mapanything_needs_its_package(tmp_path):
    fused("none").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["geometry"] |= {"model_type": "map_anything"}
    path.write_text(json.dumps(values))
    with nodes_of(VisionEncoderNode, **TOPICS) as make:
        node = make(tmp_path)
        assert node.trigger_configure() == FAILURE
        assert "needs the package mapanything" in node.failure and "install it" in node.failure


@pytest.fixture(scope="module")
def arm_policy(tmp_path_factory):
    """A policy of the simulated arm that fuses depth, its gates open, and its folder."""
    torch.manual_seed(0)
    model = VisionLanguageActionModel.from_size(
        "tiny", ActionConfig.get_arm_config(), cameras=CAMERAS, geometry="depth_camera"
    ).eval()
    for fusion in model.spatial.fusions:
        torch.nn.init.constant_(fusion.gate, 0.5)
    folder = tmp_path_factory.mktemp("arm")
    model.save_pretrained(folder)
    return model, folder


def test_the_simulated_robot_shows_live_what_training_and_evaluation_see(
    make, arm_policy, context, monkeypatch
):
    model, folder = arm_policy
    topics = [f"{camera}/image_raw" for camera in CAMERAS]
    node = make(folder, camera_topics=topics)
    robot = SimRobot(context=context)
    for index, camera in enumerate(CAMERAS):
        for publishers, hear in (
            (robot._images, partial(node._on_image, index)),
            (robot._depths, partial(node._on_image, len(CAMERAS) + index)),
            (robot._infos, partial(node._on_camera_info, index)),
        ):
            monkeypatch.setattr(publishers[camera], "publish", hear)
            monkeypatch.setattr(publishers[camera], "get_subscription_count", lambda: 1)
    robot._publish_cameras(header(1.0).stamp)
    rollout = Rollout(robot.world, image_size=model.image_size, needs=node._encoder.needs)
    tokens = ObservationEncoder(model).encode(rollout.observe().frames)
    robot.world.close()
    robot.destroy_node()
    (message,) = node.published
    np.testing.assert_array_equal(tokens_from_message(message), tokens)


def test_the_simulated_robot_s_depth_reaches_tokens_and_cloud(arm_policy):
    listener = Probe("listener", "")
    listener.listen(PointCloud2, "vision_encoder/points/camera", qos.sensor())
    listener.start()
    try:
        with Stack(checkpoint=str(arm_policy[1]), narrator="", world_model=False) as stack:
            cloud = listener.next("vision_encoder/points/camera")
            wait_for(lambda: stack.nodes["vision_encoder"]._inference_time)
            assert not stack.failure
            world = stack.nodes["sim_robot"].world
            pose = world.data.camera("front")
            points = np.frombuffer(cloud.data, "<f4").reshape(64, 64, 5)[..., :3].astype(float)
            # Optical frame to base: MuJoCo's camera looks along -z with y up.
            rotation = pose.xmat.reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
            placed = points[40:60].reshape(-1, 3) @ rotation.T + pose.xpos
    finally:
        listener.close()
    assert cloud.header.frame_id == "camera_optical_frame"
    on_table = np.abs(placed[:, 2]) < 0.01
    assert on_table.mean() > 0.5, "most of what the lower half shows is the table, at height 0"
