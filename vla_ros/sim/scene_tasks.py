"""Tasks whose instruction has to be held against the scene, and what can be said of a scene.

"relation" names the thing by where it is; "two-step" and "three-step" ask for one thing after the
other; "absent", "ambiguous" and "contradictory" ask for what cannot be, and are to be refused.
Their tables are those of the usual tasks.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from vla_ros.robots import panda
from vla_ros.scene_language.facts import centimetres, related
from vla_ros.scene_language.instructions import (
    COLORS,
    DIRECTIONS,
    FAMILIES,
    SHAPES,
    Goal,
    phrase,
)
from vla_ros.scene_language.noun_phrases import references
from vla_ros.scene_language.references import tokens
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene
from vla_ros.scene_language.wording import RELATION_PHRASES
from vla_ros.sim import tasks
from vla_ros.sim.tasks import DIRECTION_VECTORS, Task, has_room

STEPS = {"two-step": 2, "three-step": 3}
REFUSED = ("absent", "ambiguous", "contradictory")
SCENE_FAMILIES = ("relation", *STEPS, *REFUSED)

_ASKS = ("pick up {}", "lift {} please", "put {} on the pad", "drop {} into the bowl", "touch {}")
_SIDES = ("left", "right", "behind", "front")
_SAYINGS = {
    "reach": ("reach for {}", "hover above {}", "go to {}", "move the gripper over {}"),
    "push": ("push {}", "slide {}", "shove {}", "nudge {}"),
    "pick": ("pick up {}", "lift {}", "grab {}", "pick {} up"),
    "pad": ("put {} on the pad", "place {} on the yellow pad", "set {} on the mat"),
    "bowl": ("put {} in the bowl", "drop {} into the bowl", "place {} in the white bowl"),
}
_WAYS = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "away": ("away", "forward"),
    "closer": ("closer", "towards you"),
}
_NOUNS = {"cube": ("cube", "block", "box"), "cylinder": ("cylinder", "can", "tube")}
_JOINTS = (", then ", " and then ", ". Then ", ", and afterwards ", ", then ")
_PUSHED = 0.11  # m that a thing is pushed by, about
_MAX_DRAWS = 10_000


def task_of(family: str, seed: int) -> Task:
    """The task of this seed, of the usual families and those of this module; equal arguments give
    equal tasks.

    Raises:
        ValueError: unknown family.
    """
    if family in FAMILIES:
        return tasks.sample_task(family, seed)
    if family not in SCENE_FAMILIES:
        known = ", ".join((*FAMILIES, *SCENE_FAMILIES))
        raise ValueError(f"unknown task family '{family}': use one of {known}")
    key = [seed, len(FAMILIES) + SCENE_FAMILIES.index(family)]
    numbers = np.random.default_rng(key)
    rng = random.Random(int(numbers.integers(2**63)))
    for _ in range(_MAX_DRAWS):
        usual = FAMILIES[int(numbers.integers(len(FAMILIES)))]
        table = tasks.sample_task(usual, int(numbers.integers(tasks.FIRST_TRAINING_SEED)))
        table = replace(table, family=family, seed=seed)
        if (task := _of_table(table, family, rng, numbers)) is not None:
            return task
    raise AssertionError(f"no table has room for a task of {family}")


def _of_table(
    table: Task, family: str, rng: random.Random, numbers: np.random.Generator
) -> Task | None:
    scene = scene_of(table)
    if family in STEPS:
        return _sequence(table, STEPS[family], rng)
    if family == "relation":
        if (found := named_by_place(scene, rng)) is None:
            return None
        said, name = found
        family = rng.choice([f for f in FAMILIES if f != "push"])
        return _with_goals(table, [Goal(family, *name)], _say(Goal(family, *name), said, rng))
    usual = rng.choice(FAMILIES)
    text = {
        "absent": lambda: absent(scene, usual, rng, numbers),
        "ambiguous": lambda: ambiguous(scene, rng),
        "contradictory": lambda: contradictory(scene, rng),
    }[family]()
    return None if text is None else replace(table, instruction=text, refused=True)


def _with_goals(table: Task, goals: list[Goal], instruction: str) -> Task:
    """The task with the thing of the first goal in front of the others."""
    first = table.index_of(goals[0])
    places = [first, *(i for i in range(len(table.objects)) if i != first)]
    return replace(
        table,
        goal=goals[0],
        goals=tuple(goals) if len(goals) > 1 else (),
        instruction=instruction,
        objects=tuple(table.objects[i] for i in places),
        appearance=_recolored(table, places),
    )


def _recolored(table: Task, places: list[int]) -> tasks.Appearance:
    """The appearance, with the shifts of the objects' colours in the objects' new order."""
    shift = np.reshape(table.appearance.color_shift, (-1, 3))
    order = [*places, *range(len(places), len(shift))]
    return replace(table.appearance, color_shift=tuple(shift[order].ravel().tolist()))


# -- scenes ----------------------------------------------------------------------------------------


def scene_of(table: Task, moved: Mapping[Name, np.ndarray] | None = None) -> Scene:
    """The scene as it is laid out, but for things [2] (m) that were `moved`."""
    places = {Name(o.color, o.shape): np.array(o.position) for o in table.objects}
    places |= moved or {}
    things = [(*name, (*place, 0.02)) for name, place in places.items()]
    things += [(*PAD, (*table.pad, 0.0)), (*BOWL, (*table.bowl, 0.0))]
    return Scene.of_metres(things, (0.4, 0.0, 0.25), panda.GRIPPER_OPEN)


def movable(scene: Scene) -> list[Name]:
    """Names of what can be moved."""
    return [name for name, _ in scene.things if name not in (PAD, BOWL)]


# -- what can be said ------------------------------------------------------------------------------


def absent(scene: Scene, family: str, rng: random.Random, numbers: np.random.Generator) -> str:
    """About a thing that is not there, by its colour and a noun of its shape."""
    names = [Name(c, s) for c in COLORS for s in SHAPES if Name(c, s) not in scene]
    while True:
        name = rng.choice(names)
        goal = Goal(family, *name, rng.choice(DIRECTIONS) if family == "push" else "")
        text = phrase(goal, numbers)
        if all(r.shapes for r in references(tokens(text)) if r.fixture is None):
            return text  # not "the red thing", which may mean another


def ambiguous(scene: Scene, rng: random.Random) -> str | None:
    """About one of two that are called the same; None: there are no such two."""
    shapes = [name.shape for name in movable(scene)]
    twice = [shape for shape in SHAPES if shapes.count(shape) > 1]
    return rng.choice(_ASKS).format(f"the {rng.choice(twice)}") if twice else None


def contradictory(scene: Scene, rng: random.Random) -> str | None:
    """A thing that is there, on the other side of another than it is said to be; None: none is
    clearly on a side of the one that was drawn."""
    names = [name for name, _ in scene.things]
    for subject in rng.sample(names, len(names)):
        landmark = rng.choice([name for name in names if name != subject])
        for side, other in zip(_SIDES, ("right", "left", "front", "behind"), strict=True):
            if subject not in (PAD, BOWL) and related(side, subject, (landmark,), scene):
                words = rng.choice(RELATION_PHRASES[other])
                return f"lift {subject} {words} {landmark}"
    return None


def named_by_place(
    scene: Scene, rng: random.Random, moved: Collection[Name] = ()
) -> tuple[str, Name] | None:
    """One of two things of a shape by where it is, which is clearly true of it alone.

    Args:
        scene: as it is.
        rng: draws one.
        moved: of what it is not certain where it is.

    Returns:
        What it is called and which it is; None: there is no such thing.
    """
    choices: list[tuple[str, Name]] = []
    things = movable(scene)
    for name in things:
        noun = {"cube": "block", "cylinder": "can"}[name.shape]
        alike = [n for n in things if n.shape == name.shape]
        if len(alike) < 2 or set(alike) & set(moved):
            continue
        for landmark in [n for n, _ in scene.things if n not in alike and n not in moved]:
            for side in _SIDES:
                if [n for n in alike if related(side, n, (landmark,), scene)] == [name]:
                    words = rng.choice(RELATION_PHRASES[side])
                    choices.append((f"the {noun} {words} {landmark}", name))
            away = {n: centimetres(scene.place_of(n), scene.place_of(landmark)) for n in alike}
            if all(away[name] + 4 <= away[n] for n in alike if n != name):
                choices.append((f"the {noun} nearest to {landmark}", name))
    return rng.choice(choices) if choices else None


def ask_for(thing: str, rng: random.Random) -> str:
    """One of some instructions about a thing."""
    return rng.choice(_ASKS).format(thing)


def _say(goal: Goal, thing: str, rng: random.Random) -> str:
    text = rng.choice(_SAYINGS[goal.family]).format(thing)
    return f"{text} {rng.choice(_WAYS[goal.direction])}" if goal.direction else text


# -- one after the other ---------------------------------------------------------------------------


def _sequence(table: Task, count: int, rng: random.Random) -> Task | None:
    """A task of `count` goals that can be reached one after the other; None: of those drawn, one
    cannot be."""
    places = {Name(o.color, o.shape): np.array(o.position) for o in table.objects}
    goals: list[Goal] = []
    said: list[str] = []
    put: dict[str, Name] = {}  # what is on the pad and in the bowl
    moved: set[Name] = set()
    for number in range(count):
        # What is picked up stays in the gripper.
        families = [f for f in FAMILIES if f not in put and (f != "pick" or number == count - 1)]
        family = rng.choice(families)
        free = [name for name in places if name not in put.values()]
        before = Name(goals[-1].color, goals[-1].shape) if goals else None
        found = named_by_place(scene_of(table, places), rng, moved) if rng.random() < 0.5 else None
        if found is not None and found[1] in free and found[1] != before:
            thing, name = found
        else:
            name = rng.choice(free)
            thing = f"the {name.color} {rng.choice(_NOUNS[name.shape])}"
        direction = rng.choice(DIRECTIONS) if family == "push" else ""
        if name == before:
            # "it" begins something new only after what it is about was moved.
            if goals[-1].family != "push" or family not in ("pad", "bowl"):
                return None
            thing = "it"
        if family == "push" and not _can_be_pushed(name, direction, places, table):
            return None
        goals.append(Goal(family, *name, direction))
        said.append(_say(goals[-1], thing, rng))
        if family == "push":
            places[name] = places[name] + _PUSHED * DIRECTION_VECTORS[direction]
        elif family in ("pad", "bowl"):
            places[name] = np.array(table.pad if family == "pad" else table.bowl)
            put[family] = name
        moved |= {name} if family != "reach" else set()
    joint = rng.choice(_JOINTS)
    return _with_goals(table, goals, joint.join(said))


def _can_be_pushed(
    name: Name, direction: str, places: Mapping[Name, np.ndarray], table: Task
) -> bool:
    others = [place for other, place in places.items() if other != name]
    clearance = tuple(0.07 for _ in others) + (0.11,)
    return has_room(places[name], direction, np.array([*others, table.bowl]), clearance)
