"""What the trainings of a world model's parts share: data, settings, the folder of a run.

runs/world/
  data/             videos as shards, if they were recordings or came from the simulator
  tokenizer/        the run of `vla train tokenizer`, see training/trainer.py
  latent-actions/   of `vla train latent-actions`
  tokens/           what the dynamics train on, written once for a tokenizer and latent actions
  dynamics/         of `vla train dynamics`
  checkpoint/       the world model, whole
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
import transformers
from torch import Tensor, nn

from vla_ros.training.data.clips import Clips, videos
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.notices import say
from vla_ros.training.data.provenance import Provenance
from vla_ros.training.data.recordings import Robot
from vla_ros.training.genie_pictures import Look, Watch
from vla_ros.training.genie_videos import collect, provenance
from vla_ros.training.recipes import WorldSettings
from vla_ros.training.recorded_data import split
from vla_ros.training.run_folder import begin, settle
from vla_ros.training.trainer import Objective, PolicyTrainer

_HELD_OUT_BATCHES = 4


@dataclass(frozen=True)
class Videos:
    """What parts are trained on, and what they are measured on."""

    trained: Clips
    held: Clips

    @classmethod
    def load(
        cls,
        settings: WorldSettings,
        data: Sequence[Path] | None,
        robot: str | None,
        image_size: int,
        out: Path,
        run: str,
    ) -> Videos:
        """Of `data`, or of the simulator, for the run of a part in the folder out/run.

        Raises:
            ValueError: see `videos`; or the run has begun on other data.
        """
        folder = out / "data"
        if data:
            contract = Robot.load(robot) if robot else None
            about = {"robot": contract and asdict(contract), "camera": settings.camera}
            read = [*data, *map(Path, contract.msg if contract else ())]
            settle(out / run, Provenance.of(read, about, Provenance.load(out / run)))
        else:
            settle(out / run, provenance(settings.seed, image_size))
            data = collect(folder / "simulator", settings.episodes, settings.seed, image_size)
        return cls.of(videos(data, robot, settings.camera, image_size, folder), settings)

    @classmethod
    def of(cls, episodes: Sequence[Episode], settings: WorldSettings) -> Videos:
        trained, held = split(episodes, settings.held_out)
        if not held:
            say(f"{len(episodes)} episodes: none is held out; what is measured is trained on")
        parts = trained, held or trained
        return cls(*(Clips(part, settings.camera, settings.dt) for part in parts))


class Batches(Protocol):
    """What a part draws batches from: Clips, or TokenClips."""

    def batch(
        self, seed: int, step: int, count: int, length: int, rank: int = 0
    ) -> dict[str, Tensor]: ...


def start(
    recipe: WorldSettings, data: Sequence[Path] | None, robot: str | None, folder: Path
) -> transformers.TrainingArguments:
    """Make the folder of a part's run, or find that it is of the same run; see `begin`."""
    told = vars(recipe) | {"data": [str(p.resolve()) for p in data or ()], "robot": robot}
    return begin(recipe, folder, told)


def held_out(recipe: WorldSettings, held: Batches) -> list[dict[str, Tensor]]:
    """The batches that a part is measured on."""
    return [held.batch(0, i, recipe.clips, recipe.length) for i in range(_HELD_OUT_BATCHES)]


def fit(
    objective: Objective,
    recipe: WorldSettings,
    args: transformers.TrainingArguments,
    trained: Batches,
    held: Sequence[dict[str, Tensor]],
    look: Callable[[nn.Module], Look],
    *,
    tensorboard: bool,
) -> Path:
    """Train a part; returns its folder checkpoint/.

    Args:
        objective: the part and its losses.
        recipe: of the training.
        args: of `start`.
        trained: what to train on.
        held: of `held_out`.
        look: see `Watch`.
        tensorboard: write the curves for it too.
    """

    def draw(step: int, rank: int) -> dict[str, Tensor]:
        return trained.batch(recipe.seed, step, recipe.clips, recipe.length, rank)

    watch = Watch(Path(args.output_dir), look)
    trainer = PolicyTrainer(
        objective, recipe, args, draw, held, tensorboard=tensorboard, callbacks=[watch]
    )
    return trainer.fit()


def pixels(frames: Tensor) -> Tensor:
    """Frames as models read them: [B, T, 3, S, S] from 0 to 1, of uint8 [B, T, S, S, 3]."""
    return frames.permute(0, 1, 4, 2, 3).float() / 255


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, dB, of mean squared errors of pixels from 0 to 1."""
    return -10 * torch.log10(error.clamp(min=1e-10))
