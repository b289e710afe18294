"""What facts mean: relations on bins, motions and events between two scenes, which one to tell."""

import itertools
import random

import pytest
from random_scenes import any_scene, crowded_scene

from vla_ros.scene_language.facts import (
    INVERSE,
    RELATIONS,
    TRANSITIVE,
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
    narration,
    related,
    where,
)
from vla_ros.scene_language.scenes import BOWL, GRIPPER, PAD, Name, Place, Scene, Thing

RED, BLUE, GREEN = Name("red", "cube"), Name("blue", "cylinder"), Name("green", "sphere")


def scene_of(places, gripper=(5, 5, 10), is_open=True, held=None):
    things = tuple(Thing(name, Place(*place)) for name, place in places.items())
    return Scene(things, Place(*gripper), is_open, held)


@pytest.mark.parametrize(
    ("relation", "offset", "true"),
    [
        ("left", (0, 4, 0), True),
        ("left", (20, 4, 0), True),
        ("left", (0, 3, 0), False),
        ("right", (0, -4, 0), True),
        ("right", (0, -3, 0), False),
        ("behind", (4, 0, 0), True),
        ("behind", (3, 0, 0), False),
        ("front", (-4, 9, 0), True),
        ("front", (-3, 9, 0), False),
        ("above", (3, -3, 2), True),
        ("above", (4, 0, 2), False),
        ("above", (0, 0, 1), False),
        ("near", (0, 12, 0), True),
        ("near", (8, 10, 0), True),
        ("near", (9, 10, 0), False),
        ("near", (0, 0, 6), True),
        ("on", (2, 2, 2), True),
        ("on", (3, 0, 2), False),
        ("on", (0, 0, 3), False),
        ("inside", (0, 0, 0), False),
    ],
)
def test_relations_to_a_cube(relation, offset, true):
    scene = scene_of({RED: (30, 30, 1), GREEN: [a + b for a, b in zip((30, 30, 1), offset)]})  # noqa: B905
    assert related(relation, GREEN, (RED,), scene) is true


@pytest.mark.parametrize(
    ("relation", "landmark", "offset", "true"),
    [
        ("on", PAD, (4, 2, 1), True),
        ("on", PAD, (4, 3, 1), False),
        ("on", PAD, (0, 0, 2), False),
        ("on", BOWL, (0, 0, 1), False),
        ("inside", BOWL, (3, 4, 1), True),
        ("inside", BOWL, (4, 4, 1), False),
        ("inside", BOWL, (0, 0, 3), False),
        ("inside", PAD, (0, 0, 1), False),
    ],
)
def test_pad_and_bowl_take_things(relation, landmark, offset, true):
    x, y, z = (30 + offset[0], 30 + offset[1], offset[2])
    scene = scene_of({landmark: (30, 30, 0), RED: (x, y, z)})
    assert related(relation, RED, (landmark,), scene) is true


def test_what_is_held_is_neither_on_nor_inside():
    for landmark, relation in ((PAD, "on"), (BOWL, "inside")):
        places = {landmark: (30, 30, 0), RED: (30, 30, 1)}
        assert related(relation, RED, (landmark,), scene_of(places))
        held = scene_of(places, (30, 30, 1), False, RED)
        assert not related(relation, RED, (landmark,), held)


@pytest.mark.parametrize(
    ("place", "true"),
    [
        ((30, 30, 1), True),
        ((34, 30, 1), True),
        ((35, 30, 1), False),
        ((30, 25, 1), True),
        ((30, 24, 1), False),
        ((30, 35, 1), True),
        ((30, 36, 1), False),
        ((30, 30, 4), False),
    ],
)
def test_between_is_the_middle_of_the_way(place, true):
    scene = scene_of({PAD: (30, 20, 0), BLUE: (30, 40, 1), RED: place})
    assert related("between", RED, (PAD, BLUE), scene) is true
    assert related("between", RED, (BLUE, PAD), scene) is true


def test_nearest_and_farthest_need_a_clear_lead():
    places = {PAD: (30, 30, 0), RED: (30, 20, 0), BLUE: (30, 42, 0), GREEN: (30, 46, 0)}
    scene = scene_of(places)
    assert related("nearest", RED, (PAD,), scene) and related("farthest", GREEN, (PAD,), scene)
    assert not related("nearest", BLUE, (PAD,), scene)
    close = scene_of(places | {BLUE: (30, 41, 0), GREEN: (30, 42, 0)})
    assert not any(related("nearest", name, (PAD,), close) for name in (RED, BLUE, GREEN))
    assert not any(related("farthest", name, (PAD,), close) for name in (RED, BLUE, GREEN))


def all_relations(scene):
    names = [*(thing.name for thing in scene.things), GRIPPER]
    for relation, (a, b) in itertools.product(RELATIONS[:9], itertools.permutations(names, 2)):
        if relation not in ("on", "inside") or GRIPPER not in (a, b):
            yield relation, a, b


