"""`vla train dynamics`: how a world model's tokens follow each other."""

from __future__ import annotations

import argparse

from vla_ros.training.commands import world_model
from vla_ros.training.data.folders import part_checkpoint
from vla_ros.training.recipes import DynamicsRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    world_model.add_arguments(parser, DynamicsRecipe)


def main(arguments: argparse.Namespace) -> None:
    told = world_model.checked(arguments, DynamicsRecipe)
    for part in ("tokenizer", "latent-actions"):
        part_checkpoint(arguments.out, part)
    from vla_ros.training.genie_dynamics import train

    print(f"world model written to {train(**told)}")
