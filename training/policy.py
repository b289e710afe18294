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

from vla_ros.models.vlam import Statistics, VisionLanguageActionModel, VLAMConfig
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.tasks import FIRST_TRAINING_SEED
from vla_ros.training.data.simulation import Shard, collect, task_list

# Reaching is learned first and its episodes are short: it takes every second turn of the others.
_TURNS = ("reach", "push", "pick", "pad", "bowl", "push", "pick", "pad", "bowl")
_OPTIMIZER_STATE = "optimizer.safetensors"
_PROGRESS = "progress.json"
_LOG_EVERY = 25  # steps
_WEIGHTS = {"motion": 1.0, "finger": 0.4, "done": 0.1, "locate": 0.3, "look": 0.2}
_SHIFT = 3  # pixels of random shift
_LENGTHS = {1: 0.5, 2: 0.1, 8: 0.2, 24: 0.1, 64: 0.1}  # frames of a window: share of batches


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
        if self.frames < max(_LENGTHS):
            raise ValueError(f"frames is {self.frames}: a batch holds {max(_LENGTHS)} or more")


def train(recipe: Recipe, out: Path) -> Path:
    """Train, resuming whatever `out` holds; returns the checkpoint folder out/checkpoint."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    config = VLAMConfig()
    with ProcessPoolExecutor(
        recipe.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=os.nice,  # training comes first
        initargs=(10,),
    ) as pool:
        shards = _wait(_submit(pool, recipe, out, 0, None), "demonstrations")
        data = Windows(shards, config)
        model = VisionLanguageActionModel(config, data.statistics())
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
                data = Windows(shards, config)
                bar.write(f"round {current}: {data.summary()}")
                last_round = current
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step, recipe.warmup, total)
            losses = _step(model, optimizer, data.batch(recipe.seed, step, recipe.frames))
            step += 1
            bar.update()
            if step % _LOG_EVERY == 0 or step == total:
                csv.writer(log).writerow([step, *(f"{value:.5f}" for value in losses.values())])
                log.flush()
                bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items()})
            if step % recipe.save_every == 0 or step == total:
                _save(out, model, optimizer, step)
        for future in pending:
            future.cancel()
        log.close()
    model.eval().save_pretrained(out / "checkpoint")
    plot_losses(out / "losses.csv", out / "losses.png")
    return out / "checkpoint"


# -- data ------------------------------------------------------------------------------------------


class Windows:
    """Windows of consecutive frames from all shards, drawn uniformly over frames."""

    def __init__(self, folders: list[Path], config: VLAMConfig) -> None:
        self._folders = folders
        self._shards = [Shard.load(folder) for folder in folders]
        self._config = config
        rows = []
        for s, shard in enumerate(self._shards):
            ends = np.cumsum(shard.lengths)
            for length, end in zip(shard.lengths, ends, strict=True):
                rows.append((s, end - length, length))
        self._episodes = np.array(rows)  # [E, 3] shard, first frame, frames
        self._ends = np.cumsum(self._episodes[:, 2])

    def summary(self) -> str:
        """Size, and how often the newest learner succeeded unaided."""
        text = f"{len(self._episodes)} episodes, {self._ends[-1]} frames"
        newest = _round_of(self._folders[-1])
        outcomes = np.concatenate(
            [
                shard.succeeded
                for folder, shard in zip(self._folders, self._shards, strict=True)
                if _round_of(folder) == newest
            ]
        )
        alone = outcomes[outcomes < 2]
        if newest > 0 and len(alone):
            text += f", newest learner alone {100 * alone.mean():.0f} % of {len(alone)}"
        return text

    def statistics(self) -> Statistics:
        felt = np.concatenate([shard.proprioception for shard in self._shards])
        actions = np.concatenate([shard.actions for shard in self._shards])
        scale = actions.std(axis=0)
        scale[:, :3] = scale[:, :3].mean(axis=1, keepdims=True)  # one scale for x, y, z
        scale[:, 3] = 1.0
        return Statistics(
            felt.mean(0).astype(float), felt.std(0).astype(float), scale.astype(float)
        )

    def batch(self, seed: int, step: int, frames: int) -> dict[str, Tensor]:
        """Windows of one length, of `frames` frames in all; short ones more often than long ones.

        A window starts anywhere with an empty state, which also teaches the core not to lean on its
        own past. Frames after an episode's end are masked. Single frames carry another instruction
        than the one followed (see Shard).
        """
        rng = np.random.default_rng([seed, step])
        length = int(rng.choice(list(_LENGTHS), p=list(_LENGTHS.values())))
        count = frames // length
        kind = "other_" if length == 1 else ""
        picks = rng.integers(self._ends[-1], size=count)
        arrays: dict[str, list[np.ndarray]] = {}
        for pick in picks:
            row = int(np.searchsorted(self._ends, pick, side="right"))
            s, first, total = self._episodes[row]
            shard = self._shards[s]
            offset = int(pick - (self._ends[row] - total))
            # Long windows begin at the episode's start half of the time, as running does.
            if length == max(_LENGTHS) and rng.random() < 0.5:
                offset = 0
            offset = min(offset, max(total - length, 0))
            index = first + np.minimum(offset + np.arange(length), total - 1)
            part = slice(first + offset, first + min(offset + length, total))
            fill = length - (part.stop - part.start)
            images = shard.images[part]
            if fill:
                images = np.concatenate([images, images[-1:].repeat(fill, 0)])
            images, moved = _shift_images(images, rng)
            window = {
                "images": images,
                "pixels": getattr(shard, f"{kind}pixels")[index] + moved,
                "proprioception": shard.proprioception[index],
                "actions": getattr(shard, f"{kind}actions")[index],
                "done": shard.done[index].astype(np.float32),
                "done_known": np.full(length, not kind, np.float32),
                "locate": getattr(shard, f"{kind}locate")[index],
                "description": getattr(shard, f"{kind}description")[index].astype(np.int64),
                "words": getattr(shard, f"{kind}words")[first + offset].astype(np.int64),
                "mask": (np.arange(length) < length - fill).astype(np.float32),
            }
            for name, value in window.items():
                arrays.setdefault(name, []).append(value)
        batch = {name: torch.from_numpy(np.stack(values)) for name, values in arrays.items()}
        batch["images"] = _jitter(batch["images"], rng)
        noise = rng.normal(0.0, 0.002, batch["proprioception"].shape).astype(np.float32)
        batch["proprioception"] = batch["proprioception"] + torch.from_numpy(noise)
        return batch


def _shift_images(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shift each camera of a window [T, N, S, S, 3] by up to _SHIFT pixels, edges repeated.

    Also returns by how much places in the images moved: float32 [N, 1, 2], in half image sides.
    """
    size = images.shape[2]
    shifted = np.empty_like(images)
    moved = np.zeros((images.shape[1], 1, 2), np.float32)
    for camera in range(images.shape[1]):
        dy, dx = rng.integers(-_SHIFT, _SHIFT + 1, 2)
        rows = np.clip(np.arange(size) + dy, 0, size - 1)
        columns = np.clip(np.arange(size) + dx, 0, size - 1)
        shifted[:, camera] = images[:, camera][:, rows][:, :, columns]
        moved[camera, 0] = (-2.0 * dy / size, -2.0 * dx / size)
    return shifted, moved


