"""The world model's service `imagine_scene`: what it answers, refuses, and lets come first."""

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from probe import NodeProcess, Probe, header, nodes_of, wait_for
from sensor_msgs.msg import Image
from tiny_scenes import tiny_scenes
from tiny_world import tiny_config, untrained

from vla_ros.images import image_from_message
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.scenes.reading import in_words
from vla_ros.msg import Imagination
from vla_ros.nodes.world_model import WorldModelNode
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import FAILURE
from vla_ros.ros.messages import image_message, seconds
from vla_ros.srv import Imagine, ImagineScene

NAMESPACE = "/painting"
TEXT = "a red cube left of the bowl"
PICTURES = np.random.default_rng(0).integers(0, 255, (8, 24, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    untrained(tiny_config(longest=12)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    tiny_scenes().save_pretrained(folder)
    return folder


@pytest.fixture
def make(world_folder, scenes_folder):
    with nodes_of(WorldModelNode, imagine_period=0.0, scenes=str(scenes_folder)) as make:
        yield lambda **changes: make(world_folder, **changes)


def ask(node, text=TEXT, seed=0):
    return node._scenes.ask(ImagineScene.Request(text=text, seed=seed))


def show(node, stamp):
    node._on_image(image_message(PICTURES[round(stamp / 0.05) % 8], header(stamp)))


# --- what comes first -----------------------------------------------------------------------------


def test_it_answers_as_the_model_does(make, scenes_folder):
    node = make()
    assert node.bring_up() == ""
    answer = ask(node, seed=3)
    node._imagine_frame()
    wanted = CycleScenes.from_pretrained(scenes_folder).imagine(TEXT, seed=3)
    got = answer.result()
    assert got.success and got.message == wanted.missing
    np.testing.assert_array_equal(image_from_message(got.image), wanted.image)
    assert got.caption == in_words(wanted.picture) and tuple(got.tokens) == wanted.caption
    assert got.cycle_score == pytest.approx(wanted.score)
    node._imagine_frame()
    assert node._work.is_canceled()  # no work is left


def test_scenes_and_imagined_frames_take_turns(make):
    node = make()
    assert node.bring_up() == ""
    show(node, 10.0)
    frames = node._ask(Imagine.Request(horizon=2))
    scenes = [ask(node, seed=seed) for seed in range(4)]
    for number in range(4):
        assert not frames.done()
        assert sum(one.done() for one in scenes) == (number + 1) // 2
        node._imagine_frame()
    assert frames.done()
    for _ in range(2):
        node._imagine_frame()
    assert all(one.done() for one in scenes)


def test_a_real_frame_is_not_missed_for_a_scene(make, monkeypatch):
    now = {"now": 10.0}
    monkeypatch.setattr(WorldModelNode, "now", property(lambda _: now["now"]))
    node = make()
    assert node.bring_up() == ""
    show(node, 10.0)
    first, second = ask(node), ask(node)
    node._imagine_frame()
    node._imagining_time = 0.16
    now["now"] = 10.15  # it might last until 10.31
    node._imagine_frame()
    assert first.done() and not second.done()
    show(node, 10.2)
    node._imagine_frame()
    assert second.done()


def test_what_still_waits_is_refused_when_the_node_is_deactivated(make):
    node = make()
    assert node.bring_up() == ""
    answer = ask(node)
    node.trigger_deactivate()
    assert not answer.result().success and "deactivated meanwhile" in answer.result().message
    with pytest.raises(ValueError, match="world_model is inactive"):
        ask(node)


def test_without_a_checkpoint_it_says_which_parameter_gives_one(make):
    node = make(scenes="")
    assert node.bring_up() == ""
    with pytest.raises(ValueError, match="no checkpoint of scenes: give its parameter scenes"):
        ask(node)


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "no checkpoint 'nowhere'"), ("world", "ScenesConfig")],
)
def test_another_checkpoint_does_not_configure(make, name, words):
    node = make(scenes=name)
    assert node.trigger_configure() == FAILURE and node.state == "unconfigured"
    assert words in node.failure


# --- over ROS -------------------------------------------------------------------------------------


class Caller(Probe):
    """Asks, and is a camera of 20 Hz."""

    def __init__(self) -> None:
        super().__init__("caller", NAMESPACE)
        self._images = self.node.create_publisher(Image, "camera/image_raw", qos.sensor())
        self.listen(Imagination, "imagination", qos.standard(50))
        self._tick = 0
        self.node.create_timer(0.05, self._publish)
        self.start()

    def _publish(self) -> None:
        self._tick += 1
        self._images.publish(image_message(PICTURES[self._tick % 8], header(0.05 * self._tick)))

    def ask(self, text=TEXT, seed=0) -> ImagineScene.Response:
        request = ImagineScene.Request(text=text, seed=seed)
        return self.call(ImagineScene, "imagine_scene", request)


@pytest.fixture(scope="module")
def running(tmp_path_factory, world_folder, scenes_folder):
    caller, logs = Caller(), tmp_path_factory.mktemp("process")
    settings = {"checkpoint": world_folder, "imagine_period": 0.0, "scenes": scenes_folder}
    arguments = [word for key, value in settings.items() for word in ("-p", f"{key}:={value}")]
    process = NodeProcess(logs, NAMESPACE, "world_model", *arguments)
    try:
        yield caller
    finally:
        code = process.end()
        caller.close()
        print(process.output)
    assert code == 0


def test_a_text_becomes_a_picture_a_caption_and_a_score(running, scenes_folder):
    answer = running.ask(seed=5)
    assert answer.success and 0.0 <= answer.cycle_score <= 1.0
    assert answer.image.encoding == "rgb8"
    wanted = CycleScenes.from_pretrained(scenes_folder).imagine(TEXT, seed=5)
    np.testing.assert_array_equal(image_from_message(answer.image), wanted.image)
    assert running.ask(seed=5).image.data == answer.image.data
    assert running.ask(TEXT.upper(), seed=5).image.data == answer.image.data


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red teapot on the frobnicator", "unknown words 'teapot', 'frobnicator'"),
        ("", "no words"),
        ("\n. ,", "no words"),
        ("a red cube " * 40, "120 words and punctuation marks, 94 at most"),
        ("x" * 100_000, "unknown word"),
    ],
    ids=["unknown", "empty", "punctuation", "long", "very long"],
)
def test_texts_that_cannot_be_imagined_are_refused_with_the_reason(running, text, words):
    answer = running.ask(text)
    assert not answer.success and words in answer.message and len(answer.message) < 500
    assert not answer.image.data and not answer.tokens
    assert answer.caption == "" and answer.cycle_score == 0.0


def test_frames_go_on_being_observed_while_scenes_are_asked_for(running):
    wait_for(lambda: running.heard["imagination"])
    count = len(running.heard["imagination"])
    wait_for(lambda: running.ask(seed=1).success and len(running.heard["imagination"]) > count + 8)
    stamps = [seconds(one.header.stamp) for _, one in running.heard["imagination"][count:]]
    assert np.median(np.diff(stamps)) == pytest.approx(0.2)


def test_inactive_it_says_so(running):
    for transition, word in (
        (Transition.TRANSITION_DEACTIVATE, "inactive"),
        (Transition.TRANSITION_ACTIVATE, ""),
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert running.call(ChangeState, "world_model/change_state", request).success
        answer = running.ask()
        assert answer.success is not bool(word)
        assert not word or f"world_model is {word}" in answer.message
