"""Trains a policy from recordings: behaviour cloning of action chunks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.models import language
from vla_ros.models.vision import build_encoder
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.models.vlam_config import SIZES, Statistics
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import VOCABULARY
from vla_ros.scene_language.words import words_of
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.episode_windows import EpisodeWindows, action_chunks
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards
from vla_ros.training.data.statistics import StatisticsBuilder
from vla_ros.training.data.windows import LENGTHS, Batch
from vla_ros.training.trainer import Objective, PolicyTrainer, Settings, begin

_SPLIT_SEED = 0  # which episodes are held out is the same in all runs
_HELD_OUT_EPISODES = 32  # the loss is measured on so many
_HELD_OUT_FRAMES = 256  # of each of them
_SLACK = 0.5  # of the width of an action's bounds
_WEIGHTS = {"motion": 1.0, "decision": 0.4, "done": 0.1}


@dataclass(frozen=True)
class Recipe(Settings):
    """How a policy is trained from recordings."""

    start: str = ""  # a checkpoint to go on from, by name or folder
    size: str = "tiny"  # of a policy that begins from nothing
    vision: str = ""  # the size's own
    freeze_vision: bool = False
    held_out: float = 0.1  # of the episodes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < max(LENGTHS):
            raise ValueError(f"frames is {self.frames}: a batch holds {max(LENGTHS)} or more")
        if self.size not in SIZES:
            raise ValueError(f"no size {self.size!r}: choose {', '.join(SIZES)}")
        made = self.size, self.vision, self.freeze_vision
        if self.start and made != (Recipe.size, Recipe.vision, Recipe.freeze_vision):
            raise ValueError(
                f"the policy {self.start} has its size and vision: leave out either start or those"
            )
        if not 0.0 < self.held_out < 1.0:
            raise ValueError(f"held_out is {self.held_out}: give a share between 0 and 1")


def train(
    recipe: Recipe,
    data: Sequence[Path],
    robot: str,
    out: Path,
    *,
    tensorboard: bool = False,
    deepspeed: Path | None = None,
) -> Path:
    """Train, resuming whatever `out` holds; returns the checkpoint folder out/checkpoint.

    The recordings are written once, at the size of the model's images, to out/data; shards of
    `write_shards` are used where they are.

    Raises:
        ValueError: a recording cannot be read or is not of the robot, or there are too few.
    """
    told = vars(recipe) | {"data": [path.resolve() for path in data], "robot": robot}
    args = begin(recipe, out, told, deepspeed)
    contract = Robot.load(robot)
    policy = _known(recipe.start, contract) if recipe.start else None
    vision = recipe.vision or SIZES[recipe.size]["vision_model"]
    image_size = policy.image_size if policy else build_encoder(vision).image_size
    with args.main_process_first(local=False):
        folder = _shards(contract, data, out / "data", image_size)
    episodes = load(folder)
    trained, held = split(episodes, recipe.held_out)
    statistics = _statistics(trained, contract.action, out)
    model = policy or VisionLanguageActionModel.from_size(
        recipe.size,
        contract.action,
        vision_model=vision,
        freeze_vision=recipe.freeze_vision,
        cameras=episodes[0].cameras,
        tokenizer=language.word_tokenizer({*VOCABULARY, *_words(episodes)}),
        statistics=statistics,
    )
    if policy and policy.config.cameras != episodes[0].cameras:
        raise ValueError(
            f"{recipe.start} sees {', '.join(policy.config.cameras)}, the recordings have "
            f"{', '.join(episodes[0].cameras)}: list the robot's cameras by those names"
        )
    windows, kept = (_windows(model, part) for part in (trained, held[:_HELD_OUT_EPISODES]))
    trainer = PolicyTrainer(
        Objective(model, losses, _goals(model, trained)),
        recipe,
        args,
        lambda step, rank: windows.batch(recipe.seed, step, recipe.frames, rank),
        [*kept.whole(_HELD_OUT_FRAMES)],
        tensorboard=tensorboard,
    )
    return trainer.fit()


def _known(start: str, contract: Robot) -> VisionLanguageActionModel:
    """The policy to go on from. Raises ValueError if it is of another robot."""
    model = VisionLanguageActionModel.from_pretrained(resolve(start))
    for name, value in vars(model.config.action).items():
        if value != (wanted := getattr(contract.action, name)):
            raise ValueError(f"{start} is of another robot: its {name} is {value}, not {wanted}")
    return model.train()


def _words(episodes: Sequence[Episode]) -> set[str]:
    return {word for episode in episodes for word in words_of(episode.instruction)}


def load(folder: Path) -> list[Episode]:
    """The episodes of shards, but for those that failed; their pictures stay on disk.

    Raises:
        ValueError: there are none.
    """
    shards = map(EpisodeShard.load, shard_folders(folder))
    there = [episode for shard in shards for episode in shard.episodes() if len(episode)]
    kept = [episode for episode in there if episode.outcome is not False]
    if len(kept) < len(there):
        tqdm.write(f"{len(there) - len(kept)} of {len(there)} episodes failed and are left out")
    if not kept:
        raise ValueError(f"{folder} holds no episode to learn from; {len(there)} failed")
    return kept


def split(episodes: Sequence[Episode], share: float) -> tuple[list[Episode], list[Episode]]:
    """Episodes to train on, and those held out: one of each so many in a row, at random.

    Raises:
        ValueError: there are too few episodes.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    row = round(1 / share)
    held = {begin + int(rng.integers(row)) for begin in range(0, len(episodes), row)}
    parts = [[e for i, e in enumerate(episodes) if (i in held) == out] for out in (False, True)]
    if not all(parts):
        raise ValueError(
            f"{len(episodes)} episodes are too few to hold out {share:.0%}: give more of either"
        )
    return parts[0], parts[1]


