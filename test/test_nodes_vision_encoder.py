"""What the encoder's node encodes: whose eye, which pictures, how often; and what it refuses."""

import numpy as np
import pytest
from probe import NodeProcess, Probe, header, nodes_of, wait_for
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from tiny_narrator import tiny_narrator

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.msg import VisualTokens
from vla_ros.nodes.vision_encoder import VisionEncoderNode
from vla_ros.observations import preprocess_image
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import FAILURE, OK, WARN
from vla_ros.ros.messages import image_message, seconds, tokens_from_message
from vla_ros.stack.description import NODES

(EYE,) = (node for node in NODES if node.name == "narrator_eye")
NAMESPACE = "/encoding"
PICTURE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
BOTH = ["camera/image_raw", "wrist_camera/image_raw"]


@pytest.fixture(scope="module")
def narrator(tmp_path_factory):
    """A narrator with one camera, and its folder."""
    folder = tmp_path_factory.mktemp("narrator")
    narrator = tiny_narrator(cameras=("camera",))
    narrator.save_pretrained(folder)
    return narrator, folder


@pytest.fixture
def make(monkeypatch):
    """What makes active nodes, which keep what they publish in `published`; it is always read."""

    def wake(node):
        assert node.bring_up() == ""
        node.published = []
        monkeypatch.setattr(node._publisher, "publish", node.published.append)
        monkeypatch.setattr(node._publisher, "get_subscription_count", lambda: 1)
        return node

    with nodes_of(VisionEncoderNode) as make:
        yield lambda folder, **parameters: wake(make(folder, **parameters))


def show(node, stamp, *cameras):
    for camera in cameras or (0,):
        node._on_image(camera, image_message(PICTURE, header(stamp)))


def stamps(node):
    return [round(seconds(message.header.stamp), 6) for message in node.published]


def test_it_is_a_policy_s_eye(make, checkpoint):
    node = make(checkpoint)
    show(node, 10.0, 0, 1)
    (message,) = node.published
    model = VisionLanguageActionModel.from_pretrained(checkpoint)
    picture = preprocess_image(PICTURE, model.image_size)
    np.testing.assert_array_equal(tokens_from_message(message), model.encode([picture, picture]))
    assert message.encoder_id == model.encoder_id
    assert list(message.cameras) == ["camera", "wrist_camera"]


def test_it_is_a_narrator_s_eye(make, narrator):
    model, folder = narrator
    node = make(folder, camera_topics=BOTH[:1])
    show(node, 10.0)
    (message,) = node.published
    tokens = tokens_from_message(message)
    picture = preprocess_image(PICTURE, model.image_size)
    np.testing.assert_array_equal(tokens, model.encode([picture]))
    assert tokens.shape == model.grid and message.encoder_id == model.encoder_id
    assert list(message.cameras) == ["camera"]


def test_it_encodes_as_often_as_it_may(make, narrator):
    node = make(narrator[1], camera_topics=BOTH[:1], rate=5.0)
    for k in range(10):
        show(node, 10.0 + 0.05 * k)
    assert stamps(node) == [10.0, 10.2, 10.4]
    level, _, details = node.diagnose()
    assert level == OK and details["encoded_per_second"] == 3
    assert details["camera/image_raw"] == 10
    show(node, 3.0)  # the clock began anew
    node.set_parameters([Parameter("rate", value=0.0)])
    show(node, 3.05)
    assert stamps(node)[3:] == [3.0, 3.05]


def test_a_second_without_an_encoded_picture_is_no_problem_if_it_may_be_so(make, checkpoint):
    node = make(checkpoint, rate=0.5)
    show(node, 10.0, 0, 1)
    node.diagnose()
    show(node, 11.0, 0, 1)
    level, _, details = node.diagnose()
    assert level == OK and details["encoded_per_second"] == 0


def test_pictures_of_different_times_are_named(make, checkpoint):
    node = make(checkpoint)
    for k in range(5):
        show(node, 10.0 + 0.05 * k, 0)
        show(node, 9.6 + 0.05 * k, 1)
    level, message, _ = node.diagnose()
    assert not node.published and level == WARN and "pairing_tolerance (0.01 s)" in message
    show(node, 11.0, 0, 1)
    assert node.published and node.diagnose()[0] == OK


def test_a_slower_second_camera_is_held(make, checkpoint):
    node = make(checkpoint)
    for k in range(20):
        show(node, 10.0 + 0.05 * k, 0)
        if k % 2 == 0:
            show(node, 10.0 + 0.05 * k, 1)
    # Of the second moment, nobody knew yet how often the second camera tells.
    assert stamps(node) == [round(10.0 + 0.05 * k, 6) for k in range(20) if k != 1]


def test_pictures_that_it_cannot_read_are_named(make, checkpoint):
    node = make(checkpoint)
    for camera in (0, 1):
        broken = image_message(PICTURE, header(10.0))
        broken.encoding = "none"
        node._on_image(camera, broken)
    level, message, _ = node.diagnose()
    assert not node.published and level == WARN
    assert f"not encoded: {node.params.camera_topics[0]}: image encoding 'none'" in message
    show(node, 10.05, 0, 1)
    assert node.published and node.diagnose()[0] == OK


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("world", "neither a policy's nor a narrator's"),
        ("nowhere", "no checkpoint 'nowhere'"),
        ("", "config.json is missing"),  # an empty folder
    ],
)
def test_what_has_no_eye_does_not_configure(tmp_path, name, words):
    with nodes_of(VisionEncoderNode) as make:
        node = make(name or tmp_path)
        assert node.trigger_configure() == FAILURE and words in node.failure


def test_a_narrator_s_cameras_must_be_named(narrator):
    with nodes_of(VisionEncoderNode, camera_topics=BOTH) as make:
        node = make(narrator[1])
        assert node.trigger_configure() == FAILURE
        assert "sees 1 cameras (camera)" in node.failure and "names 2" in node.failure


def test_a_second_one_has_a_name_and_a_topic_of_its_own(narrator, tmp_path):
    model, folder = narrator
    robot = Probe("robot", NAMESPACE)
    images = robot.node.create_publisher(Image, BOTH[0], qos.sensor())
    robot.listen(VisualTokens, "narrator/visual_tokens", qos.sensor())
    clock = robot.node.get_clock()

    def publish():
        images.publish(image_message(PICTURE, header(clock.now().nanoseconds * 1e-9)))

    robot.node.create_timer(0.05, publish)
    robot.start()
    arguments = ("-p", f"checkpoint:={folder}", "-p", f"camera_topics:=[{BOTH[0]}]")
    process = NodeProcess(tmp_path, NAMESPACE, "vision_encoder", *arguments, *EYE.naming())
    try:
        message = robot.next("narrator/visual_tokens")
        assert message.encoder_id == model.encoder_id
        topic = f"{NAMESPACE}/narrator/visual_tokens"
        wait_for(lambda: robot.publishers(topic) == ["narrator_eye"])
        assert not robot.publishers(f"{NAMESPACE}/visual_tokens")
    finally:
        code = process.end()
        robot.close()
        print(process.output)
    assert code == 0
