"""Between a robot's actions and those of -1..1 that tokens stand for, by recorded quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ActionStatistics:
    """Of the A numbers of the actions of one dataset.

    Args:
        q01, q99: [A], the first and the last percentile: what becomes -1 and 1.
        mask: bool [A], which of the numbers are normalised; the others (a gripper of 0 and 1) stay.

    Raises:
        ValueError: lengths differ, or a number is not finite, or q01 is above q99.
    """

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        for name in ("q01", "q99"):
            try:
                values = tuple(map(float, getattr(self, name)))
            except (TypeError, ValueError):
                raise ValueError(f"{name} of actions is no list of numbers") from None
            object.__setattr__(self, name, values)
        object.__setattr__(self, "mask", tuple(map(bool, self.mask)) or (True,) * len(self.q01))
        if not len(self.q01) == len(self.q99) == len(self.mask):
            raise ValueError(
                f"actions have {len(self.q01)} q01, {len(self.q99)} q99 and a mask of "
                f"{len(self.mask)}: give as many of each"
            )
        for number, (low, high) in enumerate(zip(self.q01, self.q99, strict=True)):
            if not -np.inf < low <= high < np.inf:
                raise ValueError(f"number {number} of actions has q01 {low} and q99 {high}")

    @property
    def zero_is_zero(self) -> bool:
        """Whether a normalised action of zeros is one of zeros: whether "no motion" is none."""
        pairs = zip(self.q01, self.q99, self.mask, strict=True)
        return all(abs(low + high) <= 1e-6 * (high - low) for low, high, used in pairs if used)

    def normalize(self, actions: Any) -> np.ndarray:
        """[..., A] in the robot's units to -1..1, cut off there; 0 for what never changes."""
        low, high, mask, values = self._arrays(actions)
        width = np.where(high > low, high - low, 1.0)
        scaled = np.where(high > low, 2.0 * (values - low) / width - 1.0, 0.0)
        return np.where(mask, np.clip(scaled, -1.0, 1.0), values)

    def unnormalize(self, actions: Any) -> np.ndarray:
        """[..., A] of -1..1 to the robot's units: 0.5 (a + 1) (q99 - q01) + q01."""
        low, high, mask, values = self._arrays(actions)
        return np.where(mask, 0.5 * (values + 1.0) * (high - low) + low, values)

    def _arrays(self, actions: Any) -> Sequence[np.ndarray]:
        values = np.asarray(actions, dtype=np.float64)
        if values.ndim == 0 or values.shape[-1] != len(self.q01):
            raise ValueError(f"actions are {list(values.shape)}, not [..., {len(self.q01)}]")
        return np.array(self.q01), np.array(self.q99), np.array(self.mask), values


def statistics_of(statistics: Mapping[str, Any], key: str | None = None) -> ActionStatistics:
    """Those of one dataset, of a file that has them by key, as published checkpoints do:
    `{key: {"action": {"q01": [...], "q99": [...], "mask": [...]}}}`.

    Args:
        key: which; may be left out where there is but one.

    Raises:
        ValueError: no such key (the error lists those there are), or several and none is told.
    """
    if not isinstance(statistics, Mapping) or not statistics:
        raise ValueError("there are no statistics of actions: the checkpoint has none by any key")
    there = ", ".join(sorted(statistics))
    if key is None:
        if len(statistics) > 1:
            raise ValueError(f"tell which statistics of actions to use: there are {there}")
        key = next(iter(statistics))
    if key not in statistics:
        raise ValueError(f"no statistics of actions {key!r}: there are {there}")
    try:
        told = statistics[key]["action"]
        return ActionStatistics(told["q01"], told["q99"], told.get("mask") or ())
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"statistics {key!r} have no action with q01 and q99") from None
    except ValueError as error:
        raise ValueError(f"statistics {key!r}: {error}") from None
