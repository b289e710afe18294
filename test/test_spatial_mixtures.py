"""Mixtures of public datasets: what their actions mean, and what is drawn of them."""

import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from episodes import episode, reader

pytest.importorskip("transformers")

from vla_ros.training.spatial_vla.conventions import (
    ROTATIONS,
    Convention,
    Gripper,
    converted,
    decided,
    euler,
    toggled,
)
from vla_ros.training.spatial_vla.mixing import Draw, Mixture, MixtureSampler
from vla_ros.training.spatial_vla.mixtures import load_mixture

SQUARE = math.pi / 2
NONE = np.zeros((3, 0))


def source(name):
    return load_mixture(name)[name][0]


def steps(*rows):
    return np.array(rows, dtype=np.float64)


# A row of each dataset's action (and the states it is told from), and the motion by hand.
TABLE = {
    "fractal20220817_data": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1], None, [0.01, 0.02, 0.03, 0]),
    "kuka": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, -1], None, [0.01, 0.02, 0.03, 1]),
    "taco_play": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, -1], None, [0.01, 0.02, 0.03, 0]),
    "jaco_play": ([0.1, 0.2, 0.3, 1], None, [0, 0, 0, 0]),
    "berkeley_cable_routing": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03], None, [0.01, 0.02, 0.03, 0]),
    "roboturk": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1], None, [0.01, 0.02, 0.03, 0]),
    "viola": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, -1], None, [0.01, 0.02, 0.03, 1]),
    "berkeley_autolab_ur5": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 0], None, [0.01, 0.02, 0.03, 1]),
    "toto": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1], None, [0.01, 0.02, 0.03, 1]),
    "stanford_hydra_dataset_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1],
        None,
        [0.01, 0.02, 0.03, 0],
    ),
    "austin_buds_dataset_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, 0.01, 0.02, 0.03, -1],
        None,
        [0.01, 0.02, 0.03, 1],
    ),
    "austin_sailor_dataset_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1],
        None,
        [0.01, 0.02, 0.03, 0],
    ),
    "austin_sirius_dataset_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1],
        None,
        [0.01, 0.02, 0.03, 0],
    ),
    "utaustin_mutex": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1], None, [0.01, 0.02, 0.03, 0]),
    "dlr_edan_shared_control_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 0],
        None,
        [0.01, 0.02, 0.03, 1],
    ),
    "nyu_franka_play_dataset_converted_externally_to_rlds": (
        [9] * 7 + [0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1, 0],
        None,
        [0.01, 0.02, 0.03, 1],
    ),
    # a quarter of a turn about z, as x y z w
    "furniture_bench_dataset_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, 0, 0, math.sqrt(0.5), math.sqrt(0.5), -1],
        None,
        [0, 0, SQUARE, 1],
    ),
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, math.sqrt(0.5), 0, 0, math.sqrt(0.5), 1],
        None,
        [SQUARE, 0, 0, 1],
    ),
    "ucsd_kitchen_dataset_converted_externally_to_rlds": (
        [0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1, 0],
        None,
        [0.01, 0.02, 0.03, 1],
    ),
    "berkeley_fanuc_manipulation": (
        [0.1, 0.2, 0.3, 0.01, 0.02, 0.03],
        [0] * 6 + [1],
        [0.01, 0.02, 0.03, 0],
    ),
    "cmu_stretch": ([0.1, 0.2, 0.3, 0, 0, 0, 1, 0], None, [0, 0, 0, 1]),
    # ten future poses; the axis and angle of the first is half a turn's half about y
    "bc_z": (
        [0.1, 0.2, 0.3] + [9] * 27 + [0, 0.3, 0] + [9] * 27 + [1] + [0] * 9,
        None,
        [0, 0.3, 0, 0],
    ),
    "fmb_dataset": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1], None, [0.01, 0.02, 0.03, 1]),
    "dobbe": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 0.5], None, [0.01, 0.02, 0.03, 0.5]),
    "droid": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1], None, [0.01, 0.02, 0.03, 0]),
    "rh20t_rlds": ([0.1, 0.2, 0.3, 0.01, 0.02, 0.03, 1], None, [0.01, 0.02, 0.03, 1]),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_dataset_s_action_is_the_motion_worked_out_by_hand(name):
    action, state, rest = TABLE[name]
    states = steps(state) if state else np.zeros((1, 0))
    motions, known = source(name).convention.motions(steps(action), states, 0.1)
    np.testing.assert_allclose(motions[0], [0.1, 0.2, 0.3, *rest], atol=1e-9)
    assert known.all()


