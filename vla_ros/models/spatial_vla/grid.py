"""The grid of a robot's actions: where the bins of each axis begin and end.

A translation is told by its direction (theta from +z, phi from +x, rad) and its length r, a
rotation by roll, pitch and yaw; all of an action that is normalised to -1..1. Bins of equal
probability under a normal distribution of each axis put fine bins where the robot moves most
(Qu et al. 2025, "SpatialVLA: Exploring Spatial Representations for Visual-Language-Action Model").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

TRANSLATION = ("theta", "phi", "r")
ROTATION = ("roll", "pitch", "yaw")
AXES = (*TRANSLATION, *ROTATION)
RANGES = {
    "theta": (0.0, math.pi),
    "phi": (-math.pi, math.pi),
    "r": (0.0, math.sqrt(3.0)),  # the corner of the cube of -1..1
    "roll": (-1.0, 1.0),
    "pitch": (-1.0, 1.0),
    "yaw": (-1.0, 1.0),
}
BINS = {"theta": 16, "phi": 32, "r": 8, "roll": 16, "pitch": 16, "yaw": 16}
_SLACK = 1e-6  # of an edge that was rounded when it was written
_PARTS = {"translation": TRANSLATION, "rotation": ROTATION}


@dataclass(frozen=True)
class Gaussian:
    """The normal distribution of one axis of normalised actions."""

    mu: float
    sigma: float


@dataclass(frozen=True)
class ActionGrid:
    """Edges of the bins of each axis, B + 1 for B bins, increasing, within the axis' range.

    Raises:
        ValueError: an axis has fewer than two bins, or its edges are not increasing numbers within
            its range.
    """

    theta: tuple[float, ...]
    phi: tuple[float, ...]
    r: tuple[float, ...]
    roll: tuple[float, ...]
    pitch: tuple[float, ...]
    yaw: tuple[float, ...]

    def __post_init__(self) -> None:
        for axis in AXES:
            try:
                edges = tuple(map(float, getattr(self, axis)))
            except (TypeError, ValueError):
                raise ValueError(f"edges of {axis} are no list of numbers") from None
            object.__setattr__(self, axis, edges)
            low, high = RANGES[axis]
            if len(edges) < 3:
                raise ValueError(f"{axis} has {len(edges)} edges: give 3 or more, for 2 bins")
            if not all(low - _SLACK <= edge <= high + _SLACK for edge in edges):  # NaN, too
                raise ValueError(f"an edge of {axis} is not within {low:.4g} to {high:.4g}")
            if min(np.diff(edges)) <= 0.0:
                raise ValueError(
                    f"edges of {axis} do not increase: its normal distribution is too narrow, or "
                    "lies outside of its range; raise min_sigma"
                )

    @property
    def bins(self) -> dict[str, int]:
        """Number of bins of each axis."""
        return {axis: len(getattr(self, axis)) - 1 for axis in AXES}

    def edges(self, axis: str) -> np.ndarray:
        """float64 [B + 1]."""
        return np.array(getattr(self, axis))

    def centres(self, axis: str) -> np.ndarray:
        """float64 [B], the middle of each bin: what it decodes to."""
        edges = self.edges(axis)
        return 0.5 * (edges[:-1] + edges[1:])

    @classmethod
    def uniform(cls, bins: Mapping[str, int] = BINS) -> ActionGrid:
        """Bins of equal width."""
        counts = {**BINS, **bins}
        return cls(**{axis: np.linspace(*RANGES[axis], counts[axis] + 1) for axis in AXES})

    @classmethod
    def gaussian(
        cls,
        gaussians: Mapping[str, Gaussian | Mapping[str, float]],
        bins: Mapping[str, int] = BINS,
        min_sigma: float = 0.0,
    ) -> ActionGrid:
        """Bins of equal probability under a normal distribution of each axis, cut off at its range.

        Args:
            gaussians: of each axis; also as {"mu": ..., "sigma": ...}, as the published files have
                them. Further names (those have x, y, z) are passed over.
            bins: of the axes that have others than `BINS`.
            min_sigma: what is narrower is taken as wide as this.

        Raises:
            ValueError: an axis is missing, or its bins would be empty.
        """
        counts, edges = {**BINS, **bins}, {}
        for axis in AXES:
            if axis not in gaussians:
                raise ValueError(f"no normal distribution of {axis}: give all of {', '.join(AXES)}")
            told = gaussians[axis]
            if not isinstance(told, Gaussian):
                try:
                    told = Gaussian(float(told["mu"]), float(told["sigma"]))
                except (KeyError, TypeError, ValueError):
                    raise ValueError(f"{axis} has no numbers mu and sigma") from None
            edges[axis] = _equal_shares(told.mu, max(told.sigma, min_sigma), counts[axis], axis)
        return cls(**edges)

    def centred(self) -> ActionGrid:
        """The same grid with zero in the middle of a bin of roll, pitch and yaw.

        The bin that holds zero keeps its width; those beside it are stretched or narrowed evenly,
        so that the axis still ends where its range does.
        """
        return ActionGrid(**{axis: self.edges(axis) for axis in TRANSLATION}, **{
            axis: _centred(self.edges(axis), *RANGES[axis]) for axis in ROTATION
        })  # fmt: skip

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """For JSON, in the layout of the published checkpoints' `bin_policy`."""
        return {
            part: {f"{axis}_bins": list(getattr(self, axis)) for axis in axes}
            for part, axes in _PARTS.items()
        }

    @classmethod
    def from_dict(cls, values: Any) -> ActionGrid:
        """From what `to_dict` returns, or a published checkpoint's `bin_policy`.

        Raises:
            ValueError: an axis is missing, or wrong.
        """
        edges = {}
        for part, axes in _PARTS.items():
            for axis in axes:
                try:
                    edges[axis] = values[part][f"{axis}_bins"]
                except (KeyError, TypeError):
                    raise ValueError(f"an action grid has {part}.{axis}_bins: missing") from None
        return cls(**edges)


def _equal_shares(mu: float, sigma: float, bins: int, axis: str) -> np.ndarray:
    if not (math.isfinite(mu) and math.isfinite(sigma) and sigma > 0.0):
        raise ValueError(
            f"{axis} has mu {mu:g} and sigma {sigma:g}: sigma must be above 0; an axis that never "
            "moves needs min_sigma"
        )
    normal, (low, high) = NormalDist(mu, sigma), RANGES[axis]

    def below(value: float) -> float:  # unlike NormalDist.cdf also exact far below mu
        return 0.5 * math.erfc((mu - value) / (sigma * math.sqrt(2.0)))

    def edge(share: float) -> float:
        if 0.0 < share < 1.0:
            return min(max(normal.inv_cdf(share), low), high)
        return low if share <= 0.0 else high

    return np.array([edge(share) for share in np.linspace(below(low), below(high), bins + 1)])


def _centred(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    bin_ = int(np.clip(np.searchsorted(edges, 0.0, side="right") - 1, 0, len(edges) - 2))
    half = 0.5 * (edges[bin_ + 1] - edges[bin_])
    below, above = edges[: bin_ + 1], edges[bin_ + 1 :]
    if len(below) < 2 or len(above) < 2:
        raise ValueError(
            "zero lies in the outermost bin of a rotation, so it cannot be in the middle of one: "
            "fit the grid with a larger sigma or more bins"
        )
    below = low + (below - below[0]) * ((-half - low) / (below[-1] - below[0]))
    above = high - (above[-1] - above) * ((high - half) / (above[-1] - above[0]))
    below[-1], above[0] = -half, half  # exactly, so that the middle is exactly zero
    return np.concatenate([below, above])
