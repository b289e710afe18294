"""Actions on scenes and what comes of them: a small deterministic physics on bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.scene_language.scenes import (
    BIN,
    BINS,
    FINGER_RANGE,
    FIXTURES,
    FLAT_SHAPES,
    Name,
    Place,
    Scene,
)

LEVELS = 32  # of an action token
ZERO = 16  # the level of no motion
CLOSED, OPEN = 0, 31  # levels of the fingers
GRASP = (2, 2, 1)  # bins from the gripper within which a closing hand gets a thing
_CONTACT = 3  # bins between the centres of the fingers and of what they push
_LATERAL = 2  # bins that a thing may be beside the way of the fingers and still be pushed
_TOKENS = tuple(f"<a{i}>" for i in range(LEVELS))
_LEVEL = {token: i for i, token in enumerate(_TOKENS)}


@dataclass(frozen=True)
class Action:
    """A step of the gripper.

    Attributes:
        dx, dy, dz: bins to move by, -16 to 15.
        fingers: opening asked for, 0 (closed) to 31 (open); from 16 on the hand opens.
    """

    dx: int
    dy: int
    dz: int
    fingers: int

    def __post_init__(self) -> None:
        for name in ("dx", "dy", "dz"):
            if not -ZERO <= getattr(self, name) < LEVELS - ZERO:
                raise ValueError(f"{name} is {getattr(self, name)} bins: use -16 to 15")
        if not 0 <= self.fingers < LEVELS:
            raise ValueError(f"fingers is {self.fingers}: use 0 (closed) to 31 (open)")

    @property
    def opens(self) -> bool:
        return self.fingers >= LEVELS // 2

    @classmethod
    def of_metres(cls, offset: Sequence[float], opening: float) -> Action:
        """The nearest action to an end-effector offset [3] and a finger opening, m, base frame.

        Raises:
            ValueError: not finite, or further than bins tell.
        """
        steps = np.asarray(offset, dtype=float) / BIN
        if steps.shape != (3,) or not np.isfinite([*steps, opening]).all():
            raise ValueError(
                f"the offset {offset} and opening {opening} are not 3 + 1 numbers in m"
            )
        level = round(float(np.clip(opening / FINGER_RANGE, 0.0, 1.0)) * (LEVELS - 1))
        return cls(*(int(step) for step in np.round(steps)), level)

    def to_metres(self) -> tuple[np.ndarray, float]:
        """Offset [3] and finger opening, m."""
        offset = np.array([self.dx, self.dy, self.dz]) * BIN
        return offset, self.fingers / (LEVELS - 1) * FINGER_RANGE

    def to_tokens(self) -> list[str]:
        """`<act>` and a token each for dx, dy, dz (level 16: stay) and the fingers."""
        offsets = [_TOKENS[step + ZERO] for step in (self.dx, self.dy, self.dz)]
        return ["<act>", *offsets, _TOKENS[self.fingers]]

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> Action:
        """Raises ValueError, naming token and place, unless they are `to_tokens` of an action."""
        for i, token in enumerate(tokens):
            if (token != "<act>") if i == 0 else (i > 4 or token not in _LEVEL):
                should = "'<act>'" if i == 0 else "one of <a0> to <a31>" if i < 5 else "nothing"
                raise ValueError(f"token {i} is '{token}' where {should} should be")
        if len(tokens) != 5:
            raise ValueError(f"an action has 5 tokens, not {len(tokens)}: <act> and four levels")
        dx, dy, dz, fingers = (_LEVEL[token] for token in tokens[1:])
        return cls(dx - ZERO, dy - ZERO, dz - ZERO, fingers)


def step(scene: Scene, action: Action) -> Scene:
    """The scene after `action`.

    The fingers come first. Closing, they get the nearest thing within GRASP of the gripper (of
    equally near ones the first in canonical order). Opening, they let go, and what they held falls
    onto what is below. Then the gripper moves: upwards, along x, along y, downwards; at the walls
    of the box it stops. What it holds comes along. An empty gripper pushes movable things that are
    in its horizontal way at its height (+-1 bin), until they are 3 bins ahead of it. What stands on
    a thing goes with it.
    """
    if action.opens:
        scene = _release(scene) if scene.holds else scene.moved({}, open=True)
    elif scene.open:
        scene = scene.moved({}, open=False, holds=_graspable(scene))
    if action.dz > 0:
        scene = _travel(scene, 2, action.dz)
    scene = _travel(scene, 0, action.dx)
    scene = _travel(scene, 1, action.dy)
    return _travel(scene, 2, action.dz) if action.dz < 0 else scene


def _graspable(scene: Scene) -> Name | None:
    best, held = 1_000, None
    for name, place in scene.things:
        ways = [abs(place[i] - scene.gripper[i]) for i in range(3)]
        near = all(way <= most for way, most in zip(ways, GRASP, strict=True))
        size = ways[0] ** 2 + ways[1] ** 2 + 4 * ways[2] ** 2
        if near and name.shape not in FIXTURES and size < best:
            best, held = size, name
    return held


def _release(scene: Scene) -> Scene:
    held = scene.holds
    place = scene.place_of(held)
    fall = place.z - rest_height(scene, held)
    places = {
        name: at._replace(z=max(at.z - fall, 0))
        for name, at in scene.things
        if name == held or name in _riders(scene, held)
    }
    return scene.moved(places, open=True, holds=None)


def rest_height(scene: Scene, name: Name) -> int:
    """The bin of z in which a thing comes to rest when it falls from where it is: 1 on the table,
    on the pad or in the bowl, 2 above a cube or cylinder that is below."""
    place, height = scene.place_of(name), 1
    for other, at in scene.things:
        below = abs(at.x - place.x) <= 2 and abs(at.y - place.y) <= 2 and at.z < place.z
        if below and other.shape in FLAT_SHAPES and at.z + 2 <= place.z:
            height = max(height, at.z + 2)
    return min(height, place.z)


def _riders(scene: Scene, name: Name) -> set[Name]:
    """Everything that stands on `name`, also on what stands on it."""
    riders, new = set(), [name]
    while new:
        below = new.pop()
        if below.shape not in FLAT_SHAPES:
            continue
        x, y, z = scene.place_of(below)
        for other, at in scene.things:
            stands = at.z == z + 2 and abs(at.x - x) <= 2 and abs(at.y - y) <= 2
            if stands and other not in riders and other != scene.holds:
                riders.add(other)
                new.append(other)
    return riders


def _travel(scene: Scene, axis: int, way: int) -> Scene:
    """The gripper and what it holds moved along one axis; things in the way are pushed ahead."""
    if way == 0:
        return scene
    start = scene.gripper[axis]
    if scene.holds is not None:
        along = {scene.holds, *_riders(scene, scene.holds)}
        positions = [start, *(scene.place_of(name)[axis] for name in along)]
        way = max(way, -min(positions)) if way < 0 else min(way, BINS[axis] - 1 - max(positions))
        gripper = _shifted(scene.gripper, axis, way)
        shifts = {name: _shifted(scene.place_of(name), axis, way) for name in along}
        return scene.moved(shifts, gripper=gripper)
    end = min(max(start + way, 0), BINS[axis] - 1)
    gripper = _shifted(scene.gripper, axis, end - start)
    if axis == 2 or end == start:
        return scene.moved({}, gripper=gripper)
    return scene.moved(_pushed(scene, axis, start, end), gripper=gripper)


def _pushed(scene: Scene, axis: int, start: int, end: int) -> dict[Name, Place]:
    """New places of what the fingers push when they move from `start` to `end` along an axis."""
    sign = 1 if end > start else -1
    front = min(max(end + sign * _CONTACT, 0), BINS[axis] - 1)
    places: dict[Name, Place] = {}
    for name, place in scene.things:
        beside = abs(place[1 - axis] - scene.gripper[1 - axis])
        level = abs(place[2] - scene.gripper[2]) <= 1
        ahead = sign * (place[axis] - start) >= 0 and sign * (front - place[axis]) > 0
        if beside <= _LATERAL and level and ahead and name.shape not in FIXTURES:
            shift = front - place[axis]
            for moved in (name, *_riders(scene, name)):
                if moved not in places:
                    at = scene.place_of(moved)
                    places[moved] = _shifted(at, axis, min(max(shift, -at[axis]), 63 - at[axis]))
    return places


def _shifted(place: Place, axis: int, way: int) -> Place:
    values = list(place)
    values[axis] += way
    return Place(*values)
