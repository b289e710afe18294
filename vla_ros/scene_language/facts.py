"""Facts about scenes, what they mean exactly, and which one to tell.

Frame of reference: directions and relations are as the robot sees them, standing at x = 0 and
looking along +x. Left is +y, away (behind) is +x, in front is nearer to the robot. The front camera
faces the robot: what it shows on the right is on the robot's left.

Relations are defined on bins (1 cm in x and y, 2 cm in z), with d = subject - landmark:

- left, right, behind, front: dy >= 4, dy <= -4, dx >= 4, dx <= -4. Transitive; left and right are
  inverse to each other, so are behind and front. In between the two is neither.
- above, below: dz >= 2 or dz <= -2, and |dx|, |dy| <= 3. Inverse to each other.
- on: it rests, not held, on the pad (dx^2 + dy^2 <= 20, dz = 1) or on a cube or cylinder
  (|dx|, |dy| <= 2, dz = 2).
- inside: it is, not held, in the bowl (dx^2 + dy^2 <= 25, 0 <= dz <= 2).
- near: less than 13 cm from centre to centre. Symmetric.
- nearest, farthest: of all things but the landmark it is the one nearest to (farthest from) the
  landmark, by at least 2 cm.
On, inside, nearest and farthest are relations of things, never of the gripper.
- between: seen from above it is in the middle half of the way from one landmark to the other, at
  most 3 cm off the straight line; the landmarks are 10 cm or more apart; all within 2 bins of z.

The gripper moves in a direction when at least half as far as in any other, so a way can have two
or three; it stays when it gets no further than the next bin, which a tremble may lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from vla_ros.scene_language.scenes import (
    BOWL,
    FLAT_SHAPES,
    GRIPPER,
    PAD,
    Name,
    Place,
    Scene,
    name_order,
)

AXIS_RELATIONS = ("left", "right", "behind", "front", "above", "below")
RELATIONS = (*AXIS_RELATIONS, "on", "inside", "near", "nearest", "farthest", "between")
OF_THINGS = ("on", "inside", "nearest", "farthest")  # not of the gripper
INVERSE = {
    **{"left": "right", "right": "left", "behind": "front", "front": "behind"},
    **{"above": "below", "below": "above", "near": "near"},
}
TRANSITIVE = ("left", "right", "behind", "front")
DIRECTIONS = ("left", "right", "away", "closer", "up", "down")
MARGIN = 4  # bins of x or y
_NEAR = 13  # cm, not reached
_CLEARLY = 2  # whole cm by which the nearest must be nearer than the next


def checked_landmarks(
    relation: str, landmarks: tuple[Name, ...], subject: Name | None = None
) -> tuple[Name, ...]:
    """The landmarks of a relation in canonical order.

    Raises:
        ValueError: there is no such relation, or not of these.
    """
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation '{relation}': use {', '.join(RELATIONS)}")
    if len(landmarks) != 1 + (relation == "between"):
        raise ValueError(f"'{relation}' has not {len(landmarks)} landmarks")
    if len({subject, *landmarks}) != 1 + len(landmarks):
        raise ValueError(f"'{relation}' is among different things, not of {landmarks[0]} to itself")
    if GRIPPER in (subject, *landmarks) and relation in OF_THINGS:
        raise ValueError(f"'{relation}' is a relation of things, not of the gripper")
    return landmarks if len(landmarks) == 1 else tuple(sorted(landmarks, key=name_order))


@dataclass(frozen=True)
class Related:
    """`subject` is left of (behind, on, ...) the landmark, or between the two landmarks."""

    subject: Name
    relation: str
    landmarks: tuple[Name, ...]

    def __post_init__(self) -> None:
        landmarks = checked_landmarks(self.relation, self.landmarks, self.subject)
        object.__setattr__(self, "landmarks", landmarks)


@dataclass(frozen=True)
class Placed:
    """A thing or the gripper is in a bin."""

    subject: Name
    place: Place


@dataclass(frozen=True)
class Fingers:
    """The gripper is open or closed."""

    open: bool


@dataclass(frozen=True)
class Holding:
    """The gripper holds a thing, or nothing."""

    thing: Name | None


@dataclass(frozen=True)
class Present:
    """The scene has this thing."""

    subject: Name


@dataclass(frozen=True)
class Counted:
    """There are `number` things of a shape, of a colour, or ("thing") at all."""

    kind: str
    number: int


@dataclass(frozen=True)
class Coloured:
    """The only thing of this shape has this colour."""

    shape: str
    color: str


@dataclass(frozen=True)
class Moving:
    """What the gripper is doing between two scenes.

    Attributes:
        verb: "move" (whatever it holds), "carry" or "push" a thing, or "stay".
        direction: one of DIRECTIONS: that of the largest part of the gripper's way; "" for "stay".
        thing: what is carried or pushed.
        target: what the gripper comes closer to.
        which: a relation of the target that holds before.
    """

    verb: str
    direction: str = ""
    thing: Name | None = None
    target: Name | None = None
    which: Related | None = None

    def __post_init__(self) -> None:
        if self.verb not in ("move", "carry", "push", "stay"):
            raise ValueError(f"unknown verb '{self.verb}': use move, carry, push or stay")
        if self.direction not in (("",) if self.verb == "stay" else DIRECTIONS):
            raise ValueError(f"'{self.verb}' has not the direction '{self.direction}'")
        if (self.thing is None) != (self.verb in ("move", "stay")):
            raise ValueError(f"'{self.verb}' with the thing {self.thing}")
        if self.target is not None and (self.verb == "stay" or self.target == self.thing):
            raise ValueError(f"'{self.verb}' cannot have the target {self.target}")
        if self.which is not None and self.which.subject != self.target:
            raise ValueError("the relative clause is about the target, and only about it")


@dataclass(frozen=True)
class Happened:
    """What came about between two scenes.

    Attributes:
        event: the thing was "grasped", "released" or "slid".
        thing: which.
        where: a relation of the thing that is true afterwards; for "slid", was not before.
    """

    event: str
    thing: Name
    where: Related | None = None

    def __post_init__(self) -> None:
        if self.event not in ("grasped", "released", "slid"):
            raise ValueError(f"unknown event '{self.event}': use grasped, released or slid")
        if self.where is not None and self.where.subject != self.thing:
            raise ValueError(f"the relation is about {self.thing}, and only about it")
        if self.where is not None and self.event == "grasped":
            raise ValueError("a grasped thing is in the gripper: it has no other relation")


State = Related | Placed | Fingers | Holding | Present | Counted | Coloured
Change = Moving | Happened
Fact = State | Change


def holds(fact: Fact, scene: Scene, after: Scene | None = None) -> bool:
    """Whether `fact` is true of `scene`, or of what leads from `scene` to `after`.

    Raises:
        ValueError: the fact names a thing that is not there, or needs `after`.
    """
    if isinstance(fact, Related):
        return related(fact.relation, fact.subject, fact.landmarks, scene)
    if isinstance(fact, Placed):
        return scene.place_of(fact.subject) == fact.place
    if isinstance(fact, Fingers):
        return scene.open == fact.open
    if isinstance(fact, Holding):
        return scene.holds == fact.thing
    if isinstance(fact, Present):
        return fact.subject in scene
    if isinstance(fact, Counted):
        return count(fact.kind, scene) == fact.number
    if isinstance(fact, Coloured):
        return [t.name.color for t in scene.things if t.name.shape == fact.shape] == [fact.color]
    if after is None:
        raise ValueError(f"{type(fact).__name__} is about a change: give the scene after it too")
    return (
        _moving(fact, scene, after) if isinstance(fact, Moving) else _happened(fact, scene, after)
    )


def true_of(fact: Fact | None, scene: Scene, after: Scene | None = None) -> bool:
    """As `holds`; no fact, and what is about a thing that is not there, is not true."""
    try:
        return fact is not None and holds(fact, scene, after)
    except ValueError:
        return False


def count(kind: str, scene: Scene) -> int:
    """How many things are of the shape or colour `kind`, or at all ("thing")."""
    return sum(kind == "thing" or kind in thing.name for thing in scene.things)


def related(relation: str, subject: Name, landmarks: tuple[Name, ...], scene: Scene) -> bool:
    """As `holds` for the same `Related`, without making one."""
    a, b = scene.place_of(subject), scene.place_of(landmarks[0])
    dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
    if relation == "left":
        return dy >= MARGIN
    if relation == "right":
        return dy <= -MARGIN
    if relation == "behind":
        return dx >= MARGIN
    if relation == "front":
        return dx <= -MARGIN
    if relation == "above":
        return dz >= 2 and abs(dx) <= 3 and abs(dy) <= 3
    if relation == "below":
        return dz <= -2 and abs(dx) <= 3 and abs(dy) <= 3
    if relation == "near":
        return centimetres(a, b) < _NEAR
    if relation == "between":
        return _between(a, b, scene.place_of(landmarks[1]))
    if relation == "on":
        return scene.holds != subject and _rests(dx, dy, dz, landmarks[0])
    if relation == "inside":
        inside = dx * dx + dy * dy <= 25 and 0 <= dz <= 2
        return inside and landmarks[0] == BOWL and subject != PAD and scene.holds != subject
    return _extreme(relation, subject, landmarks[0], scene)


def distance(a: Place, b: Place) -> float:
    """Between two bins' centres, cm."""
    return sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + 4 * (a[2] - b[2]) ** 2)


