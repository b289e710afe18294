"""SpatialVLA in float32, bfloat16 and int8: what it says, how much memory it takes, how long.

    vla bench spatial_precision [--hidden 256] [--layers 4] [--steps 150] [--checkpoint FOLDER]

A model learns random pictures and motions by heart, or one is given, and says them in each
precision, which has a process of its own: `held_mib` is what that process holds more after the
last chunk than before there was a model, `loss` is of the right tokens, by teacher forcing. int8 is
torch's dynamic quantisation: weights of linear layers are 8-bit numbers, what they take is
quantised as it comes; embeddings and output stay as they are.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vla_ros.models.spatial_vla.configuration import tiny_config
from vla_ros.models.spatial_vla.grid import ActionGrid
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.text import small_text_tokenizer
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer

KINDS = ("float32", "bfloat16", "int8")
KEY, TEXT = "toy", "pick the cup"
REACH = [0.05] * 3 + [0.3] * 3 + [1.0]  # m and rad a step


def processor(size: int) -> SpatialVLAProcessor:
    grid = SpatialActionTokenizer(ActionGrid.uniform(), "corrected")
    statistics_ = {"q01": [-each for each in REACH], "q99": REACH, "mask": [True] * 6 + [False]}
    side, tokens = {"height": size, "width": size}, (size // 14) ** 2
    return SpatialVLAProcessor(
        SiglipImageProcessorPil(size=side, do_normalize=False, image_seq_length=tokens),
        small_text_tokenizer([TEXT], 300),
        statistics={KEY: {"action": statistics_}},
        action_encoding=grid.to_dict(),
    )


def samples(count: int, size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures, and normalised motions [count, 4, 7]."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]
    motions = rng.uniform(-0.9, 0.9, (count, 4, 7))
    motions[..., 6] = motions[..., 6] > 0
    return pictures, motions


def learn(told: argparse.Namespace, folder: Path) -> None:
    """A model that knows the samples by heart."""
    torch.manual_seed(0)
    made_by = processor(told.image_size)
    legal = [made_by.action_tokenizer.legal(place) for place in range(3)]
    config = tiny_config(
        made_by.action_token_begin_idx,
        [[ids.start, ids.stop] for ids in legal],
        hidden=told.hidden,
        layers=told.layers,
        image_size=told.image_size,
    )
    model = SpatialVLAForConditionalGeneration(config).train()
    pictures, motions = samples(told.samples, told.image_size)
    batch = made_by(pictures, [TEXT] * told.samples, suffix_actions=motions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(told.steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 10, 3 * (told.steps - step) / told.steps)
        loss = model(**batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0 or step == told.steps - 1:
            print(f"step {step}: loss {loss.item():.4f}", file=sys.stderr)
    model.save_pretrained(folder)
    made_by.save_pretrained(folder)


def held() -> float:
    """Memory that this process holds now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def converted(folder: Path, kind: str) -> SpatialVLAForConditionalGeneration:
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    model = SpatialVLAForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    if kind == "int8":
        linear = {
            name: torch.ao.quantization.default_dynamic_qconfig
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        }
        torch.ao.quantization.quantize_dynamic(model, linear, torch.qint8, inplace=True)
    return model


def weight_bytes(model: torch.nn.Module) -> int:
    """Of all weights as they are held, those of quantised layers too."""
    total = sum(each.numel() * each.element_size() for each in model.parameters())
    for module in model.modules():
        if isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
            weight, bias = module._weight_bias()
            total += weight.numel() * weight.element_size()
            total += 0 if bias is None else bias.numel() * bias.element_size()
    return total


def say(folder: Path, kind: str, told: argparse.Namespace) -> dict:
    """What one precision says, in a process of its own."""
    before = held()
    made_by = SpatialVLAProcessor.from_pretrained(folder)
    model = converted(folder, kind)
    size = model.config.vision_config.image_size
    pictures, motions = samples(told.samples, size)
    ids = []
    seconds = []
    for picture in pictures:
        given = made_by([picture], [TEXT])
        start = time.perf_counter()
        ids.append(model.predict_action(given)[0].tolist())
        seconds.append(time.perf_counter() - start)
    wanted = made_by.action_tokenizer.encode(motions) + made_by.action_token_begin_idx
    right = np.array(ids).reshape(wanted.shape) == wanted
    after = held()
    batch = made_by(pictures, [TEXT] * len(pictures), suffix_actions=motions)
    batch["pixel_values"] = batch["pixel_values"].to(model.lm_head.weight.dtype)
    with torch.no_grad():
        loss = float(model(**batch).loss)
    key = next(iter(made_by.statistics))
    actions = made_by.decode_actions(np.array(ids), key, batched=True)["actions"]
    return {
        "kind": kind,
        "ids": ids,
        "actions": actions.tolist(),
        "token_accuracy": round(float(right.mean()), 4),
        "loss": round(loss, 5),
        "weights_mib": round(weight_bytes(model) / 2**20, 1),
        "held_mib": round(after - before, 1),
        "chunk_ms": round(1000 * statistics.median(seconds), 1),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=56, help="pixels; 14 make a token")
    parser.add_argument("--samples", type=int, default=24, help="that are learned and said")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--checkpoint", type=Path, help="say with this one; nothing is learned")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if told.kind:
        print(json.dumps(say(told.checkpoint, told.kind, told)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        folder = told.checkpoint or Path(place)
        if told.checkpoint is None:
            learn(told, folder)
        found = []
        for kind in KINDS:
            command = [sys.executable, __file__, "--kind", kind, "--checkpoint", str(folder)]
            command += ["--samples", str(told.samples)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(done.stderr[-2000:], file=sys.stderr)
                return 1
            found.append(json.loads(done.stdout.splitlines()[-1]))
    ids, actions = ([np.array(each.pop(name)) for each in found] for name in ("ids", "actions"))
    for each, said, moved in zip(found, ids, actions, strict=True):
        each["same_tokens_as_float32"] = round(float((said == ids[0]).mean()), 4)
        off = np.abs(moved - actions[0])[..., :3]
        each["off_mm"] = round(1000 * float(off.mean()), 3)  # of a step's translation
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
