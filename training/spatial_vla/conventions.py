"""What the numbers of a public dataset's actions mean, and the same motions by one convention.

Datasets differ in what an action is (a motion, a place to go to, or nothing that can be relied on,
so that it is taken from the states reached), in the frame it is told in, in how it says a rotation
and in the sign of its gripper. All become: x, y, z in m and roll, pitch, yaw in rad, from one step
to the next in the robot's base frame, and a gripper from 0 (closed) to 1 (open).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.models.spatial_vla.layout import SPATIAL
from vla_ros.training.data.episode import Episode

CONTROL_MODE = "end_effector_delta"
Places = Sequence[int | None]


def _rotation_of_euler(angles: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw [T, 3] about the fixed axes x, y, z to matrices [T, 3, 3]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def euler(matrices: np.ndarray) -> np.ndarray:
    """Matrices [T, 3, 3] to roll, pitch, yaw [T, 3]; at a pitch of 90 degrees, a yaw of 0."""
    flat = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    pitch = np.arctan2(-matrices[:, 2, 0], flat)
    locked = flat < 1e-9
    roll = np.where(
        locked,
        np.arctan2(-matrices[:, 1, 2], matrices[:, 1, 1]),
        np.arctan2(matrices[:, 2, 1], matrices[:, 2, 2]),
    )
    yaw = np.where(locked, 0.0, np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    return np.stack([roll, pitch, yaw], -1)


def _rotation_of_axis_angle(values: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(values, axis=-1, keepdims=True)
    x, y, z = (values / np.where(angle > 0, angle, 1)).T
    zero = np.zeros_like(x)
    cross = np.moveaxis(np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]), -1, 0)
    angle = angle[..., None]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _rotation_of_quaternion(values: np.ndarray) -> np.ndarray:
    """x, y, z, w; of any length but zero, which is taken as no rotation."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    unit = np.where(length > 0, values / np.where(length > 0, length, 1), [0, 0, 0, 1])
    vector, w = unit[:, :3], unit[:, 3:]
    half = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(half, w)
    return _rotation_of_axis_angle(vector / np.where(half > 0, half, 1) * angle)


def _rotation_of_6d(values: np.ndarray) -> np.ndarray:
    """The first two columns of the matrix, made perpendicular."""
    one, two = values[:, :3], values[:, 3:]
    one = one / np.linalg.norm(one, axis=-1, keepdims=True)
    two = two - (one * two).sum(-1, keepdims=True) * one
    two = two / np.linalg.norm(two, axis=-1, keepdims=True)
    return np.stack([one, two, np.cross(one, two)], -1)


# Representation -> how many numbers, and the rotation's matrix of them.
ROTATIONS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "euler": (3, _rotation_of_euler),
    "axis_angle": (3, _rotation_of_axis_angle),
    "quaternion_xyzw": (4, _rotation_of_quaternion),
    "quaternion_wxyz": (4, lambda values: _rotation_of_quaternion(values[:, [1, 2, 3, 0]])),
    "rotation_6d": (6, _rotation_of_6d),
}
# delta: a motion. velocity: one for a second. absolute: a place to be at after the step. reached:
# the action is not read, the difference of the states is.
MOTIONS = ("delta", "velocity", "absolute", "reached")
FRAMES = ("base", "tool")
# absolute: a number for closed and one for open. toggle: above 0.1 begins to close, below -0.1 to
# open, what is between keeps on. none: always `value`.
GRIPPERS = ("absolute", "toggle", "none")


@dataclass(frozen=True)
class Gripper:
    """A gripper's number.

    Args:
        kind: one of `GRIPPERS`.
        place: which of the action's numbers it is; of the state's where `of_state`.
        closed, open: its numbers; what is beyond or between is cut off, or in proportion.
        decide: whether what is between 0.05 and 0.95 of the way is moving, and becomes what it
            comes to.
        value: of a gripper that there is none of.
        of_state: the number is the state's.
    """

    kind: str = "absolute"
    place: int = -1
    closed: float = 0.0
    open: float = 1.0
    decide: bool = False
    value: float = 1.0
    of_state: bool = False

    def __post_init__(self) -> None:
        if self.kind not in GRIPPERS:
            raise ValueError(f"gripper.kind is {self.kind!r}: choose of {', '.join(GRIPPERS)}")
        if self.kind == "absolute" and self.closed == self.open:
            raise ValueError(f"gripper.closed and gripper.open are both {self.open}")


