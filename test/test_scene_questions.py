"""Questions: one answer each, which agrees with what facts mean, in words that come back."""

import random

import pytest
from random_scenes import any_place, any_scene, crowded_scene

from vla_ros.scene_language import vocabulary
from vla_ros.scene_language.facts import (
    OF_THINGS,
    RELATIONS,
    Counted,
    Fingers,
    Holding,
    Placed,
    Present,
    Related,
    holds,
)
from vla_ros.scene_language.questions import (
    HowMany,
    Is,
    What,
    WhatColor,
    WhatHeld,
    Where,
    WhichPlace,
    answer,
    ask,
    asked_for,
    fact_of,
    parse,
    phrasings,
    read_reply,
    reply,
)
from vla_ros.scene_language.scenes import (
    BOWL,
    COLORS,
    GRIPPER,
    MOVABLE,
    PAD,
    SHAPES,
    Name,
    Place,
    Scene,
    Thing,
)

RED, BLUE, GREEN = Name("red", "cube"), Name("blue", "cube"), Name("green", "cylinder")
SCENE = Scene(
    (
        Thing(RED, Place(30, 40, 1)),
        Thing(BLUE, Place(50, 20, 1)),
        Thing(GREEN, Place(40, 20, 1)),
        Thing(BOWL, Place(30, 30, 0)),
    ),
    Place(10, 10, 9),
)


def any_question(rng, scene):
    names = [thing.name for thing in scene.things]
    relation = rng.choice(RELATIONS)
    landmarks = tuple(rng.sample(names, 1 + (relation == "between")))
    others = [name for name in names if name not in landmarks]
    relations = [Related(name, relation, landmarks) for name in others]
    if relation not in OF_THINGS:
        relations.append(Related(GRIPPER, relation, landmarks))
    facts = [*relations, Present(rng.choice(MOVABLE)), Fingers(rng.random() < 0.5)]
    facts += [Holding(None), Holding(rng.choice(MOVABLE))]
    return rng.choice(
        [
            Where(rng.choice([*names, GRIPPER])),
            What(relation, landmarks),
            Is(rng.choice(facts)),
            HowMany(rng.choice([*SHAPES, *COLORS, "thing"])),
            WhatColor(rng.choice(SHAPES)),
            WhatHeld(),
            WhichPlace(rng.choice([*names, GRIPPER])),
        ]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Where is the red cube?", "Left of the bowl."),
        ("where is the blue block", "Behind the green cylinder."),
        ("What is behind the green cylinder?", "The blue cube."),
        ("what is on the bowl?", "Nothing."),
        ("Is the red cube left of the bowl?", "Yes."),
        ("do you see the red cube to the right of the bowl?", "No."),
        ("How many cubes are there?", "Two."),
        ("how many pink things are there", "Zero."),
        ("What colour is the cylinder?", "Green."),
        ("What does the gripper hold?", "Nothing."),
        ("what is in the gripper?", "Nothing."),
        ("is the hand open?", "Yes."),
        ("is there a pink cone?", "No."),
        ("in which row and column is the dish?", "Row 30, column 30, height 0."),
    ],
)
def test_questions_and_their_answers(text, said):
    question = parse(text)
    words = [*reply(question, answer(question, SCENE)), "."]
    assert vocabulary.text_of(words) == said
    assert read_reply(question, said) == answer(question, SCENE)


def test_the_held_thing_is_in_the_gripper():
    scene = SCENE.moved({}, open=False, holds=RED)
    assert answer(Where(RED), scene) == Holding(RED)
    assert reply(Where(RED), Holding(RED)) == ["in", "the", "gripper"]
    assert answer(WhatHeld(), scene) == RED


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        (What("right", (RED,)), "more than one: the green cylinder, the blue cube, the bowl"),
        (WhatColor("cube"), "more than one: the red cube, the blue cube"),
        (WhatColor("cone"), "there is no cone in this scene"),
        (Where(Name("pink", "cone")), "there is no pink cone in this scene"),
        (What("left", (PAD,)), "there is no pad in this scene"),
    ],
)
def test_questions_without_one_answer_are_refused(question, problem):
    with pytest.raises(ValueError, match=problem):
        answer(question, SCENE)


def test_answers_agree_with_what_facts_mean():
    rng, counted = random.Random(0), {}
    for i in range(3_000):
        scene = crowded_scene(rng) if i % 2 else any_scene(rng, least=3)
        question = any_question(rng, scene)
        try:
            given = answer(question, scene)
        except ValueError:
            continue
        counted[type(question)] = counted.get(type(question), 0) + 1
        fact = fact_of(question, given)
        if fact is not None:
            assert holds(fact, scene)
            assert (question, given) in asked_for(fact)
        elif isinstance(question, Is):
            assert given is False and not holds(question.fact, scene)
        else:
            names = [t.name for t in scene.things if t.name not in question.landmarks]
            facts = [Related(name, question.relation, question.landmarks) for name in names]
            assert not any(holds(fact, scene) for fact in facts)
    assert len(counted) == 7 and min(counted.values()) > 100


def test_every_phrasing_asks_its_question_and_only_it():
    rng, kinds = random.Random(1), set()
    for _ in range(400):
        question = any_question(rng, any_scene(rng, least=3, most=5))
        said = list(phrasings(question))
        for words in rng.sample(said, min(len(said), 6)):
            assert parse(words) == question
            assert set(words) <= set(vocabulary.TOKENS)
        assert ask(question, rng) in said and ask(question) in said
        kinds.add(type(question))
    assert len(kinds) == 7


def test_replies_come_back():
    rng, spatial = random.Random(2), 0
    for i in range(1_500):
        scene = crowded_scene(rng) if i % 2 else any_scene(rng, least=3)
        question = any_question(rng, scene)
        try:
            given = answer(question, scene)
        except ValueError:
            continue
        assert read_reply(question, reply(question, given)) == given
        words = reply(question, given, spatial=True)
        assert read_reply(question, words) == given
        spatial += words[0].startswith("<x")
    assert spatial > 50


def test_a_place_is_told_by_its_tokens():
    place = Place(3, 40, 1)
    assert reply(WhichPlace(RED), place, spatial=True) == ["<x3>", "<y40>", "<z1>"]
    alone = Scene((Thing(RED, place),), any_place(random.Random(0)))
    assert answer(Where(RED), alone) == Placed(RED, place)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("where is the blurple blok", "unknown words 'blurple', 'blok' in"),
        ("where the red cube", "is no question that the scene language knows"),
        ("is the red cube left of the red cube", "asks what cannot be: .*different things"),
    ],
)
def test_what_cannot_be_asked_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse(text)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("two", "'two' is no answer to 'is the gripper open \\?'"),
        ("perhap", "unknown word 'perhap'"),
        (["<y1>", "<y2>", "<z3>"], "'<y1> <y2> <z3>' is no place"),
    ],
)
def test_what_is_no_answer_is_refused(words, problem):
    with pytest.raises(ValueError, match=problem):
        read_reply(Is(Fingers(True)), words)


def test_facts_tell_which_questions_they_answer():
    asked = asked_for(Counted("cube", 2))
    assert asked == [(HowMany("cube"), 2)]
    assert (WhatHeld(), RED) in asked_for(Holding(RED))
