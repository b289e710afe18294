"""The instructions an arm understands: task families, their phrasings, a word vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FAMILIES = ("reach", "push", "pick", "pad", "bowl")
SHAPES = ("cube", "cylinder")
COLORS = ("red", "green", "blue", "purple")
DIRECTIONS = ("left", "right", "away", "closer")

# "it" stands for the object's noun phrase, "there" for the direction's.
_VERBS = {
    "reach": (
        "reach it",
        "reach for it",
        "reach out to it",
        "reach towards it",
        "move to it",
        "move over to it",
        "move above it",
        "move the gripper to it",
        "move the hand over it",
        "move your hand to it",
        "move the arm to it",
        "bring the gripper to it",
        "bring your hand above it",
        "bring the gripper close to it",
        "go to it",
        "go over to it",
        "hover over it",
        "hover above it",
        "point at it",
        "point to it",
        "approach it",
        "get close to it",
        "get to it",
        "position the gripper above it",
        "put the gripper over it",
        "touch it",
    ),
    "push": (
        "push it there",
        "slide it there",
        "shove it there",
        "nudge it there",
        "move it there",
        "shift it there",
        "give it a push there",
        "make it slide there",
    ),
    "pick": (
        "pick it up",
        "pick up it",
        "lift it",
        "lift it up",
        "lift up it",
        "grab it",
        "grasp it",
        "grasp it and lift it up",
        "take it",
        "raise it",
        "raise it up",
        "hold it up",
        "hold it in the air",
        "grab it and lift",
        "get it off the table",
        "lift it off the table",
        "take it from the table",
    ),
    "pad": (
        "put it on the pad",
        "place it on the pad",
        "set it on the pad",
        "set it down on the pad",
        "drop it on the pad",
        "lay it on the pad",
        "leave it on the pad",
        "move it onto the pad",
        "bring it to the pad",
        "carry it to the pad",
        "take it to the pad",
        "put it onto the pad",
        "pick it up and put it on the pad",
        "pick up it and place it on the pad",
    ),
    "bowl": (
        "put it in the bowl",
        "place it in the bowl",
        "drop it in the bowl",
        "drop it into the bowl",
        "put it into the bowl",
        "place it inside the bowl",
        "set it in the bowl",
        "leave it in the bowl",
        "move it into the bowl",
        "bring it to the bowl",
        "carry it to the bowl",
        "take it to the bowl",
        "pick it up and put it in the bowl",
        "pick up it and drop it in the bowl",
    ),
}
_NOUNS = {"cube": ("cube", "block", "box"), "cylinder": ("cylinder", "can", "tube")}
_ANY_NOUNS = ("object", "thing", "one", "piece")
_PAD_NOUNS = ("pad", "yellow pad", "mat", "yellow mat", "square", "yellow square", "target")
_BOWL_NOUNS = ("bowl", "dish", "container", "white bowl")
_DIRECTIONS = {
    "left": ("left", "to the left", "leftwards", "to your left", "to the left side"),
    "right": ("right", "to the right", "rightwards", "to your right", "to the right side"),
    "away": ("away", "away from you", "forward", "forwards", "further away", "farther away"),
    "closer": ("closer", "closer to you", "towards you", "toward you", "nearer", "backwards"),
}
_OPENINGS = (
    "please",
    "now",
    "robot",
    "could you",
    "can you",
    "would you",
    "could you please",
    "i want you to",
    "you should",
    "go ahead and",
    "next",
    "then",
    "ok now",
)
_CLOSINGS = ("please", "now", "for me", "carefully", "slowly", "gently", "with the gripper")


@dataclass(frozen=True)
class Goal:
    """What an instruction asks for.

    `direction` is one of DIRECTIONS for the family "push" and "" otherwise. Directions are the
    robot's own: left is +y, right -y, away +x, closer -x of its base frame.
    """

    family: str
    color: str
    shape: str
    direction: str = ""


def phrase(goal: Goal, rng: np.random.Generator) -> str:
    """One of the many ways to say `goal`, chosen by `rng`. The colour is always named."""

    def choose(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    nouns = _ANY_NOUNS if rng.random() < 0.2 else _NOUNS[goal.shape]
    thing = f"the {goal.color} {choose(nouns)}"
    words = choose(_VERBS[goal.family]).split()
    named = False
    for i, word in enumerate(words):
        if word == "it" and not named:
            words[i], named = thing, True
        elif word == "there":
            words[i] = choose(_DIRECTIONS[goal.direction])
        elif word == "pad":
            words[i] = choose(_PAD_NOUNS)
        elif word == "bowl":
            words[i] = choose(_BOWL_NOUNS)
    text = " ".join(words)
    if rng.random() < 0.3:
        text = f"{choose(_OPENINGS)} {text}"
    if rng.random() < 0.2:
        text = f"{text} {choose(_CLOSINGS)}"
    return text


def _all_phrases() -> list[str]:
    groups = (
        *_VERBS.values(),
        *_NOUNS.values(),
        *_DIRECTIONS.values(),
        _ANY_NOUNS,
        _PAD_NOUNS,
        _BOWL_NOUNS,
        _OPENINGS,
        _CLOSINGS,
        COLORS,
    )
    return [text for group in groups for text in group]


# All words of instructions.
VOCABULARY = tuple(sorted({word for text in _all_phrases() for word in text.split()} - {"there"}))


def words_of(text: str) -> list[str]:
    """Lower-case words of a sentence, punctuation dropped."""
    return re.findall(r"[a-z]+", text.lower())


def check_words(text: str) -> None:
    """Raises ValueError when an instruction is empty or has words outside VOCABULARY."""
    words = words_of(text)
    if not words:
        raise empty_instruction()
    if unknown := [word for word in words if word not in VOCABULARY]:
        raise unknown_words(text, unknown)


def empty_instruction() -> ValueError:
    return ValueError("the instruction is empty: say what to do, such as 'pick up the red cube'")


def unknown_words(text: str, unknown: Sequence[str]) -> ValueError:
    """The error about words in the instruction `text` that the policy was not taught."""
    return ValueError(
        f"unknown word{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))} in the "
        f"instruction '{text}': use words of the policy's vocabulary"
    )
