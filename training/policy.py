"""Trains the arm's policy: behaviour cloning of the scripted experts with DAgger.

Nobody waits: while a round trains, other processes let the policy of the round before drive and
record the expert's labels for what it met; these join the data of the next round. Every batch is a
function of (seed, step): a run that was killed and resumed draws the batches it would have drawn.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from vla_ros.models import language
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.models.vlam_config import SMALL_ENCODER
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import SENTENCES
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.tasks import FIRST_TRAINING_SEED
from vla_ros.training.data.simulation import collect, task_list
from vla_ros.training.data.windows import LENGTHS, Batch, Windows

# Reaching is learned first and its episodes are short: it takes every second turn of the others.
_TURNS = ("reach", "push", "pick", "pad", "bowl", "push", "pick", "pad", "bowl")
_OPTIMIZER_STATE = "optimizer.safetensors"
_PROGRESS = "progress.json"
_LOG_EVERY = 25  # steps
_WEIGHTS = {
    "motion": 1.0,
    "finger": 0.4,
    "done": 0.1,
    "locate": 0.3,
    "look": 0.2,
    "language": 1.0,
}
_COLUMNS = ("step", *_WEIGHTS)
_ACTION = ActionConfig.get_arm_config()
_CAMERAS = ("camera", "wrist_camera")


@dataclass(frozen=True)
class Recipe:
    """What the shipped policy is trained with; the defaults are its recipe."""

    seed: int = 0
    demonstrations: int = 1200  # expert episodes before the first round
    learner_episodes: int = 360  # DAgger episodes of each later round
    rounds: int = 5
    steps: int = 850  # optimizer steps of a round
    frames: int = 256  # of a batch
    learning_rate: float = 1.2e-3
    weight_decay: float = 1e-3
    warmup: int = 200
    workers: int = 2  # processes that collect while this one trains
    threads: int = 1  # of torch
    save_every: int = 250

    def __post_init__(self) -> None:
        if self.frames < max(LENGTHS):
            raise ValueError(f"frames is {self.frames}: a batch holds {max(LENGTHS)} or more")


def train(recipe: Recipe, out: Path) -> Path:
    """Train, resuming whatever `out` holds; returns the checkpoint folder out/checkpoint."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(
        recipe.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=os.nice,  # training comes first
        initargs=(10,),
    ) as pool:
        shards = _wait(_submit(pool, recipe, out, 0, None), "demonstrations")
        data = Windows(shards)
        model = VisionLanguageActionModel.from_size(
            "tiny", _ACTION, cameras=_CAMERAS, statistics=data.statistics()
        )
        sentences = language.pad(
            language.encode(model.tokenizer, text, model.config.vocab_size) for text in SENTENCES
        )
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        step = _restore(out, model, optimizer)
        total = recipe.rounds * recipe.steps
        log = _open_log(out / "losses.csv", step)
        bar = tqdm(total=total, initial=step, desc="training", unit="step", mininterval=5.0)
        last_round = -1
        pending: list[Future] = []
        while step < total:
            current = step // recipe.steps
            if current != last_round:
                if last_round < 0:  # a resumed run finds these shards on disk
                    for r in range(1, current):
                        pending += _submit(pool, recipe, out, r, _policy(out, r))
                shards += _wait(pending, f"learner's data up to round {current - 1}")
                if current > 0:
                    _freeze_policy(out, model, current)
                    pending = _submit(pool, recipe, out, current, _policy(out, current))
                data = Windows(shards)
                bar.write(f"round {current}: {data.summary()}")
                last_round = current
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step, recipe.warmup, total)
            batch = data.batch(recipe.seed, step, recipe.frames)
            losses = _losses(model, batch, sentences)
            _optimize(model, optimizer, losses)
            step += 1
            bar.update()
            if step % _LOG_EVERY == 0 or step == total:
                figures = {name: f"{value.item():.5f}" for name, value in losses.items()}
                csv.DictWriter(log, _COLUMNS).writerow({"step": step, **figures})
                log.flush()
                bar.set_postfix(figures)
            if step % recipe.save_every == 0 or step == total:
                _save(out, model, optimizer, step)
        for future in pending:
            future.cancel()
        log.close()
    model.eval().save_pretrained(out / "checkpoint")
    plot_losses(out / "losses.csv", out / "losses.png")
    return out / "checkpoint"


# -- optimisation ----------------------------------------------------------------------------------


