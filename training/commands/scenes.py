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
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that is there already",
    )
    setting_arguments(parser, ScenesRecipe, _WITHOUT)
    parser.add_argument(
        "--lr", dest="learning_rate", type=float, default=argparse.SUPPRESS,
        help="the same as --learning-rate",
    )  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    given = set(ScenesRecipe.__dataclass_fields__) - set(_WITHOUT)
    recipe = ScenesRecipe(**{name: getattr(arguments, name) for name in given})
    check_folder(arguments.out, "--out")
    if arguments.resume and not (arguments.out / "run.json").is_file():
        raise ValueError(f"--resume: there is no run in {arguments.out}: leave it out to begin one")
    from vla_ros.training.scenes.train import train

    folder = train(recipe, arguments.out, tensorboard=arguments.tensorboard)
    print(f"checkpoint written to {folder}")
