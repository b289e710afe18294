"""How unexpected a frame is.

How improbable the model finds it does not tell: a picture that stands still is always probable,
even when the arm should move, and one in which the arm moves fast is always improbable. A frame can
be too ordinary and too strange, and these are two numbers, each compared with what it is while all
goes well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1e-2  # change: none, as far as a logarithm is concerned

# Of each of the numbers in Unexpected: what it exceeds always, and by how much more it is exceeded
# ten times less often.
Calibration = Sequence[tuple[float, float]]


class Unexpected(NamedTuple):
    """In which ways, each in a unit of its own."""

    stillness: float  # tokens that should have changed and did not, in standard deviations
    change: float  # logarithm of the most that changed in a place where the model was sure


def unexpected(expected: Tensor, tokens: Tensor, before: Tensor, moved: Tensor) -> Unexpected:
    """Compare a frame with what was expected.

    Args:
        expected: probabilities [N, V] of its tokens.
        tokens: int64 [N].
        before: int64 [N], those of the frame before.
        moved: [G, G] with G * G = N, how far the pixel of each place that differs most is from
            that of the frame before, of a range of 1.
    """
    changes = 1 - expected.gather(1, before[:, None])[:, 0]  # probability of each
    missing = changes.sum() - (tokens != before).sum()
    stillness = missing / ((changes * (1 - changes)).sum() + 1).sqrt()

    # What comes beside the arm is as unsure as the arm itself, so that places around have a say.
    unsure = -torch.special.xlogy(expected, expected).sum(-1).reshape(1, *moved.shape)
    unsure = F.avg_pool2d(unsure, 3, 1, 1, count_include_pad=False)[0]
    improbable = -expected.gather(1, tokens[:, None])[:, 0].clamp(min=1e-9).log()
    change = moved * improbable.reshape(moved.shape) * (-unsure).exp()
    return Unexpected(float(stillness), math.log(float(change.max()) + _LEAST))


def rarity(found: Unexpected, calibration: Calibration) -> float:
    """How rare it is while all goes well that one of the numbers is so high, in decades: one frame
    in 100 is above 2, about one in 1000 above 3. Never negative."""
    pairs = zip(found, calibration, strict=True)
    return max(0.0, *((x - low) / scale for x, (low, scale) in pairs))


def calibrated(found: Sequence[Unexpected]) -> Calibration:
    """The calibration for what was found while all went well: what one frame in ten exceeds comes
    to 1, what one in 1000 exceeds to 3.

    Raises:
        ValueError: too few, or all the same.
    """
    if len(found) < 1000:
        raise ValueError(
            f"{len(found)} frames are too few to calibrate surprise: give 1000 or more"
        )
    levels = torch.tensor([0.9, 0.999]).double()
    tenth, thousandth = torch.tensor(found).double().quantile(levels, 0)
    scale = (thousandth - tenth) / 2
    if not (scale > 0).all():
        raise ValueError("all frames are equally unexpected: surprise cannot be calibrated")
    return tuple(zip((tenth - scale).tolist(), scale.tolist(), strict=True))
