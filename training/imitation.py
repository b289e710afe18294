"""Trains a policy from recordings: behaviour cloning of action chunks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.checkpoints import resolve
from vla_ros.models import language
from vla_ros.models.vision import build_encoder, build_geometry, required_inputs
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.models.vlam_config import SIZES, Statistics
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.words import words_of
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.episode_windows import EpisodeWindows, action_chunks
from vla_ros.training.data.notices import say
from vla_ros.training.data.ranges import check_ranges, recorded_ranges, report
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.statistics import StatisticsBuilder
from vla_ros.training.data.windows import Batch, geometry_of
from vla_ros.training.recipes import ImitationRecipe as Recipe
from vla_ros.training.recorded_data import load, shards, split, summary
from vla_ros.training.run_folder import begin
from vla_ros.training.trainer import Objective, PolicyTrainer
from vla_ros.training.vocabulary import new_words, with_words

_HELD_OUT_EPISODES = 32  # the loss is measured on so many
_HELD_OUT_FRAMES = 256  # of each of them
_SHOWN = 12  # new words
_WEIGHTS = {"motion": 1.0, "decision": 0.4, "done": 0.1}


def train(
    recipe: Recipe,
    data: Sequence[Path],
    robot: str,
    out: Path,
    *,
    msg: Sequence[Path] = (),
    tensorboard: bool = False,
    deepspeed: Path | None = None,
) -> Path:
    """Train, resuming whatever `out` holds; returns the checkpoint folder out/checkpoint.

    The recordings are written once, at the size of the model's images, to out/data; shards of
    `write_shards` are used where they are.

    Raises:
        ValueError: a recording cannot be read or is not of the robot, there is nothing to
            learn, or the run in `out` began with other settings or data.
    """
    if missing := [path for path in data if not path.exists()]:
        raise ValueError(f"{missing[0]} does not exist")
    identity = vars(recipe) | {"data": [path.resolve() for path in data], "robot": robot}
    contract = Robot.load(robot, msg)
    policy = _known(recipe, contract) if recipe.start else None
    vision = recipe.vision or SIZES[recipe.size]["vision_model"]
    encoder = policy.encoders[0] if policy else build_encoder(vision)
    geometry = recipe.geometry
    if policy:
        geometry = policy.config.geometry
    elif geometry:
        # Now, as what is missing for it should be told before recordings are read.
        geometry = build_geometry(geometry, encoder.image_size, encoder.grid).description()
    needs = required_inputs(geometry or None)
    image_size = encoder.image_size
    begins = [resolve(recipe.start)] if recipe.start else []
    args = begin(recipe, out, identity, deepspeed)
    with args.main_process_first(local=False):
        folder = shards(contract, data, out, image_size, begins, needs)
    episodes = load(folder)
    trained, held = split(episodes, recipe.held_out)
    if args.process_index == 0:
        ranges = report(recorded_ranges(trained, contract.action))
        for line in (*summary(trained, held), *ranges):
            say(line)
    statistics = _statistics(trained, contract.action, out)
    texts = {episode.instruction for episode in episodes}
    if policy:
        model = _taught(policy, recipe.start, texts)
    else:
        model = _untrained(recipe, vision, contract.action, episodes[0].cameras, texts, statistics)
    if policy and policy.config.cameras != episodes[0].cameras:
        raise ValueError(
            f"{recipe.start} sees {', '.join(policy.config.cameras)}, the recordings have "
            f"{', '.join(episodes[0].cameras)}: list the robot's cameras by those names"
        )
    measured = (held or trained)[:_HELD_OUT_EPISODES]
    windows, kept = (_windows(model, part) for part in (trained, measured))
    trainer = PolicyTrainer(
        Objective(model, losses, _goals(model, trained)),
        recipe,
        args,
        lambda step, rank: windows.batch(recipe.seed, step, recipe.frames, rank),
        [*kept.whole(_HELD_OUT_FRAMES)],
        tensorboard=tensorboard,
    )
    return trainer.fit()


def _known(recipe: Recipe, contract: Robot) -> VisionLanguageActionModel:
    """The policy to go on from, with the geometry that is to be added to it. Raises ValueError if
    it is of another robot, or has another geometry."""
    start = recipe.start
    model = VisionLanguageActionModel.from_pretrained(resolve(start))
    for name, value in vars(model.config.action).items():
        if value != (wanted := getattr(contract.action, name)):
            raise ValueError(f"{start} is of another robot: its {name} is {value}, not {wanted}")
    if recipe.geometry:
        model = _with_geometry(model, recipe.geometry, start)
    return model.train()


def _with_geometry(
    policy: VisionLanguageActionModel, geometry: str, start: str
) -> VisionLanguageActionModel:
    """The same policy, which fuses geometry too, at first with closed gates."""
    encoder = policy.encoders[0]
    wanted = build_geometry(geometry, encoder.image_size, encoder.grid).description()
    if policy.config.geometry == wanted:
        return policy
    if policy.config.geometry is not None:
        kind = policy.config.geometry["model_type"]
        raise ValueError(f"{start} fuses geometry '{kind}' already: leave out --geometry")
    shape = {k: v for k, v in vars(policy.config).items() if k not in ("action", "vision")}
    given = {"tokenizer": policy.tokenizer, "statistics": policy.statistics, **shape}
    given["geometry"] = geometry
    grown = VisionLanguageActionModel(policy.config.action, policy.config.vision, **given)
    grown.load_state_dict(policy.state_dict(), strict=False)
    return grown


def _untrained(
    recipe: Recipe,
    vision: str,
    action: ActionConfig,
    cameras: Sequence[str],
    texts: Collection[str],
    statistics: Statistics,
) -> VisionLanguageActionModel:
    """A policy that knows the words of these instructions, and nothing else."""
    words = {word for text in texts for word in words_of(text)}
    return VisionLanguageActionModel.from_size(
        recipe.size,
        action,
        vision_model=vision,
        freeze_vision=recipe.freeze_vision,
        cameras=cameras,
        tokenizer=language.word_tokenizer(words),
        language_conditioned=bool(words),
        statistics=statistics,
        geometry=recipe.geometry or None,
    )


def _taught(
    policy: VisionLanguageActionModel, start: str, texts: Collection[str]
) -> VisionLanguageActionModel:
    """The policy to go on from, with the words of these instructions.

    Raises:
        ValueError: it follows instructions, and there are none.
    """
    instructions = [text for text in texts if text]
    if not instructions:
        if not policy.config.language_conditioned:
            return policy
        raise ValueError(
            f"no episode has an instruction, and {start} follows instructions: record some, or "
            "train a policy from nothing, which will heed none"
        )
    words, needed = new_words(policy, instructions), policy.config.needed_words
    if free := next((text for text in instructions if not {*needed} & {*words_of(text)}), None):
        if needed:
            say(f"instructions need no longer name one of {', '.join(needed)}: '{free}'")
        needed = ()
    if words:
        say(f"{start} learns {len(words)} new words: {', '.join(words[:_SHOWN])}")
    if words or needed != policy.config.needed_words or not policy.config.language_conditioned:
        policy = with_words(policy, words, needed)
    return policy.train()


def losses(model: VisionLanguageActionModel, batch: Batch) -> dict[str, Tensor]:
    """All losses of a batch by name, whether the data have labels for them or not."""
    geometry = geometry_of(model, batch)
    out = model(batch["images"], batch["proprioception"], batch["instruction"], None, geometry)
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
        seen = batch["images"], batch["proprioception"], batch["instruction"], None
        with torch.no_grad():
            out = model(*seen, geometry_of(model, batch))
        wanted, known = batch["actions"][0].numpy(), batch["known"][0].numpy()[..., None]
        for i, guess in enumerate((out["action_chunks"][0].numpy(), mean)):
            squares[i] += (known * (guess - wanted) ** 2).sum(0)
        counts += known.sum(0)
    return squares[0] / counts, squares[1] / counts


# -- data ------------------------------------------------------------------------------------------


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
        required_inputs(model.config.geometry),
    )


def _statistics(episodes: Sequence[Episode], action: ActionConfig, out: Path) -> Statistics:
    """Of proprioception and of each action of a chunk; those of the first go to out too.

    Raises:
        ValueError: the actions are not those of the contract, or in another unit.
    """
    check_ranges(recorded_ranges(episodes, action))
    builders = [StatisticsBuilder() for _ in range(action.horizon)]
    for episode in episodes:
        chunks, _ = action_chunks(episode, action)
        for place, builder in enumerate(builders):
            builder.add(replace(episode, actions=chunks[:, place]))
    found = [builder.result() for builder in builders]
    found[0].save(out / "statistics.json")
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
