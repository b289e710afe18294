"""The instructions an arm understands: task families, their phrasings, a word vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.scene_language.instruction_verbs import VERBS
from vla_ros.scene_language.instruction_words import (
    ANY_NOUNS,
    BOWL_NOUNS,
    CLOSINGS,
    DIRECTION_PHRASES,
    NOUN_PHRASES,
    NOUNS,
    OPENINGS,
    PAD_NOUNS,
)
from vla_ros.scene_language.words import words_of

FAMILIES = ("reach", "push", "pick", "pad", "bowl")
SHAPES = ("cube", "cylinder")
COLORS = ("red", "green", "blue", "purple")
DIRECTIONS = ("left", "right", "away", "closer")


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

    noun = choose(ANY_NOUNS if rng.random() < 0.2 else NOUNS[goal.shape])
    filled = {"COLOR": goal.color, "NOUN": noun}
    thing = " ".join(filled.get(word, word) for word in choose(NOUN_PHRASES).split())
    words = choose(VERBS[goal.family]).split()
    named = False
    for i, word in enumerate(words):
        if word == "it" and not named:
            words[i], named = thing, True
        elif word == "there":
            words[i] = choose(DIRECTION_PHRASES[goal.direction])
        elif word == "pad":
            words[i] = choose(PAD_NOUNS)
        elif word == "bowl":
            words[i] = choose(BOWL_NOUNS)
    text = " ".join(words)
    if rng.random() < 0.3:
        text = f"{choose(OPENINGS)} {text}"
    if rng.random() < 0.2:
        text = f"{text} {choose(CLOSINGS)}"
    return text


def _all_phrases() -> list[str]:
    groups = (
        *VERBS.values(),
        *NOUNS.values(),
        *DIRECTION_PHRASES.values(),
        ANY_NOUNS,
        NOUN_PHRASES,
        PAD_NOUNS,
        BOWL_NOUNS,
        OPENINGS,
        CLOSINGS,
        COLORS,
    )
    return [text for group in groups for text in group]


# All words of instructions.
VOCABULARY = tuple(
    sorted(
        {word for text in _all_phrases() for word in words_of(text)} - {"there", "color", "noun"}
    )
)
# What cannot be guessed from the rest of an instruction.
ESSENTIAL_WORDS = frozenset(
    word for text in (*COLORS, *sum(DIRECTION_PHRASES.values(), ())) for word in words_of(text)
)


def empty_instruction(text: str) -> ValueError:
    what = f" '{text}' has no word in it and is empty" if text.strip() else " is empty"
    return ValueError(f"the instruction{what}: say what to do, such as 'pick up the red cube'")


def unknown_words(text: str, unknown: Sequence[str]) -> ValueError:
    """The error about words in the instruction `text` that the policy was not taught."""
    return ValueError(
        f"unknown word{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))} in the "
        f"instruction '{text}': use words of the policy's vocabulary"
    )


def missing_word(text: str, needed: Sequence[str]) -> ValueError:
    """The error about an instruction `text` that has none of the words it `needed`."""
    return ValueError(f"the instruction '{text}' names none of {', '.join(needed)}: say which")
