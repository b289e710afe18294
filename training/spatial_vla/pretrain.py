"""Pretrain SpatialVLA on a mixture of datasets, or on recordings of one robot.

    torchrun --nproc_per_node 8 -m vla_ros.training.spatial_vla.pretrain \\
        --vlm_path PALIGEMMA2 --data_mix oxe_spatial_vla_plus --data_root_dir DATASETS \\
        --output_dir runs/pretrained --bf16
    python -m vla_ros.training.spatial_vla.pretrain settings.yaml

--help lists all there is; what is there beside it are the arguments of transformers' Trainer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from vla_ros.models.spatial_vla.normalization import statistics_of
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer
from vla_ros.paths import read_json
from vla_ros.training.spatial_vla import beginnings, datasets, runs
from vla_ros.training.spatial_vla.arguments import Beginning, Data, Training, check, parse, run
from vla_ros.training.spatial_vla.lora import require_peft

CHUNK = 4  # actions


def main(given: Sequence[str]) -> None:
    """Raises ValueError, OSError, ModuleNotFoundError, FloatingPointError: told in one line."""
    beginning, data, args = parse((Beginning, Data, Training), given, __doc__)
    check(data, args)
    if beginning.adapters():
        require_peft()
    told = datasets.parts(data, CHUNK)
    size = beginnings.image_size_of(beginning.vlm_path, beginning.config)
    grid, known = _grid(beginning)
    if data.unnorm_key and known:
        statistics_of(known, data.unnorm_key)
    runs.begin(beginning, data, args)
    found = datasets.read(told, Path(args.output_dir), size, data.held_out, args)
    made = datasets.statistics(found, known, data.mode, data.unnorm_key)
    grid = grid or datasets.grid(found, made, data.mode, min_sigma=data.min_sigma)
    set_seed(args.seed)
    model, processor = beginnings.make(
        beginning.vlm_path,
        beginning.config,
        grid,
        made,
        datasets.prompts(found, data),
        CHUNK,
        beginning.attn_implementation,
    )
    samples, held = datasets.mixture(found, processor, data)
    weights = [each.part.weight for each in found]
    contract = datasets.contract(found, data)
    folder = runs.train(model, processor, beginning, args, samples, weights, held, contract)
    if args.process_index == 0:
        print(f"checkpoint written to {folder}")


def _grid(told: Beginning) -> tuple[SpatialActionTokenizer | None, Mapping[str, Any]]:
    """Grid and statistics that are given. Raises ValueError: they are none."""
    if not told.grid:
        if told.statistics:
            raise ValueError("--statistics are of a grid: give --grid too")
        return None, {}
    file = Path(told.grid)
    beside = file.with_name(f"{file.stem}_statistics.json")
    statistics = Path(told.statistics) if told.statistics else beside
    for option, path in (("--grid", file), ("--statistics", statistics)):
        if not path.is_file():
            raise ValueError(f"{option} {path} is no file: write both by vla fit-actions")
    try:
        return SpatialActionTokenizer.from_dict(read_json(file)), dict(read_json(statistics))
    except (KeyError, TypeError) as error:
        raise ValueError(f"--grid {file} is no grid of vla fit-actions: {error}") from None


if __name__ == "__main__":
    sys.exit(run(main))