def test_all_datasets_of_the_table_are_worked_out_by_hand_here():
    there = load_mixture("oxe_spatial_vla_plus")
    apart = {"bridge_orig", "language_table"}  # see below
    assert set(there) == {*TABLE, *apart}


def test_bridge_is_what_its_tool_came_to():
    states = steps([0, 0, 0, 0, 0, 0, 1], [0.1, 0, 0, 0, 0, 0.2, 1], [0.1, 0.2, 0, 0, 0, 0.5, 0])
    actions = steps(*[[9] * 6 + [g] for g in (1.0, 0.5, 0.0)])  # what it was told is not read
    motions, known = source("bridge_orig").convention.motions(actions, states, 0.2)
    np.testing.assert_allclose(motions[0], [0.1, 0, 0, 0, 0, 0.2, 1], atol=1e-9)
    np.testing.assert_allclose(motions[1], [0, 0.2, 0, 0, 0, 0.3, 0], atol=1e-9)
    np.testing.assert_array_equal(motions[2], [0] * 7)  # where it came to then is not known
    assert known.tolist() == [True, True, False]


def test_bridge_s_first_step_is_left_out_with_its_picture():
    length = 4
    pictures = np.arange(length, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 6, 8, 3), np.uint8
    )
    states = np.zeros((length, 7))
    states[:, 0] = [0, 1, 3, 6]
    one = episode(
        0,
        length,
        action_names=[f"a{i}" for i in range(7)],
        proprioception_names=[f"s{i}" for i in range(7)],
        actions=np.zeros((length, 7)),
        proprioception=states,
        pictures={"image_0": reader(pictures)},
        depths={},
    )
    made = converted(one, source("bridge_orig").convention)
    assert len(made) == 3 and made.control_mode == "end_effector_delta"
    np.testing.assert_allclose(made.actions[:2, 0], [2, 3])
    assert made.actions_known.tolist() == [True, True, False]
    assert [int(p[0, 0, 0]) for p in made.frames("image_0")] == [1, 2, 3]


def test_the_words_of_language_table_are_its_characters():
    told = source("language_table")
    states = np.zeros((2, 6))
    states[:, :4] = [*map(ord, "push"[:4])]
    one = episode(
        0,
        2,
        action_names=["x", "y"],
        proprioception_names=[f"c{i}" for i in range(6)],
        actions=steps([0.1, 0.2], [0.3, 0.4]),
        proprioception=states,
        instruction="",
    )
    made = converted(one, told.convention, codes=6)
    assert made.instruction == "push"
    np.testing.assert_allclose(made.actions[1], [0.3, 0.4, 0, 0, 0, 0, 1], atol=1e-6)


def test_places_to_go_to_become_motions_from_where_the_tool_is():
    convention = Convention(
        motion="absolute",
        rotation=(3, 4, 5),
        state_translation=(0, 1, 2),
        state_rotation=(3, 4, 5),
        metres=0.001,  # told in mm
    )
    action = steps([100, 200, 300, 0, 0, SQUARE, 1])
    state = steps([90, 200, 320, 0, 0, 0])
    motions, _ = convention.motions(action, state, 0.1)
    np.testing.assert_allclose(motions[0], [0.01, 0, -0.02, 0, 0, SQUARE, 1], atol=1e-9)


def test_rotations_past_half_a_turn_do_not_jump():
    convention = Convention(motion="reached", state_translation=(0, 1, 2), state_rotation=(3, 4, 5))
    near = math.pi - 0.1
    states = steps([0, 0, 0, 0, 0, near], [0, 0, 0, 0, 0, -near])
    motions, _ = convention.motions(np.zeros((2, 7)), states, 0.1)
    np.testing.assert_allclose(motions[0, 5], 0.2, atol=1e-9)


