"""A policy along recordings: the figures are those of training, whatever they were recorded in."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from episodes import episode, reader

from vla_ros.models import language
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import VOCABULARY
from vla_ros.training import imitation
from vla_ros.training.commands import evaluate
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.rlds_to_bag import write_bags
from vla_ros.training.data.shards import write_shards
from vla_ros.training.metrics import ChunkErrors, trajectory_distance
from vla_ros.training.recorded_evaluation import (
    NO_SENTENCES,
    Followed,
    Recordings,
    add_errors,
    paths_of,
)

ROBOT = """
action:
  robot_type: arm
  action_names: [x, y, grip]
  action_bounds: [[-0.1, 0.1], [-0.1, 0.1], [0, 1]]
  binary_names: [grip]
  proprioception_names: [a, b]
  control_mode: end_effector_delta
  horizon: 3
  dt: 0.1
cameras: [front]
"""


def recorded(number, length=6, **changes):
    rng = np.random.default_rng(number)
    pictures = rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
    actions = np.column_stack(
        [rng.uniform(-0.1, 0.1, (length, 2)), rng.integers(0, 2, length)]
    ).astype(np.float32)
    given = {"pictures": {"front": reader(pictures)}, "depths": {}, "outcome": None}
    return episode(number, length, actions=actions, **{**given, **changes})


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    path = tmp_path_factory.mktemp("robot") / "robot.yaml"
    path.write_text(ROBOT)
    return str(path)


@pytest.fixture(scope="module")
def policy(tmp_path_factory, robot):
    """Folder of an untrained policy of this robot."""
    torch.manual_seed(0)
    model = VisionLanguageActionModel.from_size(
        "tiny",
        Robot.load(robot).action,
        cameras=["front"],
        tokenizer=language.word_tokenizer({*VOCABULARY, *"012"}),
    )
    folder = tmp_path_factory.mktemp("policy")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same three episodes as shards, as an RLDS dataset and as bags."""
    folder = tmp_path_factory.mktemp("recordings")
    episodes = [recorded(number, 5 + number) for number in range(3)]
    write_shards(folder / "shards", episodes, ["front"], 64)
    write_bags(folder / "bags", episodes)
    return {
        "shards": folder / "shards",
        "rlds": write_rlds(folder, "toys", episodes),
        "bags": folder / "bags",
    }


def evaluated(policy, robot, *words):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    evaluate.main(
        parser.parse_args(["--checkpoint", str(policy), "--robot", robot, *map(str, words)])
    )


def test_any_kind_of_recording_gives_the_same_figures_as_training(
    policy, robot, sources, tmp_path, capsys
):
    figures = {}
    for kind, source in sources.items():
        path = tmp_path / f"{kind}.json"
        evaluated(policy, robot, "--data", source, "--json", path, "--plot", tmp_path / "page.png")
        figures[kind] = json.loads(path.read_text())
        assert figures[kind]["episodes"] == {str(source): 3}
        assert figures[kind]["actions"] == figures["shards"]["actions"], kind
        assert figures[kind]["trajectory"] == figures["shards"]["trajectory"], kind
    model = VisionLanguageActionModel.from_pretrained(policy)
    episodes = imitation.load(sources["shards"])
    # The errors that training measures, by the parallel form; tokens travel in half precision.
    errors, _ = imitation.held_out_errors(model, episodes, episodes)
    actions = figures["shards"]["actions"]
    np.testing.assert_allclose(actions["mse"]["policy"], errors, rtol=1e-2)
    assert actions["frames"] == 5 + 6 + 7 and np.shape(errors) == (3, 3)
    runs = figures["rlds"]["runs"]
    assert [run["frames"] for run in runs] == [5, 6, 7]
    assert runs[1]["instruction"] == "pick up the 1. cube"
    text = capsys.readouterr().out
    assert NO_SENTENCES in text and figures["bags"]["sentences"] == NO_SENTENCES
    assert "last action" in text and "DTW" in text
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_policy_agrees_with_what_was_recorded_while_it_drove(policy, robot, tmp_path):
    """Frame by frame: a picture, memory or action that is off by one would show."""
    model = VisionLanguageActionModel.from_pretrained(policy)
    seen = recorded(0, 8)
    run = model.start(seen.instruction)
    pictures = [model.encode([picture]) for picture in seen.frames("front")]
    done = [run.act(*frame).actions[0] for frame in zip(pictures, seen.proprioception, strict=True)]
    write_shards(tmp_path / "shards", [replace(seen, actions=np.array(done))], ["front"], 64)
    figures = Recordings(model, Robot.load(robot), "it").figures([tmp_path / "shards"])
    first, *later = figures["actions"]["mse"]["policy"]
    assert max(first) < 1e-12 < min(map(max, later))
    assert figures["trajectory"]["all"]["p95"] < 1e-6 < figures["trajectory"]["all"]["length"]


def test_shared_fields_are_the_simulators(policy, robot, sources, tmp_path):
    path = tmp_path / "figures.json"
    evaluated(policy, robot, "--data", sources["shards"], "--json", path)
    figures = json.loads(path.read_text())
    shared = {"episodes", "robot", "live", "checkpoint", "inference_ms", "runs"}
    assert shared | {"actions", "trajectory", "sentences"} <= set(figures)
    for times in figures["inference_ms"].values():
        assert 0 < times["median"] <= times["p95"] and len(times["percentiles"]) == 21


