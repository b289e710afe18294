"""Spatiotemporal transformer (Bruce et al. 2024, Genie, section 2.1).

A block attends within each frame, then over time at each position, then has one feed-forward
layer: its cost grows with the number of frames, not with its square. Over time a frame sees
itself and the `window` - 1 frames before it. Times are rotary, hence relative: a window slides, a
rollout may be longer than what was trained, and a frame costs the same however many came before.

Shapes: B sequences, T frames, N positions in a frame, D numbers in each, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of each block: keys and values over time of the frames before, [B, N, H, <= window - 1, D / H].
Past = list[tuple[Tensor, Tensor]]
_ROTARY_BASE = 100.0  # periods from 6 to some 600 frames
MOST_FRAMES = 1024  # of a window: attention takes their square of memory


class STTransformer(nn.Module):
    """ST blocks between learned positions and a norm.

    Args:
        width: D.
        layers: number of blocks.
        heads: H of either attention; D / H is even.
        positions: N.
        window: frames that a frame attends to, itself included.
    """

    def __init__(self, width: int, layers: int, heads: int, positions: int, window: int) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} is not an even multiple of {heads} heads")
        if not 1 <= window <= MOST_FRAMES:
            raise ValueError(f"window is {window} frames: give 1 to {MOST_FRAMES}")
        self.window = window
        self.position = nn.Parameter(torch.randn(positions, width) * 0.02)
        self.blocks = nn.ModuleList(STBlock(width, heads) for _ in range(layers))
        self.norm = Norm(width)
        for block in self.blocks:  # what enters the residual stream is small at first
            for out in (block.space.out, block.time.out, block.mlp[-1]):
                nn.init.normal_(out.weight, std=0.02 / (2 * max(layers, 1)) ** 0.5)

    def forward(
        self, x: Tensor, times: Tensor | None = None, attend: Tensor | None = None
    ) -> Tensor:
        """Whole sequences at once.

        Args:
            x: [B, T, N, D].
            times: int [T], when each frame is; in order by default.
            attend: bool [T, T], which frames (columns) each frame (row) attends to over time; the
                last `window` by default.

        Returns:
            [B, T, N, D].
        """
        if times is None:
            times = torch.arange(x.shape[1], device=x.device)
        if attend is None:
            behind = times[:, None] - times
            attend = (behind >= 0) & (behind < self.window)
        turns = rotary(times, self.blocks[0].time.size) if len(self.blocks) else None
        x = x + self.position
        for block in self.blocks:
            x = block(x, turns, attend)
        return self.norm(x)

    def step(self, x: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """One more frame; gives what `forward` gives for the last of all frames so far.

        Args:
            x: [B, 1, N, D], the frame.
            past: what the step before returned; it is not changed, so a step can be tried.

        Returns:
            [B, 1, N, D], and the past of the next frame.
        """
        x = x + self.position
        present: Past = []
        for i, block in enumerate(self.blocks):
            x, kept = block.step(x, past[i] if past else None, self.window)
            present.append(kept)
        return self.norm(x), present


class STBlock(nn.Module):
    """Attention in space, then in time, then the feed-forward layer, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.space_norm, self.space = Norm(width), Attention(width, heads)
        self.time_norm, self.time = Norm(width), Attention(width, heads)
        self.mlp = nn.Sequential(
            Norm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor, turns: Tensor, attend: Tensor) -> Tensor:
        """x: [B, T, N, D]; turns: of `rotary` [T, D / H]; attend: bool [T, T]."""
        x = x + self._in_space(x)
        q, k, v = self.time.project(self.time_norm(x).transpose(1, 2))  # [B, N, H, T, D / H]
        mixed = attention(turn(q, turns), turn(k, turns), v, attend)
        x = x + self.time.merge(mixed).transpose(1, 2)
        return x + self.mlp(x)

    def step(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, window: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x: [B, 1, N, D]. Returns it, and the past of the next frame."""
        x = x + self._in_space(x)
        q, k, v = self.time.project(self.time_norm(x).transpose(1, 2))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=-2), torch.cat([past[1], v], dim=-2)
        # Keys are kept as they were before turning, so that times stay small for ever.
        count = k.shape[-2]
        turns = rotary(torch.arange(count, device=x.device), self.time.size)
        mixed = attention(turn(q, turns[-1:]), turn(k, turns), v)
        x = x + self.time.merge(mixed).transpose(1, 2)
        first = max(count - (window - 1), 0)
        return x + self.mlp(x), (k[..., first:, :], v[..., first:, :])

    def _in_space(self, x: Tensor) -> Tensor:
        q, k, v = self.space.project(self.space_norm(x))  # [B, T, H, N, D / H]
        return self.space.merge(attention(q, k, v))


class Attention(nn.Module):
    """The projections of multi-head attention over the last but one axis, with QK-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = Norm(self.size), Norm(self.size)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [..., H, L, D / H] of [..., L, D]."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, self.size))
        q, k, v = parts.movedim(-3, 0).transpose(-3, -2)
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v

    def merge(self, x: Tensor) -> Tensor:
        """[..., L, D] of [..., H, L, D / H]."""
        return self.out(x.transpose(-3, -2).flatten(-2))


class Norm(nn.RMSNorm):
    """RMSNorm in single precision, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def attention(q: Tensor, k: Tensor, v: Tensor, attend: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of [X, Y, H, L, D / H]."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
    # On a CPU, for so few positions, torch's own takes two to six times as long to train.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attend is not None:
        scores = scores.masked_fill(~attend, float("-inf"))
    return scores.softmax(-1) @ v


def rotary(times: Tensor, size: int) -> Tensor:
    """Cosines, then sines, of the angles of rotary embeddings (Su et al. 2021): [T, size]."""
    rates = _ROTARY_BASE ** (-torch.arange(size // 2, device=times.device) / (size // 2))
    angles = times[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Turn pairs of [..., T, size] by `turns` [T, size] of `rotary`."""
    cos, sin = turns.to(x.dtype).chunk(2, dim=-1)
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)
