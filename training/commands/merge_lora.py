"""`vla merge-lora`: a checkpoint of SpatialVLA from one and adapters that were trained on it."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from vla_ros.paths import check_folder, check_there, to_path
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.spatial_vla.lora import base_of, merge

# What a checkpoint has beside the model; adapters have it with them.
_BESIDE = (
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"),
    *("added_tokens.json", "policy.json"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapters", type=to_path, help="folder of the adapters")
    parser.add_argument("--out", type=to_path, required=True, help="folder of the checkpoint")
    parser.add_argument(
        "--base", help="checkpoint that they were trained on (default: the one they name)"
    )


def main(arguments: argparse.Namespace) -> None:
    check_there([arguments.adapters])
    check_folder(arguments.out, "--out")
    if arguments.out.exists():
        raise ValueError(f"--out {arguments.out} is there already: name another folder")
    export(arguments.adapters, arguments.out, arguments.base)
    print(f"checkpoint written to {arguments.out}")


def export(adapters: Path, out: Path, base: str | None = None) -> None:
    """Write the merged model, and what is beside the adapters or else their base, to `out`, whole
    or not at all.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: see `lora.merge`.
    """
    base = base or base_of(adapters)
    model = merge(base, adapters)
    with whole_folder(out) as partial:
        model.save_pretrained(partial)
        for name in _BESIDE:
            found = [place / name for place in (adapters, Path(base)) if (place / name).is_file()]
            if found:
                shutil.copy(found[0], partial / name)
