"""What the live nodes saw and decided, found again bit for bit in what was recorded of them."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from probe import Probe, wait_for
from std_msgs.msg import String

from vla_ros.bringup import Stack
from vla_ros.models.episode import Episode
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.nodes import vision_encoder
from vla_ros.observations import joints_from_message, preprocess_image
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros import qos
from vla_ros.training.data.alignment import Align, Stream, newest
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bags import open_bag

INSTRUCTION = "reach for the red cube"
FRAMES = 50  # 2.5 s
CAMERAS = ("camera", "wrist_camera")
STATE_PERIOD = 10_000_000  # ns
ARM_TOPICS = {"/joint_states", *(f"/{camera}/image_raw" for camera in CAMERAS)}


@dataclass
class Live:
    """What the nodes' models were given, in order."""

    stamps: list[int] = field(default_factory=list)  # ns, of the images
    images: list[list[np.ndarray]] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)  # by the encoder
    seen: list[np.ndarray] = field(default_factory=list)  # by the policy
    felt: list[np.ndarray] = field(default_factory=list)


def nanoseconds(stamp) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


@pytest.fixture
def live(monkeypatch):
    """Copies of everything that goes into a model."""
    live = Live()
    encode, act = VisionLanguageActionModel.encode, Episode.act
    tokens_message = vision_encoder.tokens_message

    def watch_encode(model, images):
        live.images.append([image.copy() for image in images])
        return encode(model, images)

    def watch_tokens(tokens, header, *rest):
        live.stamps.append(nanoseconds(header.stamp))
        live.tokens.append(tokens.copy())
        return tokens_message(tokens, header, *rest)

    def watch_act(episode, tokens, felt):
        live.seen.append(tokens.copy())
        live.felt.append(felt.copy())
        return act(episode, tokens, felt)

    monkeypatch.setattr(VisionLanguageActionModel, "encode", watch_encode)
    monkeypatch.setattr(vision_encoder, "tokens_message", watch_tokens)
    monkeypatch.setattr(Episode, "act", watch_act)
    return live


class Operator(Probe):
    """Gives the instruction."""

    def __init__(self) -> None:
        super().__init__("operator", "")
        self.told = self.node.create_publisher(String, "instruction", qos.latched())
        self.start()


@pytest.fixture
def recorded(checkpoint, live, tmp_path, monkeypatch):
    """A recording of the simulated arm while an untrained policy moves it."""
    overrides = {
        "action_policy": {"done_threshold": 1.0},  # it never thinks that it is done
        "recorder": {"silence": 60.0},  # also on a machine that halts now and then
        "sim_robot": {"image_size": 96, "image_width": 128},  # cut and scaled for the model
    }
    operator = Operator()
    try:
        with Stack(
            checkpoint=str(checkpoint), record=tmp_path, narrator="", overrides=overrides
        ) as stack:
            wait_for(lambda: ARM_TOPICS <= stack.nodes["recorder"].heard)
            operator.told.publish(String(data=INSTRUCTION))
            wait_for(lambda: len(live.seen) >= FRAMES or stack.failure)
            assert not stack.failure
    finally:
        operator.close()
    monkeypatch.undo()
    (path,) = tmp_path.glob("*_reach_for_the_red_cube")
    return path


def test_a_recording_gives_the_inputs_and_the_actions_of_the_live_nodes(recorded, checkpoint, live):
    model = VisionLanguageActionModel.from_pretrained(checkpoint)
    contract = Contract(
        model.config.action,
        cameras={
            name: Stream(f"{name}/image_raw", tolerance=tolerance)
            for name, tolerance in zip(CAMERAS, (0.0, 0.01), strict=True)
        },
        command=Stream("action_chunk", Align.DROP, tolerance=0.0),  # the frames it acted on
    )
    # In parts where a busy machine lost frames: what was recorded is compared frame by frame.
    parts = list(open_bag(recorded, contract))
    assert {part.instruction for part in parts} == {INSTRUCTION}
    frames = {}
    for part in parts:
        pictures = zip(*(part.frames(camera) for camera in CAMERAS), strict=True)
        for stamp, images, state in zip(part.stamps, pictures, part.proprioception, strict=True):
            frames[round(stamp * 1e9) // 1000] = images, state

    bag = Bag(recorded)
    chunks = list(bag.messages(bag.topic("action_chunk")))
    # Reliable, so none is lost; without the first, the policy's memory could not be followed.
    assert [chunk.tick for chunk in chunks] == list(range(len(chunks)))
    encoded = dict(zip(live.stamps, zip(live.images, live.tokens, strict=True), strict=True))

    states = bag.topic("joint_states")
    in_order = np.argsort(states.stamps, kind="stable")
    names = model.config.action.joint_names
    kinematics = ArmKinematics()
    run = model.start(INSTRUCTION)
    moved, whole = [], 0
    for chunk, seen, felt in zip(chunks, live.seen, live.felt, strict=False):
        stamp = nanoseconds(chunk.header.stamp)
        images, tokens = encoded[stamp]
        np.testing.assert_array_equal(seen, tokens)
        frame = frames.get(stamp // 1000)
        if frame is not None:  # images are best effort: the recorder may have missed one
            whole += 1
            pictures, state = frame
            mine = [preprocess_image(picture, model.image_size) for picture in pictures]
            np.testing.assert_array_equal(mine, images)
            np.testing.assert_array_equal(state, felt)
            tokens = model.encode(mine)
            np.testing.assert_array_equal(tokens, seen)
            felt = state
        action = run.act(tokens, felt)
        (place,) = newest(np.array([stamp]), states.stamps[in_order])
        row = in_order[place]
        if frame is None and stamp - states.stamps[row] > STATE_PERIOD:
            continue  # the recorder missed those joint states too, or ended before they came
        measured = joints_from_message(next(bag.messages(states, [row])), names)
        points = end_effector_chunk_to_joints(kinematics, measured, action.actions)
        told = np.asarray(chunk.data).reshape(chunk.horizon, chunk.dof)
        where = f"chunk {chunk.tick} of {len(chunks)}, {'no' if frame is None else 'a'} frame"
        np.testing.assert_allclose(points, told, rtol=0, atol=1e-5, err_msg=where)
        assert abs(action.done - chunk.done) < 1e-5
        moved.append(measured)
    assert whole >= 0.3 * FRAMES, "a busy machine may lose many of the images"
    assert np.ptp(moved, axis=0).max() > 0.05  # rad: not a robot at rest
