"""Task families on the table: sampled layouts and instructions."""

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
STILL_TIME = 3.0  # s that nothing may move after an instruction that is to be refused
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
    """A coloured cube or cylinder; `half_extents` (radial, vertical) and `position` in metres.

    `height` (m) is that of what it stands on, above the table.
    """

    color: str
    shape: str
    position: tuple[float, float]
    yaw: float
    half_extents: tuple[float, float]
    height: float = 0.0


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
    """One episode. `objects[0]` is the one meant.

    `goals`, if there are several, are to be reached one after the other; the first is `goal`. What
    is to be `refused` cannot be done in this scene, and nothing may move.
    """

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
    goals: tuple[Goal, ...] = ()
    refused: bool = False

    @property
    def steps(self) -> tuple[Goal, ...]:
        """The goals in their order; one for most tasks."""
        return self.goals or (self.goal,)

    @property
    def time_limit(self) -> float:
        """Simulated s."""
        if self.refused:
            return STILL_TIME
        return sum(TIME_LIMIT[goal.family] for goal in self.steps)

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