def test_inverse_relations_hold_together_and_opposite_ones_never():
    rng, seen = random.Random(0), set()
    for i in range(600):
        scene = crowded_scene(rng) if i % 2 else any_scene(rng, most=5)
        for relation, a, b in all_relations(scene):
            true = related(relation, a, (b,), scene)
            if relation in INVERSE:
                assert related(INVERSE[relation], b, (a,), scene) == true
            if true and relation != "near":
                assert not related(relation, b, (a,), scene)
                seen.add(relation)
    assert seen == set(RELATIONS[:9]) - {"near"}


def test_sides_are_transitive():
    rng, met = random.Random(1), 0
    for _ in range(600):
        scene = any_scene(rng, least=3, most=5)
        names = [thing.name for thing in scene.things]
        for relation, chain in itertools.product(TRANSITIVE, itertools.permutations(names, 3)):
            a, b, c = chain
            if related(relation, a, (b,), scene) and related(relation, b, (c,), scene):
                assert related(relation, a, (c,), scene)
                met += 1
    assert met > 1_000


def test_at_most_one_thing_is_nearest_or_farthest():
    rng, met = random.Random(2), 0
    for _ in range(500):
        scene = any_scene(rng, least=3)
        names = [thing.name for thing in scene.things]
        for relation in ("nearest", "farthest"):
            for landmark in names:
                others = [name for name in names if name != landmark]
                true = sum(related(relation, name, (landmark,), scene) for name in others)
                assert true <= 1
                met += true
    assert met > 100


def test_states():
    scene = scene_of({RED: (30, 30, 5), BLUE: (9, 9, 1)}, (30, 30, 5), False, RED)
    true = [
        *(Placed(RED, Place(30, 30, 5)), Placed(GRIPPER, Place(30, 30, 5)), Fingers(False)),
        *(Holding(RED), Present(RED), Counted("cube", 1), Counted("sphere", 0)),
        *(Counted("thing", 2), Counted("red", 1), Coloured("cube", "red")),
    ]
    false = [
        *(Placed(RED, Place(30, 30, 4)), Fingers(True), Holding(None), Holding(BLUE)),
        *(Present(GREEN), Counted("cube", 2), Coloured("cube", "blue"), Coloured("cone", "red")),
    ]
    assert all(holds(fact, scene) for fact in true)
    assert not any(holds(fact, scene) for fact in false)


def test_a_colour_is_that_of_the_only_one():
    scene = scene_of({RED: (1, 1, 1), Name("blue", "cube"): (30, 30, 1)})
    assert not holds(Coloured("cube", "red"), scene)


BEFORE = scene_of({RED: (40, 40, 1), BOWL: (20, 40, 0)}, (40, 20, 5), False)


@pytest.mark.parametrize(
    ("gripper", "fact", "true"),
    [
        ((40, 25, 5), Moving("move", "left"), True),
        ((40, 25, 5), Moving("move", "right"), False),
        ((40, 25, 5), Moving("move", "left", target=RED), True),
        ((40, 15, 5), Moving("move", "right", target=RED), False),
        ((46, 25, 5), Moving("move", "away"), True),
        ((45, 25, 5), Moving("move", "left"), True),
        ((40, 21, 6), Moving("move", "up"), True),
        ((40, 20, 4), Moving("move", "down", target=RED), True),
        ((40, 20, 5), Moving("stay"), True),
        ((40, 21, 5), Moving("stay"), True),
        ((40, 22, 5), Moving("stay"), False),
        ((44, 25, 5), Moving("move", "away"), True),
        ((42, 25, 5), Moving("move", "away"), False),
        ((40, 25, 5), Moving("carry", "left", RED), False),
        ((40, 25, 5), Moving("push", "left", RED), False),
    ],
)
def test_motions_of_the_gripper(gripper, fact, true):
    assert holds(fact, BEFORE, BEFORE.moved({}, gripper=Place(*gripper))) is true


def test_the_relative_clause_has_to_be_true_too():
    after = BEFORE.moved({}, gripper=Place(40, 25, 5))
    for relation, true in (("behind", True), ("front", False)):
        which = Related(RED, relation, (BOWL,))
        assert holds(Moving("move", "left", None, RED, which), BEFORE, after) is true


def test_carrying_and_pushing():
    held = scene_of({RED: (30, 30, 5), BOWL: (20, 40, 0)}, (30, 30, 5), False, RED)
    carried = held.moved({RED: Place(30, 40, 5)}, gripper=Place(30, 40, 5))
    assert holds(Moving("carry", "left", RED, BOWL), held, carried)
    assert not holds(Moving("push", "left", RED), held, carried)
    pushed = BEFORE.moved({RED: Place(40, 45, 1)}, gripper=Place(40, 42, 1))
    assert holds(Moving("push", "left", RED), BEFORE, pushed)


