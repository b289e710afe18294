"""Other ways to say the goals of the simulator's tasks, from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.paths import read_json
from vla_ros.scene_language.instructions import DIRECTIONS, FAMILIES, SHAPES, Goal

_PLACES = {"{color}", "{cube}"}


@dataclass(frozen=True)
class Phrasings:
    """Phrasings by family, and by direction for "push"; nouns by shape.

    In a phrasing {color} stands for the colour, {cube} for a noun of the shape, whichever it is.
    """

    nouns: Mapping[str, Sequence[str]]
    texts: Mapping[tuple[str, str], Sequence[str]]  # by family and direction ("" if it has none)

    @classmethod
    def load(cls, path: Path) -> Phrasings:
        """From a JSON file {"nouns": {"cube": [...], "cylinder": [...]}, "reach": [...], "pick":
        [...], "pad": [...], "bowl": [...], "push": {"left": [...], "right": [...], "away": [...],
        "closer": [...]}}.

        Raises:
            OSError: it cannot be read.
            ValueError: it is something else; the place in it is told.
        """
        told = read_json(path)
        _check_names(f"{path}: the file", told, ("nouns", *FAMILIES))
        _check_names(f"{path}: nouns", told["nouns"], SHAPES)
        _check_names(f"{path}: push", told["push"], DIRECTIONS)
        for shape, nouns in told["nouns"].items():
            _check_texts(f"{path}: nouns.{shape}", nouns, needed=set())
        texts = {(family, ""): told[family] for family in FAMILIES if family != "push"}
        texts |= {("push", direction): told["push"][direction] for direction in DIRECTIONS}
        for place, phrasings in texts.items():
            _check_texts(f"{path}: {'.'.join(filter(None, place))}", phrasings, needed={"{color}"})
        return cls(told["nouns"], texts)

    def instruction(self, goal: Goal, seed: int) -> str:
        """What is said for `goal` in the task of this seed.

        Consecutive seeds take the phrasings in turn, then the nouns, so that each is used about
        equally often.
        """
        texts, nouns = self.texts[goal.family, goal.direction], self.nouns[goal.shape]
        rounds, number = divmod(seed, len(texts))
        # The noun moves on within a round too: else a round would be of one noun.
        noun = nouns[(rounds + number) % len(nouns)]
        return texts[number].replace("{color}", goal.color).replace("{cube}", noun)


def _check_names(what: str, told: Any, names: Sequence[str]) -> None:
    if not isinstance(told, dict) or set(told) != set(names):
        got = ", ".join(map(str, told)) if isinstance(told, dict) else type(told).__name__
        raise ValueError(
            f"{what} must have the keys {', '.join(names)}, and no others; it has {got}"
        )


def _check_texts(what: str, texts: Any, needed: set[str]) -> None:
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{what} must be a list of texts, one or more")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{what}[{number}] must be a text")
        found = set(re.findall(r"\{[^{}]*\}|[{}]", text))
        if wrong := found - (_PLACES if needed else set()):
            raise ValueError(
                f"{what}[{number}] has {min(wrong)}: use "
                + ("{color} and {cube} only" if needed else "no braces in a noun")
            )
        if missing := needed - found:
            raise ValueError(f"{what}[{number}] lacks {min(missing)}: which object is meant?")
