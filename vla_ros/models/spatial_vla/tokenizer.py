"""Actions of an end effector as three tokens each: where it goes, how it turns, its gripper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vla_ros.models.spatial_vla.grid import ROTATION, TRANSLATION, ActionGrid

MODES = ("published", "corrected")
ENDED = -1  # in generated ids: no action token here, nor after it
_PLACES = ("translation", "rotation", "gripper")
_GRIPPERS = 2
_OPEN = 0.5  # a gripper's number from here on is open


class SpatialActionTokenizer:
    """Actions [x, y, z, roll, pitch, yaw, gripper] as ids [translation, rotation, gripper].

    The first six numbers are normalised to -1..1 and cut off there; the gripper is 1 (open, from
    0.5 on) or 0. A translation's id is that of its cell, theta, phi, r from the slowest to the
    fastest; those of rotations (roll, pitch, yaw) follow, and then closed and open. An id decodes
    to the middle of its cell's bins, a translation cut off at -1..1.

    Modes:
        published: exactly the published scheme. It has no word for "no motion": zeros come back as
            the middle of the cell that they lie in.
        corrected: zeros come back as zeros. Zero is in the middle of a bin of roll, pitch and yaw
            (`ActionGrid.centred`). The translation id that the published scheme gives zeros, a
            sliver at the pole, means "no motion" instead; whatever is nearer to zero than to the
            middle of its cell gets it, and what lay in the sliver goes to the one beside it.

    Args:
        grid: edges of the bins.
        mode: "published" or "corrected".

    Raises:
        ValueError: no such mode.
    """

    tokens_per_action = 3

    def __init__(self, grid: ActionGrid, mode: str = "corrected") -> None:
        if mode not in MODES:
            raise ValueError(f"no mode {mode!r} of action tokens: choose {' or '.join(MODES)}")
        self.mode = mode
        self.grid = grid.centred() if mode == "corrected" else grid
        bins = self.grid.bins
        sizes = [math.prod(bins[axis] for axis in axes) for axes in (TRANSLATION, ROTATION)]
        self._starts = np.cumsum([0, *sizes])
        self.vocab_size = int(self._starts[-1]) + _GRIPPERS
        # Between bins; what is exactly on an edge belongs to the bin above.
        self._inner = {axis: self.grid.edges(axis)[1:-1] for axis in bins}
        theta, phi, r = self._cells(TRANSLATION)
        directions = np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)
        self._translations = np.clip(r[:, None] * np.stack(directions, -1), -1.0, 1.0)
        self._rotations = np.stack(self._cells(ROTATION), -1)
        # The id that the published scheme gives zeros, and those beside it around the pole, the
        # nearer of which takes what lies in it.
        self.zero_cell = zero = int(self._translation_cell(np.zeros((1, 3)))[0])
        phi_bin = zero // bins["r"] % bins["phi"]
        step = np.array([-1, 1])
        self.beside_zero = zero + bins["r"] * ((phi_bin + step) % bins["phi"] - phi_bin)
        self._slivers = self._translations[self.beside_zero]
        if mode == "corrected":
            self._translations[zero] = 0.0
        for table in (self._translations, self._rotations):
            table.flags.writeable = False

    def _cells(self, axes: tuple[str, ...]) -> list[np.ndarray]:
        """Middle of every cell along three axes, the last one the fastest."""
        centres = np.meshgrid(*map(self.grid.centres, axes), indexing="ij")
        return [each.reshape(-1) for each in centres]

    @property
    def hold(self) -> tuple[int, int]:
        """Ids of no translation and no rotation.

        Raises:
            ValueError: the published scheme has none.
        """
        if self.mode != "corrected":
            raise ValueError(
                'the published action tokens have no word for "no motion": use mode="corrected", '
                "or leave out the actions that are not there"
            )
        return self.zero_cell, int(self._starts[1] + self._rotation_cell(np.zeros((1, 3)))[0])

    def legal(self, place: int) -> range:
        """The ids that may stand at place 0 (translation), 1 (rotation), 2 (gripper) of an action.

        Raises:
            ValueError: an action has no such place.
        """
        ends = (*map(int, self._starts), self.vocab_size)
        if not 0 <= place < self.tokens_per_action:
            raise ValueError(f"an action has places 0, 1 and 2, not {place}")
        return range(ends[place], ends[place + 1])

    def encode(self, actions: Any) -> Any:
        """Ids of actions.

        Args:
            actions: [..., 7], an array or a tensor of any floating type.

        Returns:
            int64 [..., 3], on the same device.

        Raises:
            ValueError: another shape, or numbers that are not finite.
        """
        values = _array(actions, 7, "actions").astype(np.float64, copy=False)
        rows = values.reshape(-1, 7)
        if not np.isfinite(rows).all():
            row, number = np.argwhere(~np.isfinite(rows))[0]
            raise ValueError(f"action {row} is {rows[row, number]} at number {number}: not finite")
        ids = np.empty((len(rows), 3), np.int64)
        motion = np.clip(rows[:, :6], -1.0, 1.0)
        ids[:, 0] = self._translation_cell(motion[:, :3])
        if self.mode == "corrected":
            self._find_zeros(ids[:, 0], motion[:, :3])
        ids[:, 1] = self._starts[1] + self._rotation_cell(motion[:, 3:])
        ids[:, 2] = self._starts[2] + (rows[:, 6] >= _OPEN)
        return _like(ids.reshape(*values.shape[:-1], 3), actions)

    def _translation_cell(self, xyz: np.ndarray) -> np.ndarray:
        x, y, z = xyz.T
        flat = x * x + y * y
        theta = np.arctan2(np.sqrt(flat), z)
        return self._cell(TRANSLATION, theta, np.arctan2(y, x), np.sqrt(flat + z * z))

    def _rotation_cell(self, rpy: np.ndarray) -> np.ndarray:
        return self._cell(ROTATION, *rpy.T)

    def _cell(self, axes: tuple[str, ...], *values: np.ndarray) -> np.ndarray:
        cell = np.zeros(len(values[0]), np.int64)
        for axis, each in zip(axes, values, strict=True):
            inner = self._inner[axis]
            cell *= len(inner) + 1
            cell += np.searchsorted(inner, each, side="right")
        return cell

    def _find_zeros(self, cells: np.ndarray, xyz: np.ndarray) -> None:
        """Put what is nearest to zero there, in place, and nothing else."""
        near = np.flatnonzero(cells % self.grid.bins["r"] == 0)  # farther out nothing is
        points, own = xyz[near], cells[near]
        sliver = own == self.zero_cell
        apart = ((points[sliver, None] - self._slivers) ** 2).sum(-1)
        own[sliver] = self.beside_zero[apart.argmin(-1)]
        middle = self._translations[own]
        nothing = 2.0 * (points * middle).sum(-1) < (middle * middle).sum(-1)
        cells[near] = np.where(nothing, self.zero_cell, own)

    def decode(self, ids: Any) -> Any:
        """Actions of ids.

        Args:
            ids: integers [..., 3], an array or a tensor.

        Returns:
            [..., 7], normalised as in `encode`: a float64 array, or a float32 tensor on the same
            device.

        Raises:
            ValueError: another shape or type, or an id that may not stand where it does.
        """
        values = _integers(ids)
        if values.ndim == 0 or values.shape[-1] != 3:
            raise ValueError(f"ids of actions are [..., 3], not {list(values.shape)}")
        self._check(values)
        actions = np.empty((*values.shape[:-1], 7))
        actions[..., :3] = self._translations[values[..., 0]]
        actions[..., 3:6] = self._rotations[values[..., 1] - self._starts[1]]
        actions[..., 6] = values[..., 2] - self._starts[2]
        return _like(actions, ids)

    def _check(self, ids: np.ndarray) -> None:
        ends = np.array([*self._starts[1:], self.vocab_size])
        wrong = (ids < self._starts) | (ids >= ends)
        if not wrong.any():
            return
        *row, place = map(int, np.argwhere(wrong)[0])
        legal = self.legal(place)
        where = f" of action {row if len(row) > 1 else row[0]}" if row else ""
        raise ValueError(
            f"id {int(ids[tuple(row)][place])} at place {place} ({_PLACES[place]}){where}: only "
            f"{legal.start} to {legal.stop - 1} may stand there"
        )

    def pad(self, ids: Any, length: int) -> Any:
        """Chunks that end early, as chunks of `length` actions: no motion, the gripper as it was.

        Args:
            ids: [..., n, 3] with n from 1 to `length`, an array or a tensor.

        Returns:
            int64 [..., length, 3].

        Raises:
            ValueError: in the published mode, which has no word for that; or another shape.
        """
        values = _integers(ids)
        if values.ndim < 2 or values.shape[-1] != 3 or not 1 <= values.shape[-2] <= length:
            raise ValueError(f"ids are {list(values.shape)}: give [..., 1 to {length}, 3]")
        missing = length - values.shape[-2]
        if missing:
            held = np.empty((*values.shape[:-2], missing, 3), np.int64)
            held[..., :2] = self.hold
            held[..., 2] = values[..., -1:, 2]
            values = np.concatenate([values, held], axis=-2)
        self._check(values)
        return _like(values, ids)

    def complete(self, ids: Any, length: int, gripper: float | None = None) -> Any:
        """Generated ids as chunks of `length` actions, whatever was generated.

        A row counts up to its first `ENDED`; of an action that is not whole nothing counts. The
        rest is no motion, and the gripper as it was last.

        Args:
            ids: [..., L], one after the other; ids of text are to be told as `ENDED`.
            gripper: where a row has no whole action, the gripper's number; None: that is an error.

        Returns:
            int64 [..., length, 3].

        Raises:
            ValueError: a row ends early in the published mode, or has no action and there is no
                `gripper`; an id that may not stand where it does.
        """
        values = _integers(ids)
        if values.ndim < 1:
            raise ValueError("generated ids are [..., L], not a single one")
        given = values[..., : 3 * length]
        room = 3 * length - given.shape[-1]
        pad = np.full((*given.shape[:-1], room), ENDED, np.int64)
        flat = np.concatenate([given, pad], axis=-1).reshape(-1, 3 * length)
        there = np.logical_and.accumulate(flat != ENDED, axis=-1)
        rows = flat.reshape(-1, length, 3).copy()
        whole = there.reshape(rows.shape).all(-1)
        if not whole.all():
            rows[~whole, :2] = self.hold
            if gripper is None and not whole[:, :1].all():
                raise ValueError(
                    f"row {int(np.argmin(whole[:, 0]))} of the generated ids has no whole action: "
                    "tell the gripper's number, which it is to keep"
                )
            first = self._starts[2] + (0 if gripper is None else int(gripper >= _OPEN))
            last = np.maximum(whole.sum(-1) - 1, 0)
            kept = np.where(whole[:, 0], rows[np.arange(len(rows)), last, 2], first)
            rows[..., 2] = np.where(whole, rows[..., 2], kept[:, None])
        chunks = rows.reshape(*given.shape[:-1], length, 3)
        self._check(chunks)
        return _like(chunks, ids)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"mode": self.mode, "grid": self.grid.to_dict()}

    @classmethod
    def from_dict(cls, values: Any) -> SpatialActionTokenizer:
        """From what `to_dict` returns.

        Raises:
            ValueError: something is missing or wrong.
        """
        if not isinstance(values, dict) or not {"mode", "grid"} <= values.keys():
            raise ValueError("action tokens are told by mode and grid: one of them is missing")
        return cls(ActionGrid.from_dict(values["grid"]), values["mode"])


def _array(values: Any, last: int, what: str) -> np.ndarray:
    """A tensor or an array as an array [..., last] of numbers."""
    if hasattr(values, "detach"):  # a tensor; torch itself is not needed for arrays
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} are of type {array.dtype}, not numbers")
    if array.ndim == 0 or array.shape[-1] != last:
        raise ValueError(f"{what} are [..., {last}], not {list(array.shape)}")
    return array


def _integers(ids: Any) -> np.ndarray:
    array = np.asarray(ids.detach().cpu() if hasattr(ids, "detach") else ids)
    if array.dtype.kind not in "iu":
        raise ValueError(f"ids are of type {array.dtype}, not whole numbers")
    return array.astype(np.int64)


def _like(array: np.ndarray, given: Any) -> Any:
    """A result as the same kind as what was given, on its device."""
    if not hasattr(given, "detach"):
        return array
    import torch

    kind = torch.int64 if array.dtype == np.int64 else torch.float32
    return torch.from_numpy(array).to(device=given.device, dtype=kind)
