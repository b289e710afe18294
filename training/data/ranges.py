"""Recorded ranges against what the robot's file declares: is everything in its unit?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.robots.action_config import ActionConfig, Bounds
from vla_ros.training.data.episode import Episode

_SLACK = 0.5  # of the width of the bounds: fast motion may be told farther ahead than a policy will
_NARROW = 0.05  # share of the bounds; less may be another unit, or a joint that hardly moved
_STILL = 0.01  # share of the bounds within which a binary value does not change
_SPREAD = 0.1  # share of the bounds that is more than noise
_JITTER = 0.1  # of the range from frame to frame, on the average, is noise and no motion
_EXTREME, _TWO_LEVELS = 0.15, 0.75  # share of the range at its ends, and of frames that lie there
_FACTORS = {180 / math.pi: "degrees and radians", 1000.0: "millimetres and metres"}
_NEAR = 1.2  # two ranges that differ by a factor to so much
_ALIKE = 0.9  # cosine of what is commanded and what is measured, but for a factor
_OTHER_SCALE = 2.0  # between what is commanded and what is measured; less may be a soft arm
_MOVED = 0.02  # in the larger unit (rad, m): nearer to 0 a factor means nothing
# Control modes whose actions are places of the joints, as the state's numbers are.
_PLACES = ("joint_position", "base_velocity_and_joint_position")


@dataclass(frozen=True)
class Range:
    """What was recorded of one number of an action or of proprioception.

    Args:
        kind: "action" or "state".
        name: of the number.
        low, high: 1st and 99th percentile of all frames.
        bounds: those declared for it, None for what has none.
        binary: decided between its bounds.
        problem: why it cannot be right, in words with the cure; "" if it can be.
        note: what is strange, but may be so.
    """

    kind: str
    name: str
    low: float
    high: float
    bounds: Bounds | None = None
    binary: bool = False
    problem: str = ""
    note: str = ""

    @property
    def share(self) -> float:
        """Of the bounds' width that was used; NaN without bounds."""
        if self.bounds is None:
            return math.nan
        return (self.high - self.low) / (self.bounds[1] - self.bounds[0])


def recorded_ranges(episodes: Sequence[Episode], action: ActionConfig) -> list[Range]:
    """Of every number of actions and proprioception.

    What is refused (`problem`): an action that lies outside of its bounds by half their width; a
    binary one that changes, but on one side of the middle of its bounds alone, so that a policy
    could never decide both; a joint that is commanded in one unit and measured in another.
    """
    actions = np.concatenate([one.actions[one.actions_known] for one in episodes]).astype(float)
    states = np.concatenate([one.proprioception for one in episodes]).astype(float)
    together = [one.proprioception[one.actions_known] for one in episodes]
    measured = np.concatenate(together).astype(float)
    found = []
    columns = zip(action.action_names, action.action_bounds, action.binary, actions.T, strict=True)
    for name, bounds, binary, values in columns:
        low, high = _percentiles(values)
        made = Range("action", name, low, high, bounds, binary)
        problem, note = _binary(made, values) if binary else ("", _narrow(made))
        problem = _outside(made) or problem
        if name in action.proprioception_names and action.control_mode in _PLACES:
            felt = measured[:, action.proprioception_names.index(name)]
            problem = problem or _other_unit(name, values, felt)
            note = note or _other_scale(values, felt)
        found.append(Range("action", name, low, high, bounds, binary, problem, note))
    for name, values in zip(action.proprioception_names, states.T, strict=True):
        low, high = _percentiles(values)
        found.append(Range("state", name, low, high, note="" if high > low else "never moves"))
    return found


def report(ranges: Sequence[Range]) -> Iterator[str]:
    """The ranges as a table."""
    width = max(len(one.name) for one in ranges)
    yield f"{'recorded, 98 % of frames':{width + 7}} {'from':>10} {'to':>10}  bounds"
    for one in ranges:
        bounds = ""
        if one.bounds is not None:
            low, high = one.bounds
            bounds = f"{low:g} to {high:g}, {one.share:.0%} used"
        words = "; ".join(filter(None, (bounds, "binary" if one.binary else "", one.note)))
        yield f"{one.kind:6} {one.name:{width}} {one.low:10.4g} {one.high:10.4g}  {words}".rstrip()


