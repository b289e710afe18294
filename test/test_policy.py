"""Any model that has what the protocol asks for is loaded by its type, measured and run."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_policy
import torch
from episodes import episode, reader
from probe import header, nodes_of
from tiny_policy import ACTION, TinyPolicy

from vla_ros.checkpoints import resolve
from vla_ros.models import checkpoint as files
from vla_ros.models.policy import (
    ENTRY_POINTS,
    TYPES,
    Policy,
    PolicyEpisode,
    load_policy,
)
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.nodes.action_policy import ActionPolicyNode
from vla_ros.nodes.vision_encoder import VisionEncoderNode
from vla_ros.observations import preprocess_image, proprioception
from vla_ros.robots import panda
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros.messages import image_message, joint_state_message, tokens_from_message
from vla_ros.training.commands import evaluate
from vla_ros.training.data.shards import write_shards

INSTRUCTION = "reach red"
PICTURE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Folder of a policy of a type that another package adds."""
    monkeypatch.syspath_prepend(tiny_policy.install(tmp_path / "site"))
    torch.manual_seed(0)
    folder = tmp_path / "tiny"
    TinyPolicy().save_pretrained(folder)
    return folder


def settings(folder, **changes):
    """Change config.json; None removes."""
    told = json.loads((folder / files.CONFIG).read_text()) | changes
    told = {name: value for name, value in told.items() if value is not None}
    (folder / files.CONFIG).write_text(json.dumps(told))


# -- loading ---------------------------------------------------------------------------------------


def test_a_checkpoint_says_its_type_and_an_older_one_is_still_a_vlam(checkpoint, tmp_path):
    model = VisionLanguageActionModel.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / files.CONFIG).read_text())["type"] == "vlam"
    again = [load_policy(tmp_path)]
    settings(tmp_path, type=None)
    again.append(load_policy(tmp_path))
    for one in again:
        assert isinstance(one, VisionLanguageActionModel) and one.encoder_id == model.encoder_id
        assert not one.training


def test_what_ships_names_its_type():
    assert json.loads((resolve("arm") / files.CONFIG).read_text())["type"] == "vlam"


def test_another_package_adds_a_type(tiny):
    assert type(load_policy(tiny)).__name__ == "TinyPolicy"


def test_an_unknown_type_is_told_with_the_known_ones_and_the_cure(tiny):
    settings(tiny, type="telepathy")
    with pytest.raises(
        ValueError, match="'telepathy', the .* spatialvla, tiny, vlam: install"
    ) as no:
        load_policy(tiny)
    assert str(tiny) in str(no.value) and "\n" not in str(no.value)


def test_transformers_name_of_the_type_counts(tiny):
    settings(tiny, type=None, model_type="telepathy")
    with pytest.raises(ValueError, match="'telepathy'"):
        load_policy(tiny)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": None, "action": None}, "is no policy's: give"),
        ({"type": 3}, "damaged .the type in config.json is no text"),
    ],
)
def test_what_is_no_policy_is_told(tiny, changes, words):
    settings(tiny, **changes)
    with pytest.raises(ValueError, match=words):
        load_policy(tiny)


