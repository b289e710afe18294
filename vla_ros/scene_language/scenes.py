"""Scenes: named things at quantised places and a gripper, and their spatial tokens.

Places are bins of the robot's base frame: x grows away from the robot, y to its left, z up. The box
that they divide holds all that the simulated arm can reach; `Place` says where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vla_ros.scene_language import instructions

BINS = (64, 64, 16)  # along x, y, z
BIN = (0.01, 0.01, 0.02)  # m
BOX_LOW = (0.16, -0.32, -0.01)  # m; the lowest corner of bin (0, 0, 0)
HALF_BIN = tuple(size / 2 for size in BIN)  # m; the largest error of a quantised place

COLORS = (*instructions.COLORS, "orange", "black", "pink", "gray")  # of things that can be moved
SHAPES = (*instructions.SHAPES, "sphere", "cone", "ring")
FIXTURES = {"pad": "yellow", "bowl": "white"}  # they lie on the table and stay; one of a kind
FLAT_SHAPES = ("cube", "cylinder")  # things can stand on them
OPEN_FINGERS = 0.03  # m of finger opening; below it the gripper counts as closed
FINGER_RANGE = 0.04  # m, fully open


class Place(NamedTuple):
    """A bin: x 0..63 from 0.16 to 0.80 m, y 0..63 from -0.32 to 0.32 m, z 0..15 from -0.01 to
    0.31 m. Bins are 1, 1 and 2 cm; a thing standing on the table is at z 1, a pad or bowl at 0."""

    x: int
    y: int
    z: int

    @classmethod
    def of_metres(cls, point: Sequence[float], name: str = "the point") -> Place:
        """The bin of `point` [3], m, base frame; `to_metres` is then at most HALF_BIN away.

        Raises:
            ValueError: it is not finite or outside the box.
        """
        position = np.asarray(point, dtype=float)
        if position.shape != (3,) or not np.isfinite(position).all():
            raise ValueError(f"{name} is at {point}: give x, y and z in metres")
        bins = np.floor((position - BOX_LOW) / BIN + 1e-9).astype(int)
        if (bins < 0).any() or (bins >= BINS).any():
            high = np.array(BOX_LOW) + np.array(BIN) * BINS
            raise ValueError(
                f"{name} is at {np.round(position, 3).tolist()} m, outside the box from "
                f"{list(BOX_LOW)} to {high.round(3).tolist()} m that scenes describe"
            )
        return cls(*(int(i) for i in bins))

    def to_metres(self) -> np.ndarray:
        """The bin's centre [3], m, base frame."""
        return np.array(BOX_LOW) + (np.array(self) + 0.5) * BIN


class Name(NamedTuple):
    """What a thing is called. No two things of a scene have the same name."""

    color: str
    shape: str

    def __str__(self) -> str:
        return f"the {self.shape}" if self.shape not in SHAPES else f"the {self.color} {self.shape}"


GRIPPER = Name("", "gripper")
PAD, BOWL = Name("yellow", "pad"), Name("white", "bowl")
MOVABLE = tuple(Name(color, shape) for color in COLORS for shape in SHAPES)
NAMES = (*MOVABLE, PAD, BOWL)
_ORDER = {name: i for i, name in enumerate(NAMES)} | {GRIPPER: len(NAMES)}


def name_order(name: Name) -> int:
    """The canonical order of names.

    Raises:
        ValueError: nothing is called that.
    """
    if name not in _ORDER:
        raise ValueError(
            f"there is no thing '{' '.join(name)}': a thing is a {', '.join(SHAPES)} that is "
            f"{', '.join(COLORS)}, or the yellow pad or the white bowl"
        )
    return _ORDER[name]


class Thing(NamedTuple):
    name: Name
    place: Place