def check_ranges(ranges: Sequence[Range]) -> None:
    """Raises ValueError if one of them cannot be right."""
    if problems := [one.problem for one in ranges if one.problem]:
        raise ValueError("; ".join(problems))


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, (0.01, 0.99))
    return float(low), float(high)


def _outside(one: Range) -> str:
    low, high = one.bounds
    slack = _SLACK * (high - low)
    if not (one.low < low - slack or one.high > high + slack):
        return ""
    return (
        f"{one.name} lies between {one.low:.4g} and {one.high:.4g} in 98 % of frames, but the "
        f"bounds of the robot are {low:.4g} and {high:.4g}: are both in the same unit?"
    )


def _binary(one: Range, values: np.ndarray) -> tuple[str, str]:
    """What is wrong with the values of a binary dimension, and what is strange about them."""
    if not len(values):
        return "", ""
    low, high = one.bounds
    place = (values - low) / (high - low)
    first, last = float(place.min()), float(place.max())
    changes = last - first
    if changes <= _STILL:
        return "", "never changes"
    near = (place < first + _EXTREME * changes) | (place > last - _EXTREME * changes)
    jitters = np.abs(np.diff(place)).mean() > _JITTER * changes
    if changes <= _SPREAD and near.mean() < _TWO_LEVELS and jitters:
        return "", "never changes"  # but for noise
    if last <= 0.5 or first >= 0.5:
        other = "upper" if last <= 0.5 else "lower"
        return (
            f"{one.name} is binary and recorded between {values.min():.4g} and {values.max():.4g}, "
            f"but its bounds are {low:.4g} and {high:.4g}: a policy could never decide for the "
            f"{other} one. Give the two values that it is recorded in as its action_bounds"
        ), ""
    weak = first > 0.25 or last < 0.75
    return "", "decided by little: are the bounds the two values that it has?" if weak else ""


def _narrow(one: Range) -> str:
    if one.high - one.low == 0.0:
        return "never moves"
    return "little of its bounds: the same unit?" if one.share < _NARROW else ""


def _other_scale(commanded: np.ndarray, measured: np.ndarray) -> str:
    """A note if a joint moves by another factor than it is commanded to; "" if not."""
    sizes = np.std(commanded), np.std(measured)
    if not len(commanded) or min(sizes) == 0.0:
        return ""
    alike = np.corrcoef(commanded, measured)[0, 1]
    factor = sizes[0] / sizes[1]
    if abs(alike) < _ALIKE or (alike > 0 and 1 / _OTHER_SCALE < factor < _OTHER_SCALE):
        return ""
    against = "-" if alike < 0 else ""
    return f"moves {against}{1 / factor:.3g} times as far as commanded: the same unit?"


def _other_unit(name: str, commanded: np.ndarray, measured: np.ndarray) -> str:
    """Whether a joint is commanded in another unit than it is measured in; "" if not."""
    sizes = np.linalg.norm(commanded), np.linalg.norm(measured)
    if min(sizes) == 0.0 or commanded @ measured < _ALIKE * sizes[0] * sizes[1]:
        return ""
    factor = sizes[0] / sizes[1]
    larger = factor > 1
    in_larger_unit = min(sizes) / math.sqrt(len(commanded))  # root mean square
    for wanted, units in _FACTORS.items():
        if 1 / _NEAR < max(factor, 1 / factor) / wanted < _NEAR and in_larger_unit > _MOVED:
            return (
                f"{name} is commanded and measured in other units: what is "
                f"{'commanded' if larger else 'measured'} is {max(factor, 1 / factor):.4g} times "
                f"the other, as of {units}. Record both in one unit, or leave {name} out of "
                "proprioception_names"
            )
    return ""