def test_motions_in_the_tool_s_frame_are_turned_into_the_base_s():
    """The tool is turned by a quarter about z: its x is the base's y, its roll the base's pitch."""
    convention = Convention(frame="tool", state_rotation=(0, 1, 2))
    state = steps([0, 0, SQUARE])
    motions, _ = convention.motions(steps([0.1, 0, 0, 0.2, 0, 0, 1]), state, 0.1)
    np.testing.assert_allclose(motions[0], [0, 0.1, 0, 0, 0.2, 0, 1], atol=1e-9)


def test_velocities_are_motions_of_one_step():
    convention = Convention(motion="velocity", rotation_as="axis_angle")
    motions, _ = convention.motions(steps([1, 2, 3, 0.5, 0, 0, 0]), NONE[:1], 0.1)
    np.testing.assert_allclose(motions[0], [0.1, 0.2, 0.3, 0.05, 0, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("euler", [0, SQUARE / 2, 0]),
        ("axis_angle", [0, SQUARE / 2, 0]),
        ("quaternion_xyzw", [0, math.sin(SQUARE / 4), 0, math.cos(SQUARE / 4)]),
        ("quaternion_wxyz", [-math.cos(SQUARE / 4), 0, -math.sin(SQUARE / 4), 0]),
        ("rotation_6d", [math.sqrt(0.5), 0, -math.sqrt(0.5), 0, 1, 0]),
    ],
)
def test_every_way_to_say_a_rotation_means_the_same(kind, numbers):
    """An eighth of a turn about y."""
    matrix = ROTATIONS[kind][1](steps(numbers))[0]
    half = math.sqrt(0.5)
    np.testing.assert_allclose(matrix, [[half, 0, half], [0, 1, 0], [-half, 0, half]], atol=1e-9)
    np.testing.assert_allclose(euler(matrix[None])[0], [0, SQUARE / 2, 0], atol=1e-9)


def test_angles_of_a_matrix_are_those_it_was_made_of_but_at_the_pole():
    angles = np.random.default_rng(0).uniform(-1.5, 1.5, (200, 3))
    np.testing.assert_allclose(euler(ROTATIONS["euler"][1](angles)), angles, atol=1e-9)
    pole = ROTATIONS["euler"][1](steps([0.3, SQUARE, 0.2]))
    np.testing.assert_allclose(ROTATIONS["euler"][1](euler(pole)), pole, atol=1e-9)


def test_a_gripper_on_its_way_is_what_it_comes_to():
    np.testing.assert_array_equal(
        decided(np.array([1, 0.7, 0.4, 0, 0.2, 0.9, 1])), [1, 0, 0, 0, 1, 1, 1]
    )
    np.testing.assert_array_equal(decided(np.array([0, 0.3, 0.8])), [0, 1, 1])
    assert len(decided(np.array([]))) == 0


def test_a_toggled_gripper_keeps_what_it_was_told_last():
    np.testing.assert_array_equal(toggled(np.array([0, 1, 0, -1, 0.05])), [1, 0, 0, 1, 1])
    np.testing.assert_array_equal(toggled(np.array([0, -1, 0])), [0, 1, 1])
    np.testing.assert_array_equal(toggled(np.zeros(2)), [1, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"motion": "offset"}, "motion is 'offset': choose of delta"),
        ({"rotation": (3, 4)}, "rotation names 2 numbers, euler has 3"),
        ({"motion": "absolute"}, "needs state_translation"),
        ({"frame": "tool"}, "needs state_rotation"),
        ({"translation": (0, 1)}, "translation names 2 numbers"),
    ],
)
def test_conventions_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Convention(**settings)
    with pytest.raises(ValueError, match="gripper.kind is 'soft'"):
        Gripper(kind="soft")


def test_too_few_numbers_are_told_with_the_episode():
    one = episode(0, 2, action_names=["x"], actions=np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r".*translation is at \[0, 1, 2\], and there are 1"):
        converted(one, Convention())


