"""Video tokenizer: frames to a few discrete tokens and back (Genie, section 2.1).

    frames ── convolutions (or patches) ── ST blocks ── quantiser ── tokens [8, 8]
    tokens ── codes ── ST blocks ── convolutions (or patches) ── frames

Both sides are causal in time. The paper embeds patches and has ST blocks only; at a size that runs
on a CPU those learn little more than the background, and convolutions all of it.

And a robot always has a frame that it really saw: given such a reference, the convolutions of the
decoder take from it what is still there, and draw only what the tokens say is new. The tokens do
without: a frame can be decoded with no reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.genie.quantizers import FSQ, VQ
from vla_ros.models.genie.st_transformer import Past, STTransformer
from vla_ros.models.part import Part


@dataclass(frozen=True)
class TokenizerConfig:
    """Shape of the tokenizer; the defaults are nano's."""

    image_size: int = 64  # pixels of either side
    patch: int = 8  # pixels of either side of a token's place
    channels: tuple[int, ...] = (32, 64)  # of the convolutions, from fine to coarse; none: patches
    width: int = 128
    heads: int = 4
    encoder_layers: int = 1
    decoder_layers: int = 2
    decoder_width: int = 128
    decoder_heads: int = 4
    window: int = 4  # frames
    quantizer: str = "fsq"  # or "vq"
    levels: tuple[int, ...] = (8, 5, 5, 5)  # of fsq
    codes: int = 1024  # of vq
    code_width: int = 32  # of vq

    def __post_init__(self) -> None:
        for name in ("channels", "levels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.quantizer not in ("fsq", "vq"):
            raise ValueError(f"quantizer is {self.quantizer!r}: choose fsq or vq")
        if self.image_size % self.patch:
            raise ValueError(f"{self.image_size} pixels are not divisible by {self.patch}")
        if self.channels and self.patch != 2 ** (len(self.channels) + 1):
            raise ValueError(
                f"{len(self.channels)} convolutions make patches of {2 ** (len(self.channels) + 1)}"
                f" pixels, not {self.patch}"
            )

    @property
    def grid(self) -> int:
        """Tokens of either side."""
        return self.image_size // self.patch

    @property
    def vocabulary(self) -> int:
        """Number of different tokens."""
        return math.prod(self.levels) if self.quantizer == "fsq" else self.codes


class VideoTokenizer(Part):
    """See the module's text. Frames are [B, T, 3, S, S] from 0 to 1, tokens int64 [B, T, N]."""

    Config = TokenizerConfig

    def __init__(self, config: TokenizerConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or TokenizerConfig()
        places = c.grid**2
        self.quantizer = FSQ(c.levels) if c.quantizer == "fsq" else VQ(c.codes, c.code_width)
        self.stem = frame_stem(c.patch, c.channels, c.width)
        self.encoder = STTransformer(c.width, c.encoder_layers, c.heads, places, c.window)
        self.to_code = nn.Linear(c.width, self.quantizer.width)
        self.from_code = nn.Linear(self.quantizer.width, c.decoder_width)
        self.decoder = STTransformer(
            c.decoder_width, c.decoder_layers, c.decoder_heads, places, c.window
        )
        self.head = FrameHead(c.patch, c.channels, c.decoder_width)

    def forward(
        self, frames: Tensor, reference: Tensor | None = None, given: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The frames again.

        Args:
            frames: [B, T, 3, S, S].
            reference: a frame of the same video to draw from, [B, 3, S, S].
            given: whether each has one, bool [B]; all, if left out.

        Returns:
            "frames" [B, T, 3, S, S], not clamped; "vectors" [B, T, N, C] before quantisation;
            "tokens" int64 [B, T, N]; "commitment", a loss.
        """
        vectors = self.to_code(self.encoder(self._embed(frames)))
        code, tokens, commitment = self.quantizer(vectors)
        return {
            "frames": self._pixels(self.decoder(self.from_code(code)), reference, given),
            "vectors": vectors,
            "tokens": tokens,
            "commitment": commitment,
        }

    def encode(self, frames: Tensor) -> Tensor:
        """Tokens of whole sequences."""
        return self.quantizer(self.to_code(self.encoder(self._embed(frames))))[1]

    def decode(self, tokens: Tensor, reference: Tensor | None = None) -> Tensor:
        """Frames of whole sequences; `reference` as in `forward`."""
        places = self.decoder(self.from_code(self.quantizer.codes(tokens)))
        return self._pixels(places, reference).clamp(0, 1)

    def encode_step(self, frame: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Tokens [B, 1, N] of one more frame [B, 1, 3, S, S], and the past of the next."""
        encoded, present = self.encoder.step(self._embed(frame), past)
        return self.quantizer(self.to_code(encoded))[1], present

    def decode_step(
        self,
        tokens: Tensor,
        past: Past | None,
        reference: Tensor | None = None,
        *,
        pixels: bool = True,
    ) -> tuple[Tensor | None, Past]:
        """One more frame [B, 1, 3, S, S] of tokens [B, 1, N], and the past of the next.

        `reference` as in `forward`. Without `pixels` only the past: for frames that were seen.
        """
        code = self.from_code(self.quantizer.codes(tokens))
        decoded, present = self.decoder.step(code, past)
        return self._pixels(decoded, reference).clamp(0, 1) if pixels else None, present

    def _embed(self, frames: Tensor) -> Tensor:
        """[B, T, N, D]."""
        places = self.stem(frames.flatten(0, 1) - 0.5)
        return places.flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2])

    def _pixels(self, x: Tensor, reference: Tensor | None, given: Tensor | None = None) -> Tensor:
        batch, length = x.shape[:2]
        grid = self.config.grid
        places = x.flatten(0, 1).transpose(1, 2).unflatten(2, (grid, grid))
        return self.head(places, reference, given).unflatten(0, (batch, length))


def frame_stem(patch: int, channels: Sequence[int], width: int) -> nn.Sequential:
    """[B, 3, S, S] to [B, width, S / patch, S / patch]."""
    if not channels:
        return nn.Sequential(nn.Conv2d(3, width, patch, stride=patch))
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, channels[0], 3, padding=1)]
    for fine, coarse in zip(channels, (*channels[1:], width), strict=True):
        layers += [Residual(fine), nn.Conv2d(fine, coarse, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


class FrameHead(nn.Module):
    """The other way round, drawing on a reference frame where that helps."""

    def __init__(self, patch: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels = tuple(channels)
        if not channels:
            self.patches = nn.ConvTranspose2d(width, 3, patch, stride=patch)
            return
        fine = channels[0]
        # The reference at half its size, a quarter ..., and at last at the places of tokens.
        self.look = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(12, fine, 3, padding=1), Residual(fine))]
            + [
                nn.Sequential(nn.Conv2d(one, two, 4, stride=2, padding=1), Residual(two))
                for one, two in pairwise([*channels, width])
            ]
        )
        self.merge = nn.Sequential(nn.Conv2d(2 * width, width, 1), Residual(width), Residual(width))
        self.widen = nn.ModuleList(
            nn.Conv2d(one, 4 * two, 3, padding=1) for one, two in pairwise([width, *channels[::-1]])
        )
        self.refine = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * one, one, 1), Residual(one)) for one in channels[::-1]
        )
        self.last = nn.Conv2d(fine, 16, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # at first grey, and half of the reference

    def forward(self, places: Tensor, reference: Tensor | None, given: Tensor | None) -> Tensor:
        """[B * T, 3, S, S] of places [B * T, D, S / patch, S / patch].

        Args:
            places: decoded tokens.
            reference: [B, 3, S, S] from 0 to 1; None: no frame has one.
            given: whether each has one, bool [B].
        """
        if not self.channels:
            return self.patches(places).float() + 0.5
        size = places.shape[-1] * 2 ** (len(self.channels) + 1)
        known = torch.ones(1) if given is None else given
        if reference is None:
            reference = places.new_zeros(1, 3, size, size)
            known = torch.zeros(1)
        known = known.to(places.device, torch.float32).reshape(-1, 1, 1, 1)
        seen = [F.pixel_unshuffle((reference - 0.5) * known, 2)]
        for layer in self.look:
            seen.append(layer(seen[-1]))
        times = len(places) // len(reference)
        x = self.merge(torch.cat([places, _each(seen.pop(), times)], 1))
        for widen, refine in zip(self.widen, self.refine, strict=True):
            x = F.pixel_shuffle(widen(x), 2)
            x = refine(torch.cat([x, _each(seen.pop(), times)], 1))
        drawn = F.pixel_shuffle(self.last(x), 2).float()
        still = drawn[:, 3:].sigmoid() * _each(known.expand(len(reference), 1, 1, 1), times)
        return still * _each(reference, times) + (1 - still) * (drawn[:, :3] + 0.5)


def _each(x: Tensor, times: int) -> Tensor:
    """The rows of x, each so many times."""
    return x.repeat_interleave(times, dim=0)


class Residual(nn.Module):
    """Two convolutions beside an identity, on [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


@torch.no_grad()
def foreground(frames: Tensor) -> Tensor:
    """Where something is or moves: what differs from its surroundings or from the frame before.

    Most of a picture is table; unweighted, a small object costs less than its share of noise.

    Args:
        frames: [B, T, 3, S, S] from 0 to 1.

    Returns:
        float [B, T, 1, S, S], 0 or 1.
    """
    flat = frames.flatten(0, 1)
    side = max(flat.shape[-1] // 16, 1)
    around = F.avg_pool2d(F.avg_pool2d(flat, side), 5, 1, 2, count_include_pad=False)
    around = F.interpolate(around, flat.shape[-2:])
    detail = (flat - around).abs().amax(1, keepdim=True) > 0.12
    moved = torch.zeros_like(detail)
    if frames.shape[1] > 1:
        change = moving(frames).flatten(0, 1)
        moved = change > 0
    mask = (detail | moved).to(frames.dtype)
    return F.max_pool2d(mask, 3, 1, 1).unflatten(0, frames.shape[:2])


@torch.no_grad()
def moving(frames: Tensor, threshold: float = 0.06) -> Tensor:
    """Where a frame differs from the one before (0 in the first): float [B, T, 1, S, S], 0 or 1."""
    change = (frames[:, 1:] - frames[:, :-1]).abs().amax(2, keepdim=True) > threshold
    first = torch.zeros_like(frames[:, :1, :1])
    return torch.cat([first, change.to(frames.dtype)], dim=1)
