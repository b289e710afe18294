"""`vla train latent-actions`: what actions a world model knows."""

from __future__ import annotations

import argparse

from vla_ros.training.commands import world_model
from vla_ros.training.recipes import LatentActionRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    world_model.add_arguments(parser, LatentActionRecipe)


def main(arguments: argparse.Namespace) -> None:
    told = world_model.checked(arguments, LatentActionRecipe)
    from vla_ros.training.genie_latent_actions import train

    print(f"checkpoint written to {train(**told)}")
