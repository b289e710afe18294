"""`vla demo`: the simulated arm follows instructions over ROS 2, and is filmed."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.checkpoints import resolve
from vla_ros.paths import check_folder, to_path
from vla_ros.sim.tasks import check_seeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=10, help="default 10")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; default 0")
    parser.add_argument("--checkpoint", default="arm", help="name or folder; default arm")
    parser.add_argument(
        "--narrator", default="narrator", help="name or folder, or none; default narrator"
    )
    parser.add_argument(
        "--out", type=to_path, default=Path("runs/demo"), help="folder of video and contact sheet"
    )
    parser.add_argument(
        "--instruction",
        default="",
        help="say this in every scene; nobody then judges but the policy itself",
    )


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code, see `perform`."""
    seeds = check_seeds(arguments.seed, arguments.episodes)
    checkpoint = resolve(arguments.checkpoint)
    narrator = arguments.narrator
    narrator = "" if narrator in ("", "none") else str(resolve(narrator))
    check_folder(arguments.out, "--out")
    from vla_ros.film.demo import perform  # all else takes seconds to import

    return perform(seeds, checkpoint, narrator, arguments.instruction, arguments.out)
