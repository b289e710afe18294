"""`vla fit-actions`: the grid of spatial action tokens for a robot, from its recordings."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vla_ros.models.spatial_vla.grid import BINS
from vla_ros.models.spatial_vla.layout import SPATIAL, SpatialLayout
from vla_ros.models.spatial_vla.tokenizer import MODES
from vla_ros.paths import check_file, check_there, to_path
from vla_ros.training.data.recordings import ROBOT_HELP, Robot
from vla_ros.training.data.sources import add_msg_argument
from vla_ros.training.spatial_vla.action_fit import files, fit_actions, summary

_MOST_BINS = 256  # of one axis
_MOST_TOKENS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=to_path,
        nargs="+",
        metavar="PATH",
        required=True,
        help="recordings (bags, RLDS datasets, shards, folders of them)",
    )
    parser.add_argument("--robot", metavar="NAME", required=True, help=ROBOT_HELP)
    parser.add_argument(
        "--out",
        type=to_path,
        default=Path("grid.json"),
        help="file of the grid (default grid.json); NAME_statistics.json and NAME.png go beside it",
    )
    add_msg_argument(parser)
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="corrected",
        help='as published checkpoints have it, or with tokens for "no motion" (default)',
    )
    parser.add_argument(
        "--columns",
        nargs=len(SPATIAL),
        default=(),
        metavar="NAME",
        help=f"the robot's names for {', '.join(SPATIAL)}; - for what it has not",
    )
    parser.add_argument(
        "--bins",
        nargs=len(BINS),
        type=int,
        default=[*BINS.values()],
        metavar="N",
        help=f"of {', '.join(BINS)} (default {' '.join(map(str, BINS.values()))})",
    )
    parser.add_argument(
        "--min-sigma",
        type=float,
        default=0.02,
        metavar="S",
        help="axes that vary less are taken to vary so much (default 0.02; published: 0)",
    )
    parser.add_argument("--key", help="of the statistics (default: the robot's name)")


def main(arguments: argparse.Namespace) -> None:
    for path in files(arguments.out):
        check_file(path, "--out")
    if not 0.0 <= arguments.min_sigma < math.inf:
        raise ValueError(f"--min-sigma is {arguments.min_sigma:g}: give a number from 0 on")
    bins = dict(zip(BINS, arguments.bins, strict=True))
    for axis, count in bins.items():
        if not 2 <= count <= _MOST_BINS:
            raise ValueError(f"--bins of {axis} is {count}: give 2 or more, {_MOST_BINS} at most")
    counts = [*bins.values()]
    if math.prod(counts[:3]) + math.prod(counts[3:]) > _MOST_TOKENS:
        raise ValueError(f"--bins make more than {_MOST_TOKENS} tokens: give smaller numbers")
    check_there(arguments.data)
    robot = Robot.load(arguments.robot, arguments.msg)
    SpatialLayout.of(robot.action, arguments.columns)
    found = fit_actions(
        robot,
        arguments.data,
        arguments.out,
        key=arguments.key or Path(arguments.robot).stem,
        mode=arguments.mode,
        bins=bins,
        min_sigma=arguments.min_sigma,
        columns=arguments.columns,
    )
    print("\n".join(summary(found)))
    grid, statistics, picture = files(arguments.out)
    print(f"grid written to {grid}, statistics to {statistics}, a picture of both to {picture}")