def losses(model: VisionLanguageActionModel, batch: Batch) -> dict[str, Tensor]:
    """All losses of a batch by name, whether the data have labels for them or not."""
    out = model(batch["images"], batch["proprioception"], batch["instruction"])
    raw, mask = out["raw_actions"].float(), batch["mask"]
    known = (batch["known"] * mask[..., None])[..., None]
    offset, scale = (
        torch.as_tensor(value, dtype=raw.dtype, device=raw.device)
        for value in (model.statistics.action_offset, model.statistics.action_scale)
    )
    low, high = torch.tensor(model.config.action.action_bounds, device=raw.device).unbind(-1)
    binary = torch.tensor(model.config.action.binary, device=raw.device)
    actions = batch["actions"].float()
    motion = F.smooth_l1_loss(raw, (actions - offset) / scale, reduction="none")
    decision = F.binary_cross_entropy_with_logits(
        raw, ((actions - low) / (high - low)).clamp(0, 1), reduction="none"
    )
    done = F.binary_cross_entropy_with_logits(
        out["done"].float(), batch["done"].float(), reduction="none"
    )
    return {
        "motion": _mean(motion, known * ~binary),
        "decision": _mean(decision, known * binary),
        "done": _mean(done, batch["done_known"] * mask),
    }


def _mean(value: Tensor, weight: Tensor) -> Tensor:
    """Mean of `value` where `weight` (broadcast) is 1; 0 if that is nowhere."""
    weight = weight.expand_as(value)
    return (value * weight).sum() / weight.sum().clamp(min=1)


