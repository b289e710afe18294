"""SpatialVLA behind the policy protocol: by the type of its checkpoint, live and on recordings."""

import argparse
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_spatial_vla as tiny
from episodes import episode, reader
from probe import header, nodes_of

from vla_ros.models import checkpoint as files
from vla_ros.models.compatibility import with_robot
from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.models.policy import load_policy
from vla_ros.models.spatial_vla.geometry import GEOMETRY_DIM
from vla_ros.models.spatial_vla.policy import (
    CONTRACT,
    SpatialContract,
    SpatialVLAPolicy,
    prompt_of,
)
from vla_ros.nodes.action_policy import ActionPolicyNode
from vla_ros.nodes.vision_encoder import VisionEncoderNode
from vla_ros.observations import preprocess_image
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros.messages import image_message, joint_state_message, tokens_from_message
from vla_ros.training.commands import evaluate
from vla_ros.training.data.shards import write_shards

INSTRUCTION = "pick the cube"
ARM = replace(ActionConfig.get_arm_config(), horizon=4)
PICTURE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
IMAGE = preprocess_image(PICTURE, tiny.SIZE)
FELT = np.zeros(4, np.float32)


def policy(action=ARM, cameras=("camera",), **contract):
    processor = tiny.processor()
    contract = {"statistics_key": "arm", **contract}
    told = SpatialContract(action, cameras, **contract)
    dim = GEOMETRY_DIM if told.geometry else 0
    return SpatialVLAPolicy(tiny.model(processor, geometry_dim=dim), processor, told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("spatialvla")
    policy(words=INSTRUCTION.split()).save_pretrained(made)
    return made


def contract(folder, **changes):
    told = json.loads((folder / CONTRACT).read_text()) | changes
    (folder / CONTRACT).write_text(json.dumps(told))


@pytest.fixture
def copy(folder, tmp_path):
    """A folder of which policy.json alone may be changed."""
    for path in folder.iterdir():
        target = tmp_path / path.name
        target.write_text(path.read_text()) if path.name == CONTRACT else target.symlink_to(path)
    return tmp_path


# -- what it says ----------------------------------------------------------------------------------


def test_it_says_what_the_model_predicts_summed_up_from_frame_to_frame():
    model = policy()
    action = model.start(INSTRUCTION).act(model.encode([IMAGE]), FELT)
    inputs = model.processor([IMAGE], [prompt_of(INSTRUCTION)], unnorm_key="arm")
    said = model.processor.decode_actions(model.model.predict_action(inputs), "arm")["actions"]
    low, high = np.array(ARM.action_bounds).T
    wanted = np.column_stack([np.cumsum(said[:, :3], 0), said[:, 6] * panda.GRIPPER_OPEN])
    np.testing.assert_allclose(action.actions, np.clip(wanted, low, high), atol=1e-9)
    assert len(np.unique(said[:, 0])) > 1
    assert ((low <= action.actions) & (action.actions <= high)).all()
    assert 0.0 <= action.done <= 1.0 and 0.0 < action.confidence <= 1.0


def test_deltas_are_told_as_they_are():
    action = replace(
        ARM,
        action_dim=7,
        action_names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        action_bounds=[(-9.0, 9.0)] * 7,
        binary_names=(),
        control_mode="end_effector_delta",
    )
    model = policy(action)
    chunk = model.start(INSTRUCTION).act(model.encode([IMAGE]), FELT).actions
    inputs = model.processor([IMAGE], [prompt_of(INSTRUCTION)])
    said = model.processor.decode_actions(model.model.predict_action(inputs), "arm")["actions"]
    np.testing.assert_allclose(chunk[:, :6], said[:, :6], atol=1e-9)
    np.testing.assert_allclose(chunk[:, 6], np.where(said[:, 6] > 0.5, 9.0, -9.0))


def test_done_is_the_share_of_the_end_in_what_may_be_said_first():
    model = policy()
    tokens, run = model.encode([IMAGE]), model.start(INSTRUCTION)
    before = run.act(tokens, FELT)
    logits = model.model.lm_head.weight
    first = model.model.config.legal_ids(0)
    logits.data[model.model.config.end_token_id] = logits.data[first.start : first.stop].mean(0)
    assert before.done != run.act(tokens, FELT).done
    logits.data[model.model.config.end_token_id] = 30 * logits.data[first.start : first.stop].sum(0)
    ended = run.act(tokens, FELT)
    assert ended.done < 1e-6 or ended.done > 1 - 1e-6
    np.testing.assert_array_equal(ended.actions, before.actions)


def test_two_cameras_are_seen_in_their_order():
    model = policy(cameras=("camera", "wrist_camera"))
    other = IMAGE[::-1].copy()
    one, two = (model.encode(pair) for pair in ([IMAGE, other], [other, IMAGE]))
    assert one.shape == model.grid == (2, 2, 2, 64) and one.dtype == np.float16
    np.testing.assert_allclose(one[::-1], two, atol=1e-2)
    runs = [model.start(INSTRUCTION)._speak(tokens)[1] for tokens in (one, two)]
    assert runs[0] != runs[1]
    with pytest.raises(ValueError, match="expected images of camera, wrist_camera"):
        model.encode([IMAGE])


def test_depth_changes_what_is_seen_through_the_encoder_that_nodes_and_rollouts_use():
    model = policy(geometry={"model_type": "depth_camera"})
    sides = np.meshgrid(*[np.linspace(-0.5, 0.5, tiny.SIZE)] * 2)
    rays = np.dstack([*sides, np.ones(IMAGE.shape[:2])])
    seen = []
    for metres in (0.5, 1.0):
        depth = np.full(IMAGE.shape[:2], metres, np.float32)
        frame = SimpleNamespace(image=IMAGE, depth=depth, rays=rays.astype(np.float32))
        seen.append(ObservationEncoder(model).encode([frame]))
    assert seen[0].shape == model.grid and np.isfinite(seen).all()
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    with pytest.raises(ValueError, match="needs geometry_features"):
        model.encode([IMAGE])


def test_geometry_of_another_kind_than_a_policy_has_is_told():
    processor = tiny.processor()
    told = SpatialContract(ARM, ("camera",), geometry={"model_type": "depth_camera"})
    with pytest.raises(ValueError, match="takes 6 numbers of geometry a token, a policy has"):
        SpatialVLAPolicy(tiny.model(processor), processor, told)


@pytest.mark.parametrize(
    ("tokens", "felt", "words"),
    [
        (np.zeros((1, 2, 2, 3)), FELT, r"expected visual tokens \[1, 2, 2, 64\], got"),
        (np.full((1, 2, 2, 64), np.nan), FELT, "NaN or infinity"),
        (np.zeros((1, 2, 2, 64)), FELT[:2], r"expected proprioception \[4\], got \[2\]"),
    ],
)
def test_what_is_no_observation_is_refused(tokens, felt, words):
    with pytest.raises(ValueError, match=words):
        policy().start(INSTRUCTION).act(tokens, felt)


def test_words_that_were_not_taught_are_told_and_an_empty_instruction_is_refused(folder):
    model = load_policy(folder)
    assert model.unheard_words("pick the blue cube") == ["blue"]
    assert policy().unheard_words("pick the blue cube") == []
    assert np.isfinite(model.start(None).act(model.encode([IMAGE]), FELT).actions).all()
    with pytest.raises(ValueError, match="empty"):
        model.start(" ")
    with pytest.raises(ValueError, match="special token"):
        model.start("pick the <eos>")


# -- its checkpoint --------------------------------------------------------------------------------


def test_a_checkpoint_is_loaded_by_its_type_and_does_the_same(folder):
    first, again = policy(), load_policy(folder)
    assert isinstance(again, SpatialVLAPolicy) and again.encoder_id == first.encoder_id
    chunks = [one.start(INSTRUCTION).act(one.encode([IMAGE]), FELT) for one in (first, again)]
    np.testing.assert_array_equal(chunks[0].actions, chunks[1].actions)
    assert again.action_config == ARM and again.statistics_keys == ("arm", "other")
    np.testing.assert_allclose(again.mean_action, [0.1, 0.0, 0.0, 0.5 * panda.GRIPPER_OPEN])


def test_an_unknown_statistics_key_is_told_with_those_there_are(copy):
    contract(copy, statistics_key="panda")
    with pytest.raises(ValueError, match="no statistics of actions 'panda': there are arm, other"):
        load_policy(copy)


def test_no_choice_among_several_statistics_is_refused_before_anything_moves(copy):
    contract(copy, statistics_key="")
    fit = with_robot(load_policy(copy), ARM, ("camera",), checkpoint="mine")
    with pytest.raises(ValueError, match="statistics: the checkpoint has arm, other, here it is"):
        fit.require()
    with pytest.raises(ValueError, match="tell which statistics of actions to use: there are arm"):
        load_policy(copy).start(INSTRUCTION)


def test_a_checkpoint_that_names_no_robot_is_told_how_to_name_one(copy):
    (copy / CONTRACT).unlink()
    with pytest.raises(FileNotFoundError, match="no policy.json, .* which robot .*save_contract"):
        load_policy(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cameras": []}, "damaged .policy.json: cameras are no list of names"),
        ({"robot": "arm"}, "damaged .policy.json: unknown settings: robot"),
        ({"prompt": "go"}, "must have {} once"),
        ({"geometry": {"model_type": "depth_camera"}}, "geometry: tell both the same"),
        ({"columns": ["x", "y", "z", "-", "-", "-", "grip"]}, "no action 'grip'"),
    ],
)
def test_a_contract_that_fits_nothing_is_told(copy, changes, words):
    contract(copy, **changes)
    with pytest.raises(ValueError, match=words) as error:
        load_policy(copy)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


