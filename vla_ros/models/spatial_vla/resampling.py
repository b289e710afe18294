"""Embeddings of action tokens from one grid to another, as when a model moves to a new robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.models.spatial_vla.grid import RANGES, ROTATION, TRANSLATION, ActionGrid
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer

_GRIPPERS = 2


@dataclass(frozen=True)
class ResamplingError:
    """What resampling did to the embeddings of one part of an action.

    Args:
        centre_mean, centre_max: how far the place that an embedding now stands for lies from the
            middle of its cell, in shares of the axes' ranges (the largest of the three); found by
            resampling the old cells' middles as if they were embeddings.
        there_and_back: root mean square of what embeddings lose on the way to the new grid and
            back, as a share of how much they differ among themselves.
    """

    centre_mean: float
    centre_max: float
    there_and_back: float


def resample_embeddings(
    embeddings: Any, old: SpatialActionTokenizer, new: SpatialActionTokenizer
) -> tuple[Any, dict[str, ResamplingError]]:
    """Embeddings for the tokens of `new`, from those of `old`.

    Each new cell gets what the old ones have at its middle: linear between the old middles along
    each axis, and straight on beyond the outermost. The gripper's rows, and that of "no motion",
    stay as they are.

    Args:
        embeddings: floating [old.vocab_size, D], or without the two rows of the gripper.

    Returns:
        Embeddings of the same kind with as many rows as `new` needs, and the errors of
        "translation" and "rotation".

    Raises:
        ValueError: another number of rows, or numbers that are not finite.
    """
    table = embeddings.detach().cpu().double() if hasattr(embeddings, "detach") else embeddings
    rows = np.asarray(table)
    parts = old.vocab_size - _GRIPPERS
    if rows.ndim != 2 or len(rows) not in (parts, old.vocab_size):
        raise ValueError(
            f"embeddings are {list(rows.shape)}: the old grid has {old.vocab_size} tokens "
            f"({parts} without the gripper), a row each"
        )
    if not np.isfinite(rows).all():
        raise ValueError("embeddings hold NaN or infinity: nothing can be resampled from them")
    kind = rows.dtype
    rows = rows.astype(np.float64)
    made, errors = [], {}
    for place, (part, axes) in enumerate((("translation", TRANSLATION), ("rotation", ROTATION))):
        ids = old.legal(place)
        mine = rows[ids.start : ids.stop]
        if part == "translation" and old.mode == "corrected":
            mine = mine.copy()  # "no motion" is no place, so its neighbours are not mixed with it
            mine[old.zero_cell] = _from_its_ring(mine, old)
        there = _between(mine, old.grid, new.grid, axes)
        errors[part] = _error(mine, there, old.grid, new.grid, axes)
        if part == "translation" and new.mode == "corrected":
            there[new.zero_cell] = rows[old.zero_cell]
        made.append(there)
    made.append(rows[parts:])
    result = np.concatenate(made)
    if not hasattr(embeddings, "detach"):
        return result.astype(kind), errors
    import torch

    return torch.from_numpy(result).to(embeddings), errors


def resample_model(
    model: Any, old: SpatialActionTokenizer, new: SpatialActionTokenizer
) -> dict[str, dict[str, ResamplingError]]:
    """Move a SpatialVLA to another grid in place: the embeddings by which it hears action tokens,
    and the rows of its output by which it says them.

    Args:
        model: `SpatialVLAForConditionalGeneration`.

    Returns:
        As `resample_embeddings`, of "embeddings" and "output".

    Raises:
        ValueError: the grids have other numbers of tokens: the vocabulary would be another.
    """
    import torch

    counts = [[old.legal(place), new.legal(place)] for place in range(3)]
    if any(one != other for one, other in counts) or old.vocab_size != new.vocab_size:
        raise ValueError(
            f"the new grid has {new.vocab_size} tokens ({_bins(new)}), the model's "
            f"{old.vocab_size} ({_bins(old)}): fit one with as many bins by --bins"
        )
    first = model.config.action_token_begin_idx
    rows = slice(first, first + old.vocab_size)
    heard = model.get_input_embeddings().weight
    said = model.get_output_embeddings().weight
    spatial = model.spatial_embed_tokens
    tables = {"output": said[rows]}
    if spatial is not None:
        tables["embeddings"] = spatial.weight
    elif heard is not said:
        tables["embeddings"] = heard[rows]
    errors = {}
    with torch.no_grad():
        for name, table in tables.items():
            moved, errors[name] = resample_embeddings(table, old, new)
            table.copy_(moved)
    return errors


def _bins(tokenizer: SpatialActionTokenizer) -> str:
    return " x ".join(str(count) for count in tokenizer.grid.bins.values())


def _from_its_ring(rows: np.ndarray, old: SpatialActionTokenizer) -> np.ndarray:
    """What the cells around the pole have at the one whose id means "no motion": [D]."""
    bins, centres = old.grid.bins, old.grid.centres("phi")
    place = old.zero_cell // bins["r"] % bins["phi"]
    ring = rows.reshape(bins["theta"], bins["phi"], bins["r"], -1)[0, :, 0]
    others, ring = np.delete(centres, place), np.delete(ring, place, 0)
    if len(others) < 2:
        return ring[0]
    return (_weights(others, centres[place : place + 1]) @ ring)[0]


def _between(rows: np.ndarray, old: ActionGrid, new: ActionGrid, axes: Sequence[str]) -> np.ndarray:
    """Rows [cells of old, D] at the middles of new: [cells of new, D]."""
    values = rows.reshape(*(old.bins[axis] for axis in axes), -1)
    for number, axis in enumerate(axes):
        weights = _weights(old.centres(axis), new.centres(axis))
        values = np.moveaxis(np.tensordot(weights, values, (1, number)), 0, number)
    return values.reshape(-1, rows.shape[1])


def _weights(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """[new, old]: how much of each old value is in each new one."""
    left = np.clip(np.searchsorted(old, new, side="right") - 1, 0, len(old) - 2)
    share = (new - old[left]) / (old[left + 1] - old[left])
    weights = np.zeros((len(new), len(old)))
    row = np.arange(len(new))
    weights[row, left], weights[row, left + 1] = 1.0 - share, share
    return weights


def cell_middles(grid: ActionGrid, axes: Sequence[str]) -> np.ndarray:
    """[cells, 3], the middle of every cell along three axes, in shares 0..1 of their ranges."""
    shares = [(grid.centres(a) - RANGES[a][0]) / (RANGES[a][1] - RANGES[a][0]) for a in axes]
    return np.stack(np.meshgrid(*shares, indexing="ij"), axis=-1).reshape(-1, 3)


def _error(
    rows: np.ndarray, there: np.ndarray, old: ActionGrid, new: ActionGrid, axes: Sequence[str]
) -> ResamplingError:
    middles = _between(cell_middles(old, axes), old, new, axes)
    off = np.abs(middles - cell_middles(new, axes)).max(-1)
    lost = _between(there, new, old, axes) - rows
    spread = np.sqrt(((rows - rows.mean(0)) ** 2).mean())
    return ResamplingError(
        centre_mean=float(off.mean()),
        centre_max=float(off.max()),
        there_and_back=float(np.sqrt((lost**2).mean()) / spread) if spread > 0.0 else 0.0,
    )
