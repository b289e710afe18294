"""Sentences: every phrasing says its fact and nothing else; texts determine scenes."""

import doctest
import itertools
import random
from pathlib import Path

import pytest
from random_scenes import any_place, any_scene

from vla_ros.scene_language.actions import CLOSED, OPEN, Action
from vla_ros.scene_language.facts import (
    DIRECTIONS,
    OF_THINGS,
    RELATIONS,
    Coloured,
    Counted,
    Fingers,
    Happened,
    Holding,
    Moving,
    Placed,
    Present,
    Related,
    holds,
)
from vla_ros.scene_language.phrases import Grammar, Slot
from vla_ros.scene_language.scenes import (
    BOWL,
    COLORS,
    GRIPPER,
    MOVABLE,
    NAMES,
    PAD,
    SHAPES,
    Name,
    Place,
    Scene,
    Thing,
)
from vla_ros.scene_language.sentences import (
    facts_of,
    parse,
    phrasings,
    read,
    say,
    tell,
    tell_changes,
)
from vla_ros.scene_language.vocabulary import TOKENS, text_of

RED, BLUE = Name("red", "cube"), Name("blue", "cylinder")
BEHIND = Related(RED, "behind", (BOWL,))
AMID = Related(RED, "between", (PAD, BOWL))


def any_relation(rng, subject=None):
    relation = rng.choice(RELATIONS)
    names = NAMES if relation in OF_THINGS else (*NAMES, GRIPPER)
    subject = subject or rng.choice(names)
    others = [name for name in names if name != subject]
    return Related(subject, relation, tuple(rng.sample(others, 1 + (relation == "between"))))


def any_moving(rng):
    verb = rng.choice(["move", "carry", "push", "stay"])
    if verb == "stay":
        return Moving(verb)
    thing, target = rng.sample(NAMES, 2)
    end = rng.randrange(3)
    return Moving(
        verb,
        rng.choice(DIRECTIONS),
        None if verb == "move" else thing,
        target if end else None,
        any_relation(rng, target) if end == 2 else None,
    )


def any_happened(rng):
    event, thing = rng.choice(["grasped", "released", "slid"]), rng.choice(MOVABLE)
    told = event != "grasped" and rng.random() < 0.7
    return Happened(event, thing, any_relation(rng, thing) if told else None)


def any_fact(rng):
    name = rng.choice(NAMES)
    kinds = [
        lambda: any_relation(rng),
        lambda: any_moving(rng),
        lambda: any_happened(rng),
        lambda: Placed(rng.choice([name, GRIPPER]), any_place(rng)),
        lambda: Fingers(rng.random() < 0.5),
        lambda: Holding(rng.choice([None, rng.choice(MOVABLE)])),
        lambda: Present(name),
        lambda: Counted(rng.choice([*SHAPES, *COLORS, "thing"]), rng.randrange(13)),
        lambda: Coloured(rng.choice(SHAPES), rng.choice(COLORS)),
        lambda: Action(*(rng.randint(-16, 15) for _ in range(3)), rng.randrange(32)),
    ]
    return rng.choice(kinds)()


def test_sentences_by_chance_say_their_fact_and_only_it():
    rng, kinds = random.Random(0), set()
    for _ in range(2_500):
        fact = any_fact(rng)
        words = say(fact, rng)
        assert parse(words) == fact
        kinds.add(type(fact))
    assert len(kinds) == 10


@pytest.mark.parametrize(
    "fact",
    [
        Present(Name("gray", "cube")),
        Related(GRIPPER, "above", (PAD,)),
        Placed(BLUE, Place(3, 40, 1)),
        Fingers(False),
        Holding(RED),
        Holding(None),
        Counted("cube", 1),
        Counted("gray", 3),
        Coloured("sphere", "gray"),
        Moving("stay"),
        Moving("move", "closer"),
        Moving("push", "left", RED, BOWL),
        Moving("move", "left", None, RED, Related(RED, "front", (PAD,))),
        Happened("slid", RED, Related(RED, "inside", (BOWL,))),
        Happened("released", RED, Related(RED, "between", (PAD, BOWL))),
        Happened("grasped", RED),
        Action(3, -12, 0, OPEN),
        Action(0, 0, 0, CLOSED),
        Action(-1, 2, -3, 17),
    ],
)
def test_every_phrasing_says_its_fact_and_only_it(fact):
    said = [tuple(words) for words in phrasings(fact)]
    assert len(said) == len(set(said)) >= 2
    rng = random.Random(1)
    for words in said if len(said) < 120 else rng.sample(said, 120):
        assert parse(words) == fact
        assert parse(text_of(words)) == fact
        assert set(words) <= set(TOKENS)
    assert tuple(say(fact, rng)) in said and tuple(say(fact)) in said


