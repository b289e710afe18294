"""SpatialVLA's generation of a 4-action chunk (12 tokens), with and without a KV cache.

    vla bench spatial_generation [--hidden 512] [--layers 8] [--rounds 5]

The weights are random: only time and agreement are looked at. The two kinds take turns, so that a
machine that slows down slows both; the middle of the rounds counts, and their spread is printed.
Without a cache the image is encoded once as well; only the language model is run again for every
token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import Tensor

from vla_ros.models.spatial_vla.configuration import published_config, tiny_config
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration

WORDS, SENTENCE = 2048, 20  # tokens of the text vocabulary, of an instruction


def inputs(model: SpatialVLAForConditionalGeneration, rows: int) -> dict[str, Tensor]:
    """Random images and sentences, as the processor would give them."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    image = torch.full((rows, config.image_tokens), config.image_token_index)
    words = torch.randint(3, WORDS - 1, (rows, SENTENCE), generator=generator)
    ids = torch.cat([image, torch.full((rows, 1), 2), words], 1)
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "pixel_values": torch.rand(rows, 3, size, size, generator=generator),
    }
    if config.geometry_dim:
        shape = (rows, config.image_tokens, config.geometry_dim)
        given["geometry_features"] = torch.rand(shape, generator=generator)
    return given


def measure(model: SpatialVLAForConditionalGeneration, rows: int, rounds: int) -> dict:
    """Seconds of a chunk both ways, and whether they said the same."""
    given, seconds, said = inputs(model, rows), {True: [], False: []}, {}
    for number in range(rounds + 1):
        for cache in (True, False):
            start = time.perf_counter()
            said[cache] = model.predict_action(given, use_cache=cache)
            if said[cache].is_cuda:
                torch.cuda.synchronize()
            if number:  # the first warms up
                seconds[cache].append(time.perf_counter() - start)
    cached, uncached = (statistics.median(seconds[cache]) for cache in (True, False))
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "prompt_tokens": given["input_ids"].shape[1],
        "rows": rows,
        "cached_ms": round(1000 * cached, 1),
        "uncached_ms": round(1000 * uncached, 1),
        "times_as_fast": round(uncached / cached, 2),
        "cached_ms_from_to": [round(1000 * f(seconds[True]), 1) for f in (min, max)],
        "uncached_ms_from_to": [round(1000 * f(seconds[False]), 1) for f in (min, max)],
        "same_tokens": bool(torch.equal(said[True], said[False])),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224, help="pixels; 14 make a token")
    parser.add_argument(
        "--published", action="store_true", help="the published shape, 3.7 thousand million numbers"
    )
    parser.add_argument("--rows", type=int, default=1, help="images at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    told = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, told.dtype))
    config = tiny_config(WORDS, hidden=told.hidden, layers=told.layers, image_size=told.image_size)
    with torch.device(told.device):
        model = SpatialVLAForConditionalGeneration(
            published_config() if told.published else config
        ).eval()
    result = measure(model, told.rows, told.rounds)
    if told.device.startswith("cuda"):
        result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    result |= {"device": told.device, "dtype": told.dtype, "threads": torch.get_num_threads()}
    print(json.dumps(result, indent=1))
    return 0 if result["same_tokens"] or told.dtype != "float32" else 1


if __name__ == "__main__":
    raise SystemExit(main())
