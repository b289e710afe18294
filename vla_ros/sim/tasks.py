"""Task families on the table: sampled layouts, instructions, and a judge of physics only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from vla_ros.scene_language.instructions import (
    COLORS,
    DIRECTIONS,
    FAMILIES,
    SHAPES,
    Goal,
    phrase,
)

# Unit vectors of the robot's own directions in its base frame.
DIRECTION_VECTORS = {
    "left": np.array([0.0, 1.0]),
    "right": np.array([0.0, -1.0]),
    "away": np.array([1.0, 0.0]),
    "closer": np.array([-1.0, 0.0]),
}

WORKSPACE_LOW = np.array([0.36, -0.22])
WORKSPACE_HIGH = np.array([0.60, 0.22])
PUSH_DISTANCE = 0.06  # m along the direction that counts as pushed
PAD_RADIUS = 0.045  # m, object centre to pad centre
BOWL_RADIUS = 0.06  # m, inner radius
LIFT_HEIGHT = 0.07  # m, object's bottom above the table
REACH_HEIGHT = 0.05  # m, tool above the object's top when hovering
HOLD_TIME = 0.2  # s a success condition must last
TIME_LIMIT = {"reach": 6.0, "push": 10.0, "pick": 10.0, "pad": 14.0, "bowl": 14.0}  # s
DISTURBANCE = 0.06  # m another object may be moved before the task counts as failed
_MOST_EPISODES = 100_000  # that are played at once
FIRST_TRAINING_SEED = 1_000_000_000  # from here on for training, those below for evaluation


# (colour, shape): a training that holds them out never has one on the table.
HELD_OUT_PAIRS = (("green", "cylinder"), ("purple", "cube"))


class Outcome(Enum):
    RUNNING = 0
    SUCCEEDED = 1
    FAILED = 2
    IDLE = 3


@dataclass(frozen=True)
class TableObject:
    """A coloured cube or cylinder; `half_extents` (radial, vertical) and `position` in metres."""

    color: str
    shape: str
    position: tuple[float, float]
    yaw: float
    half_extents: tuple[float, float]


@dataclass(frozen=True)
class Distractor:
    """A thing that no instruction names; `kind` is one of `table_model.DISTRACTORS`."""

    kind: str
    rgb: tuple[float, float, float]
    position: tuple[float, float]
    yaw: float


@dataclass(frozen=True)
class Knock:
    """A hand that pushes object `index` at `time` (s into the episode), unless it is held then."""

    time: float
    index: int
    shift: tuple[float, float]  # m


@dataclass(frozen=True)
class Appearance:
    """Domain randomisation of one episode; offsets in metres and radians.

    The front camera always looks at the table from where `camera_offset` puts it, turned by
    `camera_rotation`; `camera_moved` and `camera_turned` then move it as a whole, as when somebody
    bumps into its stand.
    """

    table_rgb: tuple[float, float, float]
    light_position: tuple[float, float, float]
    light_strength: float
    ambient: float
    camera_offset: tuple[float, float, float]
    camera_rotation: tuple[float, float, float]
    color_shift: tuple[float, ...]
    light_tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    headlight: float = 0.15
    shadows: bool = False
    camera_moved: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_turned: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Task:
    """One episode. `objects[0]` is the one meant."""

    family: str
    seed: int
    goal: Goal
    instruction: str
    objects: tuple[TableObject, ...]
    pad: tuple[float, float]
    bowl: tuple[float, float]
    home_offset: tuple[float, float, float]
    appearance: Appearance = field(repr=False)
    distractors: tuple[Distractor, ...] = ()
    knock: Knock | None = None

    @property
    def time_limit(self) -> float:
        return TIME_LIMIT[self.family]

    def index_of(self, goal: Goal) -> int:
        """Place in `objects` of the one that `goal` names.

        Raises:
            ValueError: there is none.
        """
        for i, item in enumerate(self.objects):
            if (item.color, item.shape) == (goal.color, goal.shape):
                return i
        raise ValueError(f"there is no {goal.color} {goal.shape} in this scene")


Kinds = list[tuple[str, str]]  # colour and shape of each object, the one meant first


def sample_task(
    family: str, seed: int, accepts: Callable[[Kinds], bool] = lambda kinds: True
) -> Task:
    """The task of `family` with this seed; equal arguments give equal tasks on every machine.

    Args:
        family: one of FAMILIES.
        seed: not negative.
        accepts: whether a task may have these objects; others are drawn until it may.

    Raises:
        ValueError: unknown family.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown task family '{family}': use one of {', '.join(FAMILIES)}")
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    while True:
        colors = rng.permutation(len(COLORS))[:3]
        kinds = [(COLORS[c], SHAPES[int(rng.integers(2))]) for c in colors]
        if accepts(kinds):
            break
    direction = DIRECTIONS[int(rng.integers(4))] if family == "push" else ""
    goal = Goal(family, *kinds[0], direction)
    places = _sample_places(rng, direction)
    objects = tuple(
        TableObject(
            color,
            shape,
            tuple(places[i]),
            float(rng.uniform(-0.25, 0.25)),
            (float(rng.uniform(0.019, 0.023)), float(rng.uniform(0.019, 0.024))),
        )
        for i, (color, shape) in enumerate(kinds)
    )
    return Task(
        family=family,
        seed=seed,
        goal=goal,
        instruction=phrase(goal, rng),
        objects=objects,
        pad=tuple(places[3]),
        bowl=tuple(places[4]),
        home_offset=tuple(rng.uniform(-0.04, 0.04, 3)),
        appearance=_sample_appearance(rng),
    )