def test_events():
    near = scene_of({RED: (30, 30, 1), BOWL: (30, 30, 0)}, (30, 30, 1))
    held = near.moved({}, open=False, holds=RED)
    inside = Related(RED, "inside", (BOWL,))
    assert holds(Happened("grasped", RED), near, held)
    assert not holds(Happened("grasped", RED), held, held)
    assert holds(Happened("released", RED, inside), held, near)
    assert not holds(Happened("released", RED, Related(RED, "left", (BOWL,))), held, near)
    apart = near.moved({RED: Place(40, 30, 1)})
    slid = Happened("slid", RED, Related(RED, "behind", (BOWL,)))
    assert holds(slid, near, apart)
    assert not holds(slid, near.moved({RED: Place(50, 30, 1)}), apart)  # it was there before
    assert not holds(slid, held, apart)  # it was carried


def test_a_change_needs_two_scenes():
    with pytest.raises(ValueError, match="Moving is about a change: give the scene after it"):
        holds(Moving("stay"), BEFORE)


def test_things_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="there is no green sphere in this scene"):
        holds(Related(GREEN, "left", (BOWL,)), BEFORE)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Related(RED, "leftish", (BOWL,)), "unknown relation 'leftish'"),
        (lambda: Related(RED, "left", (RED,)), "different things"),
        (lambda: Related(RED, "between", (BOWL,)), "has not 1 landmarks"),
        (lambda: Related(GRIPPER, "inside", (BOWL,)), "not of the gripper"),
        (lambda: Moving("fly", "left"), "unknown verb 'fly'"),
        (lambda: Moving("move", "west"), "has not the direction 'west'"),
        (lambda: Moving("carry", "left"), "with the thing None"),
        (lambda: Moving("move", "left", None, RED, Related(BLUE, "on", (PAD,))), "the target"),
        (lambda: Happened("slid", RED, Related(BLUE, "on", (PAD,))), "about the red cube"),
        (lambda: Happened("lost", RED), "unknown event 'lost'"),
    ],
)
def test_facts_that_cannot_be_are_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ({RED: (30, 30, 1)}, Placed(RED, Place(30, 30, 1))),
        ({RED: (30, 30, 1), BOWL: (30, 10, 0)}, Related(RED, "left", (BOWL,))),
        ({RED: (30, 30, 1), BOWL: (10, 11, 0)}, Related(RED, "behind", (BOWL,))),
        ({RED: (30, 30, 1), BOWL: (10, 10, 0)}, Related(RED, "left", (BOWL,))),
        ({RED: (30, 30, 1), BOWL: (30, 28, 0)}, Related(RED, "inside", (BOWL,))),
        ({RED: (30, 30, 9), PAD: (30, 28, 0)}, Related(RED, "above", (PAD,))),
        ({RED: (30, 30, 1), GREEN: (30, 33, 1)}, Related(RED, "near", (GREEN,))),
        (
            {RED: (30, 30, 1), GREEN: (50, 30, 1), BLUE: (30, 40, 1)},
            Related(RED, "right", (BLUE,)),
        ),
    ],
)
def test_where_something_is(places, told):
    assert where(RED, scene_of(places)) == told


def test_what_is_held_is_no_landmark():
    places = {RED: (30, 30, 1), BLUE: (30, 36, 6), BOWL: (30, 10, 0)}
    scene = scene_of(places, (30, 36, 6), False, BLUE)
    assert where(RED, scene) == Related(RED, "left", (BOWL,))


def test_where_is_true_everywhere():
    rng = random.Random(3)
    for i in range(1_000):
        scene = crowded_scene(rng) if i % 2 else any_scene(rng, least=1)
        for thing in scene.things:
            assert holds(where(thing.name, scene), scene)


def test_narration_is_true_and_says_what_it_can():
    rng, said = random.Random(4), set()
    for i in range(2_000):
        before = crowded_scene(rng) if i % 2 else any_scene(rng, least=1)
        places, gripper = {}, Place(*(rng.randrange(n) for n in (64, 64, 16)))
        if before.holds is not None:
            places[before.holds] = gripper
        elif rng.random() < 0.3:
            places[rng.choice(before.things).name] = Place(1, 1, 1)
        after = before.moved(places, gripper=rng.choice([gripper, before.gripper]))
        target = rng.choice([None, rng.choice(before.things).name])
        fact = narration(before, after, target)
        assert holds(fact, before, after)
        assert fact.target in (None, target)
        said.add((fact.verb, fact.target is not None, fact.which is not None))
    assert {verb for verb, _, _ in said} == {"move", "carry", "push", "stay"}
    assert ("move", True, True) in said and ("carry", True, True) in said


def test_the_sentence_of_the_robot_that_moves_left_toward_the_cube():
    after = BEFORE.moved({}, gripper=Place(40, 26, 5))
    fact = narration(BEFORE, after, RED)
    assert fact == Moving("move", "left", None, RED, Related(RED, "behind", (BOWL,)))
