"""What the arm is doing, in words: a closed grammar, the counterpart of the instructions' one.

A description is what is true of the scene and the arm, not what was asked for, so an instruction
has many phrasings and a phase of its task exactly one.
"""

from __future__ import annotations

from enum import Enum

from vla_ros.scene_language.instructions import (
    COLORS,
    DIRECTIONS,
    FAMILIES,
    SHAPES,
    Goal,
)
from vla_ros.scene_language.words import words_of


class Doing(Enum):
    """Phases of a task. Every family ends in FULFILLED; which others it has, `describe` knows."""

    MOVING = "moving"
    GRASPING = "grasping"
    LIFTING = "lifting"
    CARRYING = "carrying"
    PLACING = "placing"
    GETTING_BEHIND = "getting behind"
    PUSHING = "pushing"
    FULFILLED = "fulfilled"


# {it} stands for the object, {there} for the direction.
_MOVING = {Doing.MOVING: "moving to {it}"}
_TAKING = _MOVING | {Doing.GRASPING: "grasping {it}", Doing.LIFTING: "lifting {it}"}
_PHASES = {
    "reach": _MOVING | {Doing.FULFILLED: "hovering above {it}"},
    "push": {
        Doing.GETTING_BEHIND: "getting behind {it}",
        Doing.PUSHING: "pushing {it} {there}",
        Doing.FULFILLED: "{it} is pushed {there}",
    },
    "pick": _TAKING | {Doing.FULFILLED: "holding {it} up"},
    "pad": _TAKING
    | {
        Doing.CARRYING: "carrying {it} to the pad",
        Doing.PLACING: "putting {it} on the pad",
        Doing.FULFILLED: "{it} is on the pad",
    },
    "bowl": _TAKING
    | {
        Doing.CARRYING: "carrying {it} to the bowl",
        Doing.PLACING: "putting {it} in the bowl",
        Doing.FULFILLED: "{it} is in the bowl",
    },
}
_DIRECTIONS = {
    "": "",
    "left": "to the left",
    "right": "to the right",
    "away": "away",
    "closer": "closer",
}


def describe(doing: Doing, goal: Goal) -> str:
    """The sentence for a phase of the task that `goal` asks for, such as "lifting the red cube".

    Raises:
        ValueError: a task of this family has no such phase.
    """
    phases = _PHASES[goal.family]
    if doing not in phases:
        known = ", ".join(phase.value for phase in phases)
        raise ValueError(f"'{goal.family}' has no phase '{doing.value}': its phases are {known}")
    thing = f"the {goal.color} {goal.shape}"
    return phases[doing].format(it=thing, there=_DIRECTIONS[goal.direction])


def _all_sentences() -> list[str]:
    goals = [
        Goal(family, color, shape, direction)
        for color in COLORS
        for shape in SHAPES
        for family in FAMILIES
        for direction in (DIRECTIONS if family == "push" else ("",))
    ]
    return [describe(doing, goal) for goal in goals for doing in _PHASES[goal.family]]


# All that `describe` can say, each once. Recorded data holds positions in this tuple.
SENTENCES = tuple(dict.fromkeys(_all_sentences()))
DESCRIPTION_WORDS = tuple(sorted({word for text in SENTENCES for word in words_of(text)}))