def _jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Gain and offset of each window, camera and colour channel of uint8 [B, T, N, S, S, 3]."""
    batch, _, cameras = images.shape[:3]
    shape = (batch, 1, cameras, 1, 1, 1)
    gain = rng.uniform(0.75, 1.25, shape) * rng.uniform(0.93, 1.07, (*shape[:5], 3))
    offset = rng.uniform(-15, 15, shape)
    gain, offset = (torch.from_numpy(v.astype(np.float32)) for v in (gain, offset))
    return images.float().mul_(gain).add_(offset).clamp_(0, 255)


# -- optimisation ----------------------------------------------------------------------------------


def _step(
    model: VisionLanguageActionModel, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]
) -> dict[str, float]:
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(batch["images"], batch["proprioception"], batch["words"])
    mask = batch["mask"]
    scale = torch.from_numpy(model.statistics.action_scale.astype(np.float32))
    high = model.config.action_high[-1]
    motion = (out["actions"][..., :3].float() - batch["actions"][..., :3] / scale[:, :3]).abs()
    finger = F.binary_cross_entropy_with_logits(
        out["actions"][..., 3].float(), (batch["actions"][..., 3] / high).clamp(0, 1),
        reduction="none",
    )  # fmt: skip
    done = F.binary_cross_entropy_with_logits(out["done"].float(), batch["done"], reduction="none")
    locate = (out["locate"].float() - batch["locate"]).abs().mean(-1)
    look = _look_loss(out["looks"], batch["pixels"], model.config.grid[1:3])

    def mean(value: Tensor) -> Tensor:
        return (value * mask).sum() / mask.sum()

    losses = {
        "motion": mean(motion.mean((-1, -2))),
        "finger": mean(finger.mean(-1)),
        "done": mean(done * batch["done_known"]),
        "locate": mean(locate),
        "look": mean(look),
    }
    loss = sum(_WEIGHTS[name] * value for name, value in losses.items())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is not finite: look at the data of the newest round")
    optimizer.step()
    return {name: value.item() for name, value in losses.items()}


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
            VLAMConfig(),
            checkpoint,
        )
        for start in range(0, count, 50)
    ]


def _round_of(shard: Path) -> int:
    return int(shard.name.split("_")[0])


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
    rows = list(csv.reader(table.open())) if table.is_file() else []
    log = table.open("w", newline="")
    csv.writer(log).writerows(row for row in rows if int(row[0]) <= step)
    return log


def plot_losses(table: Path, picture: Path) -> None:
    """Draw the loss table as curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = np.array([[float(v) for v in row] for row in csv.reader(table.open())])
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for i, name in enumerate(_WEIGHTS, start=1):
        axes.semilogy(rows[:, 0], rows[:, i], label=name, linewidth=0.8)
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
