"""From a robot's actions to those that spatial action tokens stand for, and the fit of a grid."""

import json

import numpy as np
import pytest
from episodes import episode

from vla_ros import cli
from vla_ros.models.spatial_vla.grid import AXES
from vla_ros.models.spatial_vla.layout import SpatialLayout
from vla_ros.models.spatial_vla.normalization import ActionStatistics, statistics_of
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.bag_to_rlds import write_rlds

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper_open")
ROBOT = """
action:
  robot_type: arm
  action_names: [x, y, z, roll, pitch, yaw, gripper_open]
  action_bounds: [[-0.1, 0.1], [-0.1, 0.1], [-0.1, 0.1], [-1, 1], [-1, 1], [-1, 1], [0, 0.08]]
  binary_names: [gripper_open]
  proprioception_names: [a, b]
  control_mode: end_effector_delta
  dt: 0.1
"""


# --- normalisation --------------------------------------------------------------------------------


def test_actions_come_back_from_minus_one_to_one():
    told = ActionStatistics([-0.02, 0.0, 0.0], [0.04, 2.0, 1.0], [True, True, False])
    np.testing.assert_allclose(told.unnormalize([[-1, -1, 0.0], [1, 1, 1.0], [0, 0.5, 0.3]]),
                               [[-0.02, 0, 0], [0.04, 2, 1], [0.01, 1.5, 0.3]])  # fmt: skip
    actions = np.random.default_rng(0).uniform([-0.02, 0, 0], [0.04, 2, 1], (5, 4, 3))
    np.testing.assert_allclose(told.unnormalize(told.normalize(actions)), actions, atol=1e-12)
    assert told.normalize([9.0, -9.0, 9.0]).tolist() == [1.0, -1.0, 9.0]
    assert not told.zero_is_zero
    assert ActionStatistics([-2, 0, 0], [2, 0, 1], [True, True, False]).zero_is_zero


def test_what_never_changes_stays_where_it_is():
    told = ActionStatistics([0.3], [0.3])
    assert told.normalize([0.3]) == 0.0 and told.unnormalize([0.7]) == pytest.approx(0.3)


def test_an_unknown_statistics_key_is_told_with_those_that_there_are():
    both = {name: {"action": {"q01": [-1.0], "q99": [1.0]}} for name in ("fractal", "bridge")}
    assert statistics_of(both, "bridge").mask == (True,)
    assert statistics_of({"bridge": both["bridge"]}).q99 == (1.0,)
    for key, said in (
        ("bridge_orig", "no statistics of actions 'bridge_orig': there are bridge, fractal"),
        (None, "tell which statistics of actions to use: there are bridge, fractal"),
    ):
        with pytest.raises(ValueError, match=said):
            statistics_of(both, key)
    for wrong, said in (
        ({}, "no statistics of actions"),
        ({"a": {}}, "statistics 'a' have no action"),
        ({"a": {"action": {"q01": [1.0], "q99": [0.0]}}}, "'a': number 0 .* q01 1.0 and q99 0.0"),
        ({"a": {"action": {"q01": [1.0], "q99": [1.0, 2.0]}}}, "1 q01, 2 q99"),
    ):
        with pytest.raises(ValueError, match=said):
            statistics_of(wrong, None)
    with pytest.raises(ValueError, match=r"actions are \[2\], not \[\.\.\., 1\]"):
        statistics_of(both, "bridge").unnormalize([0.0, 0.0])


# --- which numbers are which ----------------------------------------------------------------------


def test_a_robot_s_numbers_are_found_by_name_and_come_back():
    arm = ActionConfig.get_arm_config()
    layout = SpatialLayout.of(arm)
    assert layout.columns == (0, 1, 2, None, None, None, 3)
    actions = np.array([[0.1, -0.1, 0.05, arm.action_bounds[3][1]], [0, 0, 0, 0]])
    seven = layout.to_spatial(actions)
    assert seven[:, 6].tolist() == [1.0, 0.0] and not seven[:, 3:6].any()
    np.testing.assert_allclose(layout.from_spatial(seven), actions, atol=1e-12)
    told = SpatialLayout.of(arm, ["y", "x", "z", "-", "-", "-", "finger_opening"])
    assert told.to_spatial(actions)[0, :2].tolist() == [-0.1, 0.1]


def test_numbers_that_tokens_cannot_say_are_refused():
    with pytest.raises(ValueError, match="left_hip.* is none of x, y, z, .* end effector"):
        SpatialLayout.of(ActionConfig.get_humanoid_config())
    arm = ActionConfig.get_arm_config()
    for columns, said in (
        (["x"], "1 columns: give seven"),
        (["x", "y", "z", "-", "-", "-", "-"], "finger_opening is none of"),
        (["x", "y", "z", "x", "-", "-", "finger_opening"], "once each"),
        (["x", "y", "up", "-", "-", "-", "-"], "no action 'up': the robot's are x, y, z, finger"),
    ):
        with pytest.raises(ValueError, match=said):
            SpatialLayout.of(arm, columns)


# --- the fit --------------------------------------------------------------------------------------


