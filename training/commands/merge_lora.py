"""`vla merge-lora`: a checkpoint of SpatialVLA from one and adapters that were trained on it."""

from __future__ import annotations

import argparse

from vla_ros.paths import check_folder, check_there, to_path


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
    from vla_ros.training.spatial_vla.lora import export

    export(arguments.adapters, arguments.out, arguments.base)
    print(f"checkpoint written to {arguments.out}")