def centimetres(a: Place, b: Place) -> int:
    """The whole ones of their distance."""
    return int(distance(a, b))


def _rests(dx: int, dy: int, dz: int, support: Name) -> bool:
    if support == PAD:
        return dz == 1 and dx * dx + dy * dy <= 20
    return support.shape in FLAT_SHAPES and dz == 2 and abs(dx) <= 2 and abs(dy) <= 2


def _between(a: Place, b: Place, c: Place) -> bool:
    apart, near, far = centimetres(b, c), *sorted((centimetres(a, b), centimetres(a, c)))
    return apart >= 10 and near + far <= apart and 4 * near >= apart


def _extreme(relation: str, subject: Name, landmark: Name, scene: Scene) -> bool:
    origin = scene.place_of(landmark)
    mine = centimetres(scene.place_of(subject), origin)
    others = [
        centimetres(at, origin) for name, at in scene.things if name not in (subject, landmark)
    ]
    # The only one is neither near nor far in comparison.
    return bool(others) and all(clearly(relation, mine, its) for its in others)


def clearly(relation: str, mine: int, its: int) -> bool:
    """Whether what is `mine` whole centimetres away is "nearest" or "farthest" beside what is `its`
    away, by enough to be said."""
    return mine + _CLEARLY <= its if relation == "nearest" else mine - _CLEARLY >= its


