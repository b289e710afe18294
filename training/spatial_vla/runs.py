"""A run of the training programs: its folder, its training, and what it leaves.

checkpoint-N/             all it takes to go on from step N
adapters/                 with --lora: what was trained
checkpoint/               the model, its processor, and policy.json if it is of one robot
losses.csv, losses.png    curves
run.json, provenance.json settings and data that a run which goes on must share
data/                     recordings at the size of the model's images
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.policy import SpatialContract, save_contract
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.training.data.notices import say
from vla_ros.training.run_folder import agree
from vla_ros.training.spatial_vla.arguments import Data, Training, Tuning
from vla_ros.training.spatial_vla.lora import add_adapters, export, freeze, trained_share
from vla_ros.training.spatial_vla.mixing import Mixture
from vla_ros.training.spatial_vla.samples import Collate
from vla_ros.training.spatial_vla.trainer import SpatialTrainer, newest_checkpoint

# Of the Trainer's arguments, those that make it another run.
_IDENTITY = (
    *("seed", "max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type"),
    *("warmup_steps", "weight_decay", "max_grad_norm", "bf16", "fp16", "deepspeed", "fsdp"),
)
_NO = "no"


def begin(tuning: Tuning, data: Data, args: Training) -> None:
    """Make the folder of the run, or find that it is the same run's.

    Raises:
        ValueError: it is another run's.
    """
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    identity = asdict(tuning) | asdict(data) | {"batch": batch}
    identity |= {name: getattr(args, name) for name in _IDENTITY}
    with args.main_process_first(local=False):
        agree(Path(args.output_dir), json.loads(json.dumps(identity, default=str)))


def check_geometry(model: SpatialVLAForConditionalGeneration) -> None:
    """Raises ValueError for a model that fuses geometry, which demonstrations do not have."""
    if model.model.geometry is not None:
        raise ValueError(
            "this model fuses geometry into its image tokens, and the demonstrations are read "
            "without: train one with geometry_dim 0"
        )


def train(
    model: SpatialVLAForConditionalGeneration,
    processor: SpatialVLAProcessor,
    tuning: Tuning,
    args: Training,
    samples: Mixture,
    weights: Sequence[float],
    held_out: Mixture | None = None,
    contract: SpatialContract | None = None,
) -> Path:
    """Train what `tuning` says from where the run stands to its end.

    Returns:
        The folder of the checkpoint, or of the adapters if they were not merged.

    Raises:
        ValueError, ModuleNotFoundError: see `lora`.
        FloatingPointError: the loss is not finite.
    """
    out = Path(args.output_dir)
    processor.check(model.config)
    check_geometry(model)
    freeze(
        model,
        vision=tuning.freeze_vision_tower,
        words=tuning.freeze_llm_embed,
        language=tuning.freeze_language_model,
    )
    lora = tuning.adapters()
    trained: Any = add_adapters(model, lora) if lora else model
    if lora and args.activation_checkpointing:
        trained.enable_input_require_grads()
    some, every = trained_share(trained)
    main = args.process_index == 0
    if main:
        say(f"{some:,} of {every:,} numbers are trained ({some / every:.2%})")
    if held_out is not None and args.eval_strategy == _NO:
        args.eval_strategy = transformers.trainer_utils.IntervalStrategy.STEPS
        args.eval_steps = args.eval_steps or args.save_steps
    trainer = SpatialTrainer(
        trained,
        args,
        samples,
        weights,
        Collate(processor),
        held_out,
        [_Beside(processor, contract)],
    )
    start = args.resume_from_checkpoint
    if start != _NO and not start:
        found = newest_checkpoint(out) if main else None
        start = _from_main(str(found) if found else None, args)
    if start and start != _NO and not Path(start).is_dir():
        raise ValueError(f"--resume_from_checkpoint {start} is no folder")
    trainer.train(resume_from_checkpoint=None if start == _NO else start)
    folder = out / ("adapters" if lora else "checkpoint")
    trainer.save_model(str(folder))
    if main:
        _save_beside(folder, processor, contract)
        if lora and tuning.merge_lora and not (out / "checkpoint").exists():
            export(folder, out / "checkpoint")
            folder = out / "checkpoint"
    trainer.accelerator.wait_for_everyone()
    return folder


def _from_main(value: str | None, args: Training) -> str | None:
    """What the first process found, for all of them."""
    if args.world_size > 1 and torch.distributed.is_initialized():
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0)
        return held[0]
    return value


def _save_beside(
    folder: Path, processor: SpatialVLAProcessor, contract: SpatialContract | None
) -> None:
    processor.save_pretrained(folder)
    if contract is not None:
        save_contract(folder, contract)


class _Beside(transformers.TrainerCallback):
    """What makes a checkpoint-N one that can be run."""

    def __init__(self, processor: SpatialVLAProcessor, contract: SpatialContract | None) -> None:
        self._processor, self._contract = processor, contract

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            _save_beside(folder, self._processor, self._contract)
