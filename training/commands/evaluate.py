"""`vla eval`: how good a policy is, in the simulator or on recordings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vla_ros.checkpoints import resolve
from vla_ros.paths import check_file, check_there, read_json, to_path
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.conditions import Condition
from vla_ros.sim.tasks import check_seeds
from vla_ros.training.data.recordings import DATA_HELP, ROBOT_HELP, Robot
from vla_ros.training.data.sources import add_msg_argument
from vla_ros.training.evaluation_page import check_kind, draw
from vla_ros.training.phrasings import Phrasings
from vla_ros.training.recipes import MOST_PROCESSES
from vla_ros.training.scenarios import USUAL, check_latency, check_telling, parse_scenario

# Options of the simulator and their defaults: recordings have no use for them.
_SIMULATED = {
    "episodes": 100,
    "seed": 0,
    "condition": [USUAL],
    "families": FAMILIES,
    "phrasings": None,
    "metrics": False,
    "workers": 2,
    "latency_ticks": 2,
    "live": False,
    "processes": False,
    "compare": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = _SIMULATED
    parser.add_argument(
        "--robot",
        type=_robot,
        default="sim",
        help=f"sim; with --data {ROBOT_HELP}; default sim",
    )
    add_msg_argument(parser)
    parser.add_argument("--checkpoint", default="arm", help="name or folder; default arm")
    parser.add_argument("--json", type=to_path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=to_path, metavar="FILE", help="draw them on one page there")
    parser.add_argument(
        "--minilm",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="semantic similarity of sentences too, by the MiniLM in FOLDER; without FOLDER by "
        "that of the wheel in environment/minilm.txt",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        type=to_path,
        metavar="PATH",
        help=DATA_HELP,
    )
    sim = parser.add_argument_group("in the simulator")
    sim.add_argument(
        "--episodes", type=int, default=default["episodes"], help="of each family; default 100"
    )
    sim.add_argument(
        "--seed", type=int, default=default["seed"], help="of the first episode; default 0"
    )
    sim.add_argument(
        "--condition",
        nargs="+",
        default=default["condition"],
        metavar="NAME",
        help=f"offline: each of these in turn, joined with + at once; default {USUAL}; "
        f"all: {USUAL} and each alone; {', '.join(Condition)}",
    )
    sim.add_argument(
        "--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="default all", metavar="F"
    )
    sim.add_argument(
        "--phrasings",
        type=to_path,
        metavar="FILE",
        help="offline: goals as this JSON file says them",
    )
    sim.add_argument(
        "--metrics",
        action="store_true",
        help="offline: actions, trajectories, sentences beside the scripted expert's too (slower)",
    )
    sim.add_argument("--workers", type=int, default=default["workers"], help="processes; default 2")
    sim.add_argument(
        "--latency-ticks",
        type=int,
        default=default["latency_ticks"],
        help="offline: ticks of 10 ms from a frame to its chunk; default 2",
    )
    sim.add_argument("--live", action="store_true", help="through the ROS 2 nodes, in real time")
    sim.add_argument(
        "--processes",
        action="store_true",
        help="with --live: each node as its own process, not just those that no command waits for",
    )
    sim.add_argument(
        "--compare", type=to_path, metavar="FILE", help="JSON of another evaluation to compare with"
    )


def _robot(text: str) -> str:
    if text != "sim":
        try:
            Robot.load(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}; or sim") from None
    return text


def main(arguments: argparse.Namespace) -> None:
    told = _check_recorded(arguments) if arguments.data else _check_simulated(arguments)
    resolve(arguments.checkpoint)
    for option in ("json", "plot"):
        if file := getattr(arguments, option):
            check_file(file, f"--{option}")
    if arguments.plot:
        check_kind(arguments.plot)
    from vla_ros.training import evaluation

    measure = evaluation.on_recordings if arguments.data else evaluation.in_simulator
    figures, text = measure(arguments, **told)
    if arguments.json:
        evaluation.write_json(arguments.json, figures)
    if arguments.plot:
        draw(figures, arguments.plot)
    print(text)
    times = figures["inference_ms"]["both"]
    print(f"encode and act: {times['median']:.1f} ms, 95 % below {times['p95']:.1f} ms")


def _check_recorded(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises ValueError if options do not go together, or what is to be read is not there."""
    given = [name for name, value in _SIMULATED.items() if getattr(arguments, name) != value]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for the simulator: leave out --data")
    if arguments.robot == "sim":
        raise ValueError("--data needs --robot: arm, joint_arm, ..., or a YAML file")
    check_there(arguments.data)
    return {}


def _check_simulated(arguments: argparse.Namespace) -> dict[str, Any]:
    """The scenarios that are asked for, and what is in the files that are named.

    Raises:
        OSError: a file cannot be read.
        ValueError: options do not go together, or something else is wrong with one.
    """
    if arguments.robot != "sim":
        raise ValueError(f"--robot {arguments.robot} needs --data: recordings of it")
    if arguments.msg:
        raise ValueError("--msg is for recordings: give --data and --robot too")
    check_seeds(arguments.seed, arguments.episodes)
    if not 1 <= arguments.workers <= MOST_PROCESSES:
        raise ValueError(f"--workers is {arguments.workers}: give 1 to {MOST_PROCESSES}")
    check_latency(arguments.latency_ticks)
    names = [USUAL, *Condition] if arguments.condition == ["all"] else arguments.condition
    scenarios = list(dict.fromkeys(parse_scenario(name) for name in names))
    if arguments.live:
        given = {"--condition": scenarios != [()], "--metrics": arguments.metrics}
        for option, there in {**given, "--phrasings": arguments.phrasings}.items():
            if there:
                raise ValueError(f"{option} is for episodes offline: leave out --live")
    if arguments.phrasings:
        check_telling(scenarios)
    if arguments.minilm is not None and not arguments.metrics:
        raise ValueError("--minilm compares sentences: add --metrics")
    phrasings = Phrasings.load(arguments.phrasings) if arguments.phrasings else None
    reference = _reference(arguments.compare) if arguments.compare else None
    return {"scenarios": scenarios, "phrasings": phrasings, "reference": reference}


def _reference(file: Path) -> dict[str, Any]:
    """Figures of another evaluation. Raises ValueError: the file holds something else."""
    figures = read_json(file)
    rates = figures.get("success") if isinstance(figures, dict) else None
    if not isinstance(rates, dict) or not all(isinstance(r, int | float) for r in rates.values()):
        raise ValueError(f"{file} has no success rates: give what `vla eval --json FILE` wrote")
    return figures