def direction_of(before: Scene, after: Scene) -> str:
    """The direction of the largest part of the gripper's way (of equal ones that along y, then that
    along x); "" when it stays in its bin."""
    ways = _ways(before, after)
    direction = max(ways, key=ways.__getitem__)
    return direction if ways[direction] else ""


def _ways(before: Scene, after: Scene) -> dict[str, int]:
    """How far the gripper goes in each direction, cm; negative the other way."""
    x, y, z = (b - a for a, b in zip(before.gripper, after.gripper, strict=True))
    return {"left": y, "right": -y, "away": x, "closer": -x, "up": 2 * z, "down": -2 * z}


def _moving(fact: Moving, before: Scene, after: Scene) -> bool:
    ways = _ways(before, after)
    if fact.verb == "stay":
        return max(abs(b - a) for a, b in zip(before.gripper, after.gripper, strict=True)) <= 1
    if ways[fact.direction] <= 0 or 2 * ways[fact.direction] < max(ways.values()):
        return False
    if fact.verb == "carry" and not fact.thing == before.holds == after.holds:
        return False
    if fact.verb == "push" and not _slid(fact.thing, before, after):
        return False
    if fact.target is None:
        return True
    closer = comes_closer(fact.target, before, after)
    return closer and (fact.which is None or holds(fact.which, before))


def comes_closer(target: Name, before: Scene, after: Scene) -> bool:
    """Whether the gripper does, to where the target is when it sets off."""
    place = before.place_of(target)
    return distance(after.gripper, place) < distance(before.gripper, place)


def _slid(thing: Name, before: Scene, after: Scene) -> bool:
    held = thing in (before.holds, after.holds)
    return not held and before.place_of(thing)[:2] != after.place_of(thing)[:2]


def _happened(fact: Happened, before: Scene, after: Scene) -> bool:
    thing, where = fact.thing, fact.where
    if fact.event == "slid":
        new = where is None or holds(where, after) and not holds(where, before)
        return _slid(thing, before, after) and new
    if fact.event == "grasped":
        return before.holds != thing and after.holds == thing
    let_go = before.holds == thing and after.holds != thing
    return let_go and (where is None or holds(where, after))


def where(name: Name, scene: Scene) -> Related | Holding | Placed:
    """The fact that tells best where a thing is.

    Held; else inside or on something; else by the nearest other thing (in whole centimetres; of
    equally near ones the first in canonical order): on which side of it, seen along the axis on
    which they are further apart (y if both are equal); above, below or near if it is on no side.
    Its place if it is alone. The gripper and what it holds are no landmarks.
    """
    if scene.holds == name:
        return Holding(name)
    place = scene.place_of(name)
    others = [thing for thing in scene.things if thing.name not in (name, scene.holds)]
    for other in others:
        for relation in ("inside", "on"):
            if related(relation, name, (other.name,), scene):
                return Related(name, relation, (other.name,))
    if not others:
        return Placed(name, place)
    landmark = min(others, key=lambda other: centimetres(place, other.place))
    return Related(name, side(place, landmark.place), (landmark.name,))


def side(a: Place, b: Place) -> str:
    """On which side of `b` the place `a` is, as `where` tells it."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    if max(abs(dx), abs(dy)) >= MARGIN:
        if abs(dy) >= abs(dx):
            return "left" if dy > 0 else "right"
        return "behind" if dx > 0 else "front"
    if abs(a[2] - b[2]) >= 2:
        return "above" if a[2] > b[2] else "below"
    return "near"


def narration(before: Scene, after: Scene, target: Name | None = None) -> Moving:
    """What the gripper is doing from `before` to `after`, a moment later; true by `holds`.

    Args:
        before: the scene now.
        after: a moment later.
        target: what the gripper is after; named, with a clause that tells where it is, if it comes
            closer to it.

    Raises:
        ValueError: the target is not there.
    """
    direction = direction_of(before, after)
    if not direction:
        return Moving("stay")
    verb, thing = "move", None
    if before.holds is not None and before.holds == after.holds:
        verb, thing = "carry", before.holds
    else:
        slid = [t.name for t in before.things if _slid(t.name, before, after)]
        if len(slid) == 1:
            verb, thing = "push", slid[0]
    fact = Moving(verb, direction, thing)
    if target is None or target == thing:
        return fact
    seen = where(target, before)
    clause = seen if isinstance(seen, Related) else None
    told = Moving(verb, direction, thing, target, clause)
    return told if holds(told, before, after) else fact
