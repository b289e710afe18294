"""Spatial action tokens: the published scheme, its faults, and the corrected mode."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.models.spatial_vla.grid import (
    AXES,
    RANGES,
    ROTATION,
    TRANSLATION,
    ActionGrid,
    Gaussian,
)
from vla_ros.models.spatial_vla.tokenizer import ENDED, MODES, SpatialActionTokenizer

# Of the file gs_bridge.json that is published with SpatialVLA.
BRIDGE = {
    "x": {"mu": 0.015526068396866322, "sigma": 0.3264828324317932},
    "theta": {"mu": 2.1809353828430176, "sigma": 0.7849347591400146},
    "phi": {"mu": 0.14071796834468842, "sigma": 1.79030179977417},
    "r": {"mu": 0.5538575649261475, "sigma": 0.3001556098461151},
    "roll": {"mu": -0.008261306211352348, "sigma": 0.3131641745567322},
    "pitch": {"mu": 0.08297622203826904, "sigma": 0.3307911157608032},
    "yaw": {"mu": 0.009338612668216228, "sigma": 0.2981548309326172},
}
GRIDS = {"bridge": ActionGrid.gaussian(BRIDGE), "uniform": ActionGrid.uniform()}
TOKENIZERS = {
    (name, mode): SpatialActionTokenizer(grid, mode)
    for (name, grid), mode in itertools.product(GRIDS.items(), MODES)
}
PUBLISHED, CORRECTED = TOKENIZERS["bridge", "published"], TOKENIZERS["bridge", "corrected"]
# What the published implementation makes of these actions with that grid.
ACTIONS = [
    [0, 0, 0, 0, 0, 0, 0],
    [0.5, 0.5, 0.5, 0.1, -0.2, 0.3, 1],
    [-1, -1, -1, -1, -1, -1, 0],
    [1, 1, 1, 1, 1, 1, 1],
    [0.1, -0.2, 0.3, 0, 0.02, -0.9, 0.5],
    [-0.3, 0, -0.05, 0.7, -0.7, 0.01, 0.49],
]
IDS = [
    [120, 6247, 8192],
    [430, 6717, 8193],
    [2319, 4096, 8192],
    [431, 8191, 8193],
    [58, 6240, 8193],
    [1529, 7944, 8192],
]
DECODED = [
    [0.056359354, 0.002587314, 0.10994593, 0.016386471, 0.003559288, -0.014127871, 0],
    [0.49535026, 0.549968427, 0.385532227, 0.118030547, -0.175522678, 0.312669509, 1],
    [-0.784571644, -0.67542208, -0.816617168, -0.743481463, -0.711814778, -0.72366388, 0],
    [0.782639439, 0.868934604, 0.609130045, 0.735382741, 0.791813854, 0.73289348, 1],
    [0.092259657, -0.170181693, 0.377241104, 0.016386471, 0.003559288, -0.72366388, 1],
    [-0.296386122, 0.064905103, -0.066019814, 0.735382741, -0.711814778, 0.032737172, 0],
]
BOTH = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=map("-".join, TOKENIZERS))


def random_actions(count: int, spread: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(0)
    actions = np.clip(rng.normal(0.0, spread, (count, 7)), -1.0, 1.0)
    actions[:, 6] = rng.integers(0, 2, count)
    return actions


def spherical(xyz):
    x, y, z = np.moveaxis(xyz, -1, 0)
    flat = np.hypot(x, y)
    return np.stack([np.arctan2(flat, z), np.arctan2(y, x), np.hypot(flat, z)], -1)


# --- the published scheme -------------------------------------------------------------------------


def test_published_ids_and_their_actions_are_those_of_the_published_implementation():
    np.testing.assert_array_equal(PUBLISHED.encode(np.array(ACTIONS, float)), IDS)
    np.testing.assert_allclose(PUBLISHED.decode(np.array(IDS)), DECODED, atol=1e-9)


def test_published_edges_are_those_of_the_published_implementation():
    grid = GRIDS["bridge"]
    for axis, place, edge in (
        ("theta", 1, 0.948223754),
        ("theta", 15, 2.942635134),
        ("phi", 16, 0.110473635),
        ("r", 4, 0.56607143),
        ("roll", 8, -0.0082108),
        ("pitch", 1, -0.423629555),
        ("yaw", 15, 0.46578696),
    ):
        assert getattr(grid, axis)[place] == pytest.approx(edge, abs=1e-9)
    for axis in AXES:
        ends = getattr(grid, axis)[0], getattr(grid, axis)[-1]
        assert ends == pytest.approx(RANGES[axis], abs=1e-9)


@BOTH
def test_there_are_8194_ids_three_an_action(tokenizer):
    assert tokenizer.vocab_size == 8194 and tokenizer.tokens_per_action == 3
    places = [tokenizer.legal(place) for place in range(3)]
    assert places == [range(0, 4096), range(4096, 8192), range(8192, 8194)]
    with pytest.raises(ValueError, match="places 0, 1 and 2, not 3"):
        tokenizer.legal(3)


def test_an_id_is_theta_then_phi_then_r():
    grid, tokenizer = GRIDS["uniform"], TOKENIZERS["uniform", "published"]
    for theta, phi, r in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (15, 31, 3), (9, 20, 3)):
        t, p, length = grid.theta[theta], grid.phi[phi], grid.r[r]
        t, p, length = t + 0.01, p + 0.01, length + 0.01
        action = np.zeros(7)
        direction = np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)
        action[:3] = length * np.array(direction)
        assert tokenizer.encode(action)[0] == theta * 256 + phi * 8 + r


@pytest.mark.parametrize(("number", "opened"), [(0.0, 0), (0.49, 0), (0.5, 1), (1.0, 1), (-1.0, 0)])
def test_a_gripper_is_open_from_a_half_on(number, opened):
    for tokenizer in (PUBLISHED, CORRECTED):
        ids = tokenizer.encode(np.array([0, 0, 0, 0, 0, 0, number]))
        assert tokenizer.decode(ids)[6] == opened


def test_what_is_beyond_one_is_cut_off():
    far = random_actions(50, 3.0) * np.array([9, 9, 9, 9, 9, 9, 1])
    near = np.clip(far, -1.0, 1.0)
    near[:, 6] = far[:, 6]
    np.testing.assert_array_equal(PUBLISHED.encode(far), PUBLISHED.encode(near))


# --- what holds in both modes ---------------------------------------------------------------------


@BOTH
def test_every_id_comes_back_from_its_action(tokenizer):
    """But for translations that were cut off at the sides of the cube."""
    ids = np.stack(np.broadcast_arrays(np.arange(4096), 4096 + np.arange(4096), 8192), -1)
    actions = tokenizer.decode(ids)
    inside = np.abs(actions[:, :3]).max(-1) < 1.0
    again = tokenizer.encode(actions)
    assert inside.mean() > 0.5
    np.testing.assert_array_equal(again[inside], ids[inside])
    np.testing.assert_array_equal(again[:, 1:], ids[:, 1:])


@BOTH
def test_errors_stay_within_half_a_bin_of_each_axis_and_reach_it(tokenizer):
    actions = random_actions(60_000)
    ids = tokenizer.encode(actions)
    back = tokenizer.decode(ids)
    for number, axis in enumerate(ROTATION, start=3):
        edges = tokenizer.grid.edges(axis)
        bin_ = np.clip(np.searchsorted(edges, actions[:, number], side="right") - 1, 0, 15)
        share = np.abs(back[:, number] - actions[:, number]) / (np.diff(edges)[bin_] / 2)
        assert 0.99 < share.max() < 1.0 + 1e-9
    place = ids[:, 0] // 256, ids[:, 0] // 8 % 32, ids[:, 0] % 8
    special = np.isin(ids[:, 0], [tokenizer.zero_cell, *tokenizer.beside_zero])
    usual = ~special if tokenizer.mode == "corrected" else np.ones(len(ids), bool)
    where = spherical(actions[:, :3])
    for number, (axis, bin_) in enumerate(zip(TRANSLATION, place, strict=True)):
        middle = tokenizer.grid.centres(axis)[bin_]
        half = np.diff(tokenizer.grid.edges(axis))[bin_] / 2
        share = (np.abs(where[:, number] - middle) / half)[usual]
        assert 0.99 < share.max() < 1.0 + 1e-9


def test_the_corrected_mode_costs_no_accuracy():
    actions = random_actions(60_000)
    wrong = [np.abs(t.decode(t.encode(actions)) - actions) for t in (PUBLISHED, CORRECTED)]
    published, corrected = ((each[:, :6] ** 2).mean() for each in wrong)
    assert corrected < 1.01 * published
    lost = np.linalg.norm(wrong[1][:, :3], axis=1) - np.linalg.norm(wrong[0][:, :3], axis=1)
    assert lost.max() < 0.03 and lost[actions[:, :3].any(-1)].mean() <= 0.0


@BOTH
@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.floats(-1.0, 1.0), min_size=7, max_size=7))
def test_any_action_is_legal_tokens_whose_action_is_one_of_them_again(tokenizer, numbers):
    action = np.array(numbers)
    ids = tokenizer.encode(action)
    assert all(ids[place] in tokenizer.legal(place) for place in range(3))
    back = tokenizer.decode(ids)
    assert np.abs(back).max() <= 1.0
    np.testing.assert_array_equal(tokenizer.encode(back)[1:], ids[1:])


@BOTH
def test_whole_batches_of_any_shape_are_as_their_rows(tokenizer):
    """The original decodes the first row of a batch alone."""
    actions = random_actions(24).reshape(2, 3, 4, 7)
    ids = tokenizer.encode(actions)
    back = tokenizer.decode(ids)
    assert ids.shape == (2, 3, 4, 3) and back.shape == actions.shape
    for place in np.ndindex(2, 3, 4):
        np.testing.assert_array_equal(ids[place], tokenizer.encode(actions[place]))
        np.testing.assert_array_equal(back[place], tokenizer.decode(ids[place]))
    assert tokenizer.encode(np.empty((0, 7))).shape == (0, 3)
    assert tokenizer.decode(np.empty((2, 0, 3), int)).shape == (2, 0, 7)


@BOTH
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_give_tensors(tokenizer, kind):
    actions = torch.tensor(random_actions(20), dtype=kind)
    ids = tokenizer.encode(actions)
    assert ids.dtype == torch.int64
    np.testing.assert_array_equal(ids, tokenizer.encode(actions.double().numpy()))
    back = tokenizer.decode(ids.to(torch.int32))
    assert back.dtype == torch.float32
    np.testing.assert_allclose(back, tokenizer.decode(ids.numpy()), rtol=1e-6)


@BOTH
def test_a_tokenizer_comes_back_from_json(tokenizer):
    again = SpatialActionTokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    actions = random_actions(2000)
    ids = tokenizer.encode(actions)
    np.testing.assert_array_equal(again.encode(actions), ids)
    np.testing.assert_allclose(again.decode(ids), tokenizer.decode(ids), atol=1e-12)
    assert again.mode == tokenizer.mode and again.grid.bins == tokenizer.grid.bins


def test_other_numbers_of_bins_have_other_ids():
    grid = ActionGrid.uniform({"theta": 4, "phi": 6, "r": 3, "roll": 3, "pitch": 5, "yaw": 7})
    for mode in MODES:
        tokenizer = SpatialActionTokenizer(grid, mode)
        assert tokenizer.vocab_size == 72 + 105 + 2
        assert tokenizer.legal(1) == range(72, 177)
        ids = tokenizer.encode(random_actions(500))
        tokenizer.decode(ids)
    assert not tokenizer.decode(tokenizer.encode(np.zeros(7))).any()


# --- faults of the original -----------------------------------------------------------------------


def test_the_published_scheme_cannot_say_no_motion_and_the_corrected_one_can():
    for name in GRIDS:
        moved = TOKENIZERS[name, "published"]
        assert moved.decode(moved.encode(np.zeros(7)))[2] > 0.09
        still = TOKENIZERS[name, "corrected"]
        for zero in (0.0, -0.0):
            action = np.full(7, zero)
            assert not still.decode(still.encode(action)).any()
        assert tuple(still.encode(np.zeros(7))[:2]) == still.hold
    with pytest.raises(ValueError, match='no word for "no motion".*corrected'):
        _ = moved.hold


def test_one_axis_turns_while_the_others_are_still():
    for number in (3, 4, 5):
        action = np.zeros(7)
        action[number] = 0.4
        back = CORRECTED.decode(CORRECTED.encode(action))
        assert np.flatnonzero(back).tolist() == [number]


def test_no_motion_keeps_the_id_that_published_checkpoints_learnt_for_zeros():
    assert CORRECTED.hold[0] == PUBLISHED.encode(np.zeros(7))[0]


def test_what_is_nearer_to_zero_than_to_its_cell_is_no_motion_and_nothing_else_is():
    small = random_actions(20_000, 0.08)
    ids = CORRECTED.encode(small)[:, 0]
    held = ids == CORRECTED.hold[0]
    assert 0.05 < held.mean() < 0.95
    back = CORRECTED.decode(PUBLISHED.encode(small))[:, :3]  # the middle of the cell that it is in
    length, apart = (np.linalg.norm(each, axis=1) for each in (small[:, :3], small[:, :3] - back))
    cell = PUBLISHED.encode(small)[:, 0]
    known = cell != CORRECTED.zero_cell
    near = (cell % 8 == 0) & (length < apart)
    np.testing.assert_array_equal(held[known], near[known])
    assert np.linalg.norm(small[held, :3], axis=1).max() < GRIDS["bridge"].edges("r")[1]


def test_the_padding_token_of_the_original_is_refused_not_turned():
    """It fills up with id 0, which its rotations and grippers take for their first one."""
    with pytest.raises(ValueError, match=r"id 0 at place 1 \(rotation\).*4096 to 8191"):
        PUBLISHED.decode(np.zeros((1, 3), int))
    first = PUBLISHED.decode(np.array([0, 4096, 8192]))
    np.testing.assert_allclose(first[3:6], [-0.74348146, -0.71181478, -0.72366388], atol=1e-8)


def test_chunks_that_end_early_are_filled_up_with_no_motion():
    ids = CORRECTED.encode(random_actions(6).reshape(3, 2, 7))
    chunks = CORRECTED.pad(ids, 4)
    assert chunks.shape == (3, 4, 3)
    back = CORRECTED.decode(chunks)
    np.testing.assert_array_equal(chunks[:, :2], ids)
    assert not back[:, 2:, :6].any()
    np.testing.assert_array_equal(back[:, 2:, 6], back[:, [1, 1], 6])
    np.testing.assert_array_equal(CORRECTED.pad(chunks, 4), chunks)
    np.testing.assert_array_equal(CORRECTED.pad(torch.tensor(ids), 4), chunks)
    with pytest.raises(ValueError, match='no word for "no motion"'):
        PUBLISHED.pad(ids, 4)
    for wrong in (ids[:, :0], ids[..., :2], ids[0, 0]):
        with pytest.raises(ValueError, match=r"give \[\.\.\., 1 to 4, 3\]"):
            CORRECTED.pad(wrong, 4)


@pytest.mark.parametrize("whole", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_generated_ids_count_up_to_their_end(whole, more):
    actions = random_actions(4)
    actions[:, 6] = [1, 0, 1, 1]
    ids = CORRECTED.encode(actions).reshape(-1)
    row = np.full(14, ENDED)
    row[: 3 * whole + more] = [*ids, 5, 5][: 3 * whole + more]
    full = np.concatenate([ids, [ENDED] * 2])
    chunks = CORRECTED.complete(np.stack([full, row]), 4, gripper=1.0)
    back = CORRECTED.decode(chunks)
    np.testing.assert_array_equal(chunks[0].reshape(-1), ids)
    np.testing.assert_array_equal(chunks[1, :whole].reshape(-1), ids[: 3 * whole])
    assert not back[1, whole:, :6].any()
    assert (back[1, whole:, 6] == (actions[whole - 1, 6] if whole else 1.0)).all()
    if not whole:
        with pytest.raises(ValueError, match="row 1 of the generated ids has no whole action"):
            CORRECTED.complete(np.stack([full, row]), 4)


def test_what_comes_after_the_end_does_not_count():
    ids = CORRECTED.encode(random_actions(4)).reshape(-1)
    ids[4] = ENDED
    chunk = CORRECTED.complete(ids, 4)
    np.testing.assert_array_equal(chunk[0], ids[:3])
    assert not CORRECTED.decode(chunk)[1:, :6].any()


# --- what is refused ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([8194, 4096, 8192], r"id 8194 at place 0 \(translation\): only 0 to 4095"),
        ([-1, 4096, 8192], r"id -1 at place 0 \(translation\)"),
        ([0, 8192, 8192], r"id 8192 at place 1 \(rotation\): only 4096 to 8191"),
        ([0, 4096, 8194], r"id 8194 at place 2 \(gripper\): only 8192 to 8193"),
        ([[0, 4096, 8192], [0, 4096, 7]], r"id 7 at place 2 \(gripper\) of action 1"),
        ([[[0, 4096, 8192]], [[4096, 4096, 7]]], r"id 4096 at place 0 .* of action \[1, 0\]"),
        ([0, 4096], r"\[\.\.\., 3\], not \[2\]"),
        ([0.0, 4096.0, 8192.0], "type float64, not whole numbers"),
    ],
)
def test_ids_that_are_none_are_named_with_their_place(tokenizer, ids, said):
    for kind in (np.array, torch.tensor):
        with pytest.raises(ValueError, match=said.replace("float64", "float(32|64)")):
            tokenizer.decode(kind(ids))


def test_actions_that_are_none_are_refused():
    for wrong, said in (
        (np.zeros(6), r"actions are \[\.\.\., 7\], not \[6\]"),
        (np.array(0.0), "7"),
        (np.array(["a"] * 7), "not numbers"),
        (np.array([[0.0] * 7, [0, 0, np.nan, 0, 0, 0, 0]]), "action 1 is nan at number 2"),
        (np.full(7, np.inf), "action 0 is inf"),
    ):
        with pytest.raises(ValueError, match=said):
            CORRECTED.encode(wrong)


def test_grids_that_are_none_are_refused():
    good = GRIDS["bridge"].to_dict()
    assert ActionGrid.from_dict(good) == GRIDS["bridge"]

    def refused(said, **bins):
        told = json.loads(json.dumps(good))
        for name, edges in bins.items():
            part = "translation" if name in TRANSLATION else "rotation"
            told[part][f"{name}_bins"] = edges
        with pytest.raises(ValueError, match=said):
            ActionGrid.from_dict(told)

    refused("edges of roll do not increase", roll=[-1, 0, 0, 1])
    refused("an edge of r is not within 0 to 1.732", r=[0, 1, 2])
    refused("an edge of yaw is not within", yaw=[-1, math.nan, 1])
    refused("theta has 2 edges", theta=[0, 1])
    refused("edges of phi are no list of numbers", phi="abc")
    for wrong in (None, [], {"translation": {}}):
        with pytest.raises(ValueError, match="translation.theta_bins"):
            ActionGrid.from_dict(wrong)
    with pytest.raises(ValueError, match="by mode and grid"):
        SpatialActionTokenizer.from_dict({"grid": good})
    with pytest.raises(ValueError, match="no mode 'fixed'.*published or corrected"):
        SpatialActionTokenizer(GRIDS["bridge"], "fixed")


def test_distributions_that_give_no_grid_are_refused_with_the_cure():
    def with_roll(mu, sigma, min_sigma=0.0):
        return ActionGrid.gaussian({**BRIDGE, "roll": Gaussian(mu, sigma)}, min_sigma=min_sigma)

    for mu, sigma, said in (
        (0.0, 0.0, "roll .*needs min_sigma"),
        (0.0, math.nan, "sigma must be above 0"),
        (50.0, 0.1, "roll do not increase: .* raise min_sigma"),
    ):
        with pytest.raises(ValueError, match=said):
            with_roll(mu, sigma)
    assert with_roll(0.0, 0.0, min_sigma=0.1).roll[8] == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="zero lies in the outermost bin of a rotation"):
        with_roll(0.9, 0.02).centred()
    for told, said in (({}, "no normal distribution of theta"), ({"theta": 3}, "mu and sigma")):
        with pytest.raises(ValueError, match=said):
            ActionGrid.gaussian(told)
