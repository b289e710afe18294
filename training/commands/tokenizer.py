"""`vla train tokenizer`: the video tokenizer of a world model."""

from __future__ import annotations

import argparse

from vla_ros.training.commands import world_model
from vla_ros.training.recipes import TokenizerRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    world_model.add_arguments(parser, TokenizerRecipe)


def main(arguments: argparse.Namespace) -> None:
    told = world_model.checked(arguments, TokenizerRecipe)
    from vla_ros.training.genie_tokenizer import train

    print(f"checkpoint written to {train(**told)}")
