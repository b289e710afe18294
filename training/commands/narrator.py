"""`vla train narrator`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.paths import check_folder, to_path
from vla_ros.training.recipes import NarratorRecipe, from_arguments, setting_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=to_path, default=Path("runs/narrator"), help="of the run")
    parser.add_argument("--tensorboard", action="store_true", help="write curves for it too")
    setting_arguments(parser, NarratorRecipe)


def main(arguments: argparse.Namespace) -> None:
    recipe = from_arguments(NarratorRecipe, arguments)
    check_folder(arguments.out, "--out")
    from vla_ros.training.narrator.train import train

    folder = train(recipe, arguments.out, tensorboard=arguments.tensorboard)
    print(f"checkpoint written to {folder}")
