"""`vla train policy`: from the simulator's experts, or from recordings."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from vla_ros.checkpoints import resolve
from vla_ros.paths import check_folder, check_there, to_path
from vla_ros.training.data.recordings import DATA_HELP, ROBOT_HELP, Robot
from vla_ros.training.data.sources import add_msg_argument
from vla_ros.training.recipes import DaggerRecipe, ImitationRecipe

_RECIPES = {"the simulator": DaggerRecipe, "recordings": ImitationRecipe}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=to_path, default=Path("runs/policy"), help="folder of the run"
    )
    parser.add_argument("--data", type=to_path, nargs="+", metavar="PATH", help=DATA_HELP)
    parser.add_argument("--robot", metavar="NAME", help=ROBOT_HELP)
    add_msg_argument(parser)
    parser.add_argument("--tensorboard", action="store_true", help="write OUT/tensorboard too")
    parser.add_argument(
        "--deepspeed", type=to_path, metavar="FILE", help="such as config/deepspeed_zero1.json"
    )
    defaults: dict[str, dict[str, object]] = {}
    for source, recipe in _RECIPES.items():
        for field in fields(recipe):
            defaults.setdefault(field.name, {})[source] = field.default
    for name, by_source in defaults.items():
        kind = type(next(iter(by_source.values())))
        values = {str(value) for value in by_source.values()}
        texts = [f"{value} ({source})" for source, value in by_source.items()]
        everywhere = len(values) == 1 and len(by_source) == len(_RECIPES)
        text = values.pop() if everywhere else ", ".join(texts)
        action = {"action": "store_true"} if kind is bool else {"type": kind}
        parser.add_argument(
            f"--{name.replace('_', '-')}", default=None, help=f"default {text}", **action
        )


def main(arguments: argparse.Namespace) -> None:
    source = "recordings" if arguments.data else "the simulator"
    recipe = _RECIPES[source]
    names = {field.name for kind in _RECIPES.values() for field in fields(kind)}
    given = {n: v for n in names if (v := getattr(arguments, n)) is not None}
    if foreign := sorted(given.keys() - {field.name for field in fields(recipe)}):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise ValueError(f"{options} is not for training from {source}")
    check_folder(arguments.out, "--out")
    if arguments.deepspeed and not arguments.deepspeed.is_file():
        raise ValueError(f"--deepspeed {arguments.deepspeed} is no file: see config/ for two")
    options = {"tensorboard": arguments.tensorboard, "deepspeed": arguments.deepspeed}
    if arguments.data:
        if not arguments.robot:
            raise ValueError("--data needs --robot: what the recorded actions mean")
        check_there(arguments.data)
        Robot.load(arguments.robot, arguments.msg)
        told = ImitationRecipe(**given)
        if told.start:
            resolve(told.start)
        from vla_ros.training import imitation

        folder = imitation.train(
            told,
            arguments.data,
            arguments.robot,
            arguments.out,
            msg=arguments.msg,
            **options,
        )
    elif arguments.robot is not None or arguments.msg:
        raise ValueError("--robot and --msg are for training from recordings: give --data too")
    else:
        told = DaggerRecipe(**given)
        from vla_ros.training import dagger

        folder = dagger.train(told, arguments.out, **options)
    print(f"checkpoint written to {folder}")
