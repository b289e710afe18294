"""Sightings as rows of ids for the narrator to learn from."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.narrator import felt_ids, narration_prompt, plan_of
from vla_ros.scene_language.facts import narration
from vla_ros.scene_language.grounding import of_narration
from vla_ros.scene_language.scenes import to_tokens
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.vocabulary import PAD, encode
from vla_ros.training.narrator.sightings import Sighting

Row = tuple[list[int], list[bool]]  # ids, and which of them are asked for


def sight_row(sight: Sighting) -> Row:
    """What is felt, then the scene, which the picture before them shows."""
    prompt = [*felt_ids(sight.proprioception), *encode(["<scene>"])]
    return _row(prompt, encode([*to_tokens(sight.scene)[1:], "<eos>"]))


def narration_row(sight: Sighting, wording: random.Random) -> Row:
    """Instruction, scene and plan, then what the arm did by physics.

    The arm is told to go somewhere and is then a little late, or stopped by what it touches: that
    is learned from here.
    """
    plan = plan_of(sight.proprioception, sight.plan)
    prompt = narration_prompt(sight.scene, plan, sight.instruction)
    fact = narration(sight.scene, sight.after, sight.target)
    grounds = of_narration(sight.scene, sight.after, sight.target)
    return _row(encode(prompt), encode([*grounds, "<text>", *say(fact, wording), "<eos>"]))


def pack(rows: Sequence[Sequence[Row]], length: int) -> tuple[Tensor, Tensor]:
    """Rows of one or more one after another: ids int64 and what is asked for bool, [B, length]."""
    ids = np.full((len(rows), length), PAD)
    asked = np.zeros((len(rows), length), bool)
    for i, parts in enumerate(rows):
        used = 0
        for part, wanted in parts:
            ids[i, used : used + len(part)] = part
            asked[i, used : used + len(part)] = wanted
            used += len(part)
    return torch.from_numpy(ids), torch.from_numpy(asked)


def _row(prompt: list[int], answer: list[int]) -> Row:
    return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)