def test_a_chunk_of_another_length_is_told(copy):
    told = json.loads((copy / CONTRACT).read_text())
    contract(copy, action=told["action"] | {"horizon": 8})
    with pytest.raises(ValueError, match="the model says 4 actions, the robot's horizon is 8"):
        load_policy(copy)


def test_without_transformers_the_cure_is_told(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "vla_ros.models.spatial_vla.policy")
    for name in ("transformers", "transformers.modeling_outputs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match="of type spatialvla cannot be loaded") as error:
        load_policy(folder)
    assert str(error.value).endswith(": pip install 'vla_ros[vision]'")


# -- running ---------------------------------------------------------------------------------------


def test_the_nodes_run_it_as_it_runs_by_itself(folder):
    model, kinematics = load_policy(folder), ArmKinematics()
    with nodes_of(VisionEncoderNode, camera_topics=["camera/image_raw"]) as make_eye:
        eye = make_eye(folder)
        assert eye.bring_up() == ""
        seen = []
        eye._publisher.publish, eye._publisher.get_subscription_count = seen.append, lambda: 1
        eye._on_image(0, image_message(PICTURE, header(10.0)))
    (message,) = seen
    tokens = model.encode([IMAGE])
    np.testing.assert_array_equal(tokens_from_message(message), tokens)
    with nodes_of(ActionPolicyNode) as make:
        node = make(folder)
        assert node.bring_up() == ""
        published = []
        node._publisher.publish = published.append
        node._follow(INSTRUCTION)
        node._on_joint_states(joint_state_message(panda.JOINT_NAMES, panda.HOME, header(10.0)))
        node._on_tokens(message)
    action = model.start(INSTRUCTION).act(tokens, FELT)
    wanted = end_effector_chunk_to_joints(kinematics, panda.HOME, action.actions)
    (chunk,) = published
    assert (chunk.horizon, chunk.dof) == wanted.shape == (4, len(panda.JOINT_NAMES))
    np.testing.assert_allclose(np.reshape(chunk.data, wanted.shape), wanted, atol=1e-6)


def test_it_is_evaluated_on_recordings(folder, tmp_path):
    rng = np.random.default_rng(0)
    length, actions = 4, rng.uniform(-0.1, 0.1, (4, 4)).astype(np.float32)
    pictures = rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
    felt = rng.uniform(0, 0.5, (length, 4)).astype(np.float32)
    one = episode(
        0, length, actions=actions, action_names=ARM.action_names, proprioception=felt,
        proprioception_names=ARM.proprioception_names, control_mode=ARM.control_mode, dt=ARM.dt,
        stamps=np.arange(length) * ARM.dt, pictures={"camera": reader(pictures)}, depths={},
        outcome=None, instruction=INSTRUCTION,
    )  # fmt: skip
    write_shards(tmp_path / "shards", [one], ["camera"], 64)
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    path = tmp_path / "figures.json"
    words = (
        "--checkpoint",
        folder,
        "--json",
        path,
        "--robot",
        "arm",
        "--data",
        tmp_path / "shards",
    )
    evaluate.main(parser.parse_args([*map(str, words)]))
    figures = json.loads(path.read_text())
    model = load_policy(folder)
    run = model.start(INSTRUCTION)
    errors = []
    for picture, action in zip(pictures, actions, strict=True):
        tokens = model.encode([preprocess_image(picture, tiny.SIZE)])
        errors.append((run.act(tokens, FELT).actions[0] - action) ** 2)
    np.testing.assert_allclose(figures["actions"]["mse"]["policy"][0], np.mean(errors, 0))
    assert files.CONFIG in {path.name for path in folder.iterdir()}