def held_out_errors(
    model: VisionLanguageActionModel, trained: Sequence[Episode], held: Sequence[Episode]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared errors of a chunk's actions [K, A] on episodes it was not trained on: of the
    model, and of the mean action of those it was trained on."""
    action = model.config.action
    done = [episode.actions[episode.actions_known] for episode in trained]
    mean = np.mean(np.concatenate(done), axis=0)
    squares = np.zeros((2, action.horizon, action.action_dim))
    counts = np.zeros((action.horizon, 1))
    for batch in _windows(model, held).whole(max(map(len, held))):
        with torch.no_grad():
            out = model(batch["images"], batch["proprioception"], batch["instruction"])
        wanted, known = batch["actions"][0].numpy(), batch["known"][0].numpy()[..., None]
        for i, guess in enumerate((out["action_chunks"][0].numpy(), mean)):
            squares[i] += (known * (guess - wanted) ** 2).sum(0)
        counts += known.sum(0)
    return squares[0] / counts, squares[1] / counts


# -- data ------------------------------------------------------------------------------------------


def _shards(robot: Robot, data: Sequence[Path], folder: Path, image_size: int) -> Path:
    """Folder of the shards to train from, written if they are not there yet."""
    if len(data) == 1 and any(data[0].glob("*/episodes.json")):
        folder = data[0]
    elif not folder.exists():
        episodes = robot.episodes(data)
        first = next(episodes, None)
        if first is None:
            raise ValueError(f"no episodes in {', '.join(map(str, data))}")
        episodes = tqdm(itertools.chain([first], episodes), desc="episodes", unit="episode")
        write_shards(folder, episodes, robot.cameras or first.cameras, image_size)
    shard = EpisodeShard.load(shard_folders(folder)[0])
    if (size := shard.images.shape[2]) != image_size:
        raise ValueError(f"{folder} has images of {size} pixels, the model {image_size}")
    if robot.cameras and tuple(robot.cameras) != shard.cameras:
        raise ValueError(f"{folder} is of cameras {shard.cameras}, not {robot.cameras}")
    for episode in shard.episodes():
        robot.check(episode)
    return folder


def _windows(model: VisionLanguageActionModel, episodes: Sequence[Episode]) -> EpisodeWindows:
    told = model.config.heard_tokens, model.config.needed_words
    tokens = {
        text: language.encode(model.tokenizer, text, *told) if text else [0]
        for text in {episode.instruction for episode in episodes}
    }
    return EpisodeWindows(
        episodes,
        model.config.action,
        model.config.cameras,
        tokens,
        model.statistics.proprioception_std,
    )


def _statistics(episodes: Sequence[Episode], action: ActionConfig, out: Path) -> Statistics:
    """Of proprioception and of each action of a chunk; those of the first go to out too.

    Raises:
        ValueError: the actions are not those of the contract.
    """
    builders = [StatisticsBuilder() for _ in range(action.horizon)]
    for episode in episodes:
        chunks, _ = action_chunks(episode, action)
        for place, builder in enumerate(builders):
            builder.add(replace(episode, actions=chunks[:, place]))
    found = [builder.result() for builder in builders]
    found[0].save(out / "statistics.json")
    now = found[0].actions
    bounds = zip(action.action_names, action.action_bounds, now.q01, now.q99, strict=True)
    for name, (low, high), first, last in bounds:
        # Fast motion may be told farther ahead than the policy will; another unit is farther off.
        slack = _SLACK * (high - low)
        if first < low - slack or last > high + slack:
            raise ValueError(
                f"{name} lies between {first:.4g} and {last:.4g} in 98 % of frames, but the bounds "
                f"of the robot are {low:.4g} and {high:.4g}: are both in the same unit?"
            )
    felt = found[0].proprioception
    width = np.diff(np.array(action.action_bounds), axis=1)[:, 0]
    return Statistics(
        np.array(felt.mean),
        np.where(np.array(felt.std) > 1e-6, felt.std, 1.0),
        np.array([one.actions.mean for one in found]),
        np.maximum([one.actions.std for one in found], 1e-3 * width),
    )


def _goals(model: VisionLanguageActionModel, episodes: Sequence[Episode]) -> dict[str, float]:
    """Weights of the losses that the data have labels for; the other heads are not trained."""
    told = any(episode.outcome is not None for episode in episodes)
    binary = model.config.action.binary
    has = {"motion": not all(binary), "decision": any(binary), "done": told}
    untrained = [model.locate, model.language, *([] if told else [model.done])]
    for head in untrained:
        head.requires_grad_(False)
    return {name: weight for name, weight in _WEIGHTS.items() if has[name]}
