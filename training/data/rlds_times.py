"""When the steps of an RLDS episode were, where the dataset tells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vla_ros.training.data.rlds_features import Feature, Record

STAMP = "steps/stamp_ns"  # int64, of datasets that this package wrote
_NAMES = ("timestamp", "timestamp_ns", "time", "stamp")
_USUAL = [f"steps/{place}{name}" for place in ("", "observation/") for name in _NAMES]
_UNITS = (1.0, 1e-3, 1e-6, 1e-9)  # s
_NEAR = 1.25  # a middle step of so many dt, or its inverse, is one of dt


def time_feature(features: Mapping[str, Feature], asked: str | None) -> str | None:
    """The feature that tells when each step was: what was asked for, or what is usual."""
    if asked is not None:
        return asked or None
    for key in (STAMP, *_USUAL):
        if key in features and features[key].is_numeric and features[key].shape in ((), (1,)):
            return key
    return None


def step_times(
    record: Record, key: str | None, length: int, dt: float, asked: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """When each of T steps was, s, and notes.

    The unit (s, ms, us, ns) is the one in which steps are `dt` apart.

    Args:
        key: see `time_feature`; None: steps are `dt` apart.
        asked: whether the feature was asked for, and is an error if it tells no such times.

    Raises:
        ValueError: not so many steps, or no such times though asked for.
    """
    nominal = np.arange(length) * dt
    if key is None:
        return nominal, ()
    if key == STAMP:
        # Divided as integers: the quotient is rounded once.
        return np.array([stamp / 10**9 for stamp in record.integers(key)]), ()
    times = np.asarray(record.tensor(key), dtype=np.float64).reshape(-1)
    if len(times) != length:
        raise ValueError(f"{record.name}: {key!r} has {len(times)} steps, not {length}")
    if length < 2:
        return nominal, ()
    steps = np.diff(times)
    for unit in _UNITS:
        if steps.min() >= 0 and dt / _NEAR < unit * np.median(steps) < dt * _NEAR:
            return _increasing(unit * (times - times[0]), dt), ()
    problem = f"{key!r} tells no times with steps of {dt:g} s (in the middle {np.median(steps):g})"
    if asked:
        raise ValueError(f"{record.name}: {problem}: correct dt, or leave out stamp")
    return nominal, (f"{problem}: steps count as {dt:g} s apart",)


def _increasing(times: np.ndarray, dt: float) -> np.ndarray:
    """Times [T] that do not decrease; those that are repeated follow each other at once."""
    index = np.arange(len(times))
    fresh = np.diff(times, prepend=-1.0) > 0
    return times + 1e-3 * dt * (index - np.maximum.accumulate(np.where(fresh, index, 0)))