def test_vlam_does_not_read_another_types_checkpoint(tiny, checkpoint, tmp_path):
    for name in ("statistics.json", "tokenizer.json"):
        (tiny / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(ValueError, match="of type 'tiny', not 'vlam'"):
        VisionLanguageActionModel.from_pretrained(tiny)


def test_a_class_that_lacks_something_is_told_what(tiny, monkeypatch):
    monkeypatch.delattr(TinyPolicy, "encode")
    monkeypatch.delattr(TinyPolicy, "mean_action")
    with pytest.raises(ValueError, match="TinyPolicy, .* lacks encode, mean_action: give"):
        load_policy(tiny)


def test_a_type_whose_package_is_missing_is_told(tiny, monkeypatch):
    monkeypatch.setitem(TYPES, "tiny", "a_package_that_is_missing:Policy")
    with pytest.raises(RuntimeError, match="of type tiny .*a_package_that_is_missing.*: install"):
        load_policy(tiny)


def test_a_vlam_is_loaded_without_transformers(checkpoint):
    script = (
        "import sys; from vla_ros.models.policy import load_policy;"
        f"load_policy({str(checkpoint)!r});"
        "assert not {'transformers', 'rclpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_on_adding_a_model_names_all_that_is_asked_for():
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "add-a-model.md").read_text()
    for protocol in (Policy, PolicyEpisode):
        for name in dir(protocol):
            assert name.startswith("_") or f"`{name}`" in page, name
    assert ENTRY_POINTS in page


# -- running ---------------------------------------------------------------------------------------


def test_the_nodes_run_it_as_it_runs_by_itself(tiny):
    """It looks through one camera, and feels two of four numbers in another order."""
    model, kinematics = load_policy(tiny), ArmKinematics()
    with nodes_of(VisionEncoderNode, camera_topics=["camera/image_raw"]) as make_eye:
        eye = make_eye(tiny)
        assert eye.bring_up() == ""
        seen = []
        eye._publisher.publish, eye._publisher.get_subscription_count = seen.append, lambda: 1
        eye._on_image(0, image_message(PICTURE, header(10.0)))
    (message,) = seen
    tokens = model.encode([preprocess_image(PICTURE, 32)])
    np.testing.assert_array_equal(tokens_from_message(message), tokens)
    assert message.encoder_id == "pool4" and list(message.cameras) == ["camera"]

    with nodes_of(ActionPolicyNode) as make:
        node = make(tiny)
        assert node.bring_up() == ""
        published = []
        node._publisher.publish = published.append
        following = node._follow(INSTRUCTION)
        run = model.start(INSTRUCTION)
        for stamp in (10.0, 10.05):
            measured = panda.HOME + stamp - 10.0
            state = joint_state_message(panda.JOINT_NAMES, measured, header(stamp))
            node._on_joint_states(state)
            message.header = header(stamp)
            node._on_tokens(message)
            felt = proprioception(measured, kinematics)
            action = run.act(tokens, felt[[3, 2]])
            wanted = end_effector_chunk_to_joints(kinematics, measured, action.actions)
            chunk = published[-1]
            assert (chunk.horizon, chunk.dof) == wanted.shape == (4, len(panda.JOINT_NAMES))
            np.testing.assert_allclose(np.reshape(chunk.data, wanted.shape), wanted, atol=1e-6)
            assert chunk.done == pytest.approx(action.done)
        assert len(published) == 2 and following.steps == 2
        with pytest.raises(ValueError, match="none of reach"):
            node._follow("dance")


def evaluated(tiny, path, *words):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = ("--checkpoint", str(tiny), "--json", str(path), *map(str, words))
    evaluate.main(parser.parse_args(words))
    return json.loads(path.read_text())


def test_it_is_evaluated_in_the_simulator(tiny, tmp_path, capsys):
    words = ("--episodes", 1, "--families", "reach", "--workers", 1, "--metrics")
    figures = evaluated(tiny, tmp_path / "figures.json", *words)
    (run,) = figures["runs"]
    assert run["steps"] > 10 and "refused" not in run["reason"]
    assert {row["what"]: row["runs"] for row in figures["compatibility"]} == {
        "proprioception": True,
        "cameras": True,
    }
    assert "not looked through: wrist_camera" in capsys.readouterr().out


def test_it_is_evaluated_on_recordings(tiny, tmp_path, capsys):
    rng = np.random.default_rng(0)
    length, actions = 5, rng.uniform(-0.1, 0.1, (5, 4)).astype(np.float32)
    pictures = {
        name: reader(rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8))
        for name in ("wrist_camera", "camera")
    }
    names = ("tool_x", "tool_y", "tool_z", "finger_opening")
    felt = rng.uniform(0, 0.5, (length, 4)).astype(np.float32)
    one = episode(
        0, length, actions=actions, action_names=ACTION.action_names, proprioception=felt,
        proprioception_names=names, control_mode=ACTION.control_mode, dt=ACTION.dt,
        stamps=np.arange(length) * ACTION.dt, pictures=pictures, depths={}, outcome=None,
        instruction=INSTRUCTION,
    )  # fmt: skip
    write_shards(tmp_path / "shards", [one], list(pictures), 64)
    data = ("--robot", "arm", "--data", tmp_path / "shards")
    figures = evaluated(tiny, tmp_path / "figures.json", *data)
    model = load_policy(tiny)
    run, errors = model.start(INSTRUCTION), []
    for picture, state, action in zip(one.frames("camera"), felt, actions, strict=True):
        tokens = model.encode([preprocess_image(picture, 32)])
        errors.append((run.act(tokens, state[[3, 2]]).actions[0] - action) ** 2)
    np.testing.assert_allclose(figures["actions"]["mse"]["policy"][0], np.mean(errors, 0))
    assert "not looked through: wrist_camera" in capsys.readouterr().out
