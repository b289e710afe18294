"""`vla train tokenizer`: the video tokenizer of a world model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.genie.config import part
from vla_ros.models.genie.quantizers import codebook_use
from vla_ros.models.genie.tokenizer import TokenizerConfig, VideoTokenizer, foreground
from vla_ros.training.recipes import TokenizerRecipe as Recipe
from vla_ros.training.trainer import Objective
from vla_ros.training.world_model import (
    Videos,
    fit,
    held_out,
    pixels,
    psnr,
    start,
)

_FOREGROUND = 6.0  # how much more what is or moves there counts than the table
# Tokens that change where nothing does are noise to the dynamics: "still" holds them.
_WEIGHTS = {"pixels": 1.0, "commitment": 1.0, "still": 0.1, "spread": 0.05}
_REFERENCE = 0.75  # of the clips are decoded with a reference, their first frame
_SPREAD = 0.8  # standard deviation with which the levels of FSQ are used about equally


def train(
    recipe: Recipe,
    data: Sequence[Path] | None,
    robot: str | None,
    out: Path,
    *,
    tensorboard: bool = False,
) -> Path:
    """Train, resuming whatever out/tokenizer holds; returns its folder checkpoint/.

    Raises:
        ValueError: the data cannot be read, or the folder's run has other settings.
    """
    args = start(recipe, data, robot, out / "tokenizer")
    model = VideoTokenizer(
        TokenizerConfig(**{**part(recipe.size, "tokenizer"), "quantizer": recipe.quantizer})
    )
    with args.main_process_first(local=False):
        videos = Videos.load(recipe, data, robot, model.config.image_size, out, "tokenizer")

    held = held_out(recipe, videos.held)
    return fit(
        Objective(model, losses, _WEIGHTS),
        recipe,
        args,
        videos.trained,
        held,
        lambda m: (rows(m, held[0]["frames"]), {}),
        tensorboard=tensorboard,
    )


def losses(model: VideoTokenizer, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses and figures of a batch of "frames" uint8 [B, T, S, S, 3], by name."""
    frames = pixels(batch["frames"])
    reference = frames[:, 0]
    given = torch.ones(len(frames), dtype=torch.bool, device=frames.device)
    if model.training:
        given = torch.rand(len(frames), device=frames.device) < _REFERENCE
    out = model(frames, reference, given)
    error = out["frames"] - frames
    front = foreground(frames)
    weight = 1 + (_FOREGROUND - 1) * front
    weight = weight / weight.mean()
    still = still_places(frames, model.config.patch)
    vectors = out["vectors"].float().tanh()
    drift = ((vectors[:, 1:] - vectors[:, :-1]) ** 2).mean(-1)
    with torch.no_grad():
        square = (out["frames"].clamp(0, 1) - frames) ** 2
        alone = out["frames"] if model.training else model.decode(out["tokens"])
        same = out["tokens"][:, 1:] == out["tokens"][:, :-1]
        front_error = (square * front).sum() / (3 * front.sum()).clamp(min=1)
    return {
        "pixels": (weight * (error.abs() + 4 * error**2)).mean(),
        "commitment": out["commitment"],
        "still": (drift * still).sum() / still.sum().clamp(min=1),
        "spread": spread(out["vectors"].float().flatten(0, 2))
        if model.config.quantizer == "fsq"
        else out["commitment"].new_zeros(()),
        "psnr": psnr(square[:, 1:].mean((-1, -2, -3))).mean(),
        "psnr_alone": psnr(((alone.clamp(0, 1) - frames) ** 2).mean((-1, -2, -3))).mean(),
        "foreground_psnr": psnr(front_error),
        "codebook_use": torch.tensor(codebook_use(out["tokens"], model.config.vocabulary)),
        "still_tokens": (same * still).sum() / still.sum().clamp(min=1),
    }


def spread(vectors: Tensor) -> Tensor:
    """By how much the numbers of vectors [X, C] are not centred, spread over the levels of FSQ and
    uncorrelated. Left alone, all of them say how bright it is, and most codes are never used."""
    deviation = vectors - vectors.mean(0)
    std = deviation.std(0)
    scaled = deviation / std.clamp(min=1e-3)
    correlation = scaled.T @ scaled / len(vectors)
    off = correlation - torch.diag(torch.diag(correlation))
    return (vectors.mean(0) ** 2 + (std - _SPREAD) ** 2).mean() + (off**2).sum(1).mean()


@torch.no_grad()
def still_places(frames: Tensor, patch: int) -> Tensor:
    """Tokens that had better be those of the frame before, as nothing changed there and around it:
    float [B, T - 1, N], 0 or 1."""
    changed = (frames[:, 1:] - frames[:, :-1]).abs().amax(2) > 0.02
    around = F.max_pool2d(changed.float(), 3 * patch, patch, patch)
    return (around.flatten(2) == 0).float()


@torch.no_grad()
def rows(model: VideoTokenizer, frames: Tensor) -> list[tuple[str, Tensor]]:
    """Pictures of the first clips, [T, 3, S, S] each: real, and reconstructed."""
    real = pixels(frames[:4].to(next(model.parameters()).device))
    tokens = model.encode(real)
    shown = {
        "real": real,
        "from tokens alone": model.decode(tokens),
        "and the first frame": model.decode(tokens, real[:, 0]),
    }
    return [(label, shown[label][i]) for i in range(len(real)) for label in shown]
