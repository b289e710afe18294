"""`vla train dynamics`: how a world model's tokens follow each other, and the world model, whole.

The tokenizer and the latent actions were trained into the same folder before. If the videos tell
what the robot did, what maps that to latent actions is trained at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.genie.config import part
from vla_ros.models.genie.dynamics import Dynamics, DynamicsConfig
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.genie.latent_actions import LatentActionModel
from vla_ros.models.genie.tokenizer import VideoTokenizer
from vla_ros.training.data.folders import part_checkpoint
from vla_ros.training.data.tokens import TokenClips
from vla_ros.training.genie_robot_actions import train_robot_actions
from vla_ros.training.genie_rollouts import (
    Sampling,
    frame_psnr,
    frame_ssim,
    imagine,
    moving_psnr,
    random_actions,
)
from vla_ros.training.genie_surprise import calibrate
from vla_ros.training.recipes import DynamicsRecipe as Recipe
from vla_ros.training.trainer import Objective
from vla_ros.training.world_model import (
    Videos,
    fit,
    held_out,
    pixels,
    start,
)

_WEIGHTS = {"tokens": 1.0, "prior": 0.1}
_DAMAGE = 0.2  # at most such a share of the tokens of the past is wrong, as in a rollout
_ROLLOUTS = 24  # clips, whose imaginations are measured
_SEEN, _HORIZON = 3, 4  # frames of each of them


def train(
    recipe: Recipe,
    data: Sequence[Path] | None,
    robot: str | None,
    out: Path,
    *,
    tensorboard: bool = False,
) -> Path:
    """Train, resuming whatever out/dynamics holds; returns the world model's folder out/checkpoint.

    Raises:
        FileNotFoundError: the tokenizer or the latent actions were not trained yet.
        ValueError: the data cannot be read, or the folder's run has other settings.
    """
    tokenizer, latent = (
        kind.from_pretrained(part_checkpoint(out, name))
        for kind, name in ((VideoTokenizer, "tokenizer"), (LatentActionModel, "latent-actions"))
    )
    args = start(recipe, data, robot, out / "dynamics")
    with args.main_process_first(local=False):
        videos = Videos.load(recipe, data, robot, tokenizer.config.image_size, out, "dynamics")
        trained, held = (
            TokenClips.of(clips, tokenizer, latent.encoder, out / "tokens")
            for clips in (videos.trained, videos.held)
        )
    model = Dynamics(
        DynamicsConfig(
            **{
                **part(recipe.size, "dynamics"),
                "vocabulary": tokenizer.config.vocabulary,
                "tokens": tokenizer.config.grid**2,
                "actions": latent.config.codes,
            }
        )
    )

    watched = Watched.of(held)
    fit(
        Objective(model, losses, _WEIGHTS),
        recipe,
        args,
        trained,
        held_out(recipe, held),
        lambda m: watched.look(tokenizer, m),
        tensorboard=tensorboard,
    )
    folder = out / "checkpoint"
    if args.process_index == 0:
        head = train_robot_actions(trained, held, latent.config.codes, recipe.dt, recipe.seed)
        changes = {"camera": recipe.camera, "dt": recipe.dt}
        world = WorldModel.of_parts(tokenizer, latent, model, head, **changes)
        try:
            calibrate(world, held.clips.episodes)
        except ValueError as error:
            print(f"surprise is not calibrated: {error}")
        world.save_pretrained(folder)
    return folder


def losses(model: Dynamics, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses and figures of a batch of "tokens" [B, T, N] and "actions" [B, T - 1], by name."""
    tokens, actions = batch["tokens"], batch["actions"]
    wanted, before = tokens[:, 1:], tokens[:, :-1]
    hide = model.rates(wanted)
    share = _DAMAGE * torch.rand(len(tokens), 1, 1, device=tokens.device)
    damaged = torch.rand(tokens.shape, device=tokens.device) < share
    noise = torch.randint_like(tokens, model.config.vocabulary)
    context = torch.where(damaged, noise, tokens) if model.training else tokens
    logits, prior = model(tokens, actions, hide, context)
    right = logits.argmax(-1) == wanted[hide]
    changed = (wanted != before)[hide]
    return {
        "tokens": F.cross_entropy(logits.float(), wanted[hide]),
        "prior": F.cross_entropy(prior.float().flatten(0, 1), actions.flatten()),
        "accuracy": right.float().mean(),
        "accuracy_of_changed": (right & changed).sum() / changed.sum().clamp(min=1),
        "accuracy_of_copy": 1 - changed.float().mean(),
    }


@dataclass(frozen=True)
class Watched:
    """Held-out clips to imagine the end of: frames [B, T, 3, S, S], tokens, actions."""

    frames: Tensor
    tokens: Tensor
    actions: Tensor

    @classmethod
    def of(cls, held: TokenClips) -> Watched:
        length = _SEEN + _HORIZON
        frames = held.clips.batch(1, 0, _ROLLOUTS, length)["frames"]
        batch = held.batch(1, 0, _ROLLOUTS, length)
        return cls(pixels(frames), batch["tokens"], batch["actions"])

    def look(
        self, tokenizer: VideoTokenizer, model: Dynamics
    ) -> tuple[list[tuple[str, Tensor]], dict[str, float]]:
        """Rows of pictures, and figures: PSNR of what is imagined with the latent actions that
        were inferred, and delta-PSNR (Genie, section 3): by how much random ones are worse."""
        device = next(model.parameters()).device
        tokenizer.to(device)
        tokens, actions = self.tokens.to(device), self.actions.to(device)
        real, last = self.frames[:, _SEEN:].to(device), self.frames[:, _SEEN - 1 : _SEEN].to(device)
        others = actions.clone()
        others[:, _SEEN - 1 :] = random_actions(actions, model.config.actions, 0)[:, _SEEN - 1 :]
        _, told = imagine(tokenizer, model, tokens[:, :_SEEN], actions, last[:, 0], Sampling())
        _, astray = imagine(tokenizer, model, tokens[:, :_SEEN], others, last[:, 0], Sampling())
        copied = last.expand_as(real)
        delta = frame_psnr(real, told) - frame_psnr(real, astray)
        figures = {}
        for name, frames in (("imagined", told), ("copied", copied)):
            found, moving = frame_psnr(real, frames).mean(0), moving_psnr(last, real, frames)
            alike = frame_ssim(real, frames).mean(0)
            for step in (1, _HORIZON):
                figures[f"ssim_{step}_{name}"] = alike[step - 1].item()
                figures[f"psnr_{step}_{name}"] = found[step - 1].item()
                figures[f"moving_psnr_{step}_{name}"] = moving[step - 1].item()
        figures[f"delta_{_HORIZON}_psnr"] = delta[:, -1].mean().item()
        rows = []
        for i in range(4):
            rows.append(("real", self.frames[i]))
            again = tokenizer.decode(tokens[i : i + 1], last[i])[0]
            rows.append(("reconstructed", again))
            rows.append(("imagined", torch.cat([again[:_SEEN], told[i]])))
            rows.append(("random actions", torch.cat([again[:_SEEN], astray[i]])))
        return rows, figures
