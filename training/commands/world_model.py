"""What the commands that train a part of a world model share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vla_ros.paths import check_folder, check_there, to_path
from vla_ros.training.data.recordings import ROBOT_HELP, Robot
from vla_ros.training.recipes import WorldSettings, from_arguments, setting_arguments

_DATA_HELP = "bags, RLDS datasets or shards instead of new videos of the simulator"


def add_arguments(parser: argparse.ArgumentParser, recipe: type[WorldSettings]) -> None:
    parser.add_argument(
        "--out", type=to_path, default=Path("runs/world"), help="folder of the runs"
    )
    parser.add_argument("--data", type=to_path, nargs="+", metavar="PATH", help=_DATA_HELP)
    parser.add_argument("--robot", metavar="NAME", help=ROBOT_HELP)
    parser.add_argument("--tensorboard", action="store_true", help="write curves for it too")
    setting_arguments(parser, recipe)


def checked(arguments: argparse.Namespace, recipe: type[WorldSettings]) -> dict[str, Any]:
    """The arguments of a part's `train`.

    Raises:
        ValueError: one of them is wrong, or they do not go together.
    """
    told = from_arguments(recipe, arguments)
    check_folder(arguments.out, "--out")
    if arguments.robot is not None and not arguments.data:
        raise ValueError("--robot is for training from recordings: give --data too")
    check_there(arguments.data or ())
    if arguments.robot is not None:
        Robot.load(arguments.robot)
    return {
        "recipe": told,
        "data": arguments.data,
        "robot": arguments.robot,
        "out": arguments.out,
        "tensorboard": arguments.tensorboard,
    }