def test_phrasings_of_different_facts_differ():
    """Of all relations among three things and the gripper, no sentence says two."""
    said: dict[tuple[str, ...], Related] = {}
    for relation in RELATIONS:
        names = (RED, BLUE, BOWL) if relation in OF_THINGS else (RED, BLUE, BOWL, GRIPPER)
        for chosen in itertools.permutations(names, 2 + (relation == "between")):
            fact = Related(chosen[0], relation, chosen[1:])
            for words in phrasings(fact):
                assert said.setdefault(tuple(words), fact) == fact
    assert len(said) > 10_000


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        (
            Moving("move", "left", None, RED, BEHIND),
            "The gripper is moving left toward the red cube, which is behind the bowl.",
        ),
        (
            Moving("carry", "away", BLUE, RED, AMID),
            "The gripper is carrying the blue cylinder away from the robot toward the red cube, "
            "which is between the pad and the bowl.",
        ),
        (Happened("slid", RED, BEHIND), "The red cube slides behind the bowl."),
        (Happened("released", RED, Related(RED, "on", (PAD,))),)
        + ("The gripper puts the red cube on the pad.",),
        (Placed(GRIPPER, Place(12, 40, 5)), "The gripper is in row 12, column 40, at height 5."),
        (Counted("cube", 2), "There are two cubes."),
        (Present(Name("orange", "cone")), "There is an orange cone."),
        (
            Action(-2, 3, 0, OPEN),
            "The gripper moves 2 closer, 3 left, 0 up and opens.",
        ),
    ],
)
def test_the_first_phrasing(fact, sentence):
    assert text_of(say(fact)) == sentence
    assert parse(sentence) == fact


@pytest.mark.parametrize(
    "sentence",
    [
        "then the red block slides to the left of the white bowl",
        "THE RED CUBE IS PUSHED ON THE LEFT SIDE OF THE DISH!",
        "the red box is pushed left of the bowl",
    ],
)
def test_people_may_say_it_otherwise(sentence):
    assert parse(sentence) == Happened("slid", RED, Related(RED, "left", (BOWL,)))


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [
        ("the red cube is leff of the bowle", "unknown words 'leff', 'bowle' in"),
        ("the red cube left", "'the red cube left' is no sentence of the scene language"),
        ("the red cube is left of the red cube", "says what cannot be: .*different things"),
        ("", "is no sentence"),
    ],
)
def test_what_cannot_be_read_is_refused(sentence, problem):
    with pytest.raises(ValueError, match=problem):
        parse(sentence)


def test_what_has_no_words_is_refused():
    with pytest.raises(ValueError, match="nothing says counted"):
        say(Counted("cube", 13))


def test_scenes_come_back_from_their_text():
    rng = random.Random(2)
    for i in range(300):
        scene = any_scene(rng, most=6)
        words = tell(scene, rng)
        assert read(words) == scene
        if i % 10 == 0:
            assert read(text_of(words)) == read(tell(scene)) == scene
        assert all(holds(fact, scene) for fact in facts_of(scene))


def test_changes_come_back_from_their_text():
    rng = random.Random(3)
    for _ in range(200):
        before = any_scene(rng, most=5)
        places = {thing.name: any_place(rng) for thing in before.things if rng.random() < 0.4}
        after = before.moved(places, gripper=any_place(rng))
        assert read(tell_changes(before, after, rng), before) == after


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("The red cube is in row 1, column 2, at height 3.", "where the gripper is"),
        ("The gripper is in row 1, column 2, at height 3.", "whether it is open"),
        ("The gripper is open. The hand is open.", "'the hand is open' is said twice"),
        ("The red cube is on the pad. The hand is open.", "does not describe a scene"),
    ],
)
def test_texts_that_determine_no_scene_are_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        read(text)


def test_changes_are_of_things_that_are_there():
    scene = Scene((Thing(RED, Place(1, 1, 1)),), Place(2, 2, 2))
    text = "The blue can is in row 1, column 2, at height 3. The hand is open. "
    with pytest.raises(ValueError, match="there is no blue cylinder in this scene"):
        read(text + "The hand is in row 1, column 2, at height 3.", scene)


def test_a_phrase_of_two_values_is_refused():
    with pytest.raises(ValueError, match="'by' means both 1 and 2"):
        Slot({1: ["near", "by"], 2: ["by"]})


def test_a_grammar_finds_all_readings():
    slot = {"it": Slot({1: ["one"], 2: ["two"]})}
    grammar = Grammar(slot, {"a": ["say {it} , now"], "b": ["say {it} now", "{it}"]})
    assert grammar.parse("say one now".split()) == [("a", {"it": 1}), ("b", {"it": 1})]
    assert grammar.say("a", {"it": 2}) == ["say", "two", ",", "now"]
    assert grammar.words() == {"say", "now", ",", "one", "two"}


def test_the_examples_of_the_page_are_as_it_says():
    page = Path(__file__).parents[1] / "docs" / "scene_language.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 15 and failed == 0
