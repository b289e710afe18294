"""Training batches from the simulator's shards: windows of consecutive frames, augmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.vision import Geometry
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.models.vlam_config import Statistics
from vla_ros.scene_language.instructions import ESSENTIAL_WORDS
from vla_ros.scene_language.words import words_of
from vla_ros.training.data.simulation import Shard
from vla_ros.training.recipes import LENGTHS

_SHIFT = 3  # pixels of random shift
_NEVER_TAUGHT = "unk"  # a word that no vocabulary has

# Of B windows of T frames: tensors [B, T, ...] by name, and "instruction".
Batch = dict[str, Tensor | list[str]]


def round_of(shard: Path) -> int:
    """Round of training that a shard was recorded for."""
    return int(shard.name.split("_")[0])


class Windows:
    """Windows of consecutive frames from all shards, drawn uniformly over frames.

    Args:
        folders: of the shards.
        depth: give depth [B, T, N, S, S] and rays [B, 1, N, S, S, 3] too.

    Raises:
        ValueError: a shard has no depth, or is damaged.
    """

    def __init__(self, folders: list[Path], depth: bool = False) -> None:
        self._folders, self._depth = folders, depth
        self._shards = [Shard.load(folder) for folder in folders]
        for folder, shard in zip(folders, self._shards, strict=True):
            if depth and shard.depth is None:
                raise ValueError(f"{folder} was recorded without depth: remove it to record anew")
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
        newest = round_of(self._folders[-1])
        outcomes = np.concatenate(
            [
                shard.succeeded
                for folder, shard in zip(self._folders, self._shards, strict=True)
                if round_of(folder) == newest
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
            felt.mean(0).astype(float),
            felt.std(0).astype(float),
            np.zeros(scale.shape),
            scale.astype(float),
        )

    def batch(self, seed: int, step: int, frames: int, rank: int = 0) -> Batch:
        """Windows of one length, of `frames` frames in all; short ones more often than long ones.

        Each of the processes that train together (`rank`) draws its own, of the same length.

        A window starts anywhere with an empty state, which also teaches the core not to lean on its
        own past. Frames after an episode's end are masked. Single frames carry another instruction
        than the one followed (see Shard).
        """
        rng = np.random.default_rng([seed, step])
        length = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
        if rank:
            rng = np.random.default_rng([seed, step, rank])
        count = frames // length
        kind = "other_" if length == 1 else ""
        picks = rng.integers(self._ends[-1], size=count)
        arrays: dict[str, list[np.ndarray]] = {}
        instructions = []
        for pick in picks:
            row = int(np.searchsorted(self._ends, pick, side="right"))
            s, first, total = self._episodes[row]
            shard = self._shards[s]
            offset = int(pick - (self._ends[row] - total))
            # Long windows begin at the episode's start half of the time, as running does.
            if length == max(LENGTHS) and rng.random() < 0.5:
                offset = 0
            offset = min(offset, max(total - length, 0))
            index = first + np.minimum(offset + np.arange(length), total - 1)
            part = slice(first + offset, first + min(offset + length, total))
            fill = length - (part.stop - part.start)
            images = shard.images[part]
            if fill:
                images = np.concatenate([images, images[-1:].repeat(fill, 0)])
            spatial = _spatial(shard, part, fill) if self._depth else {}
            images, moved = shift_images(images, rng, spatial)
            window = {
                "images": images,
                **spatial,
                "pixels": getattr(shard, f"{kind}pixels")[index] + moved,
                "proprioception": shard.proprioception[index],
                "actions": getattr(shard, f"{kind}actions")[index],
                "done": shard.done[index].astype(np.float32),
                "done_known": np.full(length, not kind, np.float32),
                "locate": getattr(shard, f"{kind}locate")[index],
                "description": getattr(shard, f"{kind}description")[index].astype(np.int64),
                "mask": (np.arange(length) < length - fill).astype(np.float32),
            }
            for name, value in window.items():
                arrays.setdefault(name, []).append(value)
            text = str(getattr(shard, f"{kind}instruction")[first + offset], "ascii")
            instructions.append(mishear(text, rng))
        batch = {name: torch.from_numpy(np.stack(values)) for name, values in arrays.items()}
        batch["images"] = jitter(batch["images"], rng)
        noise = rng.normal(0.0, 0.002, batch["proprioception"].shape).astype(np.float32)
        batch["proprioception"] = batch["proprioception"] + torch.from_numpy(noise)
        return {**batch, "instruction": instructions}


def geometry_of(model: VisionLanguageActionModel, batch: Batch) -> Geometry | None:
    """Geometry [B, T, N, h, w] of a batch, if the policy fuses it."""
    if model.spatial is None:
        return None
    return model.spatial.of_batch(batch["images"], batch.get("depth"), batch.get("rays"))


def _spatial(shard: Shard, part: slice, fill: int) -> dict[str, np.ndarray]:
    """Depth [T, N, S, S] of a window, its last frame repeated, and rays [1, N, S, S, 3]."""
    depth = shard.depth[part]
    if fill:
        depth = np.concatenate([depth, depth[-1:].repeat(fill, 0)])
    return {"depth": depth, "rays": shard.rays[None]}


def shift_images(
    images: np.ndarray, rng: np.random.Generator, spatial: dict[str, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Shift each camera of a window [T, N, S, S, 3] by up to _SHIFT pixels, edges repeated.

    What is in `spatial`, [T or 1, N, S, S, ...], is shifted with it in place: a pixel keeps its
    point.

    Also returns by how much places in the images moved: float32 [N, 1, 2], in half image sides.
    """
    size = images.shape[2]
    layers = {"images": images} | (spatial or {})
    shifted = {name: np.empty_like(layer) for name, layer in layers.items()}
    moved = np.zeros((images.shape[1], 1, 2), np.float32)
    for camera in range(images.shape[1]):
        dy, dx = rng.integers(-_SHIFT, _SHIFT + 1, 2)
        rows = np.clip(np.arange(size) + dy, 0, size - 1)
        columns = np.clip(np.arange(size) + dx, 0, size - 1)
        for name, layer in layers.items():
            shifted[name][:, camera] = layer[:, camera][:, rows][:, :, columns]
        moved[camera, 0] = (-2.0 * dy / size, -2.0 * dx / size)
    result = shifted.pop("images")
    if spatial:
        spatial.update(shifted)
    return result, moved


