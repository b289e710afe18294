"""The Hugging Face Trainer as SpatialVLA uses it: what it draws, measures and writes.

All else is the Trainer's: the loop, precision, accumulation, DeepSpeed and FSDP, and the folders
checkpoint-N of a run, from the newest whole one of which the run goes on. What is read from them
is read as tensors, not as code.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers.trainer_callback import ProgressCallback, TrainerCallback

from vla_ros.training.curves import Curves, ProgressLine
from vla_ros.training.data.notices import say
from vla_ros.training.spatial_vla.mixing import Mixture, MixtureSampler

_IGNORED = -100
_STATE = "trainer_state.json"  # the last file of a checkpoint-N


class SpatialTrainer(transformers.Trainer):
    """Trains SpatialVLA on a mixture.

    Args:
        model: with or without adapters.
        args: of the Trainer.
        mixture: what is drawn from.
        weights: of its datasets.
        collate: samples to a batch.
        held_out: samples to measure on, or None.
        callbacks: of the Trainer.
    """

    def __init__(
        self,
        model: nn.Module,
        args: transformers.TrainingArguments,
        mixture: Mixture,
        weights: Sequence[float],
        collate: Callable[[list], dict[str, Tensor]],
        held_out: Mixture | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self._sampler = MixtureSampler(mixture.lengths, weights, args.seed)
        super().__init__(
            model,
            args,
            data_collator=collate,
            train_dataset=mixture,
            eval_dataset=held_out,
            compute_metrics=token_accuracy,
            preprocess_logits_for_metrics=_said,
            callbacks=[*callbacks, Curves(Path(args.output_dir), ("loss",))],
        )
        self.remove_callback(ProgressCallback)
        if not args.disable_tqdm:
            self.add_callback(ProgressLine())

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.args.fsdp and state.distributed_type is DistributedType.MULTI_CPU:
            # accelerate shards on accelerators alone, and would go on without on several CPUs.
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            for each in (state, PartialState()):
                each.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True
        if self.args.fsdp and state.distributed_type is not DistributedType.FSDP:
            raise ValueError(
                "--fsdp shards between processes, and there is but one: start it by torchrun"
            )

    def _get_train_sampler(self, *_: Any) -> Sampler:
        return self._sampler

    def training_step(self, *arguments: Any, **more: Any) -> Tensor:
        # Whatever is drawn within a step (dropout) depends on it alone, as its batch does.
        place = self.state.global_step * self.args.world_size + self.args.process_index
        torch.manual_seed(self.args.seed + place)
        loss = super().training_step(*arguments, **more)
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss is not finite: look at the newest data")
        return loss

    def compute_loss(self, model: nn.Module, inputs: dict, *arguments: Any, **more: Any) -> Any:
        # Nobody reads a cache here, and what checkpointing computes again would be in it twice.
        return super().compute_loss(model, {**inputs, "use_cache": False}, *arguments, **more)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing is drawn that does not depend on the step alone."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As `_save_rng_state`."""


def _said(logits: Any, labels: Tensor) -> Tensor:
    """The likeliest tokens [B, S]: all that is measured needs, at a thousandth of the memory."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.argmax(-1)


def token_accuracy(prediction: Any) -> dict[str, float]:
    """Share of action tokens that are said right, by teacher forcing."""
    said, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
    counted = labels != _IGNORED
    return {"token_accuracy": float(np.mean(said[counted] == labels[counted]))}


def newest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint-N of a run; what was cut off while it was written is left out."""
    found = {}
    for folder in out.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if not number.isdecimal() or not folder.is_dir():
            continue
        if (folder / _STATE).is_file():
            found[int(number)] = folder
        else:
            say(f"{folder} was cut off while it was written: the run goes on from the one before")
            shutil.rmtree(folder)
    return found[max(found)] if found else None