def check_seeds(first: int, count: int) -> range:
    """The seeds of `count` tasks to evaluate a policy on, or to show it with.

    Raises:
        ValueError: none, or the training may have seen some.
    """
    if not 1 <= count <= _MOST_EPISODES:
        raise ValueError(f"--episodes is {count}: give 1 or more, {_MOST_EPISODES} at most")
    if first < 0 or first + count > FIRST_TRAINING_SEED:
        raise ValueError(
            f"seeds {first} to {first + count - 1} are not all from 0 to "
            f"{FIRST_TRAINING_SEED - 1}: those above are for training"
        )
    return range(first, first + count)


def _sample_places(rng: np.random.Generator, direction: str) -> np.ndarray:
    """Centres [5, 2] of three objects, the pad and the bowl, apart from each other.

    A pushed object gets room: nothing stands in its way nor where the tool must come down.
    """
    clearance = np.full((5, 5), 0.085)
    clearance[3, :] = clearance[:, 3] = 0.10
    clearance[4, :] = clearance[:, 4] = 0.12
    clearance[3, 4] = clearance[4, 3] = 0.13
    np.fill_diagonal(clearance, 0.0)
    while True:
        places = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH, (5, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        if (gaps < clearance).any():
            continue
        # The pad is flat: pushing over it is fine.
        if direction and not has_room(places[0], direction, places[[1, 2, 4]], (0.07, 0.07, 0.11)):
            continue
        return places


def has_room(
    place: np.ndarray, direction: str, others: np.ndarray, clearance: float | tuple[float, ...]
) -> bool:
    """Whether an object at `place` [2] can be pushed in `direction`, past `others` [n, 2] (m)."""
    vector = DIRECTION_VECTORS[direction]
    end = place + 0.11 * vector
    if (end < WORKSPACE_LOW - 0.03).any() or (end > WORKSPACE_HIGH + 0.06).any():
        return False
    steps = place + np.linspace(-0.09, 0.15, 9)[:, None] * vector
    free = np.linalg.norm(steps[:, None] - others[None], axis=-1)
    return not (free < np.array(clearance)).any()


def _sample_appearance(rng: np.random.Generator) -> Appearance:
    gray = rng.uniform(0.35, 0.75)
    return Appearance(
        table_rgb=tuple(np.clip(gray + rng.uniform(-0.08, 0.08, 3), 0, 1)),
        light_position=tuple(rng.uniform((-0.3, -1.0, 1.5), (1.5, 1.0, 2.5))),
        light_strength=float(rng.uniform(0.3, 0.6)),
        ambient=float(rng.uniform(0.25, 0.45)),
        camera_offset=tuple(rng.uniform(-0.015, 0.015, 3)),
        camera_rotation=tuple(rng.uniform(-0.02, 0.02, 3)),
        color_shift=tuple(rng.uniform(-0.07, 0.07, 3 * 5)),
    )


@dataclass
class Judge:
    """Decides success and failure from physics alone; call `update` at least every 0.05 s."""

    task: Task
    start: np.ndarray  # [n, 3] centres of objects, then distractors, at the start, m
    began: float  # s
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""
    _since: float | None = None

    def update(self, time: float, objects: np.ndarray, tool: np.ndarray, held: bool) -> Outcome:
        """Look at the world once.

        Args:
            time: s.
            objects: [n, 3] centres of the task's objects, then of its distractors, m, base frame.
            tool: [3] tool centre point, m, base frame.
            held: whether both fingers touch the task's object.
        """
        if self.outcome is not Outcome.RUNNING:
            return self.outcome
        failure = self._failure(objects)
        if failure:
            self.outcome, self.reason = Outcome.FAILED, failure
        elif self._fulfilled(objects, tool, held):
            self._since = time if self._since is None else self._since
            if time - self._since >= HOLD_TIME - 1e-6:
                self.outcome, self.reason = Outcome.SUCCEEDED, "fulfilled"
        else:
            self._since = None
        if self.outcome is Outcome.RUNNING and time - self.began >= self.task.time_limit:
            self.outcome = Outcome.FAILED
            self.reason = f"not fulfilled within {self.task.time_limit:g} s"
        return self.outcome

    def _failure(self, objects: np.ndarray) -> str:
        moved = np.linalg.norm(objects[:, :2] - self.start[:, :2], axis=1)
        names = [f"{item.color} {item.shape}" for item in self.task.objects]
        names += ["distractor"] * len(self.task.distractors)
        for i, name in enumerate(names):
            if objects[i, 2] < -0.02:
                return f"the {name} fell off the table"
            if i > 0 and moved[i] > DISTURBANCE:
                return f"the {name} was moved, which nobody asked for"
        return ""

    def _fulfilled(self, objects: np.ndarray, tool: np.ndarray, held: bool) -> bool:
        item, position = self.task.objects[0], objects[0]
        bottom = position[2] - item.half_extents[1]
        family = self.task.family
        if family == "reach":
            above = tool[2] - (position[2] + item.half_extents[1])
            near = np.linalg.norm(tool[:2] - position[:2]) < 0.03
            return bool(near and 0.015 < above < 0.09)
        if family == "push":
            shift = position[:2] - self.start[0, :2]
            along = shift @ DIRECTION_VECTORS[self.task.goal.direction]
            across = np.abs(shift @ DIRECTION_VECTORS[self.task.goal.direction][::-1])
            return bool(along >= PUSH_DISTANCE and across < 0.045 and bottom < 0.02)
        if family == "pick":
            return bool(held and bottom >= LIFT_HEIGHT)
        if family == "pad":
            near = np.linalg.norm(position[:2] - np.array(self.task.pad)) < PAD_RADIUS
            return bool(near and bottom < 0.015 and not held)
        near = np.linalg.norm(position[:2] - np.array(self.task.bowl)) < BOWL_RADIUS
        return bool(near and bottom < 0.03 and not held)
