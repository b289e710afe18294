"""Random scenes and what a gripper may do in them: what synthetic stories are about."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from vla_ros.scene_language import instructions
from vla_ros.scene_language.actions import CLOSED, OPEN, Action, step
from vla_ros.scene_language.facts import related
from vla_ros.scene_language.instructions import Goal
from vla_ros.scene_language.scenes import (
    BOWL,
    FIXTURES,
    FLAT_SHAPES,
    MOVABLE,
    PAD,
    Name,
    Place,
    Scene,
    Thing,
)

_SIMULATED = tuple(
    Name(color, shape) for color in instructions.COLORS for shape in instructions.SHAPES
)
_EDGE = 4  # bins that things keep from the walls of the box
_SIMULATED_AREA = ((20, 44), (10, 54))  # bins of x and y where the simulator puts things
_ANYWHERE = ((_EDGE, 63 - _EDGE), (_EDGE, 63 - _EDGE))
_CLEARANCE = {"pad": 10, "bowl": 12}  # bins to the centres of others; 8 between movable things
_TRAVEL = 7  # bin of z that clears everything on the table
_FAR = 15  # bins, longest way of an action
_WAYS = {"left": (1, 1), "right": (1, -1), "away": (0, 1), "closer": (0, -1)}  # axis, sign


def sample_scene(rng: random.Random, most: int = 6, simulated: bool = False) -> Scene:
    """A scene of 2 to `most` things that do not overlap.

    Args:
        rng: what to choose with.
        most: at most so many things, the pad and the bowl among them; 3 or more.
        simulated: what the simulator has: three cubes or cylinders, pad and bowl.
    """
    while True:
        if simulated:
            names, area = _simulated_names(rng), _SIMULATED_AREA
        else:
            total = rng.randint(2, most)
            names = [name for name in (PAD, BOWL) if rng.random() < 0.6]
            names += rng.sample(MOVABLE, max(total - len(names), 1))
            area = _ANYWHERE if rng.random() < 0.6 else _SIMULATED_AREA
        things = _lay_out(names, area, rng)
        if len(things) >= 2:
            return _with_gripper(things, rng)


def _simulated_names(rng: random.Random) -> list[Name]:
    colors = rng.sample(instructions.COLORS, 3)
    return [PAD, BOWL, *(Name(color, rng.choice(instructions.SHAPES)) for color in colors)]


def _lay_out(names: list[Name], area: tuple, rng: random.Random) -> list[Thing]:
    """Things on the table or, seldom, on or in another one; what finds no room is left out."""
    things: list[Thing] = []
    for name in names:
        place = None
        if name.shape not in FIXTURES and things and rng.random() < 0.25:
            place = _upon(rng.choice(things), things, rng)
        place = place or _free_place(name, things, area, rng)
        if place is not None:
            things.append(Thing(name, place))
    return things


def _upon(support: Thing, things: list[Thing], rng: random.Random) -> Place | None:
    """A place on or in `support`, if nothing is there and something can be."""
    (name, (x, y, z)), reach = support, 3
    if name.shape in FLAT_SHAPES:
        reach, z = 1, z + 2
    elif name not in (PAD, BOWL):
        return None
    else:
        z = 1
    if any(t is not support and abs(t.place.x - x) < 8 and abs(t.place.y - y) < 8 for t in things):
        return None
    return Place(x + rng.randint(-reach, reach), y + rng.randint(-reach, reach), z)


def _free_place(name: Name, things: list[Thing], area: tuple, rng: random.Random) -> Place | None:
    own = _CLEARANCE.get(name.shape, 8)
    (x_low, x_high), (y_low, y_high) = area
    for _ in range(12):
        x = x_low + int(rng.random() * (x_high - x_low + 1))
        y = y_low + int(rng.random() * (y_high - y_low + 1))
        for other, at in things:
            clear = max(own, _CLEARANCE.get(other.shape, 8))
            if (at[0] - x) ** 2 + (at[1] - y) ** 2 < clear * clear:
                break
        else:
            return Place(x, y, 0 if name.shape in FIXTURES else 1)
    return None


def _with_gripper(things: list[Thing], rng: random.Random) -> Scene:
    x, y = (rng.randint(_EDGE, 63 - _EDGE) for _ in range(2))
    place = Place(x, y, rng.randint(3, 14))
    scene = Scene(tuple(things), place, rng.random() < 0.7)
    free = [thing for thing in things if _can_be_taken(thing, scene)]
    if not free or rng.random() > 0.25:
        return scene
    held = rng.choice(free).name
    return scene.moved({held: place}, open=False, holds=held)


def _can_be_taken(thing: Thing, scene: Scene) -> bool:
    name, (x, y, z) = thing
    return name.shape not in FIXTURES and not any(
        other.place.z > z and abs(other.place.x - x) <= 4 and abs(other.place.y - y) <= 4
        for other in scene.things
    )


def apart(scene: Scene) -> bool:
    """Whether no two things overlap, and none is across the rim of the bowl."""
    for i, (name, a) in enumerate(scene.things):
        for other, b in scene.things[i + 1 :]:
            if scene.holds in (name, other) or PAD in (name, other):
                continue
            dx, dy = a[0] - b[0], a[1] - b[1]
            if BOWL in (name, other):
                if 25 < dx * dx + dy * dy < 81 and max(a[2], b[2]) < 3:
                    return False
            elif abs(dx) < 4 and abs(dy) < 4 and abs(a[2] - b[2]) < 2:
                return False
    return True


@dataclass(frozen=True)
class Moment:
    """One action of a plan.

    Attributes:
        before, action, after: `step(before, action) == after`.
        goal: what is being done, in the instructions' terms; None if they have no words for it.
        target: what the gripper is after now.
    """

    before: Scene
    action: Action
    after: Scene
    goal: Goal | None = None
    target: Name | None = None


def sample_moments(scene: Scene, rng: random.Random) -> list[Moment]:
    """All that a gripper does in `scene` while it follows a random plan; one moment or more.

    It ends where things would come to overlap. Plans are to take something somewhere, to push
    something, to go above something, and to wander.
    """
    moments: list[Moment] = []
    free = [thing for thing in scene.things if _can_be_taken(thing, scene)]
    chance = rng.random()
    if scene.holds is not None:
        plan = _put_down(scene, rng)
    elif not free or chance < 0.1:
        plan = _wander(scene, rng)
    elif chance < 0.55:
        plan = _take(scene, rng.choice(free).name, rng)
    elif chance < 0.85:
        plan = _push(scene, rng.choice(free).name, rng)
    else:
        plan = _reach(scene, rng.choice(scene.things).name, rng)
    now = scene
    try:
        wanted = next(plan)
        while True:
            action, goal, target = wanted
            after = step(now, action)
            if not apart(after):
                break
            moments.append(Moment(now, action, after, goal, target))
            now = after
            wanted = plan.send(now)
    except StopIteration:
        pass
    if moments:
        return moments
    up = Action(0, 0, 3 if scene.gripper.z < 9 else -3, OPEN if scene.open else CLOSED)
    return [Moment(scene, up, step(scene, up))]


_Plan = Iterator[tuple[Action, Goal | None, Name | None]]


def _toward(scene: Scene, place: Place, fingers: int) -> Action:
    ways = [b - a for a, b in zip(scene.gripper, place, strict=True)]
    return Action(*(max(-_FAR, min(_FAR, way)) for way in ways), fingers)


def _goal(family: str, name: Name, direction: str = "") -> Goal | None:
    return Goal(family, *name, direction) if name in _SIMULATED else None


def _approach(scene: Scene, place: Place, fingers: int, goal: Goal | None, target: Name) -> _Plan:
    """Steps until the gripper is at `place`, or gets no further: what it holds is at a wall."""
    last = None
    while scene.gripper not in (place, last):
        last = scene.gripper
        scene = yield _toward(scene, place, fingers), goal, target
    return scene


def _take(scene: Scene, name: Name, rng: random.Random) -> _Plan:
    destination = _destination(scene, name, rng)
    family = {None: "pick", PAD: "pad", BOWL: "bowl"}.get(destination)
    goal = _goal(family, name) if family else None
    x, y, z = scene.place_of(name)
    above = Place(x + rng.randint(-1, 1), y + rng.randint(-1, 1), min(z + 4, 12))
    scene = yield from _approach(scene, above, OPEN, goal, name)
    scene = yield Action(0, 0, z - above.z, OPEN), goal, name
    scene = yield Action(0, 0, 0, CLOSED), goal, name
    scene = yield Action(0, 0, rng.randint(4, 7), CLOSED), goal, name
    if scene.holds == name and destination is not None:
        yield from _bring(scene, destination, goal, rng)


def _put_down(scene: Scene, rng: random.Random) -> _Plan:
    destination = _destination(scene, scene.holds, rng)
    if destination is None:
        yield from _wander(scene, rng)
        return
    family = {PAD: "pad", BOWL: "bowl"}.get(destination)
    yield from _bring(scene, destination, _goal(family, scene.holds) if family else None, rng)


def _destination(scene: Scene, name: Name, rng: random.Random) -> Name | None:
    """Where to put a thing: None is nowhere, in the air."""
    places = [
        thing.name
        for thing in scene.things
        if thing.name != name
        and (thing.name in (PAD, BOWL) or thing.name.shape in FLAT_SHAPES)
        and not any(related("above", t.name, (thing.name,), scene) for t in scene.things
                    if t.name not in (thing.name, name))
        and not any(t.place.z == 1 and abs(t.place.x - thing.place.x) < 9
                    and abs(t.place.y - thing.place.y) < 9
                    for t in scene.things if t.name not in (thing.name, name))
    ]  # fmt: skip
    return rng.choice(places) if places and rng.random() < 0.8 else None


def _bring(scene: Scene, destination: Name, goal: Goal | None, rng: random.Random) -> _Plan:
    """Carry what is held above the destination and let go."""
    x, y, z = scene.place_of(destination)
    held, reach = scene.place_of(scene.holds), 1 if destination.shape in FLAT_SHAPES else 3
    goal_x, goal_y = (value + rng.randint(-reach, reach) for value in (x, y))
    height = max(_TRAVEL, z + 4)
    offset = [held[i] - scene.gripper[i] for i in range(3)]
    place = Place(goal_x - offset[0], goal_y - offset[1], height)
    if not (0 <= place.x < 64 and 0 <= place.y < 64):
        return
    scene = yield from _approach(scene, place, CLOSED, goal, destination)
    if rng.random() < 0.5:
        scene = yield Action(0, 0, -rng.randint(1, 3), CLOSED), goal, destination
    yield Action(0, 0, 0, OPEN), goal, destination


def _push(scene: Scene, name: Name, rng: random.Random) -> _Plan:
    direction = rng.choice(instructions.DIRECTIONS)
    axis, sign = _WAYS[direction]
    goal = _goal("push", name, direction)
    place = scene.place_of(name)
    start = list(place)
    start[axis] -= sign * rng.randint(5, 8)
    start[1 - axis] += rng.randint(-1, 1)
    if not all(0 <= value < 64 for value in start) or place.z != 1:
        return
    above = Place(start[0], start[1], 4)
    scene = yield from _approach(scene, above, CLOSED, goal, name)
    scene = yield Action(0, 0, -3, CLOSED), goal, name
    for _ in range(rng.randint(1, 3)):
        ways = [0, 0]
        ways[axis] = sign * rng.randint(4, _FAR)
        scene = yield Action(*ways, 0, CLOSED), goal, None


def _reach(scene: Scene, name: Name, rng: random.Random) -> _Plan:
    x, y, z = scene.place_of(name)
    place = Place(x + rng.randint(-1, 1), y + rng.randint(-1, 1), z + rng.randint(3, 6))
    yield from _approach(scene, place, OPEN if scene.open else CLOSED, _goal("reach", name), name)


def _wander(scene: Scene, rng: random.Random) -> _Plan:
    for _ in range(rng.randint(1, 4)):
        way = [rng.randint(-10, 10) for _ in range(2)]
        fingers = CLOSED if scene.holds or rng.random() < 0.5 else OPEN
        scene = yield Action(*way, rng.randint(-2, 3), fingers), None, None
