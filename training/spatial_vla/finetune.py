"""Fine-tune SpatialVLA on recordings of a robot, or on a mixture of datasets.

    python -m vla_ros.training.spatial_vla.finetune --model_name_or_path FOLDER \\
        --data RECORDINGS --robot ROBOT.yaml --output_dir runs/mine --lora 32
    torchrun --nproc_per_node 8 -m vla_ros.training.spatial_vla.finetune settings.yaml

--help lists all there is; what is there beside it are the arguments of transformers' Trainer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vla_ros.models.spatial_vla.loading import local_folder
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.resampling import resample_model
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer
from vla_ros.paths import read_json
from vla_ros.training.data.notices import say
from vla_ros.training.spatial_vla import datasets, runs
from vla_ros.training.spatial_vla.arguments import Data, Start, Training, check, parse, run
from vla_ros.training.spatial_vla.lora import is_adapters, require_peft

_FIT = "fit"


def main(given: Sequence[str]) -> None:
    """Raises ValueError, OSError, ModuleNotFoundError, FloatingPointError: told in one line."""
    start, data, args = parse((Start, Data, Training), given, __doc__)
    check(data, args)
    if not start.model_name_or_path:
        raise ValueError("--model_name_or_path is missing: the checkpoint to begin from")
    if start.adapters():
        require_peft()
    folder = local_folder(start.model_name_or_path)
    if is_adapters(folder):
        raise ValueError(f"{folder} holds adapters: merge them first, by vla merge-lora")
    processor = SpatialVLAProcessor.from_pretrained(folder)
    told = datasets.parts(data, processor.action_chunk_size)
    if data.unnorm_key and start.adapt_emb and data.unnorm_key in processor.statistics:
        raise ValueError(
            f"statistics {data.unnorm_key!r} are the checkpoint's, and --adapt_emb makes new ones: "
            "name others by --unnorm_key"
        )
    grid = _grid(start.adapt_emb)
    model = SpatialVLAForConditionalGeneration.from_pretrained(
        folder, attn_implementation=start.attn_implementation or None
    )
    processor.check(model.config)
    runs.check_geometry(model)
    runs.begin(start, data, args)
    out = Path(args.output_dir)
    size = model.config.vision_config.image_size
    found = datasets.read(told, out, size, data.held_out, args)
    mode = processor.action_tokenizer.mode if not start.adapt_emb else data.mode
    made = datasets.statistics(found, processor.statistics, mode, data.unnorm_key)
    if start.adapt_emb:
        old = processor.action_tokenizer
        new = grid or datasets.grid(found, made, data.mode, old.grid.bins, data.min_sigma)
        for where, errors in resample_model(model, old, new).items():
            for part, error in errors.items():
                say(f"{where} of {part}: centres off by {error.centre_max:.2g} at most")
        processor = _with(processor, made, new)
    else:
        processor = _with(processor, {**processor.statistics, **made})
    samples, held = datasets.mixture(found, processor, data)
    weights = [each.part.weight for each in found]
    contract = datasets.contract(found, data)
    folder = runs.train(model, processor, start, args, samples, weights, held, contract)
    if args.process_index == 0:
        print(f"checkpoint written to {folder}")


def _grid(told: str) -> SpatialActionTokenizer | None:
    """The grid of a file. Raises ValueError: it is none."""
    if told in ("", _FIT):
        return None
    if not Path(told).is_file():
        raise ValueError(f"--adapt_emb {told} is no file: give a grid of vla fit-actions, or fit")
    try:
        return SpatialActionTokenizer.from_dict(read_json(Path(told)))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"--adapt_emb {told} is no grid of vla fit-actions: {error}") from None


def _with(
    processor: SpatialVLAProcessor, statistics: dict, grid: SpatialActionTokenizer | None = None
) -> SpatialVLAProcessor:
    """The same processor with other statistics, and perhaps another grid."""
    return SpatialVLAProcessor(
        processor.image_processor,
        processor.tokenizer,
        statistics=statistics,
        action_encoding=(grid or processor.action_tokenizer).to_dict(),
        action_chunk_size=processor.action_chunk_size,
    )


if __name__ == "__main__":
    sys.exit(run(main))