@dataclass(frozen=True)
class Scene:
    """Things in canonical order (given in any) and the gripper.

    Attributes:
        things: no two of one name.
        gripper: place of the point between the finger tips.
        open: whether the fingers are open.
        holds: the thing between the fingers; a gripper that holds one is closed.

    Raises:
        ValueError: a place is outside the bins, a name is unknown or there twice, or the gripper
            holds what it cannot.
    """

    things: tuple[Thing, ...]
    gripper: Place
    open: bool = True
    holds: Name | None = None

    def __post_init__(self) -> None:
        things = tuple(sorted(self.things, key=lambda thing: name_order(thing.name)))
        object.__setattr__(self, "things", things)
        for before, after in zip(things, things[1:], strict=False):
            if before.name == after.name:
                raise ValueError(f"{after.name} is there twice: a scene has one thing of a name")
        for name, place in (*things, (GRIPPER, self.gripper)):
            if not (0 <= place[0] < 64 and 0 <= place[1] < 64 and 0 <= place[2] < 16):
                raise ValueError(f"{name} is at {tuple(place)}, outside the bins {BINS}")
        if things and things[-1].name == GRIPPER:
            raise ValueError("the gripper is no thing of a scene: give its place as gripper")
        if self.holds is not None:
            if self.open:
                raise ValueError(f"the gripper is open and cannot hold {self.holds}")
            if self.holds.shape in FIXTURES or self.holds not in [thing.name for thing in things]:
                raise ValueError(
                    f"the gripper cannot hold {self.holds}: it is no movable thing here"
                )

    @classmethod
    def of_metres(
        cls,
        things: Iterable[tuple[str, str, Sequence[float]]],
        gripper: Sequence[float],
        opening: float,
        holds: tuple[str, str] | None = None,
    ) -> Scene:
        """The scene of measured positions.

        Args:
            things: (colour, shape, centre [3] in m, base frame); a pad or bowl is at height 0.
            gripper: [3], m, base frame, of the point between the finger tips.
            opening: of a finger, m, 0 to FINGER_RANGE.
            holds: colour and shape of the thing that both fingers press.

        Raises:
            ValueError: as for a scene; also when something is outside the box.
        """
        quantised = tuple(
            Thing(Name(color, shape), Place.of_metres(centre, str(Name(color, shape))))
            for color, shape, centre in things
        )
        place = Place.of_metres(gripper, "the gripper")
        held = None if holds is None else Name(*holds)
        return cls(quantised, place, held is None and opening >= OPEN_FINGERS, held)

    def to_metres(self) -> dict[Name, np.ndarray]:
        """Centres [3] of all bins that things and the gripper are in, m, at most HALF_BIN off."""
        return {name: place.to_metres() for name, place in (*self.things, (GRIPPER, self.gripper))}

    def place_of(self, name: Name) -> Place:
        """Where the thing (or GRIPPER) is.

        Raises:
            ValueError: the scene has no such thing.
        """
        if name == GRIPPER:
            return self.gripper
        for thing in self.things:
            if thing.name == name:
                return thing.place
        raise ValueError(f"there is no {str(name).removeprefix('the ')} in this scene")

    def __contains__(self, name: Name) -> bool:
        return name == GRIPPER or any(thing.name == name for thing in self.things)

    def moved(self, places: dict[Name, Place], **gripper: object) -> Scene:
        """The scene with some things at other places, and other attributes of the gripper."""
        things = tuple(
            Thing(name, places[name]) if name in places else Thing(name, place)
            for name, place in self.things
        )
        return replace(self, things=things, **gripper)


# -- tokens ---------------------------------------------------------------------------------------

_X = tuple(f"<x{i}>" for i in range(BINS[0]))
_Y = tuple(f"<y{i}>" for i in range(BINS[1]))
_Z = tuple(f"<z{i}>" for i in range(BINS[2]))
_AXES = tuple({token: i for i, token in enumerate(axis)} for axis in (_X, _Y, _Z))
_AXIS_SETS = tuple(frozenset(axis) for axis in _AXES)
_STATES = frozenset({"open", "closed"})


def place_tokens(place: Place) -> list[str]:
    return [_X[place[0]], _Y[place[1]], _Z[place[2]]]


def read_place(tokens: Sequence[str]) -> Place:
    """The place of `place_tokens`. Raises ValueError: they are none of a place."""
    try:
        return Place(*(axis[token] for axis, token in zip(_AXES, tokens, strict=True)))
    except (KeyError, ValueError):
        raise ValueError(f"'{' '.join(tokens)}' is no place: give <x..> <y..> <z..>") from None


def _thing_tokens(thing: Thing) -> list[str]:
    return ["<obj>", *thing.name, *place_tokens(thing.place)]


def _gripper_tokens(scene: Scene) -> list[str]:
    state = ["<grip>", "open" if scene.open else "closed", *place_tokens(scene.gripper)]
    return state if scene.open else [*state, *(scene.holds or ("nothing",))]


def to_tokens(scene: Scene) -> list[str]:
    """`<scene>`, for each thing in canonical order `<obj> colour shape <x> <y> <z>`, then `<grip>
    open <x> <y> <z>` or `<grip> closed <x> <y> <z>` and what it holds: colour and shape, or
    `nothing`."""
    tokens = ["<scene>"]
    for thing in scene.things:
        tokens += _thing_tokens(thing)
    return tokens + _gripper_tokens(scene)


