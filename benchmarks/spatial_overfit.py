"""A small SpatialVLA, from nothing, learns one real batch: its token accuracy, step by step.

    vla bench spatial_overfit --data bridge_dataset/1.0.0 [--robot config/widowx.yaml] [--rows 16]

The batch is of frames spread over the episodes of recordings, read, fitted and put into tokens by
the code that trains. Nothing is augmented. Told are the steps until 99 % of the tokens are said
right, the tokens before being given, and how many of the chunks are then generated whole.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.spatial_vla.configuration import TOKENS_PER_ACTION, tiny_config
from vla_ros.models.spatial_vla.grid import BINS
from vla_ros.models.spatial_vla.layout import SpatialLayout
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.motions import Motions
from vla_ros.models.spatial_vla.sizes import SIZES
from vla_ros.paths import to_path
from vla_ros.training.data.recordings import Robot
from vla_ros.training.spatial_vla.demonstrations import read_recordings
from vla_ros.training.spatial_vla.samples import (
    Collate,
    SpatialSamples,
    fit_motions,
    new_processor,
)
from vla_ros.training.spatial_vla.simulated import token_accuracy

ENOUGH = 0.99


def prepare(
    robot: str, data: list[Path], size: dict, rows: int, out: Path
) -> tuple[SpatialVLAForConditionalGeneration, dict[str, Tensor]]:
    """An untrained model, and the batch."""
    known = Robot.load(robot)
    layout = SpatialLayout.of(known.action)
    motions = Motions(known.action, layout)
    shown, _ = read_recordings(known, data, out, size["image_size"], motions)
    texts = {text for one in shown for text in one.instructions}
    found = fit_motions(shown, layout, bins=BINS)
    sides = size["image_size"], size["patch_size"]
    processor = new_processor(found, "data", sorted(texts), *sides, known.action.horizon)
    samples = SpatialSamples(shown, processor)
    picks = np.linspace(0, len(samples) - 1, rows).astype(int)
    batch = Collate(processor)([samples[int(pick)] for pick in picks])
    legal = [processor.action_tokenizer.legal(place) for place in range(TOKENS_PER_ACTION)]
    ranges = [[ids.start, ids.stop] for ids in legal]
    chunk = {"action_chunk_size": known.action.horizon}
    torch.manual_seed(0)
    config = tiny_config(processor.action_token_begin_idx, ranges, **size, **chunk)
    return SpatialVLAForConditionalGeneration(config), batch


def overfit(
    model: SpatialVLAForConditionalGeneration, batch: dict[str, Tensor], steps: int, rate: float
) -> dict:
    """Train on the batch alone, until ENOUGH of its tokens are right or for so many steps."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)
    began, accuracy = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        out = model.train()(**batch)
        accuracy = float(token_accuracy(out.logits, batch["labels"]))
        if accuracy >= ENOUGH:
            break
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warm = min(1.0, (step + 1) / 10)
        optimizer.param_groups[0]["lr"] = rate * warm
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "rows": len(batch["labels"]),
        "tokens": int((batch["labels"] != -100).sum()),
        "steps": step,
        "loss": round(out.loss.item(), 4),
        "token_accuracy": round(accuracy, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }


@torch.no_grad()
def generated(model: SpatialVLAForConditionalGeneration, batch: dict[str, Tensor]) -> float:
    """Share of known action tokens that come out of generation, nothing being given."""
    model.eval()
    tokens = TOKENS_PER_ACTION * model.config.action_chunk_size
    prompt = batch["input_ids"].shape[1] - tokens - 1
    given = {name: value[:, :prompt] for name, value in batch.items() if name != "pixel_values"}
    said = model.predict_action({**given, "pixel_values": batch["pixel_values"]})
    wanted = batch["labels"][:, prompt:-1]
    known = wanted != -100
    return float(((said == wanted) & known).sum() / known.sum())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=to_path, nargs="+", required=True, metavar="PATH")
    parser.add_argument("--robot", default="config/widowx.yaml", metavar="FILE")
    parser.add_argument("--size", choices=SIZES, default="tabletop")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=400, help="at most")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as out:
        size = SIZES[told.size]
        model, batch = prepare(told.robot, told.data, size, told.rows, Path(out))
        found = overfit(model, batch, told.steps, told.learning_rate)
        found["generated_accuracy"] = round(generated(model, batch), 4)
    print(json.dumps(found, indent=1))
    return 0 if found["token_accuracy"] >= ENOUGH else 1


if __name__ == "__main__":
    raise SystemExit(main())
