"""Imagining many clips at once, and how good that is beside copying the last frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from vla_ros.models.genie.dynamics import Dynamics
from vla_ros.models.genie.tokenizer import VideoTokenizer
from vla_ros.training.world_model import psnr

_MOVED = 0.06  # of the range of pixels


@dataclass(frozen=True)
class Sampling:
    """See `Dynamics.sample`."""

    steps: int = 4
    temperature: float = 0.5
    randomness: float = 1.0


@torch.inference_mode()
def imagine(
    tokenizer: VideoTokenizer,
    dynamics: Dynamics,
    tokens: Tensor,
    actions: Tensor,
    last: Tensor | None,
    sampling: Sampling,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """What follows C frames.

    Args:
        tokens: int64 [B, C, N], of the frames that were seen.
        actions: int64 [B, C - 1 + H], between those, and then those to imagine.
        last: the last frame that was seen, [B, 3, S, S], to draw from; None: from tokens alone.

    Returns:
        Tokens int64 [B, H, N] and frames [B, H, 3, S, S] from 0 to 1.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = tokens.shape[1]
    past = shown = None
    for i in range(seen):
        _, _, past = dynamics.step(tokens[:, i], actions[:, i - 1] if i else None, past)
        _, shown = tokenizer.decode_step(tokens[:, i : i + 1], shown, pixels=False)
    drawn, frames = [], []
    for action in actions[:, seen - 1 :].unbind(1):
        new = dynamics.sample(action, past, generator=generator, **vars(sampling))
        _, _, past = dynamics.step(new, action, past)
        frame, shown = tokenizer.decode_step(new[:, None], shown, last)
        drawn.append(new)
        frames.append(frame)
    return torch.stack(drawn, 1), torch.cat(frames, 1)


def frame_psnr(real: Tensor, frames: Tensor) -> Tensor:
    """dB of each frame, [B, H], of frames [B, H, 3, S, S]."""
    return psnr(((real - frames) ** 2).mean((-1, -2, -3)))


def frame_ssim(real: Tensor, frames: Tensor) -> Tensor:
    """Structural similarity of each frame, [B, H], of frames [B, H, 3, S, S]."""
    pairs = (x.flatten(0, 1).float() for x in (frames, real))
    found = structural_similarity_index_measure(*pairs, data_range=1.0, reduction="none")
    return found.unflatten(0, real.shape[:2])


def moving_psnr(last: Tensor, real: Tensor, frames: Tensor) -> Tensor:
    """dB [H] of those pixels of all clips that differ from the last frame seen, [B, 1, 3, S, S]."""
    moved = ((real - last).abs().amax(2, keepdim=True) > _MOVED).float()
    square = ((real - frames) ** 2 * moved).sum((0, 2, 3, 4))
    return psnr(square / (3 * moved.sum((0, 2, 3, 4))).clamp(min=1))


def random_actions(like: Tensor, count: int, seed: int) -> Tensor:
    """Actions of the shape of `like`, drawn uniformly from `count`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(count, like.shape, generator=generator)
