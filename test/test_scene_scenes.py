"""Scenes: bins of metres, canonical order, spatial tokens and what may follow one."""

import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
from random_scenes import any_place, any_scene

from vla_ros.scene_language.scenes import (
    BIN,
    BINS,
    BOWL,
    BOX_LOW,
    HALF_BIN,
    PAD,
    Name,
    Place,
    Scene,
    SceneReader,
    Thing,
    changed,
    changes_to_tokens,
    from_tokens,
    to_tokens,
)
from vla_ros.scene_language.vocabulary import TOKENS
from vla_ros.sim.tasks import WORKSPACE_HIGH, WORKSPACE_LOW, sample_task

RED, BLUE = Name("red", "cube"), Name("blue", "cylinder")
HERE, THERE = Place(20, 40, 1), Place(30, 10, 1)
SCENE = Scene((Thing(RED, HERE), Thing(BOWL, Place(40, 20, 0))), Place(20, 40, 5))


def test_the_scene_language_needs_numpy_only():
    code = (
        "import sys, pkgutil, importlib, vla_ros.scene_language as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'vla_ros.scene_language.{module.name}')\n"
        "print(sorted({'torch', 'rclpy', 'mujoco', 'tokenizers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metres_come_back_within_half_a_bin():
    rng = np.random.default_rng(0)
    high = np.array(BOX_LOW) + np.array(BIN) * BINS
    for point in rng.uniform(BOX_LOW, high - 1e-6, (2_000, 3)):
        place = Place.of_metres(point)
        assert (np.abs(place.to_metres() - point) <= np.array(HALF_BIN) + 1e-8).all()


def test_every_bin_comes_back_from_its_metres():
    rng = random.Random(0)
    for place in [Place(0, 0, 0), Place(63, 63, 15), *(any_place(rng) for _ in range(1_000))]:
        assert Place.of_metres(place.to_metres()) == place


@pytest.mark.parametrize("point", [(0.15, 0, 0), (0.81, 0, 0), (0.5, 0.33, 0), (0.5, 0, 0.32)])
def test_what_is_outside_the_box_is_refused_by_name(point):
    with pytest.raises(ValueError, match="the red cube is at .* outside the box from"):
        Scene.of_metres([("red", "cube", point)], (0.5, 0, 0.2), 0.04)


@pytest.mark.parametrize("point", [(0.5, 0), (0.5, 0, float("nan"))])
def test_what_is_no_point_is_refused(point):
    with pytest.raises(ValueError, match="the gripper is at .*: give x, y and z in metres"):
        Scene.of_metres([], point, 0.04)


def test_the_box_holds_the_simulators_workspace():
    for x in (WORKSPACE_LOW[0] - 0.1, WORKSPACE_HIGH[0] + 0.1):
        for y in (WORKSPACE_LOW[1] - 0.09, WORKSPACE_HIGH[1] + 0.09):
            for z in (0.0, 0.28):
                Place.of_metres((x, y, z))


@pytest.mark.parametrize("seed", range(20))
def test_the_simulators_tasks_are_exactly_expressible(seed):
    task = sample_task("push", seed)
    things = [(t.color, t.shape, (*t.position, t.half_extents[1])) for t in task.objects]
    things += [("yellow", "pad", (*task.pad, 0.0)), ("white", "bowl", (*task.bowl, 0.0))]
    scene = Scene.of_metres(things, (0.45, 0.0, 0.2), 0.04)
    assert scene.open and len(scene.things) == 5
    metres = scene.to_metres()
    for color, shape, centre in things:
        name = Name(color, shape)
        assert scene.place_of(name).z == (0 if shape in ("pad", "bowl") else 1)
        assert (np.abs(metres[name] - centre) <= np.array(HALF_BIN) + 1e-9).all()


def test_fingers_and_what_they_hold():
    things = [("red", "cube", (0.5, 0, 0.1))]
    assert Scene.of_metres(things, (0.5, 0, 0.1), 0.02).open is False
    held = Scene.of_metres(things, (0.5, 0, 0.1), 0.021, holds=("red", "cube"))
    assert (held.open, held.holds) == (False, RED)


def test_order_of_things_does_not_matter():
    things = (Thing(BLUE, THERE), Thing(PAD, Place(5, 5, 0)), Thing(RED, HERE))
    assert Scene(things, HERE) == Scene(things[::-1], HERE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"things": (Thing(RED, HERE), Thing(RED, THERE))}, "the red cube is there twice"),
        ({"things": (Thing(Name("red", "bowl"), HERE),)}, "no thing 'red bowl'"),
        ({"things": (Thing(RED, Place(64, 0, 0)),)}, r"the red cube is at \(64, 0, 0\), outside"),
        ({"gripper": Place(0, -1, 0)}, r"the gripper is at \(0, -1, 0\), outside"),
        ({"holds": RED}, "the gripper is open and cannot hold the red cube"),
        ({"open": False, "holds": BLUE}, "cannot hold the blue cylinder"),
        ({"open": False, "holds": BOWL}, "cannot hold the bowl"),
    ],
)
def test_scenes_that_cannot_be_are_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        Scene(**{"things": SCENE.things, "gripper": HERE} | change)


