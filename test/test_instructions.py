"""Phrasings: every one is understood, names its object, and can be told from the others."""

import numpy as np

from vla_ros.scene_language.instructions import (
    COLORS,
    DIRECTIONS,
    FAMILIES,
    SHAPES,
    VOCABULARY,
    Goal,
    phrase,
)
from vla_ros.scene_language.words import words_of


def goals() -> list[Goal]:
    return [
        Goal(family, color, shape, direction)
        for family in FAMILIES
        for color in COLORS
        for shape in SHAPES
        for direction in (DIRECTIONS if family == "push" else ("",))
    ]


def test_every_phrasing_is_in_the_vocabulary_and_names_the_colour():
    rng = np.random.default_rng(0)
    for goal in goals():
        for _ in range(40):
            text = phrase(goal, rng)
            assert set(words_of(text)) <= set(VOCABULARY), text
            assert sum(color in words_of(text) for color in COLORS) == 1, text
            assert not {"there", "noun"} & set(words_of(text)), text


def test_there_are_many_phrasings_and_none_means_two_things():
    rng = np.random.default_rng(1)
    said: dict[str, Goal] = {}
    for goal in goals():
        texts = {phrase(goal, rng) for _ in range(150)}
        assert len(texts) > 60
        for text in texts:
            other = said.setdefault(text, goal)
            # "the red object" fits either shape; everything else must agree.
            assert (other.family, other.color, other.direction) == (
                goal.family,
                goal.color,
                goal.direction,
            ), text


def test_the_same_generator_state_gives_the_same_words():
    goal = Goal("pad", "green", "cube")
    assert phrase(goal, np.random.default_rng(7)) == phrase(goal, np.random.default_rng(7))
