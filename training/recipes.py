"""What all trainings may be told, each with its defaults: known without PyTorch, so that a wrong
argument is told at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from vla_ros.models.genie.sizes import QUANTIZERS, part
from vla_ros.models.spatial_vla.sizes import SIZES as SPATIAL_SIZES
from vla_ros.models.svl_config import EYE
from vla_ros.models.svl_config import SIZES as NARRATOR_SIZES
from vla_ros.models.vlam_config import SIZES
from vla_ros.scene_language.vocabulary import FORMS

MOST, MOST_PROCESSES = 10**9, 1024  # what no setting exceeds
_MOST_RATE = 10  # with which anything is learned
_LONGEST_STEP = 60.0  # s, of a world model
LENGTHS = {1: 0.5, 2: 0.1, 8: 0.2, 24: 0.1, 64: 0.1}  # frames of a window: share of batches


@dataclass(frozen=True)
class Settings:
    """What all runs have. `frames` is of a batch, of each process."""

    seed: int = 0
    steps: int = 4000
    frames: int = 256
    learning_rate: float = 1.2e-3
    weight_decay: float = 1e-3
    warmup: int = 200
    save_every: int = 250
    precision: str = "bf16"  # or fp32
    threads: int = 1  # of torch
    loaders: int = 1  # processes that prepare batches; 0: the one that trains does

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision is {self.precision!r}: choose bf16 or fp32")
        between(self, 0, MOST, "seed", "weight_decay", "warmup")
        between(self, 1, MOST, "steps", "frames", "save_every")
        between(self, 1, MOST_PROCESSES, "threads")
        between(self, 0, MOST_PROCESSES, "loaders")
        if not 0.0 < self.learning_rate <= _MOST_RATE:
            wanted = f"give a number above 0, {_MOST_RATE} at most"
            raise ValueError(f"learning_rate is {self.learning_rate}: {wanted}")

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps


_Recipe = TypeVar("_Recipe", bound=Settings)


# -- policies


@dataclass(frozen=True)
class DaggerRecipe(Settings):
    """What the shipped policy is trained with; the defaults are its recipe."""

    steps: int = 900  # of a round
    demonstrations: int = 900  # expert episodes before the first round
    learner_episodes: int = 250  # DAgger episodes of each later round
    rounds: int = 8
    held_out_episodes: int = 20  # expert episodes that are not trained on
    hold_out_pairs: bool = False  # of colour and shape, to measure the policy on them
    geometry: str = ""  # fused into what is seen: depth_camera, a depth model, map_anything, none
    variants: bool = False  # half of the tasks are stacked, occluded and the like
    workers: int = 2  # processes that collect while this one trains

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < max(LENGTHS):
            raise ValueError(f"frames is {self.frames}: a batch holds {max(LENGTHS)} or more")
        between(self, 1, MOST, "demonstrations", "rounds", "held_out_episodes")
        between(self, 1, MOST_PROCESSES, "workers")
        between(self, 1 if self.rounds > 2 else 0, MOST, "learner_episodes")

    @property
    def total(self) -> int:
        return self.rounds * self.steps


@dataclass(frozen=True)
class SpatialRecipe(DaggerRecipe):
    """How a small SpatialVLA is trained from nothing. `frames` are of a batch, each a row."""

    size: str = "tabletop"
    steps: int = 5000  # of a round
    frames: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.geometry:
            raise ValueError("geometry is not trained here yet: leave it out")
        if self.size not in SPATIAL_SIZES:
            raise ValueError(f"no size {self.size!r}: choose {', '.join(SPATIAL_SIZES)}")


@dataclass(frozen=True)
class ImitationRecipe(Settings):
    """How a policy is trained from recordings."""

    start: str = ""  # a checkpoint to go on from, by name or folder
    size: str = "tiny"  # of a policy that begins from nothing
    vision: str = ""  # the size's own
    freeze_vision: bool = False
    geometry: str = ""  # fused into what is seen: depth_camera, a depth model, map_anything, none
    held_out: float = 0.1  # of the episodes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < max(LENGTHS):
            raise ValueError(f"frames is {self.frames}: a batch holds {max(LENGTHS)} or more")
        if self.size not in SIZES:
            raise ValueError(f"no size {self.size!r}: choose {', '.join(SIZES)}")
        usual = ImitationRecipe.size, ImitationRecipe.vision, ImitationRecipe.freeze_vision
        if self.start and (self.size, self.vision, self.freeze_vision) != usual:
            raise ValueError(
                f"the policy {self.start} has its size and vision: leave out either start or those"
            )
        if not 0.0 < self.held_out < 1.0:
            raise ValueError(f"held_out is {self.held_out}: give a share between 0 and 1")


# -- the narrator


@dataclass(frozen=True)
class NarratorRecipe(Settings):
    """How the narrator is trained; the defaults are those of the shipped one. Batches are `rows` of
    stories, in the last stage with as many of sights; those of the eye are `frames`."""

    steps: int = 19000
    eye_steps: int = 16000
    sight_steps: int = 3000
    rows: int = 24
    frames: int = 32
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    save_every: int = 500
    size: str = "nano"
    context: int = 256
    form: str = "spatial"
    glances: int = 30_000
    episodes: int = 600
    image_size: int = EYE["image_size"]
    channels: int = EYE["channels"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in NARRATOR_SIZES:
            raise ValueError(f"no size {self.size!r}: choose {', '.join(NARRATOR_SIZES)}")
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}: choose {', '.join(FORMS)}")
        between(self, 0, MOST, "glances", "episodes", "sight_steps")
        between(self, 1 if self.sight_steps else 0, MOST, "eye_steps")
        between(self, 1, MOST, "rows", "context", "image_size", "channels")
        if self.sight_steps and self.form == "words":
            raise ValueError("what is seen is told in spatial tokens: give --sight-steps 0")
        if self.sight_steps and not self.glances + self.episodes:
            raise ValueError("nothing to be seen: give --glances, --episodes or --sight-steps 0")


# -- the parts of a world model


@dataclass(frozen=True)
class WorldSettings(Settings):
    """What the trainings of all parts have. `frames` is of a batch."""

    size: str = "nano"
    camera: str = "camera"
    dt: float = 0.2  # s between frames; at 20 Hz nothing moves, and copying the last frame wins
    length: int = 6  # frames of a clip
    held_out: float = 0.05  # of the episodes
    episodes: int = 1000  # to collect, if no data are given
    loaders: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        between(self, 1, MOST, "episodes")
        if not 0.0 < self.dt <= _LONGEST_STEP:
            raise ValueError(
                f"dt is {self.dt}: give seconds between frames, {_LONGEST_STEP} at most"
            )
        if not self.camera:
            raise ValueError("camera is empty: give the name of one")
        if self.length < 2 or self.frames < self.length:
            raise ValueError(
                f"length is {self.length} and frames {self.frames}: a clip has 2 frames or more, a "
                "batch a clip or more"
            )
        if not 0.0 < self.held_out < 1.0:
            raise ValueError(f"held_out is {self.held_out}: give a share between 0 and 1")

    @property
    def clips(self) -> int:
        """Clips of a batch."""
        return self.frames // self.length


@dataclass(frozen=True)
class TokenizerRecipe(WorldSettings):
    """How the tokenizer is trained; the defaults are those of the shipped one."""

    steps: int = 7000
    frames: int = 32
    length: int = 8
    learning_rate: float = 1.2e-3
    warmup: int = 100
    quantizer: str = "fsq"  # or vq

    def __post_init__(self) -> None:
        super().__post_init__()
        part(self.size, "tokenizer")
        if self.quantizer not in QUANTIZERS:
            raise ValueError(f"no quantizer {self.quantizer!r}: choose {' or '.join(QUANTIZERS)}")


@dataclass(frozen=True)
class LatentActionRecipe(WorldSettings):
    """How latent actions are trained; the defaults are those of the shipped ones."""

    steps: int = 4000
    frames: int = 36
    length: int = 3
    learning_rate: float = 1.5e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        part(self.size, "latent_actions")


@dataclass(frozen=True)
class DynamicsRecipe(WorldSettings):
    """How the dynamics are trained; the defaults are those of the shipped ones."""

    steps: int = 5000
    frames: int = 48
    length: int = 6
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    loaders: int = 0  # batches are indices

    def __post_init__(self) -> None:
        super().__post_init__()
        part(self.size, "dynamics")


# -- text -> scene -> text


@dataclass(frozen=True)
class ScenesRecipe(Settings):
    """How text -> scene -> text is trained; the defaults are those of the one that ships."""

    epochs: int = 28
    layout_epochs: int = 12  # at first, in which no picture is read yet
    num_samples: int = 8000  # texts of an epoch
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 250
    weight_decay: float = 1e-3
    save_every: int = 250
    d_model: int = 512
    hidden_dim: int = 256
    z_dim: int = 128
    use_vae: bool = True
    use_vq: bool = False
    painter: str = "sprites"
    dropout: float = 0.0
    lambda_told: float = 1.0
    lambda_bound: float = 0.5
    lambda_spatial: float = 0.3
    lambda_kl: float = 0.02
    lambda_diversity: float = 0.05
    lambda_unmoved: float = 0.1
    lambda_reconstruction: float = 4.0
    lambda_perceptual: float = 4.0
    lambda_color: float = 1.0
    lambda_cells: float = 0.5
    lambda_consistency: float = 1.0
    lambda_looking: float = 0.5
    lambda_matching: float = 1.0
    lambda_embedding: float = 0.25
    lambda_language: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        between(self, 1, MOST, "epochs", "num_samples", "batch_size", "d_model", "hidden_dim")
        between(self, 1, MOST, "z_dim")
        between(self, 0, self.epochs, "layout_epochs")
        if self.painter not in ("sprites", "convolutions"):
            raise ValueError(f"painter is {self.painter!r}: choose sprites or convolutions")
        if self.use_vae and self.use_vq:
            raise ValueError("use_vae and use_vq: a bottleneck is one of them; give --no-use-vae")

    @property
    def total(self) -> int:
        return max(self.epochs * self.num_samples // self.batch_size, 1)

    @property
    def layout_steps(self) -> int:
        return self.layout_epochs * self.num_samples // self.batch_size

    @property
    def weights(self) -> dict[str, float]:
        prefix = "lambda_"
        return {
            field.name.removeprefix(prefix): getattr(self, field.name)
            for field in fields(self)
            if field.name.startswith(prefix)
        }


# -- checks


def between(settings: Settings, least: int, most: int, *names: str) -> None:
    """Raises ValueError if one of these settings is less, more, or no number."""
    for name in names:
        if not least <= (value := getattr(settings, name)) <= most:
            raise ValueError(f"{name} is {value}: give {least} or more, {most} at most")


def from_arguments(recipe: type[_Recipe], arguments: argparse.Namespace) -> _Recipe:
    """What `setting_arguments` made of the command line. Raises ValueError: a setting is wrong."""
    return recipe(**{field.name: getattr(arguments, field.name) for field in fields(recipe)})


def setting_arguments(
    parser: argparse.ArgumentParser, recipe: type[Settings], without: Sequence[str] = ()
) -> None:
    """An option for each setting of a recipe but `without`, with its default."""
    for field in fields(recipe):
        if field.name in without:
            continue
        name, about = f"--{field.name.replace('_', '-')}", f"default {field.default}"
        if isinstance(field.default, bool):
            action = argparse.BooleanOptionalAction
            parser.add_argument(name, action=action, default=field.default, help=about)
        else:
            kind = type(field.default)
            parser.add_argument(name, type=kind, default=field.default, help=about)
