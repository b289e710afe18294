"""From vectors to one of a few codes, and back; gradients pass straight through."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DECAY = 0.99  # of the moving averages of a codebook
_IDLE_STEPS = 50  # after so many training steps without a vector, a code is replaced
_COMMITMENT = 0.25


class FSQ(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023): each of the C numbers of a vector is
    rounded to one of `levels[i]` values between -1 and 1. Nothing is learned, no code can die.

    Args:
        levels: numbers of values, 2 or more each.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels are {list(levels)}: give 2 or more for each number")
        self.width, self.size = len(levels), math.prod(levels)
        count = torch.tensor(levels, dtype=torch.float32)
        self.register_buffer("_levels", count, False)
        places = torch.cumprod(torch.tensor([1, *levels[:-1]]), 0)
        self.register_buffer("_places", places, False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [..., C] of vectors [..., C], their indices int64 [...], and no loss: 0."""
        highest = self._levels - 1
        scaled = torch.sigmoid(2 * x.float()) * highest  # as tanh, from 0 to the highest level
        rounded = scaled.round()
        index = (rounded.long() * self._places).sum(-1)
        straight = scaled + (rounded - scaled).detach()
        return 2 * straight / highest - 1, index, x.new_zeros(())

    def codes(self, index: Tensor) -> Tensor:
        """The codes [..., C] of indices int64 [...]."""
        level = index[..., None] // self._places % self._levels.long()
        return 2 * level / (self._levels - 1) - 1


class VQ(nn.Module):
    """Vector quantisation (van den Oord et al. 2017) with a codebook of moving averages.

    Vectors are normalised first. The codebook starts as vectors of the first batch, and a code
    that none was nearest to for 50 steps becomes a vector of the newest batch.

    Args:
        size: number of codes.
        width: C, numbers in each.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.register_buffer("codebook", torch.zeros(size, width))
        self.register_buffer("share", torch.zeros(size))  # moving average of vectors a step
        self.register_buffer("idle", torch.full((size,), _IDLE_STEPS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [..., C] of vectors [..., C], their indices int64 [...], and the loss that keeps
        vectors near their codes."""
        x = F.layer_norm(x.float(), (self.width,))
        if self.training:
            self._replace(x.detach().flatten(0, -2))
        index = torch.cdist(x.detach().flatten(0, -2), self.codebook).argmin(-1)
        if self.training:
            self._follow(x.detach().flatten(0, -2), index)
        index = index.unflatten(0, x.shape[:-1])
        code = self.codes(index)
        loss = _COMMITMENT * F.mse_loss(x, code)
        return x + (code - x).detach(), index, loss

    def codes(self, index: Tensor) -> Tensor:
        """The codes [..., C] of indices int64 [...]."""
        return self.codebook[index]

    def _replace(self, x: Tensor) -> None:
        idle = self.idle >= _IDLE_STEPS
        if count := int(idle.sum()):
            picked = torch.randint(len(x), (count,), device=x.device)
            self.codebook[idle], self.share[idle], self.idle[idle] = x[picked], 1.0, 0

    def _follow(self, x: Tensor, index: Tensor) -> None:
        count = torch.bincount(index, minlength=self.size)
        sums = torch.zeros_like(self.codebook).index_add_(0, index, x)
        share = _DECAY * self.share + (1 - _DECAY) * count
        sums = _DECAY * self.share[:, None] * self.codebook + (1 - _DECAY) * sums
        self.codebook.copy_(sums / share.clamp(min=1e-6)[:, None])
        self.share.copy_(share)
        self.idle.add_(1).masked_fill_(count > 0, 0)


def codebook_use(index: Tensor, size: int) -> float:
    """Share of the codes that occur in `index`."""
    return len(index.unique()) / size