def test_failed_and_refused_episodes_are_left_out_and_counted(policy, robot, tmp_path):
    model = VisionLanguageActionModel.from_pretrained(policy)
    episodes = [
        recorded(0),
        recorded(1, outcome=False),
        recorded(2, instruction="frobnicate quux"),
        recorded(3, instruction=""),
    ]
    write_shards(tmp_path / "shards", episodes, ["front"], 64)
    figures = Recordings(model, Robot.load(robot), "it").figures([tmp_path / "shards"])
    assert figures["episodes"] == {str(tmp_path / "shards"): 2}
    (failed, once), (refused, again) = figures["left_out"].items()
    assert "failed" in failed and "quux" in refused and once == again == 1
    write_shards(tmp_path / "none", episodes[1:3], ["front"], 64)
    with pytest.raises(ValueError, match="no episode to follow in .*none; 1 failed.*; 1 .*quux"):
        Recordings(model, Robot.load(robot), "it").figures([tmp_path / "none"])


# -- what is compared ------------------------------------------------------------------------------

DELTA = ActionConfig(
    robot_type="arm",
    action_dim=3,
    action_bounds=(-5.0, 5.0),
    joint_names=(),
    action_names=("x", "y", "grip"),
    binary_names=("grip",),
    proprioception_names=("a", "b"),
    control_mode="end_effector_delta",
    horizon=2,
    dt=0.1,
)


def followed(one, off=0.0):
    chunks = np.repeat(one.actions[:, None] + off, 2, axis=1)
    return Followed(one, chunks, np.zeros((len(one), 2)))


def test_steps_are_added_up_to_a_path():
    """A bias of each step grows along the path; binary actions are no part of it."""
    one = episode(0, 5)
    recorded_path, wanted, _, unit = paths_of(followed(one, 0.1), DELTA)
    np.testing.assert_allclose(recorded_path[-1], one.actions[:, :2].sum(0), rtol=1e-5)
    np.testing.assert_allclose((wanted - recorded_path)[:, 0], 0.1 * np.arange(1, 6), rtol=1e-4)
    assert unit == "as recorded", "no z: not a path in space"


def test_positions_are_compared_as_they_are():
    one = episode(0, 5, control_mode="joint_position")
    action = replace(DELTA, control_mode="joint_position")
    recorded_path, wanted, _, _ = paths_of(followed(one, 0.1), action)
    np.testing.assert_array_equal(recorded_path, one.actions[:, :2])
    np.testing.assert_allclose(wanted - recorded_path, 0.1, rtol=1e-4)
    binary = replace(action, binary_names=action.action_names)
    assert paths_of(followed(one), binary) is None


def offsets(length=6):
    """The arm's own kind of action: a tool on its way to one place, told from where it is."""
    action = ActionConfig.get_arm_config()
    place = np.array([0.5, 0.1, 0.2], np.float32)
    tool = place - np.linspace(0.3, 0.1, length, dtype=np.float32)[:, None]
    opening = np.full((length, 1), 0.04, np.float32)
    one = episode(
        0,
        length,
        control_mode=action.control_mode,
        action_names=action.action_names,
        proprioception_names=action.proprioception_names,
        actions=np.hstack([place - tool, opening]),
        proprioception=np.hstack([tool, opening]),
    )
    return one, replace(action, horizon=2), place


def test_offsets_are_compared_where_they_lead_to():
    one, action, place = offsets()
    recorded_path, wanted, _, unit = paths_of(followed(one, 0.01), action)
    np.testing.assert_allclose(recorded_path, np.tile(place, (6, 1)), atol=1e-6)
    assert unit == "m"
    distance = trajectory_distance(wanted, recorded_path)
    assert distance == pytest.approx(0.01 * np.sqrt(3), rel=1e-4)


def test_the_last_action_is_the_same_place_seen_from_here():
    """The place does not move, so repeating the last action has no error but on the first frame."""
    one, action, place = offsets()
    errors = ChunkErrors(action.action_names, 2)
    before = np.zeros(4)
    add_errors(errors, followed(one), action, before)
    mse = np.array(errors.figures()["mse"]["last_action"])
    np.testing.assert_allclose(mse[0], one.actions[0] ** 2 / 6, rtol=1e-4)


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "SHARDS", "--live"], "--live is for the simulator: leave out --data"),
        (["--data", "SHARDS", "--latency-ticks", "3"], "--latency-ticks is for the simulator"),
        (["--data", "SHARDS", "--robot", "sim"], "--data needs --robot"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (
            ["--data", "SHARDS", "--checkpoint", "ARM"],
            "does not fit the recordings: control_mode: .* has end_eff",
        ),
        (["--data", "SHARDS", "--minilm", "nowhere"], "nowhere holds no config.json"),
        ([], "robot.yaml needs --data"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(
    policy, checkpoint, robot, sources, tmp_path, words, said
):
    paths = {"SHARDS": str(sources["shards"]), "ARM": str(checkpoint)}
    with pytest.raises((ValueError, OSError), match=said):
        evaluated(
            policy, robot, "--json", tmp_path / "figures.json", *(paths.get(w, w) for w in words)
        )
    assert not list(Path(tmp_path).iterdir())


def test_another_camera_is_told(policy, robot, tmp_path):
    pictures = {"side": reader(np.zeros((4, 64, 64, 3), np.uint8))}
    write_shards(tmp_path / "shards", [recorded(0, 4, pictures=pictures)], ["side"], 64)
    with pytest.raises(ValueError, match="has no camera 'front'; it has: side"):
        evaluated(policy, robot, "--data", tmp_path / "shards")