def motions(number: int, length: int = 300, still: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(number)
    actions = rng.normal(
        [0.01, 0, -0.01, 0, 0, 0.1], [0.02, 0.02, 0.02, 0.2, 0.1, 0.2], (length, 6)
    )
    actions[rng.random(length) < still] = 0.0
    grip = 0.08 * (np.arange(length) // 40 % 2)
    return np.concatenate([actions, grip[:, None]], 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A robot's file beside a dataset of it."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "toy.yaml").write_text(ROBOT)
    made = [
        episode(3 * n, 300, action_names=NAMES, actions=motions(n), pictures={}, depths={})
        for n in range(4)
    ]
    failed = np.full((300, 7), [0.1, 0.1, 0.1, 1, 1, 1, 0.08])
    made.append(
        episode(2, 300, action_names=NAMES, actions=failed, pictures={}, depths={}, outcome=False)
    )
    write_rlds(folder / "data", "toys", made)
    return folder


def run(place, out, *more) -> tuple[dict, dict]:
    robot = str(place / "toy.yaml")
    words = ["fit-actions", "--data", str(place / "data"), "--robot", robot, "--out", str(out)]
    assert cli.main([*words, *more]) == 0
    statistics = json.loads(out.with_name(f"{out.stem}_statistics.json").read_text())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len([*out.parent.iterdir()]) == 3
    return json.loads(out.read_text()), statistics


def test_a_grid_is_fitted_to_recordings(place, tmp_path, capsys):
    grid, statistics = run(place, tmp_path / "new" / "grid.json")
    tokenizer = SpatialActionTokenizer.from_dict(grid)
    told = statistics_of(statistics, grid["statistics"])
    kept = np.concatenate([motions(n) for n in range(4)]).astype(np.float32).astype(float)
    assert [*statistics] == ["toy"] and statistics["toy"]["num_transitions"] == len(kept)
    assert told.zero_is_zero and not told.mask[6]
    measured = statistics["toy"]["action"]["measured_q99"]
    np.testing.assert_allclose(measured[:6], np.quantile(kept, 0.99, axis=0)[:6], atol=1e-6)
    kept[:, 6] /= 0.08
    normal = told.normalize(kept)
    ids = tokenizer.encode(normal)
    still = ~kept[:, :6].any(-1)
    back = told.unnormalize(tokenizer.decode(ids))
    assert still.sum() > 100 and not back[still, :6].any()
    np.testing.assert_array_equal(back[:, 6], kept[:, 6] > 0.5)
    # Fitted bins are used evenly, but for what is not quite normal.
    used = np.bincount((ids[:, 1] - 4096) // 256, minlength=16)[np.r_[:7, 9:16]] / (~still).sum()
    assert 0.01 < used.min() and used.max() < 0.15
    for axis in ("roll", "yaw"):
        column = normal[:, 3 + AXES[3:].index(axis)]
        assert grid["gaussians"][axis]["mu"] == pytest.approx(column.mean(), abs=1e-6)
        assert grid["gaussians"][axis]["sigma"] == pytest.approx(column.std(), abs=1e-6)
    said = capsys.readouterr()
    assert "1 of 5 episodes failed" in said.err and "1200 actions of 4 episodes" in said.out


def test_the_published_mode_normalises_by_the_percentiles_themselves(place, tmp_path):
    grid, statistics = run(place, tmp_path / "grid.json", "--mode", "published", "--key", "mine")
    told = statistics["mine"]["action"]
    assert told["q01"] == told["measured_q01"] and told["q99"] == told["measured_q99"]
    assert SpatialActionTokenizer.from_dict(grid).mode == "published"


def test_numbers_of_bins_can_be_told(place, tmp_path):
    bins = ["4", "8", "4", "6", "6", "6"]
    grid, _ = run(place, tmp_path / "grid.json", "--bins", *bins)
    assert SpatialActionTokenizer.from_dict(grid).vocab_size == 128 + 216 + 2


def test_bags_give_the_grid_that_rlds_gives(place, tmp_path):
    made = [
        episode(3 * n, 40, action_names=NAMES, actions=motions(n, 40), depths={}) for n in range(2)
    ]
    dataset, bags = write_rlds(tmp_path / "rlds", "toys", made), tmp_path / "bags"
    assert cli.main(["bag", "from-rlds", str(dataset), str(bags)]) == 0
    fitted = []
    for data in (dataset, bags):
        out = tmp_path / data.name / "fit" / "grid.json"
        words = ["--data", str(data), "--robot", str(place / "toy.yaml"), "--out", str(out)]
        assert cli.main(["fit-actions", *words]) == 0
        fitted.append(json.loads(out.read_text()))
    assert fitted[0] == fitted[1]


def test_an_axis_that_never_turns_is_widened_or_refused(place, tmp_path, capsys):
    folder = tmp_path / "data"
    actions = motions(0)
    actions[:, 4] = 0.0
    made = episode(0, 300, action_names=NAMES, actions=actions, pictures={}, depths={})
    write_rlds(folder, "toys", [made])
    words = ["fit-actions", "--data", str(folder), "--robot", str(place / "toy.yaml"), "--out"]
    out = tmp_path / "out" / "grid.json"
    assert cli.main([*words, str(out), "--min-sigma", "0"]) == 1
    assert "pitch has mu 0 and sigma 0" in capsys.readouterr().err
    assert not out.parent.exists()
    assert cli.main([*words, str(out)]) == 0
    assert "widened by --min-sigma" in capsys.readouterr().out


def test_actions_in_another_unit_are_refused(place, tmp_path, capsys):
    actions = motions(0) * np.array([1000, 1000, 1000, 1, 1, 1, 1])
    made = episode(0, 300, action_names=NAMES, actions=actions, pictures={}, depths={})
    write_rlds(tmp_path / "data", "toys", [made])
    words = ["fit-actions", "--data", str(tmp_path / "data"), "--robot", str(place / "toy.yaml")]
    assert cli.main([*words, "--out", str(tmp_path / "grid.json")]) == 1
    assert "are both in the same unit" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_motion_that_is_rare_is_kept():
    from vla_ros.training.spatial_vla.action_fit import measure

    actions = motions(0, 1000)
    actions[:, 5] = 0.0
    actions[500, 5] = 0.7
    told = measure(actions, 1, "corrected")["action"]
    assert (told["q01"][5], told["q99"][5]) == (-0.7, 0.7)