def test_scenes_come_back_from_their_tokens_in_any_order():
    rng = random.Random(1)
    for _ in range(3_000):
        scene = any_scene(rng)
        tokens = to_tokens(scene)
        assert set(tokens) <= set(TOKENS)
        things = [tokens[1 + 6 * i : 7 + 6 * i] for i in range(len(scene.things))]
        gripper = tokens[1 + 6 * len(things) :]
        rng.shuffle(things)
        tokens = ["<scene>", *itertools.chain(*things), *gripper]
        assert from_tokens(tokens) == from_tokens(to_tokens(scene)) == scene


def test_the_tokens_of_a_scene():
    assert " ".join(to_tokens(SCENE)) == (
        "<scene> <obj> red cube <x20> <y40> <z1> <obj> white bowl <x40> <y20> <z0> "
        "<grip> open <x20> <y40> <z5>"
    )
    held = SCENE.moved({}, open=False, holds=RED)
    assert to_tokens(held)[-7:] == "<grip> closed <x20> <y40> <z5> red cube".split()


@pytest.mark.parametrize(
    ("position", "token", "problem"),
    [
        (0, "<next>", "token 0 of 18 is '<next>' where '<scene>' should be"),
        (2, "white", "token 3 of 18 is 'cube' where 'bowl' should be"),
        (3, "bowl", "token 3 of 18 is 'bowl' where 'cone' or 'cube' or 'cylinder' or 'ring' or"),
        (4, "<y20>", "token 4 of 18 is '<y20>' where '<x0>' or"),
        (7, "red", "token 7 of 18 is 'red' where '<grip>' or '<obj>' should be"),
        (14, "red", "token 14 of 18 is 'red' where 'closed' or 'open' should be"),
    ],
)
def test_a_token_that_cannot_stand_there_is_named_with_its_place(position, token, problem):
    tokens = to_tokens(SCENE)
    tokens[position] = token
    with pytest.raises(ValueError, match=problem):
        from_tokens(tokens)


def test_a_scene_that_ends_early_or_goes_on_is_refused():
    tokens = to_tokens(SCENE)
    with pytest.raises(ValueError, match="'<z0>' or .* should follow the last of 17 tokens"):
        from_tokens(tokens[:-1])
    with pytest.raises(ValueError, match="token 18 of 19 is '<obj>' where nothing"):
        from_tokens([*tokens, "<obj>"])
    with pytest.raises(ValueError, match="token 9 of 24 is 'cube' where"):
        from_tokens([*tokens[:7], *tokens[1:]])


def test_changes_come_back():
    rng = random.Random(2)
    for _ in range(2_000):
        before = any_scene(rng)
        places = {thing.name: any_place(rng) for thing in before.things if rng.random() < 0.4}
        after = before.moved(places, gripper=any_place(rng))
        tokens = changes_to_tokens(before, after)
        assert changed(before, tokens) == after
        assert tokens.count("<obj>") == sum(
            old != new for old, new in zip(before.things, after.things, strict=True)
        )


def test_changes_are_of_things_that_are_there():
    with pytest.raises(ValueError, match="token 2 of .* is 'blue' where"):
        changed(SCENE, "<next> <obj> blue cylinder <x1> <y1> <z1>".split())
    with pytest.raises(ValueError, match="different things"):
        changes_to_tokens(SCENE, Scene((), HERE))


@pytest.mark.parametrize("before", [None, SCENE])
def test_whatever_the_reader_allows_ends_in_a_scene(before):
    """So decoding that is constrained by it can only say what can be."""
    rng = random.Random(3)
    for _ in range(300):
        reader, tokens = SceneReader(before), []
        while not reader.complete:
            choice = rng.choice(sorted(reader.allowed))
            # An end comes sooner or later: fewer things are left to name.
            tokens.append("<grip>" if "<grip>" in reader.allowed and len(tokens) > 40 else choice)
            reader.take(tokens[-1])
        scene = from_tokens(tokens) if before is None else changed(before, tokens)
        assert isinstance(scene, Scene)
        assert set(tokens) <= set(TOKENS)


def test_the_reader_allows_every_token_of_a_scene():
    rng = random.Random(4)
    for _ in range(500):
        reader = SceneReader()
        for token in to_tokens(any_scene(rng)):
            assert token in reader.allowed
            reader.take(token)
        assert reader.complete
