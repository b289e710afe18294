"""What is seen becomes a picture, pictures become sentences, and texts are held against them."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import tiny_scenes

from vla_ros.models.scenes.captions import caption_of, read_caption
from vla_ros.models.scenes.layout import Picture
from vla_ros.models.scenes.reading import can_be_shown, in_words, not_shown, shows
from vla_ros.scene_language.facts import (
    Counted,
    Fingers,
    Moving,
    Placed,
    Present,
    Related,
    narration,
)
from vla_ros.scene_language.scenes import BOWL, GRIPPER, PAD, Name, Place, Scene, Thing
from vla_ros.scene_language.sentences import parse
from vla_ros.scene_language.vocabulary import tokens_of
from vla_ros.scene_language.worlds import sample_moments, sample_scene
from vla_ros.training.scenes.judge import drawn_scene
from vla_ros.training.scenes.narrations import narrations
from vla_ros.training.scenes.texts import Texts

RED, GREEN, BLUE = Name("red", "cube"), Name("green", "cylinder"), Name("blue", "ring")
TABLE = Picture(
    (Thing(RED, Place(40, 30, 1)), Thing(GREEN, Place(40, 12, 1)), Thing(BOWL, Place(25, 30, 0)))
)


def moving(motion, place, opened=True):
    return replace(TABLE, gripper=Place(*place, 1), open=opened, motion=motion)


# -- what is seen ----------------------------------------------------------------------------------


def test_what_is_seen_while_the_gripper_moves_is_what_the_narration_of_it_tells():
    rng = random.Random(0)
    seen = 0
    for _ in range(60):
        moment = rng.choice(sample_moments(sample_scene(rng), rng))
        picture = Picture.seen(moment.before, moment.after)
        fact = narration(moment.before, moment.after, moment.target)
        assert picture.motion == fact.direction
        assert picture.gripper[:2] == moment.before.gripper[:2]
        if can_be_shown(fact):
            seen += shows(picture, fact)
            assert shows(picture, fact), fact
    assert seen > 30


def test_without_a_motion_the_things_alone_are_seen():
    scene = Scene((Thing(RED, Place(3, 4, 5)), Thing(PAD, Place(9, 9, 0))), Place(1, 2, 3), False)
    picture = Picture.seen(scene)
    assert picture.gripper is None and picture.open and not picture.motion
    assert [place for _, place in picture.things] == [Place(3, 4, 1), Place(9, 9, 0)]
    assert set(picture.things) == set(read_caption(caption_of(picture)).things)


@pytest.mark.parametrize(
    ("fact", "can"),
    [
        (Present(RED), True),
        (Related(RED, "left", (BOWL,)), True),
        (Related(RED, "on", (PAD,)), True),
        (Related(RED, "on", (GREEN,)), False),
        (Related(RED, "above", (GREEN,)), False),
        (Related(RED, "nearest", (GREEN,)), False),
        (Related(GRIPPER, "left", (RED,)), False),
        (Moving("move", "up"), True),
        (Moving("move", "up", None, RED, Related(RED, "above", (GREEN,))), False),
        (Counted("cube", 2), False),
        (Placed(RED, Place(1, 2, 3)), False),
        (Fingers(True), False),
        (None, False),
    ],
)
def test_what_texts_about_pictures_do_not_say_has_no_score(fact, can):
    assert can_be_shown(fact) is can


# -- in words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Picture(()), ""),
        (replace(TABLE, things=TABLE.things[:1]), "There is a red cube."),
        (replace(TABLE, things=TABLE.things[:2]), "The red cube is left of the green cylinder."),
        (
            TABLE,
            "The red cube is behind the bowl. The green cylinder is right of the red cube.",
        ),
        (
            replace(moving("left", (40, 30), False), things=TABLE.things[:1]),
            "The gripper is carrying the red cube left.",
        ),
        (
            replace(moving("right", (40, 36), False), things=TABLE.things[:1]),
            "The gripper is pushing the red cube right.",
        ),
        (
            replace(moving("right", (40, 36), True), things=TABLE.things[:1]),
            "The gripper is moving right. There is a red cube.",
        ),
        (Picture((), Place(1, 1, 1), True, ""), "The gripper is not moving."),
    ],
)
def test_pictures_in_words(picture, words):
    assert in_words(picture) == words


def test_what_is_said_of_a_picture_is_true_of_it_and_names_everything():
    rng = np.random.default_rng(0)
    for _ in range(60):
        picture = drawn_scene(rng)
        words = in_words(picture)
        facts = [parse(sentence) for sentence in words.split(".") if sentence]
        assert all(shows(picture, fact) for fact in facts), words
        assert not_shown(tokens_of(words), picture) == ""
        for name, _ in picture.things:
            assert str(name).removeprefix("the ") in words.lower(), words


# -- a text against a picture ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "picture", "words"),
    [
        ("a red cube behind the bowl", TABLE, ""),
        ("I see a red block. There is a green can to the right of the red cube.", TABLE, ""),
        ("a red cube and a blue ring", TABLE, "no blue ring"),
        ("a yellow cube", TABLE, "no yellow cube"),
        ("a red cube in front of the bowl", TABLE, "the red cube is not in front of the bowl"),
        ("the bowl is left of the red cube", TABLE, "the bowl is not left of the red cube"),
        ("the hand moves left", TABLE, "no gripper is to be seen"),
        ("the hand moves left", moving("left", (9, 9)), ""),
        ("the hand moves left", moving("right", (9, 9)), "the gripper is moving left"),
        ("the hand carries the red cube left", moving("left", (40, 31), False), ""),
        ("the hand carries the red cube left", moving("left", (9, 9), False), "carrying the red"),
        ("please", TABLE, ""),
        ("", TABLE, ""),
    ],
)
def test_what_a_picture_does_not_show_is_named(text, picture, words):
    found = not_shown(tokens_of(text), picture)
    assert (words in found) if words else not found, found


def test_wrong_words_are_found_and_right_ones_left_alone():
    rng = np.random.default_rng(0)
    found = [
        (bool(not_shown(one.true, one.picture)), bool(not_shown(one.false, one.picture)))
        for one in narrations(80, seed=int(rng.integers(99)))
        if can_be_shown(one.fact)
    ]
    assert not any(true for true, _ in found)
    assert np.mean([wrong for _, wrong in found]) > 0.9


def test_nothing_is_missing_where_all_facts_hold():
    for number in range(60):
        text = Texts(0, moving=0.0)[number]
        places = [Place(9 + 11 * k, 9 + 7 * k, 1) for k in range(len(text.names))]
        things = tuple(Thing(n, p) for n, p in zip(text.names, places, strict=True))
        picture = Picture(things)
        wrong = [f for f in text.facts if can_be_shown(f) and not shows(picture, f)]
        found = not_shown(text.words, picture)
        assert bool(found) <= bool(wrong), (text.words, found)


def test_the_imagined_is_read_back_and_what_is_missing_is_told():
    torch.set_num_threads(1)
    imagined = tiny_scenes().imagine("A red cube left of the bowl.", seed=2**64 - 1)
    assert imagined.picture == read_caption(imagined.caption)
    assert imagined.missing  # it knows nothing
    assert imagined.missing == not_shown(
        tokens_of("a red cube left of the bowl."), imagined.picture
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red teapot on the frobnicator", "unknown words 'teapot', 'frobnicator'"),
        ("", "no words"),
        (" . , 3", "no words"),
        ("a red cube " * 40, "120 words and punctuation marks, 94 at most"),
    ],
)
def test_texts_that_cannot_be_imagined_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        tiny_scenes().imagine(text)