def from_tokens(tokens: Sequence[str]) -> Scene:
    """The scene of `to_tokens`, whatever the order of its things.

    Raises:
        ValueError: a token that cannot stand where it does (named with its position), or an end
            where more must follow.
    """
    reader = SceneReader()
    reader.take_all(tokens)
    return Scene(tuple(reader.things), reader.gripper, reader.open, reader.holds)


def changes_to_tokens(before: Scene, after: Scene) -> list[str]:
    """`<next>`, the things of `after` that are elsewhere than `before`, then its gripper.

    Raises:
        ValueError: not the same things are there.
    """
    if [thing.name for thing in before.things] != [thing.name for thing in after.things]:
        raise ValueError("the two scenes have different things: only places can change")
    tokens = ["<next>"]
    for old, new in zip(before.things, after.things, strict=True):
        if old != new:
            tokens += _thing_tokens(new)
    return tokens + _gripper_tokens(after)


def changed(before: Scene, tokens: Sequence[str]) -> Scene:
    """The scene `after` of `changes_to_tokens(before, after)`. Raises as `from_tokens`."""
    reader = SceneReader(before)
    reader.take_all(tokens)
    return before.moved(
        dict(reader.things), gripper=reader.gripper, open=reader.open, holds=reader.holds
    )


class SceneReader:
    """Reads a scene's tokens one by one and knows which may follow: also what constrains decoding.

    Args:
        before: when given, the tokens are the changes of this scene.

    Attributes:
        allowed: tokens that may come next; empty when the scene is complete.
    """

    def __init__(self, before: Scene | None = None) -> None:
        self.things: list[Thing] = []
        self.gripper, self.open, self.holds = Place(0, 0, 0), True, None
        self._begin = "<scene>" if before is None else "<next>"
        self._named = list(NAMES) if before is None else [t.name for t in before.things]
        self._free = set(self._named)  # names that no thing was given yet
        self._choice: set[Name] = set()
        self._color, self._name, self._place = "", GRIPPER, []
        self._changes = before is not None
        self._taken = 0
        self.allowed: frozenset[str] = frozenset({self._begin})

    @property
    def complete(self) -> bool:
        return not self.allowed

    def take_all(self, tokens: Sequence[str]) -> None:
        """Take `tokens`, which must be complete. Raises ValueError otherwise, as `take` does."""
        for token in tokens:
            self.take(token, tokens)
        if not self.complete:
            raise ValueError(f"{self._list()} should follow the last of {len(tokens)} tokens")

    def take(self, token: str, among: Sequence[str] = ()) -> None:
        """Take the next token.

        Raises:
            ValueError: it may not come here; token, position and what may come are named.
        """
        if token not in self.allowed:
            should = self._list() if self.allowed else "nothing, as the scene is complete,"
            of = f" of {len(among)}" if among else ""
            raise ValueError(f"token {self._taken}{of} is '{token}' where {should} should be")
        self._taken += 1
        if token == self._begin:
            self._between()
        elif token == "<obj>":
            self._choice = self._free
            self.allowed = frozenset(name.color for name in self._choice)
        elif token == "<grip>":
            self.allowed = _STATES
        elif token in _STATES:
            self.open, self._name, self.allowed = token == "open", GRIPPER, _AXIS_SETS[0]
        elif token.startswith("<"):
            self._take_coordinate(token)
        elif token == "nothing":
            self.allowed = frozenset()
        elif not self._color:
            self._color = token
            self.allowed = frozenset(n.shape for n in self._choice if n.color == token)
        else:
            self._take_shape(token)

    def _take_shape(self, shape: str) -> None:
        name, self._color = Name(self._color, shape), ""
        if self._choice is self._free:
            self._free.remove(name)
            self._name, self.allowed = name, _AXIS_SETS[0]
        else:
            self.holds, self.allowed = name, frozenset()

    def _take_coordinate(self, token: str) -> None:
        axis = len(self._place)
        self._place.append(_AXES[axis][token])
        if axis < 2:
            self.allowed = _AXIS_SETS[axis + 1]
            return
        place, self._place = Place(*self._place), []
        if self._name is not GRIPPER:
            self.things.append(Thing(self._name, place))
            self._between()
            return
        self.gripper = place
        here = self._named if self._changes else [thing.name for thing in self.things]
        self._choice = {name for name in here if name.shape not in FIXTURES}
        colors = {name.color for name in self._choice}
        self.allowed = frozenset() if self.open else frozenset({"nothing", *colors})

    def _between(self) -> None:
        self.allowed = frozenset({"<obj>", "<grip>"} if self._free else {"<grip>"})

    def _list(self) -> str:
        some = sorted(self.allowed)
        return " or ".join(f"'{token}'" for token in some[:4]) + (" or ..." if some[4:] else "")
