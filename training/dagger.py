"""Trains the arm's policy in simulation: behaviour cloning of the scripted experts with DAgger.

Nobody waits: while a round trains, other processes let the policy of the round before drive and
record the expert's labels for what it met; these join the data of the next round.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models import language
from vla_ros.models.vision import build_encoder, build_geometry
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.models.vlam_config import SMALL_ENCODER
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import SENTENCES
from vla_ros.scene_language.instructions import COLORS
from vla_ros.training.data.provenance import Provenance, code
from vla_ros.training.data.windows import Batch, Windows, geometry_of
from vla_ros.training.recipes import DaggerRecipe as Recipe
from vla_ros.training.rounds import CODE, Rounds
from vla_ros.training.run_folder import begin, settle
from vla_ros.training.trainer import Objective, PolicyTrainer

_WEIGHTS = {
    "motion": 1.0,
    "finger": 0.4,
    "done": 0.1,
    "locate": 0.3,
    "look": 0.2,
    "language": 1.0,
}
_ACTION = ActionConfig.get_arm_config()
_CAMERAS = ("camera", "wrist_camera")


def train(
    recipe: Recipe, out: Path, *, tensorboard: bool = False, deepspeed: Path | None = None
) -> Path:
    """Train, resuming whatever `out` holds; returns the checkpoint folder out/checkpoint.

    Processes that a launcher started share `out`; the first of them collects for all.

    Raises:
        FileNotFoundError, ValueError: the geometry is unknown, or something it needs is missing.
    """
    if recipe.geometry:  # what is missing for it is told before anything is collected
        encoder = build_encoder(SMALL_ENCODER)
        build_geometry(recipe.geometry, encoder.image_size, encoder.grid)
    args = begin(recipe, out, vars(recipe), deepspeed, keeps=("data",))
    settle(out, Provenance({}, {}, code(*CODE)), keeps=("data",))
    size, spatial = SMALL_ENCODER["image_size"], recipe.geometry not in ("", "none")
    data = partial(Windows, depth=spatial)  # batches have depth and rays, too
    with Rounds(recipe, out, size, data, collects=args.process_index == 0) as rounds:
        model = VisionLanguageActionModel.from_size(
            "tiny",
            _ACTION,
            cameras=_CAMERAS,
            statistics=rounds.windows(0).statistics(),
            needed_words=COLORS,
            geometry=recipe.geometry or None,
        )
        sentences = language.pad(
            language.encode(model.tokenizer, text, model.config.vocab_size) for text in SENTENCES
        )
        trainer = PolicyTrainer(
            Objective(model, partial(losses, sentences=sentences), _WEIGHTS),
            recipe,
            args,
            rounds.batch,
            rounds.held_out(),
            tensorboard=tensorboard,
            callbacks=[rounds],
        )
        return trainer.fit()


# -- losses ----------------------------------------------------------------------------------------


def losses(model: VisionLanguageActionModel, batch: Batch, sentences: Tensor) -> dict[str, Tensor]:
    """All losses of a batch by name. Takes the token ids [all, W] of SENTENCES."""
    text = sentences.to(batch["description"].device)[batch["description"]]
    out = model(
        batch["images"],
        batch["proprioception"],
        batch["instruction"],
        text,
        geometry_of(model, batch),
    )
    raw, actions = out["raw_actions"].float(), batch["actions"]
    scale = torch.as_tensor(model.statistics.action_scale, dtype=raw.dtype, device=raw.device)
    high = model.config.action.action_bounds[-1][1]
    motion = (raw[..., :3] - actions[..., :3] / scale[:, :3]).abs()
    finger = F.binary_cross_entropy_with_logits(
        raw[..., 3], (actions[..., 3] / high).clamp(0, 1), reduction="none"
    )
    done = F.binary_cross_entropy_with_logits(out["done"].float(), batch["done"], reduction="none")
    locate = (out["locate"].float() - batch["locate"]).abs().mean(-1)
    look = _look_loss(out["looks"], batch["pixels"], model.grid[1:3])
    return {
        "motion": _mean(motion.mean((-1, -2)), batch),
        "finger": _mean(finger.mean(-1), batch),
        "done": _mean(done * batch["done_known"], batch),
        "locate": _mean(locate, batch),
        "look": _mean(look, batch),
        "language": _mean(language.sentence_loss(out["language_logits"], text), batch),
    }


def _mean(value: Tensor, batch: Batch) -> Tensor:
    """Mean of [B, T] over the frames that are there."""
    return (value * batch["mask"]).sum() / batch["mask"].sum()


def _look_loss(looks: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cross-entropy [B, T] between where the named keypoints look and where the things are.

    Args:
        looks: [B, T, N, 2, h * w] log-weights.
        pixels: [B, T, N, 2, 2] rows and columns from -1 to 1; NaN where there is nothing to see.
        grid: height and width of the token grid.
    """
    place = pixels[..., None, :]
    axes = [torch.linspace(-1, 1, cells) * (1 - 1 / cells) for cells in grid]
    cells = torch.cartesian_prod(*axes).to(pixels.device)
    width = 0.8 * 2 / grid[0]  # of the soft target: a little less than a cell
    target = torch.softmax(-((cells - place.nan_to_num()) ** 2).sum(-1) / (2 * width**2), dim=-1)
    loss = -(target * looks.float()).sum(-1)
    visible = place[..., 0, :].isfinite().all(-1)
    return (loss * visible).sum((-1, -2)) / looks.shape[2]