def mishear(text: str, rng: np.random.Generator) -> str:
    """An instruction as one hears it who does not know all words; often just as it is.

    One or two words come in between, or stand for others, that the model was not taught; those
    that nobody could guess stay.
    """
    if rng.random() < 0.7:
        return text
    words = words_of(text)
    for _ in range(int(rng.integers(1, 3))):
        place = int(rng.integers(len(words) + 1))
        replaced = place < len(words) > 3 and words[place] not in ESSENTIAL_WORDS
        words[place : place + int(replaced)] = [_NEVER_TAUGHT]
    return " ".join(words)


def jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Gain and offset of each window, camera and colour channel of uint8 [B, T, N, S, S, 3].

    Returns [B, T, N, 3, S, S], 0 to 1.
    """
    batch, _, cameras = images.shape[:3]
    shape = (batch, 1, cameras, 1, 1, 1)
    gain = rng.uniform(0.75, 1.25, shape) * rng.uniform(0.93, 1.07, (*shape[:5], 3))
    offset = rng.uniform(-15, 15, shape)
    gain, offset = (torch.from_numpy(v.astype(np.float32)) for v in (gain, offset))
    jittered = images.float().mul_(gain / 255).add_(offset / 255).clamp_(0, 1)
    return jittered.permute(0, 1, 2, 5, 3, 4)
