"""`vla train spatial-vla`: a small one from nothing, in the simulator."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.paths import check_folder, to_path
from vla_ros.training.recipes import SpatialRecipe, setting_arguments

_WITHOUT = ("geometry",)  # is not trained here yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=to_path, default=Path("runs/spatial_vla"), help="folder of the run"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write OUT/tensorboard too")
    setting_arguments(parser, SpatialRecipe, _WITHOUT)


def main(arguments: argparse.Namespace) -> None:
    given = set(SpatialRecipe.__dataclass_fields__) - set(_WITHOUT)
    recipe = SpatialRecipe(**{name: getattr(arguments, name) for name in given})
    check_folder(arguments.out, "--out")
    from vla_ros.training.spatial_vla import simulated

    folder = simulated.train(recipe, arguments.out, tensorboard=arguments.tensorboard)
    print(f"checkpoint written to {folder}")