def _losses(model: VisionLanguageActionModel, batch: Batch, sentences: Tensor) -> dict[str, Tensor]:
    """All losses of a batch by name. Takes the token ids [all, W] of SENTENCES."""
    model.train()
    text = sentences[batch["description"]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(batch["images"], batch["proprioception"], batch.instructions, text)
    scale = torch.from_numpy(model.statistics.action_scale.astype(np.float32))
    high = model.config.action.action_bounds[-1][1]
    raw, actions = out["raw_actions"].float(), batch["actions"]
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


def _optimize(
    model: VisionLanguageActionModel, optimizer: torch.optim.Optimizer, losses: dict[str, Tensor]
) -> None:
    loss = sum(_WEIGHTS[name] * value for name, value in losses.items())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is not finite: look at the data of the newest round")
    optimizer.step()


def _look_loss(looks: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cross-entropy [B, T] between where the named keypoints look and where the things are.

    Args:
        looks: [B, T, N, 2, h * w] log-weights.
        pixels: [B, T, N, 2, 2] rows and columns from -1 to 1; NaN where there is nothing to see.
        grid: height and width of the token grid.
    """
    place = pixels[..., None, :]
    axes = [torch.linspace(-1, 1, cells) * (1 - 1 / cells) for cells in grid]
    cells = torch.cartesian_prod(*axes)
    width = 0.8 * 2 / grid[0]  # of the soft target: a little less than a cell
    target = torch.softmax(-((cells - place.nan_to_num()) ** 2).sum(-1) / (2 * width**2), dim=-1)
    loss = -(target * looks.float()).sum(-1)
    visible = place[..., 0, :].isfinite().all(-1)
    return (loss * visible).sum((-1, -2)) / looks.shape[2]


def _schedule(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


# -- rounds ----------------------------------------------------------------------------------------


def _policy(out: Path, index: int) -> Path:
    return out / "policies" / f"round_{index:02d}"


def _freeze_policy(out: Path, model: VisionLanguageActionModel, index: int) -> None:
    if not _policy(out, index).exists():
        model.eval().save_pretrained(_policy(out, index))


def _submit(
    pool: ProcessPoolExecutor, recipe: Recipe, out: Path, index: int, checkpoint: Path | None
) -> list[Future]:
    """Start collecting round `index` (0: the expert's demonstrations) in shards of 50 episodes."""
    count = recipe.learner_episodes if checkpoint else recipe.demonstrations
    first = FIRST_TRAINING_SEED * (1 + recipe.seed) + index * 100_000
    tasks = task_list(_TURNS, count, first)
    return [
        pool.submit(
            collect,
            out / "data" / f"{index:02d}_{start // 50:03d}",
            tasks[start : start + 50],
            first + start,
            _ACTION,
            SMALL_ENCODER["image_size"],
            checkpoint,
        )
        for start in range(0, count, 50)
    ]


def _wait(futures: list[Future], what: str) -> list[Path]:
    bar = tqdm(futures, desc=what, unit="shard", mininterval=5.0, disable=not futures)
    return [future.result() for future in bar]


def _save(
    out: Path, model: VisionLanguageActionModel, optimizer: torch.optim.Optimizer, step: int
) -> None:
    names = dict(enumerate(name for name, _ in model.named_parameters()))
    tensors = {
        f"{names[i]}/{key}": value if value.ndim else value[None]
        for i, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    model.save_pretrained(out / "latest")
    partial = out / "latest" / f".{_OPTIMIZER_STATE}.partial"
    save_file(tensors, partial)
    os.replace(partial, out / "latest" / _OPTIMIZER_STATE)
    partial = out / f".{_PROGRESS}.partial"
    partial.write_text(json.dumps({"step": step, "time": time.time()}))
    os.replace(partial, out / _PROGRESS)


def _restore(out: Path, model: VisionLanguageActionModel, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest state of this run into model and optimizer; returns its step, 0 if new."""
    if not (out / _PROGRESS).is_file():
        return 0
    model.load_state_dict(load_file(out / "latest" / "model.safetensors"))
    tensors = load_file(out / "latest" / _OPTIMIZER_STATE)
    state: dict[int, dict[str, Tensor]] = {}
    for i, (name, _) in enumerate(model.named_parameters()):
        keys = ("step", "exp_avg", "exp_avg_sq")
        state[i] = {key: tensors[f"{name}/{key}"] for key in keys}
        state[i]["step"] = state[i]["step"][0]
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(json.loads((out / _PROGRESS).read_text())["step"])


def _open_log(table: Path, step: int) -> TextIO:
    """The loss table up to `step`, open for more rows."""
    rows = list(csv.DictReader(table.open())) if table.is_file() else []
    log = table.open("w", newline="")
    writer = csv.DictWriter(log, _COLUMNS)
    writer.writeheader()
    writer.writerows(row for row in rows if int(row["step"]) <= step)
    return log


def plot_losses(table: Path, picture: Path) -> None:
    """Draw the loss table as curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(csv.DictReader(table.open()))
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for name in _COLUMNS[1:]:
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if points:
            axes.semilogy(*zip(*points, strict=True), label=name, linewidth=0.8)
    axes.set(xlabel="optimizer step", ylabel="loss")
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/policy"), help="folder of the run")
    for name, value in vars(Recipe()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help=f"default {value}")


def main(arguments: argparse.Namespace) -> None:
    recipe = Recipe(**{name: getattr(arguments, name) for name in vars(Recipe())})
    print(f"checkpoint written to {train(recipe, arguments.out)}")


assert set(_TURNS) == set(FAMILIES)
