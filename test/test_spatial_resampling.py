"""Embeddings of spatial action tokens on their way to another robot's grid."""

import numpy as np
import pytest
import torch
from test_spatial_tokenizer import BRIDGE

from vla_ros.models.spatial_vla.grid import ROTATION, TRANSLATION, ActionGrid
from vla_ros.models.spatial_vla.resampling import cell_middles, resample_embeddings
from vla_ros.models.spatial_vla.tokenizer import MODES, SpatialActionTokenizer

# Of the files that are published with SpatialVLA: the grid that it was trained on first, and that
# of one of its robots.
PRETRAINED = {
    "theta": {"mu": 1.8739714125737532, "sigma": 0.779843323370511},
    "phi": {"mu": 0.08796911369129973, "sigma": 1.6921243756107702},
    "r": {"mu": 0.5480865478719801, "sigma": 0.34749763559260854},
    "roll": {"mu": -0.016498618557435858, "sigma": 0.3804899850542066},
    "pitch": {"mu": 0.028462961721089787, "sigma": 0.29912182728829634},
    "yaw": {"mu": -0.004913600039079129, "sigma": 0.39022979006490277},
}
FRACTAL = {
    "theta": {"mu": 1.6157435178756714, "sigma": 0.5976657271385193},
    "phi": {"mu": 0.01511789858341217, "sigma": 1.1926764249801636},
    "r": {"mu": 0.45575833320617676, "sigma": 0.3247791528701782},
    "roll": {"mu": -0.15983529388904572, "sigma": 0.3054116666316986},
    "pitch": {"mu": 0.07137611508369446, "sigma": 0.31517940759658813},
    "yaw": {"mu": -0.010925553739070892, "sigma": 0.3019287586212158},
}
OLD, NEW = ActionGrid.gaussian(PRETRAINED), ActionGrid.gaussian(FRACTAL)
PARTS = {"translation": TRANSLATION, "rotation": ROTATION}


def places(grid: ActionGrid) -> np.ndarray:
    """As embeddings: of each token of motion the middle of its cell."""
    return np.concatenate([cell_middles(grid, axes) for axes in PARTS.values()])


def scrambled(grid: ActionGrid, new: ActionGrid, axes) -> np.ndarray:
    """What the original makes of the middles: its np.meshgrid lists the places in another order
    (indexing="xy") than the embeddings, which it pads by repeating the outermost."""
    old_edges, new_edges = (
        [np.concatenate([[0.0], np.unique(cell_middles(g, axes)[:, i]), [1.0]]) for i in range(3)]
        for g in (grid, new)
    )
    m, n, k = (len(edges) for edges in old_edges)
    values = cell_middles(grid, axes).reshape(m - 2, n - 2, k - 2, 3)
    values = np.pad(values, ((1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
    table = values.reshape(n, m, k, 3).transpose(1, 0, 2, 3)  # at the place that it is listed with
    for number, (old, there) in enumerate(zip(old_edges, new_edges, strict=True)):
        weights = np.stack([np.interp(there, old, row) for row in np.eye(len(old))], 1)
        table = np.moveaxis(np.tensordot(weights, table, (1, number)), 0, number)
    listed = table.transpose(1, 0, 2, 3).reshape(m, n, k, 3)
    return listed[1:-1, 1:-1, 1:-1].reshape(-1, 3)


@pytest.mark.parametrize("mode", MODES)
def test_each_cell_gets_the_embedding_of_its_place(mode):
    old, new = SpatialActionTokenizer(OLD, mode), SpatialActionTokenizer(NEW, mode)
    made, errors = resample_embeddings(places(old.grid).astype(np.float32), old, new)
    off = np.abs(made - places(new.grid))
    if mode == "corrected":  # "no motion" is no place
        off[new.zero_cell] = 0.0
    assert made.dtype == np.float32 and off.max() < 1e-5
    for error in errors.values():
        assert error.centre_max <= 0.0012 and error.centre_mean <= error.centre_max
        assert 0.0 <= error.there_and_back < 2.0


@pytest.mark.parametrize(("part", "mean"), [("translation", 0.17), ("rotation", 0.12)])
def test_the_original_puts_embeddings_at_other_places(part, mean):
    axes = PARTS[part]
    wrong = np.linalg.norm(scrambled(OLD, NEW, axes) - cell_middles(NEW, axes), axis=1)
    assert wrong.mean() > mean


def test_the_same_grid_changes_nothing():
    for mode in MODES:
        tokenizer = SpatialActionTokenizer(OLD, mode)
        embeddings = np.random.default_rng(0).normal(size=(8194, 5))
        made, errors = resample_embeddings(embeddings, tokenizer, tokenizer)
        np.testing.assert_allclose(made, embeddings, atol=1e-12)
        assert max(error.there_and_back for error in errors.values()) < 1e-12


def test_no_motion_and_the_gripper_keep_their_embeddings():
    old = SpatialActionTokenizer(ActionGrid.gaussian(BRIDGE), "corrected")
    new = SpatialActionTokenizer(
        ActionGrid.gaussian({**FRACTAL, "phi": {"mu": 1.0, "sigma": 0.8}}), "corrected"
    )
    assert old.zero_cell != new.zero_cell
    embeddings = np.random.default_rng(0).normal(size=(8194, 5))
    embeddings[old.zero_cell] = 100.0
    made, _ = resample_embeddings(embeddings, old, new)
    np.testing.assert_array_equal(made[new.zero_cell], embeddings[old.zero_cell])
    np.testing.assert_array_equal(made[8192:], embeddings[8192:])
    assert np.abs(np.delete(made, new.zero_cell, 0)).max() < 50.0  # it leaked into no other


def test_a_published_model_starts_the_corrected_one_from_what_it_learnt_for_zeros():
    old, new = SpatialActionTokenizer(OLD, "published"), SpatialActionTokenizer(NEW, "corrected")
    embeddings = np.random.default_rng(0).normal(size=(8194, 5))
    made, _ = resample_embeddings(embeddings, old, new)
    zero = old.encode(np.zeros(7))[0]
    np.testing.assert_array_equal(made[new.hold[0]], embeddings[zero])


def test_more_bins_are_filled_in_between():
    old = SpatialActionTokenizer(ActionGrid.uniform(), "published")
    fine = ActionGrid.uniform({"theta": 20, "phi": 40, "r": 10, "roll": 9, "pitch": 9, "yaw": 9})
    new = SpatialActionTokenizer(fine, "published")
    made, _ = resample_embeddings(places(old.grid), old, new)  # without the gripper's rows
    assert len(made) == new.vocab_size - 2
    np.testing.assert_allclose(made, places(new.grid), atol=1e-12)


def test_tensors_give_tensors_of_their_type():
    tokenizer, new = (SpatialActionTokenizer(grid, "corrected") for grid in (OLD, NEW))
    weights = torch.nn.Embedding(8194, 4, dtype=torch.bfloat16).weight
    made, _ = resample_embeddings(weights, tokenizer, new)
    assert made.dtype == torch.bfloat16 and made.shape == (8194, 4) and not made.requires_grad


def test_embeddings_of_another_grid_are_refused():
    tokenizer = SpatialActionTokenizer(OLD, "published")
    with pytest.raises(ValueError, match=r"are \[100, 3\]: the old grid has 8194 tokens"):
        resample_embeddings(np.zeros((100, 3)), tokenizer, tokenizer)
    with pytest.raises(ValueError, match="NaN"):
        resample_embeddings(np.full((8194, 3), np.nan), tokenizer, tokenizer)