def test_unknown_mixtures_and_datasets_are_told_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="'oxe_magic_soup': did you mean oxe_magic_soup_plus"):
        load_mixture("oxe_magic_soup")
    with pytest.raises(ValueError, match="no dataset 'droit': did you mean droid"):
        load_mixture("oxe_spatial_vla_plus", ["droit"])
    with pytest.raises(ValueError, match="does not exist"):
        load_mixture(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="dataset kuka is not in .*--exclude"):
        source("kuka").folder(tmp_path, "kuka")
    assert "droid" not in load_mixture("oxe_spatial_vla_plus", ["droid"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixtures: {a: {kuka: 0}}", "mixtures.a.kuka is 0: give a weight above 0"),
        ("mixtures: {a: {kukka: 1}}", "no dataset 'kukka': did you mean kuka"),
        ("mixtures: {a: {kuka: 1}, b: {kuka: 1}}", "tell which mixture .* there are a, b"),
        ("dataset: {}", "dataset is not known: did you mean datasets"),
        ("datasets: {d: {cameras: [c]}}", "datasets.d.dt is missing"),
        (
            "datasets: {d: {dt: 1, cameras: [c], convention: {motoin: delta}}}",
            "datasets.d.convention.motoin is not known: did you mean motion",
        ),
        (
            "datasets: {d: {dt: 1, cameras: [c], convention: {frame: world}}}",
            "datasets.d.convention: frame is 'world': choose of base, tool",
        ),
    ],
)
def test_what_is_wrong_in_a_mixture_s_file_is_told_with_its_place(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_mixture(str(path))


def test_a_file_of_one_s_own_uses_the_datasets_that_are_known(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "datasets:\n  mine: {dt: 0.1, cameras: [steps/observation/image]}\n"
        "mixtures: {both: {mine: 2, bridge_orig: 1}}\n"
    )
    found = load_mixture(str(path))
    assert {name: weight for name, (_, weight) in found.items()} == {"mine": 2, "bridge_orig": 1}


class Rows:
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, row):
        import torch

        return {"row": torch.tensor(row), "noise": torch.rand(1)}


def test_datasets_are_drawn_by_weight_times_length_and_rows_once_before_twice():
    sampler = MixtureSampler([100, 300, 10], [1.0, 1.0, 0.0], seed=3)
    draws = list(sampler)
    counts = Counter(draw.part for draw in draws)
    assert len(draws) == len(sampler) == 410 and 2 not in counts
    assert abs(counts[0] - 410 / 4) <= 1
    rows = [draw.row for draw in draws if draw.part == 1]
    assert set(Counter(rows).values()) == {1, 2} and set(rows[:300]) == set(range(300))
    heavy = Counter(draw.part for draw in MixtureSampler([100, 100], [3.0, 1.0]))
    assert heavy == {0: 150, 1: 50}


def test_draws_depend_on_seed_and_epoch_alone():
    def drawn(seed, epoch, first=0):
        sampler = MixtureSampler([30, 50], [1.0, 2.0], seed)
        sampler.set_epoch(epoch)
        return list(islice(sampler, first, None))

    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 1, first=37) == drawn(0, 1)[37:]  # where a run goes on
    assert drawn(0, 0) != drawn(0, 1) and drawn(0, 0) != drawn(1, 0)
    single = MixtureSampler([20])
    assert sorted(draw.row for draw in single) == list(range(20))


def test_what_is_random_in_a_sample_is_its_draw_s():
    mixture = Mixture({"one": Rows(3), "other": Rows(5)})
    one, again = (mixture[Draw(7, 1, 2)]["noise"] for _ in range(2))
    assert one == again != mixture[Draw(8, 1, 2)]["noise"]
    assert len(mixture) == 8 and [int(mixture[i]["row"]) for i in range(8)] == [0, 1, 2, *range(5)]


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 1.0], [0.0, 0.0], [math.nan, 1.0]])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        MixtureSampler([3, 4], weights)
