"""A few steps of a tiny SpatialVLA by its Trainer; also a program, for torchrun:

python -m torch.distributed.run --nproc_per_node=2 test/spatial_training.py OUT CONFIG.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tiny_spatial_vla as tiny
import torch

from vla_ros.training.spatial_vla.arguments import Training
from vla_ros.training.spatial_vla.demonstrations import Demonstration
from vla_ros.training.spatial_vla.mixing import Mixture
from vla_ros.training.spatial_vla.samples import Collate, SpatialSamples
from vla_ros.training.spatial_vla.trainer import SpatialTrainer

BATCH = 4  # of all processes together


def demonstration(number: int = 0, frames: int = 24) -> Demonstration:
    rng = np.random.default_rng(number)
    pictures = rng.integers(0, 256, (frames, 1, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
    motions = rng.uniform(-0.2, 0.2, (frames, 4, 7))
    motions[..., 6] = motions[..., 6] > 0
    known = np.arange(frames)[:, None] + np.arange(4) < frames
    return Demonstration(
        f"toy {number}",
        [tiny.SENTENCES[number % 2]] * frames,
        motions,
        known,
        np.zeros(frames, bool),
        lambda frame: pictures[frame],
    )


def mixture(processor, **options) -> Mixture:
    return Mixture(
        {
            "one": SpatialSamples([demonstration(0)], processor, "arm", **options),
            "other": SpatialSamples([demonstration(1, 16)], processor, "other", **options),
        }
    )


def trainer(out: Path, model=None, world: int = 1, **settings) -> SpatialTrainer:
    processor = tiny.processor()
    args = Training(
        **{
            "output_dir": str(out),
            "per_device_train_batch_size": BATCH // world,
            "per_device_eval_batch_size": BATCH,
            "max_steps": 8,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **settings,
        }
    )
    samples = mixture(processor)
    return SpatialTrainer(
        tiny.model(processor, geometry_dim=0) if model is None else model(processor),
        args,
        samples,
        [1.0, 0.5],
        Collate(processor),
        samples,
    )


def losses(made: SpatialTrainer) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def main() -> None:
    out, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    made = trainer(out, **settings)
    made.train()
    made.save_model(str(out / "checkpoint"))
    if made.args.process_index == 0:
        # That FSDP is asked for does not say that anything is sharded.
        sharded = any(type(weight).__name__ == "DTensor" for weight in made.model.parameters())
        told = {"losses": losses(made), "sharded": sharded}
        (out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