@dataclass(frozen=True)
class Convention:
    """What a dataset's actions are. Places count the numbers of its action features, one feature
    after the other; those of a state its state features.

    Args:
        motion: one of `MOTIONS`.
        translation: places of x, y, z; None: it has none, and does not move there.
        rotation: places of its rotation; () for none.
        rotation_as: one of `ROTATIONS`.
        frame: "base", or "tool" where motions are told in the frame that the state's rotation is.
        metres: what a unit of translation is, in m; radians: one of euler or axis_angle, in rad.
        gripper: see `Gripper`.
        state_translation, state_rotation, state_rotation_as: the tool's place in the base frame,
            which absolute and reached motions, and those in the tool's frame, are told from.
        first: steps at the beginning that are no demonstration.

    Raises:
        ValueError: places or names that do not go together.
    """

    motion: str = "delta"
    translation: Places = (0, 1, 2)
    rotation: Places = (3, 4, 5)
    rotation_as: str = "euler"
    frame: str = "base"
    metres: float = 1.0
    radians: float = 1.0
    gripper: Gripper = Gripper()
    state_translation: Places = ()
    state_rotation: Places = ()
    state_rotation_as: str = "euler"
    first: int = 0

    def __post_init__(self) -> None:
        for name, there in (
            ("motion", MOTIONS),
            ("frame", FRAMES),
            ("rotation_as", tuple(ROTATIONS)),
            ("state_rotation_as", tuple(ROTATIONS)),
        ):
            if (value := getattr(self, name)) not in there:
                raise ValueError(f"{name} is {value!r}: choose of {', '.join(there)}")
        for name, kind in (("rotation", "rotation_as"), ("state_rotation", "state_rotation_as")):
            count, wanted = len(getattr(self, name)), ROTATIONS[getattr(self, kind)][0]
            if count not in (0, wanted):
                raise ValueError(
                    f"{name} names {count} numbers, {getattr(self, kind)} has {wanted}"
                )
        for name in ("translation", "state_translation"):
            if len(getattr(self, name)) not in (0, 3):
                raise ValueError(f"{name} names {len(getattr(self, name))} numbers: give x, y, z")
        if self.motion in ("absolute", "reached") and len(self.state_translation) != 3:
            raise ValueError(f"motion {self.motion} needs state_translation, where the tool is")
        turns = self.motion in ("absolute", "reached") and len(self.rotation)
        if (turns or self.frame == "tool") and not len(self.state_rotation):
            raise ValueError(f"motion {self.motion} in frame {self.frame} needs state_rotation")

    def motions(
        self, actions: np.ndarray, states: np.ndarray, dt: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions [T, A] and states [T, P] of an episode as motions [T, 7], and which are known.

        Raises:
            ValueError: there are fewer numbers than places.
        """
        actions, states = (np.asarray(each, dtype=np.float64) for each in (actions, states))
        known = np.ones(len(actions), bool)
        moved = _columns(actions, self.translation, "translation") * self.metres
        turned = self._matrices(actions, "rotation", self.rotation_as)
        if self.motion == "velocity":
            moved = moved * dt
            angles = _columns(actions, self.rotation, "rotation") * self.radians * dt
            turned = ROTATIONS[self.rotation_as][1](angles) if len(self.rotation) else turned
        elif self.motion != "delta":
            place = _columns(states, self.state_translation, "state_translation") * self.metres
            way = self._matrices(states, "state_rotation", self.state_rotation_as)
            if self.motion == "reached":
                moved, turned = place, way if len(self.rotation) else turned
                moved, turned = np.roll(moved, -1, 0), np.roll(turned, -1, 0)
                known[-1:] = False
            moved = moved - place
            if len(self.rotation):
                turned = turned @ way.swapaxes(1, 2)
            moved[~known], turned[~known] = 0.0, np.eye(3)
        if self.frame == "tool" and self.motion in ("delta", "velocity"):
            way = self._matrices(states, "state_rotation", self.state_rotation_as)
            moved = (way @ moved[..., None])[..., 0]
            turned = way @ turned @ way.swapaxes(1, 2)
        gripper = self._gripper(actions, states)
        return np.concatenate([moved, euler(turned), gripper[:, None]], axis=1), known

    def _matrices(self, values: np.ndarray, name: str, kind: str) -> np.ndarray:
        places = getattr(self, name)
        if not len(places):
            return np.broadcast_to(np.eye(3), (len(values), 3, 3)).copy()
        numbers = _columns(values, places, name)
        return ROTATIONS[kind][1](numbers * (self.radians if kind in _ANGLES else 1.0))

    def _gripper(self, actions: np.ndarray, states: np.ndarray) -> np.ndarray:
        told = self.gripper
        if told.kind == "none":
            return np.full(len(actions), told.value)
        values = states if told.of_state else actions
        place = told.place + values.shape[1] if told.place < 0 else told.place
        number = _columns(values, (place,), "gripper")[:, 0]
        if told.kind == "toggle":
            return toggled(number)
        opened = np.clip((number - told.closed) / (told.open - told.closed), 0.0, 1.0)
        return decided(opened) if told.decide else opened


_ANGLES = ("euler", "axis_angle")
_SURE = 0.05  # of the way from closed to open
_TOGGLED = 0.1


def decided(opened: np.ndarray) -> np.ndarray:
    """0 or 1 for what is on its way: what it comes to next; at the end, the nearer."""
    sure = (opened < _SURE) | (opened > 1 - _SURE)
    after = np.where(sure, np.arange(len(opened)), len(opened))
    after = np.minimum.accumulate(after[::-1])[::-1]
    padded = np.append(opened, opened[-1:])
    return (padded[np.minimum(after, len(opened))] > 0.5).astype(np.float64)


def toggled(number: np.ndarray) -> np.ndarray:
    """0 or 1 of commands to close (above 0.1) and open (below -0.1): what was told last. Before
    the first, the opposite of it; without any, open."""
    told = np.where(number > _TOGGLED, 0.0, np.where(number < -_TOGGLED, 1.0, np.nan))
    begins = np.flatnonzero(~np.isnan(told))
    if not len(begins):
        return np.ones(len(number))
    before = np.maximum.accumulate(np.where(np.isnan(told), -1, np.arange(len(told))))
    return np.where(before < 0, 1.0 - told[begins[0]], told[np.maximum(before, 0)])


def converted(episode: Episode, convention: Convention, codes: int = 0) -> Episode:
    """An episode by this package's convention; it keeps no state.

    Args:
        codes: how many numbers at the end of the state are an instruction, character by character,
            0 from its end on.

    Raises:
        ValueError: there are fewer numbers than the convention tells of, or nothing is left.
    """
    states = np.asarray(episode.proprioception)
    instruction = episode.instruction
    if codes:
        letters = states[0, states.shape[1] - codes :].astype(np.int64)
        instruction = "".join(chr(code) for code in letters if code > 0).strip()
        states = states[:, : states.shape[1] - codes]
    try:
        motions, known = convention.motions(episode.actions, states, episode.dt)
    except ValueError as error:
        raise ValueError(f"{episode.name}: {error}") from None
    first = min(convention.first, len(motions))

    def later(readers):
        return {name: _Later(reader, first) for name, reader in readers.items()}

    return replace(
        episode,
        control_mode=CONTROL_MODE,
        instruction=instruction,
        action_names=SPATIAL,
        proprioception_names=(),
        stamps=episode.stamps[first:],
        proprioception=np.zeros((len(motions) - first, 0)),
        actions=motions[first:],
        actions_known=(known & episode.actions_known)[first:],
        pictures=later(episode.pictures),
        depths=later(episode.depths),
    )


@dataclass(frozen=True)
class _Later:
    """Frames of a reader from one on."""

    reader: Callable
    first: int

    def __call__(self, first: int, last: int):
        return self.reader(first + self.first, last + self.first)


def _columns(values: np.ndarray, places: Places, name: str) -> np.ndarray:
    """[T, n] of values [T, A]; 0 where a place is None."""
    highest = max((place for place in places if place is not None), default=-1)
    if highest >= values.shape[1] or any(p is not None and p < 0 for p in places):
        raise ValueError(f"{name} is at {list(places)}, and there are {values.shape[1]} numbers")
    zero = np.zeros(len(values))
    found = [zero if place is None else values[:, place] for place in places]
    return np.stack(found, axis=1) if found else np.zeros((len(values), 3))
