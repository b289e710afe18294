"""`vla train latent-actions`: what actions a world model knows, found in videos alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.models.genie.config import part
from vla_ros.models.genie.latent_actions import LatentActionConfig, LatentActionModel
from vla_ros.models.genie.quantizers import codebook_use
from vla_ros.models.genie.tokenizer import moving
from vla_ros.training.recipes import LatentActionRecipe as Recipe
from vla_ros.training.trainer import Objective
from vla_ros.training.world_model import (
    Videos,
    fit,
    held_out,
    pixels,
    psnr,
    start,
)

_MOVING = 10.0  # how much more what moves counts than what does not
_WEIGHTS = {"pixels": 1.0, "commitment": 1.0}


def train(
    recipe: Recipe,
    data: Sequence[Path] | None,
    robot: str | None,
    out: Path,
    *,
    tensorboard: bool = False,
) -> Path:
    """Train, resuming whatever out/latent-actions holds; returns its folder checkpoint/.

    Raises:
        ValueError: the data cannot be read, or the folder's run has other settings.
    """
    args = start(recipe, data, robot, out / "latent-actions")
    model = LatentActionModel(LatentActionConfig(**part(recipe.size, "latent_actions")))
    with args.main_process_first(local=False):
        videos = Videos.load(recipe, data, robot, model.config.image_size, out, "latent-actions")

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


def losses(model: LatentActionModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses and figures of a batch of "frames" uint8 [B, T, S, S, 3], by name."""
    frames = pixels(batch["frames"])
    out = model(frames)
    square = (out["frames"] - frames[:, 1:]) ** 2
    moved = moving(frames)[:, 1:]
    weight = 1 + (_MOVING - 1) * moved
    with torch.no_grad():
        still = (frames[:, 1:] - frames[:, :-1]) ** 2
        share = torch.bincount(out["actions"].flatten(), minlength=model.config.codes)
        share = share / share.sum()
        entropy = -(share * share.clamp(min=1e-9).log()).sum()
    return {
        "pixels": 10 * (weight * square).sum() / (weight.sum() * 3),
        "commitment": out["commitment"],
        "moving_psnr": psnr(_mean(square, moved)),
        "moving_psnr_of_copy": psnr(_mean(still, moved)),
        "codebook_use": torch.tensor(codebook_use(out["actions"], model.config.codes)),
        "perplexity": entropy.exp(),
    }


def _mean(square: Tensor, where: Tensor) -> Tensor:
    return (square * where).sum() / (3 * where.sum()).clamp(min=1)


@torch.no_grad()
def rows(model: LatentActionModel, frames: Tensor) -> list[tuple[str, Tensor]]:
    """Pictures: some frames after each of the codes; and each one's next frame, real and told."""
    real = pixels(frames[:4].to(next(model.parameters()).device))
    codes = model.encoder.quantizer.codebook[None]
    told = model(real)
    found = []
    for i, clip in enumerate(real):
        before = clip[None, :1].expand(-1, len(codes[0]), -1, -1, -1)
        found.append(("before, after", clip[:2]))
        found.append((f"told code {int(told['actions'][i, 0])}", told["frames"][i, :1]))
        found.append(("codes 0, 1, ...", model.predict(before, codes)[0]))
    return found
