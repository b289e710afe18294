"""Training samples of SpatialVLA: a picture, a prompt, and the next motions as action tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vla_ros.models.spatial_vla.grid import BINS
from vla_ros.models.spatial_vla.layout import SpatialLayout
from vla_ros.models.spatial_vla.policy import PROMPT, pixels_of, prompt_of
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.text import small_text_tokenizer
from vla_ros.training.spatial_vla.action_fit import ActionFit, fit
from vla_ros.training.spatial_vla.demonstrations import Demonstration

_IGNORED = -100  # labels that the loss leaves out
STATISTICS = "statistics.json"


def fit_motions(
    demonstrations: Sequence[Demonstration],
    layout: SpatialLayout,
    *,
    mode: str = "corrected",
    bins: Mapping[str, int] = BINS,
    min_sigma: float = 0.02,
) -> ActionFit:
    """Statistics and grid of the motions that are known; give those to be trained on alone.

    Raises:
        ValueError: no motion is known, or the bins of an axis would be empty.
    """
    known = [one.motions[one.known] for one in demonstrations]
    if not sum(map(len, known)):
        raise ValueError("no motion of the demonstrations is known: there is nothing to fit to")
    return fit(np.concatenate(known), len(demonstrations), layout, mode, bins, min_sigma)


def save_statistics(folder: Path, statistics: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write statistics by key, as the processor has them, to folder/statistics.json, whole or not
    at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATISTICS
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(statistics, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)
    return path


def new_processor(
    found: ActionFit,
    key: str,
    texts: Iterable[str],
    image_size: int,
    patch_size: int,
    chunk: int = 4,
) -> SpatialVLAProcessor:
    """A processor for a model that begins from nothing.

    Args:
        found: of `fit_motions`.
        key: name of the statistics.
        texts: prompts, whose words its tokenizer has.
        image_size, patch_size: pixels.
        chunk: actions.
    """
    size = {"height": image_size, "width": image_size}
    count = (image_size // patch_size) ** 2
    return SpatialVLAProcessor(
        SiglipImageProcessorPil(size=size, do_normalize=False, image_seq_length=count),
        small_text_tokenizer(texts),
        statistics={key: found.statistics},
        action_encoding=found.tokenizer.to_dict(),
        action_chunk_size=chunk,
    )


class SpatialSamples(Dataset):
    """Frames of demonstrations as the model's inputs, one a row and not padded; see `Collate`.

    Of what is labelled, motions that are not known (beyond an episode's end) are left out of the
    loss, though the tokens of holding still stand there; the prompt always is. A frame whose
    instruction is fulfilled has the end alone to say, by which a policy knows that it is done.

    Args:
        demonstrations: with pictures at the model's size.
        processor: of the model; has the statistics.
        unnorm_key: which of its statistics.
        prompt: what is made of an instruction, with {} for it.
        augment: shift pictures and change their brightness and colours, by torch's random numbers.

    Raises:
        ValueError: no such statistics (those there are are named), no frame with a known motion, or
            chunks of another length than the processor's.
    """

    def __init__(
        self,
        demonstrations: Iterable[Demonstration],
        processor: SpatialVLAProcessor,
        unnorm_key: str | None = None,
        *,
        prompt: str = PROMPT,
        augment: bool = False,
    ) -> None:
        self._demonstrations = list(demonstrations)
        self._processor, self._prompt, self._augment = processor, prompt, augment
        statistics = processor.action_statistics(unnorm_key)
        rows, self._ids = [], []
        for number, one in enumerate(self._demonstrations):
            if one.motions.shape[1] != processor.action_chunk_size:
                raise ValueError(
                    f"{one.name} has chunks of {one.motions.shape[1]} motions, the processor of "
                    f"{processor.action_chunk_size}"
                )
            tokenizer = processor.action_tokenizer
            ids = tokenizer.encode(statistics.normalize(one.motions))
            if tokenizer.mode == "corrected":
                ids[~one.known, :2] = tokenizer.hold
            self._ids.append(ids + processor.action_token_begin_idx)
            frames = np.flatnonzero(one.known[:, 0] | one.done)
            rows.append(np.stack([np.full(len(frames), number), frames], axis=1))
        self._rows = np.concatenate(rows) if rows else np.zeros((0, 2), np.int64)
        if not len(self._rows):
            raise ValueError("no frame of the demonstrations has a known motion to learn")
        self._prompts: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Returns:
        pixel_values float [N, 3, S, S] of N cameras, 0 to 1; int64 [L]: input_ids, attention_mask,
        token_type_ids (1 from the first action on) and labels.
        """
        number, frame = self._rows[index]
        one = self._demonstrations[number]
        pixels = pixels_of(one.images(int(frame)))
        if self._augment:
            pixels = _augmented(pixels)
        prompt = self._prompt_ids(one.instructions[frame], len(pixels))
        end = self._processor.tokenizer.eos_token_id
        said, known = [end], [True]
        if not one.done[frame]:
            said = [*self._ids[number][frame].reshape(-1).tolist(), end]
            known = [*np.repeat(one.known[frame], 3).tolist(), bool(one.known[frame].all())]
        ids = torch.tensor(prompt + said)
        types = torch.zeros_like(ids)
        types[len(prompt) :] = 1
        heard = torch.tensor([False] * len(prompt) + known)
        return {
            "pixel_values": pixels,
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": types,
            "labels": ids.masked_fill(~heard, _IGNORED),
        }

    def _prompt_ids(self, instruction: str, images: int) -> list[int]:
        if instruction not in self._prompts:
            text = prompt_of(instruction, self._prompt)
            self._prompts[instruction] = self._processor.prompt_ids(text, images)
        return self._prompts[instruction]


class Collate:
    """Rows of `SpatialSamples` as one batch: tokens padded at the left, pictures [B * N, ...]."""

    def __init__(self, processor: SpatialVLAProcessor) -> None:
        self._fill = {
            "input_ids": processor.tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "labels": _IGNORED,
        }

    def __call__(self, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        length = max(len(sample["input_ids"]) for sample in samples)
        batch = {"pixel_values": torch.cat([sample["pixel_values"] for sample in samples])}
        for name, fill in self._fill.items():
            rows = torch.full((len(samples), length), fill)
            for row, sample in zip(rows, samples, strict=True):
                row[length - len(sample[name]) :] = sample[name]
            batch[name] = rows
        return batch


_SHIFT = 3 / 64  # of the picture's side


def _augmented(pixels: Tensor) -> Tensor:
    """Each camera's picture shifted, edges repeated, and with another gain and offset."""
    count, _, size, _ = pixels.shape
    most = round(_SHIFT * size)
    moved = torch.randint(-most, most + 1, (count, 2))
    shifted = torch.empty_like(pixels)
    for camera in range(count):
        rows, columns = ((torch.arange(size) + by).clamp(0, size - 1) for by in moved[camera])
        shifted[camera] = pixels[camera][:, rows][:, :, columns]
    gain = torch.empty(count, 1, 1, 1).uniform_(0.75, 1.25)
    gain = gain * torch.empty(count, 3, 1, 1).uniform_(0.93, 1.07)
    offset = torch.empty(count, 3, 1, 1).uniform_(-0.06, 0.06)
    return (shifted * gain + offset).clamp(0, 1)
