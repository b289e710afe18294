"""Actions: their tokens and metres, and the small physics of what comes of them."""

import random

import numpy as np
import pytest
from random_scenes import any_scene

from vla_ros.scene_language.actions import CLOSED, OPEN, Action, step
from vla_ros.scene_language.scenes import BIN, BOWL, PAD, Name, Place, Scene, Thing

RED, BLUE, GREEN = Name("red", "cube"), Name("blue", "cylinder"), Name("green", "sphere")


def scene_of(places, gripper=(5, 5, 10), is_open=True, held=None):
    things = tuple(Thing(name, Place(*place)) for name, place in places.items())
    return Scene(things, Place(*gripper), is_open, held)


def any_action(rng):
    ways = (rng.choice([0, rng.randint(-16, 15)]) for _ in range(3))
    return Action(*ways, rng.choice([CLOSED, OPEN, rng.randrange(32)]))


def test_actions_come_back_from_their_tokens():
    rng = random.Random(0)
    for _ in range(3_000):
        action = any_action(rng)
        assert Action.from_tokens(action.to_tokens()) == action
    assert Action(0, -16, 15, 31).to_tokens() == ["<act>", "<a16>", "<a0>", "<a31>", "<a31>"]


def test_actions_come_back_from_metres():
    rng = random.Random(1)
    for _ in range(1_000):
        action = any_action(rng)
        assert Action.of_metres(*action.to_metres()) == action
    offset, _ = Action.of_metres((0.031, -0.046, 0.007), 0.04).to_metres()
    assert (np.abs(offset - (0.031, -0.046, 0.007)) <= np.array(BIN) / 2 + 1e-9).all()


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ("<a1> <a1> <a1> <a1> <a1>", "token 0 is '<a1>' where '<act>' should be"),
        ("<act> <a1> <x1> <a1> <a1>", "token 2 is '<x1>' where one of <a0> to <a31>"),
        ("<act> <a1> <a1> <a1>", "an action has 5 tokens, not 4"),
        ("<act> <a1> <a1> <a1> <a1> <a1>", "token 5 is '<a1>' where nothing should be"),
        ("", "an action has 5 tokens, not 0"),
    ],
)
def test_tokens_of_no_action_are_named(tokens, problem):
    with pytest.raises(ValueError, match=problem):
        Action.from_tokens(tokens.split())


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Action(16, 0, 0, 0), "dx is 16 bins: use -16 to 15"),
        (lambda: Action(0, 0, 0, 32), "fingers is 32"),
        (lambda: Action.of_metres((0.2, 0, 0), 0.0), "dx is 20 bins"),
        (lambda: Action.of_metres((0.0, 0, float("nan")), 0.0), "not 3 . 1 numbers in m"),
    ],
)
def test_actions_that_cannot_be_are_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


def test_the_gripper_moves_and_stops_at_the_walls():
    scene = scene_of({}, (60, 2, 10))
    assert step(scene, Action(2, 3, -4, OPEN)).gripper == (62, 5, 6)
    assert step(scene, Action(15, -15, 15, OPEN)).gripper == (63, 0, 15)


def test_a_closing_hand_gets_the_nearest_thing_and_an_open_one_none():
    scene = scene_of({RED: (30, 30, 1), GREEN: (30, 33, 1)}, (30, 31, 1))
    closed = step(scene, Action(0, 0, 0, CLOSED))
    assert (closed.holds, closed.open) == (RED, False)
    assert step(scene, Action(0, 0, 0, OPEN)).holds is None
    assert step(closed, Action(0, 0, 0, CLOSED)).holds == RED


def test_it_gets_nothing_from_afar_nor_pad_and_bowl():
    for name, place in ((RED, (30, 34, 1)), (RED, (30, 30, 4)), (PAD, (30, 31, 0))):
        closed = step(scene_of({name: place}, (30, 31, 1)), Action(0, 0, 0, CLOSED))
        assert (closed.holds, closed.open) == (None, False)


def test_what_is_held_comes_along_and_keeps_within_the_box():
    scene = scene_of({RED: (30, 31, 2)}, (30, 30, 2), False, RED)
    moved = step(scene, Action(5, -3, 4, CLOSED))
    assert (moved.gripper, moved.place_of(RED)) == ((35, 27, 6), (35, 28, 6))
    wall = step(scene_of({RED: (2, 31, 2)}, (4, 30, 2), False, RED), Action(-9, 0, 0, CLOSED))
    assert (wall.gripper.x, wall.place_of(RED).x) == (2, 0)


@pytest.mark.parametrize(
    ("below", "height"),
    [({}, 1), ({PAD: (30, 30, 0)}, 1), ({BOWL: (30, 30, 0)}, 1), ({BLUE: (31, 29, 1)}, 3)],
)
def test_what_is_let_go_falls_onto_what_is_below(below, height):
    scene = scene_of({RED: (30, 30, 8), **below}, (30, 30, 8), False, RED)
    after = step(scene, Action(0, 0, 0, OPEN))
    assert (after.holds, after.open, after.place_of(RED)) == (None, True, (30, 30, height))


def test_nothing_stands_on_a_ball():
    scene = scene_of({RED: (30, 30, 8), GREEN: (30, 30, 1)}, (30, 30, 8), False, RED)
    assert step(scene, Action(0, 0, 0, OPEN)).place_of(RED).z == 1


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((30, 20, 1), Action(0, 10, 0, CLOSED), (30, 33, 1)),
        ((30, 40, 1), Action(0, -12, 0, CLOSED), (30, 25, 1)),
        ((22, 30, 2), Action(9, 0, 0, OPEN), (34, 30, 1)),
        ((30, 20, 1), Action(0, 6, 0, CLOSED), (30, 30, 1)),  # not there yet
        ((30, 20, 3), Action(0, 15, 0, CLOSED), (30, 30, 1)),  # above it
        ((33, 20, 1), Action(0, 15, 0, CLOSED), (30, 30, 1)),  # beside it
        ((30, 40, 1), Action(0, 15, 0, CLOSED), (30, 30, 1)),  # away from it
        ((30, 20, 1), Action(0, 15, 5, CLOSED), (30, 30, 1)),  # up first
        ((30, 20, 5), Action(0, 15, -4, CLOSED), (30, 30, 1)),  # down last
    ],
)
def test_an_empty_gripper_pushes_what_is_in_its_way(start, action, end):
    after = step(scene_of({RED: (30, 30, 1)}, start, action.opens), action)
    assert after.place_of(RED) == end


def test_what_stands_on_something_goes_with_it():
    places = {RED: (30, 30, 1), GREEN: (31, 31, 3)}
    pushed = step(scene_of(places, (30, 20, 1), False), Action(0, 10, 0, CLOSED))
    assert pushed.place_of(GREEN) == (31, 34, 3)
    carried = step(scene_of(places, (30, 30, 1), False, RED), Action(0, 0, 5, CLOSED))
    assert carried.place_of(GREEN) == (31, 31, 8)


def test_pads_and_bowls_stay():
    scene = scene_of({BOWL: (30, 30, 0), PAD: (30, 40, 0)}, (30, 20, 0), False)
    assert step(scene, Action(0, 15, 0, CLOSED)).things == scene.things


def test_every_action_leads_from_every_scene_to_one_and_the_same():
    rng = random.Random(2)
    for _ in range(2_000):
        scene, action = any_scene(rng), any_action(rng)
        after = step(scene, action)
        assert after == step(scene, action)
        assert [thing.name for thing in after.things] == [thing.name for thing in scene.things]
        assert after.open == action.opens
        if action.dx == action.dy == action.dz == 0 and scene.open == action.opens:
            assert after == scene
