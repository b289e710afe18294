"""`vla train scenes`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.paths import check_folder, to_path
from vla_ros.training.recipes import ScenesRecipe, setting_arguments

_WITHOUT = ("steps", "frames")  # epochs and batch_size tell those


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=to_path, default=Path("runs/scenes"), help="of the run")
    parser.add_argument("--tensorboard", action="store_true", help="write curves for it too")
    setting_arguments(parser, ScenesRecipe, _WITHOUT)


def main(arguments: argparse.Namespace) -> None:
    given = set(ScenesRecipe.__dataclass_fields__) - set(_WITHOUT)
    recipe = ScenesRecipe(**{name: getattr(arguments, name) for name in given})
    check_folder(arguments.out, "--out")
    from vla_ros.training.scenes.train import train

    folder = train(recipe, arguments.out, tensorboard=arguments.tensorboard)
    print(f"checkpoint written to {folder}")
