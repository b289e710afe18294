"""Samples of several datasets as one, drawn by weight: the same by the same seed, wherever a run
goes on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


class Samples(Protocol):
    """Of one dataset, as `samples.SpatialSamples`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


class Draw(NamedTuple):
    """One sample to be drawn: which of all draws of an epoch it is, of which dataset, which row."""

    seed: int
    part: int
    row: int


class Mixture(Dataset):
    """Samples of datasets; indexed by a `Draw`, which also seeds what is random in a sample.

    Args:
        parts: samples by the dataset's name.
    """

    def __init__(self, parts: Mapping[str, Samples]) -> None:
        if not parts:
            raise ValueError("a mixture of no dataset: there is nothing to learn from")
        self.names, self._parts = tuple(parts), list(parts.values())
        self.lengths = tuple(map(len, self._parts))
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, draw: Draw | int) -> dict[str, Tensor]:
        """The sample of a draw; of a number, that row of all parts one after the other."""
        if not isinstance(draw, Draw):
            part = int(np.searchsorted(self._ends, draw, side="right"))
            before = int(self._ends[part - 1]) if part else 0
            draw = Draw(0, part, int(draw) - before)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(draw.seed)
            return self._parts[draw.part][draw.row]


class MixtureSampler(Sampler[Draw]):
    """Draws of an epoch: dataset i with a probability of its weight times its length, its rows in
    a random order, each once before one comes twice.

    All processes draw the same; what an epoch draws is a function of seed and epoch alone, so that
    a run that goes on skips to where it was.

    Args:
        lengths: samples of each dataset.
        weights: of each; by equal ones all rows are as likely.
        seed: of the run.
        size: draws of an epoch; by default as many as there are samples.

    Raises:
        ValueError: a weight that is negative or not finite, or none above 0.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        size: int | None = None,
    ) -> None:
        self._lengths = list(lengths)
        given = [1.0] * len(lengths) if weights is None else list(weights)
        if len(given) != len(self._lengths):
            raise ValueError(f"{len(given)} weights for {len(self._lengths)} datasets")
        mass = np.array(given, dtype=np.float64) * np.array(self._lengths)
        if not np.isfinite(mass).all() or (mass < 0).any() or not mass.sum() > 0:
            raise ValueError(f"weights {given} of datasets must be 0 or more, and one above 0")
        self.shares = mass / mass.sum()
        self._seed, self._epoch = seed, 0
        self._size = sum(self._lengths) if size is None else size

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is drawn next; the Trainer calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Draw]:
        parts = self._parts()
        rows = np.empty(self._size, np.int64)
        for part, length in enumerate(self._lengths):
            places = np.flatnonzero(parts == part)
            rng = np.random.default_rng([self._seed, self._epoch, part, 1])
            passes = [rng.permutation(length) for _ in range(-(-len(places) // max(length, 1)))]
            if passes:
                rows[places] = np.concatenate(passes)[: len(places)]
        seeds = np.random.default_rng([self._seed, self._epoch, 2]).integers(2**31, size=self._size)
        for seed, part, row in zip(seeds, parts, rows, strict=True):
            yield Draw(int(seed), int(part), int(row))

    def _parts(self) -> np.ndarray:
        """Which dataset each draw of the epoch is of: as near to its share as whole numbers are."""
        exact = self.shares * self._size
        counts = np.floor(exact).astype(np.int64)
        rest = self._size - int(counts.sum())
        rng = np.random.default_rng([self._seed, self._epoch])
        if rest:
            part_of_rest = (exact - counts) / (exact - counts).sum()
            counts += rng.multinomial(rest, part_of_rest)
        return rng.permutation(np.repeat(np.arange(len(counts)), counts))
