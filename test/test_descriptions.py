"""What the arm is doing, in words: a closed grammar with one sentence for each phase."""

import pytest

from vla_ros.scene_language.descriptions import DESCRIPTION_WORDS, SENTENCES, Doing, describe
from vla_ros.scene_language.instructions import COLORS, DIRECTIONS, FAMILIES, SHAPES, Goal
from vla_ros.scene_language.words import words_of

CUBE = ("red", "cube")
GOALS = [
    Goal(family, color, shape, direction)
    for family in FAMILIES
    for color in COLORS
    for shape in SHAPES
    for direction in (DIRECTIONS if family == "push" else ("",))
]


def sentences_of(goal):
    """Sentences by phase, of those phases that the goal's family has."""
    said = {}
    for doing in Doing:
        try:
            said[doing] = describe(doing, goal)
        except ValueError:
            continue
    return said


@pytest.mark.parametrize(
    ("doing", "goal", "sentence"),
    [
        (Doing.MOVING, Goal("reach", *CUBE), "moving to the red cube"),
        (Doing.FULFILLED, Goal("reach", *CUBE), "hovering above the red cube"),
        (Doing.GETTING_BEHIND, Goal("push", *CUBE, "left"), "getting behind the red cube"),
        (Doing.PUSHING, Goal("push", *CUBE, "left"), "pushing the red cube to the left"),
        (Doing.PUSHING, Goal("push", *CUBE, "away"), "pushing the red cube away"),
        (Doing.FULFILLED, Goal("push", *CUBE, "right"), "the red cube is pushed to the right"),
        (Doing.FULFILLED, Goal("push", *CUBE, "closer"), "the red cube is pushed closer"),
        (Doing.GRASPING, Goal("pick", *CUBE), "grasping the red cube"),
        (Doing.FULFILLED, Goal("pick", *CUBE), "holding the red cube up"),
        (Doing.CARRYING, Goal("pad", *CUBE), "carrying the red cube to the pad"),
        (Doing.FULFILLED, Goal("pad", *CUBE), "the red cube is on the pad"),
        (Doing.LIFTING, Goal("bowl", "blue", "cylinder"), "lifting the blue cylinder"),
        (Doing.PLACING, Goal("bowl", *CUBE), "putting the red cube in the bowl"),
        (Doing.FULFILLED, Goal("bowl", *CUBE), "the red cube is in the bowl"),
    ],
)
def test_a_phase_is_said_in_plain_english(doing, goal, sentence):
    assert describe(doing, goal) == sentence


@pytest.mark.parametrize(
    ("doing", "family"),
    [(Doing.CARRYING, "pick"), (Doing.GRASPING, "reach"), (Doing.LIFTING, "push")],
)
def test_a_phase_of_another_family_is_refused_with_those_there_are(doing, family):
    goal = Goal(family, *CUBE, "left" if family == "push" else "")
    with pytest.raises(ValueError, match=f"'{family}'.*'{doing.value}'.*fulfilled"):
        describe(doing, goal)


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_the_phases_of_a_goal_sound_different_and_each_has_one_place(goal):
    said = sentences_of(goal)
    assert len(set(said.values())) == len(said) >= 2 and Doing.FULFILLED in said
    for text in said.values():
        assert SENTENCES.count(text) == 1
        assert f"the {goal.color} {goal.shape}" in text


def test_the_table_holds_what_can_be_said_and_nothing_else():
    said = {text for goal in GOALS for text in sentences_of(goal).values()}
    assert set(SENTENCES) == said and len(SENTENCES) == len(said) == 160


def test_the_words_are_those_of_the_sentences():
    assert list(DESCRIPTION_WORDS) == sorted(set(DESCRIPTION_WORDS))
    assert {word for text in SENTENCES for word in text.split()} == set(DESCRIPTION_WORDS)
    assert all(words_of(text) == text.split() for text in SENTENCES)
