"""One recorded episode, whatever it was recorded in; its pictures are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from vla_ros.observations import CameraCalibration, CameraFrame, camera_frame

# read(first, last) -> the frames first .. last - 1 of one camera, in order, decoded one by one
FrameReader = Callable[[int, int], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Episode:
    """T frames of one robot following one instruction.

    Only the small arrays are in memory. Pictures come from the source at each call of `frames` and
    `depth`, so an episode may be longer than memory, and read by several processes if its source's
    readers are.

    Args:
        name: source and place in it, for messages.
        robot: the robot's kind or name; empty if the source does not tell.
        control_mode: what an action is, as in `ActionConfig`.
        instruction: empty if nobody gave one.
        dt: s between frames, nominal.
        action_names: what each of the A numbers of an action is.
        proprioception_names: what each of the P numbers felt is.
        stamps: float64 [T], s, when each frame was seen; increasing.
        proprioception: float32 [T, P], known by then.
        actions: float32 [T, A], decided on that frame.
        pictures: a reader of each camera's RGB pictures.
        depths: a reader of depth pictures, for those cameras that have depth; registered to the
            camera's own.
        calibrations: of the pictures of those cameras of which it is known.
        outcome: whether the instruction was fulfilled; None: not known.
        notes: what the source left out or mended, for people.
        actions_known: bool [T], which of the actions were really decided; all by default. The
            others repeat the one before (at first: zeros), and nobody may learn them.

    Raises:
        ValueError: sizes disagree, a number is not finite, or stamps do not increase.
    """

    name: str
    robot: str
    control_mode: str
    instruction: str
    dt: float
    action_names: Sequence[str]
    proprioception_names: Sequence[str]
    stamps: np.ndarray
    proprioception: np.ndarray
    actions: np.ndarray
    pictures: Mapping[str, FrameReader] = field(repr=False)
    depths: Mapping[str, FrameReader] = field(default_factory=dict, repr=False)
    outcome: bool | None = None
    notes: tuple[str, ...] = ()
    actions_known: np.ndarray | None = None
    calibrations: Mapping[str, CameraCalibration] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        length = len(self.stamps)
        known = np.ones(length, bool) if self.actions_known is None else self.actions_known
        known = np.asarray(known, dtype=bool)
        if known.shape != (length,):
            raise ValueError(f"{self.name}: actions_known are {list(known.shape)}, not [{length}]")
        object.__setattr__(self, "actions_known", known)
        if not known.all():
            object.__setattr__(self, "actions", _filled(self.actions, known))
        for what, shape in (
            ("stamps", (length,)),
            ("proprioception", (length, len(self.proprioception_names))),
            ("actions", (length, len(self.action_names))),
        ):
            kind = np.float64 if what == "stamps" else np.float32
            array = np.asarray(getattr(self, what), dtype=kind)
            if array.shape != shape:
                raise ValueError(f"{self.name}: {what} are {list(array.shape)}, not {list(shape)}")
            if not np.isfinite(array).all():
                frame = int(np.argwhere(~np.isfinite(array))[0][0])
                raise ValueError(f"{self.name}: {what} hold NaN or infinity in frame {frame}")
            object.__setattr__(self, what, array)
        object.__setattr__(self, "action_names", tuple(self.action_names))
        object.__setattr__(self, "proprioception_names", tuple(self.proprioception_names))
        if not self.dt > 0.0:
            raise ValueError(f"{self.name}: dt is {self.dt}: give the seconds between frames")
        if length and np.diff(self.stamps).min(initial=np.inf) <= 0.0:
            frame = int(np.argmax(np.diff(self.stamps) <= 0.0)) + 1
            raise ValueError(f"{self.name}: stamps do not increase at frame {frame}")
        if unknown := set(self.calibrations) - set(self.pictures):
            names = ", ".join(sorted(unknown))
            raise ValueError(f"{self.name}: camera_info of unknown cameras {names}")
        if unknown := set(self.depths) - set(self.pictures):
            raise ValueError(f"{self.name}: depth of unknown cameras {', '.join(sorted(unknown))}")

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self.pictures)

    def frames(self, camera: str, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Pictures `first` .. `last` - 1 (default: all) as uint8 [H, W, 3] RGB, as recorded.

        Raises:
            ValueError: no such camera or frame, or the source broke off.
        """
        return self._read(self.pictures, "camera", camera, first, last)

    def depth(self, camera: str, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Depths `first` .. `last` - 1 as float32 [H, W], m; NaN where nothing was measured.

        Raises:
            ValueError: no such depth camera or frame, or the source broke off.
        """
        return self._read(self.depths, "depth camera", camera, first, last)

    def camera_frames(
        self,
        cameras: Sequence[str],
        size: int,
        needs: Collection[str] = (),
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[list[CameraFrame]]:
        """Frames `first` .. `last` - 1 of some cameras, as a model takes them: see
        `observations.camera_frame`.

        Raises:
            ValueError: something that is needed was not recorded, or does not fit; the camera and
                the cure are named. What was recorded of depth is nothing, in all of the frames.
        """
        self.require(cameras, needs)
        pictures = [self.frames(camera, first, last) for camera in cameras]
        with_depth = "depth" in needs
        depths = [self.depth(camera, first, last) for camera in cameras] if with_depth else []
        measured = np.zeros(len(cameras), bool)
        for images in zip(*pictures, strict=True):
            found = []
            for index, (camera, image) in enumerate(zip(cameras, images, strict=True)):
                depth = next(depths[index]) if with_depth else None
                try:
                    frame = camera_frame(image, size, needs, depth, self.calibrations.get(camera))
                except ValueError as error:
                    raise ValueError(f"{self.name}: {camera}: {error}") from None
                found.append(frame)
                measured[index] |= with_depth and bool(np.isfinite(frame.depth).any())
            yield found
        if with_depth and not measured.all():
            blind = ", ".join(c for c, known in zip(cameras, measured, strict=True) if not known)
            raise ValueError(
                f"{self.name}: the depth of {blind} was measured nowhere in all of its frames: all "
                "is 0, NaN or infinite; record it again with depth switched on, or leave it out"
            )

    def require(self, cameras: Sequence[str], needs: Collection[str]) -> None:
        """Raises ValueError if depth or calibration of a camera is needed and was not recorded."""
        for what, there, cure in (
            ("depth", self.depths, "under depth of `bag`, or depths of `rlds`,"),
            ("intrinsics", self.calibrations, "under camera_info, or of `bag`,"),
        ):
            missing = [name for name in cameras if name not in there]
            if what in needs and missing:
                name = "camera_info" if what == "intrinsics" else what
                raise ValueError(
                    f"{self.name} has no {name} of {', '.join(missing)}, which the policy's "
                    f"geometry needs: name it {cure} in the robot's file, or take a policy that "
                    "sees images alone"
                )

    def _read(
        self,
        readers: Mapping[str, FrameReader],
        what: str,
        camera: str,
        first: int,
        last: int | None,
    ) -> Iterator[np.ndarray]:
        if camera not in readers:
            there = ", ".join(readers) or "none"
            raise ValueError(f"{self.name} has no {what} {camera!r}; it has: {there}")
        last = len(self) if last is None else last
        if not 0 <= first <= last <= len(self):
            raise ValueError(f"{self.name} has frames 0 to {len(self)}, not {first} to {last}")
        return self._counted(readers[camera](first, last), camera, last - first)

    def _counted(
        self, pictures: Iterator[np.ndarray], camera: str, wanted: int
    ) -> Iterator[np.ndarray]:
        """A source that ends early would shift every later picture against its action."""
        count = 0
        for picture in islice(pictures, wanted):
            count += 1
            yield picture
        if count < wanted:
            raise ValueError(f"{self.name}: {camera} ended after {count} of {wanted} pictures")


def _filled(actions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`actions` [T, A], those that are not known repeating the one before."""
    before = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    return np.where((before >= 0)[:, None], np.asarray(actions)[before], 0.0)
