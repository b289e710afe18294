"""Where an imagination begins: what the world model saw, and what really came if that is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vla_ros.images import is_picture, pixels_of_file, rgb
from vla_ros.models.genie.genie import Dream, WorldModel
from vla_ros.observations import preprocess_image
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.tasks import check_seeds, sample_task
from vla_ros.training.data.clips import stride_of
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.recordings import Robot
from vla_ros.training.genie_robot_actions import plan
from vla_ros.training.genie_videos import record, wandering_expert
from vla_ros.training.rollout import Observation, Rollout

_SEEN = 8  # frames that are watched at most; more than any part can see make no difference
_FASTEST = 1000.0  # frames a second of a video; more is a damaged one
_BEGIN = 1.0  # s into an episode
_TOOL = ("tool_x", "tool_y", "tool_z")
_ACTION = ActionConfig.get_arm_config()


@dataclass(frozen=True)
class Start:
    """Frames are uint8 [S, S, 3], as the model sees them, and its `dt` apart.

    Args:
        name: of the source, for people.
        seen: [T, S, S, 3], one or more.
        real: [H, S, S, 3], what came then; H is 0 where nobody knows.
        actions: [H * P, A], what the robot was told to do then; offsets from where its tool was.
        proprioception: [F], felt at the last frame seen.
    """

    name: str
    seen: np.ndarray
    real: np.ndarray
    actions: np.ndarray | None = None
    proprioception: np.ndarray | None = None

    def watched(self, world: WorldModel) -> Dream:
        """A session that has seen the frames."""
        dream = world.start()
        for frame in self.seen:
            dream.observe(frame)
        return dream


# -- from files ------------------------------------------------------------------------------------


def of_files(paths: Sequence[Path], world: WorldModel) -> Start:
    """What pictures in a row, or the end of one video, show.

    Raises:
        ValueError: a file cannot be read, or shows less than the model sees.
        OSError: it is not there.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    if len(paths) == 1 and not _is_picture(paths[0]):
        seen = _of_video(paths[0], world.config.dt)
    else:
        seen = [_of_picture(path) for path in paths[-_SEEN:]]
    scaled = np.stack([_scaled(picture, world, str(paths[-1])) for picture in seen])
    return Start(paths[-1].name, scaled, scaled[:0])


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return is_picture(file.read(16))


def _of_picture(path: Path) -> np.ndarray:
    """RGB, as a camera's message of the same bytes would be read."""
    if not _is_picture(path):
        raise ValueError(f"{path} is no picture: give pictures (PNG, JPEG), or one video")
    try:
        return rgb(pixels_of_file(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _of_video(path: Path, dt: float) -> list[np.ndarray]:
    """The last frames, RGB, `dt` apart; not turned, as no picture is."""
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    rate = video.get(cv2.CAP_PROP_FPS)
    if not 0 < rate <= _FASTEST:
        raise ValueError(f"{path} is neither a picture nor a video that can be read")
    stride = rate * dt  # of its frames to each of the model's, in fractions
    frames: deque[np.ndarray] = deque(maxlen=round(stride * _SEEN) + 1)
    while (read := video.read())[0]:
        frames.append(read[1])
    video.release()
    if not frames:
        raise ValueError(f"{path} is neither a picture nor a video that can be read")
    back = np.round(stride * np.arange(_SEEN)).astype(int)
    return [rgb(frames[-1 - i]) for i in back[back < len(frames)][::-1]]


# -- from episodes ---------------------------------------------------------------------------------


def recorded_episodes(paths: Sequence[Path], robot: str) -> Iterator[Episode]:
    """Episodes of recordings. Raises ValueError: see `Robot.episodes`."""
    return (e for e in Robot.load(robot).episodes(paths) if len(e))


def simulated_episodes(
    first: int, count: int, family: str | None, world: WorldModel, *, wander: bool
) -> Iterator[Episode]:
    """Episodes of the simulated arm with an expert, of seeds that no training has seen.

    Args:
        first: seed of the first.
        count: how many.
        family: of all tasks; None: they take turns.
        wander: the expert is driven off its way now and then, as in training.

    Raises:
        ValueError: wrong seeds.
    """
    seeds = check_seeds(first, count)
    arm = ArmWorld()
    rollout = Rollout(arm, image_size=world.image_size, dt=_ACTION.dt)

    def expert(_: Observation) -> np.ndarray:
        return expert_chunk(arm, _ACTION.horizon, _ACTION.dt)

    try:
        for number, seed in enumerate(seeds):
            task = sample_task(family or FAMILIES[number % len(FAMILIES)], seed)
            actor = wandering_expert(arm, np.random.default_rng(seed)) if wander else expert
            yield record(rollout, task, actor, name=f"{task.instruction} (seed {seed})")
    finally:
        arm.close()


def of_episode(
    episode: Episode, at: float | None, horizon: int, world: WorldModel, *, acted: bool = False
) -> Start:
    """The frames of an episode until `at`, and what came then.

    Args:
        at: s into the episode; None for 1 s, or less where the episode is shorter.
        horizon: frames that came then; 0 if they are not asked for.
        acted: with what the robot was told to do then.

    Raises:
        ValueError: the episode is too short or has no such camera; or, if `acted`, the model does
            not know such a robot's actions.
    """
    if acted:
        _check_robot(episode, world)
    stride = stride_of(episode, world.config.dt)
    latest = len(episode) - 1 - horizon * stride
    begin = min(round(_BEGIN / episode.dt), latest) if at is None else round(at / episode.dt)
    if not 0 <= begin <= latest:
        raise ValueError(
            f"{episode.name} has {len(episode) * episode.dt:.1f} s: too few for {horizon} frames, "
            f"{world.config.dt:g} s apart, after {max(0, begin) * episode.dt:.1f} s"
        )
    first = begin - stride * min(_SEEN - 1, begin // stride)
    frames = frames_of(episode, world, first, begin + horizon * stride + 1)
    seen, real = np.split(frames, [1 + (begin - first) // stride])
    if not acted:
        return Start(episode.name, seen, real)
    actions = plan(episode, begin, horizon * stride)
    return Start(episode.name, seen, real, actions, episode.proprioception[begin])


def _check_robot(episode: Episode, world: WorldModel) -> None:
    known = world.config.robot
    if known is None:
        raise ValueError("this world model was trained without robot actions: give latent ones")
    for what, given, wanted in (
        ("actions", episode.action_names, known.action_names),
        ("control mode", episode.control_mode, known.control_mode),
        ("proprioception", episode.proprioception_names, known.proprioception_names),
        ("actions in a frame", stride_of(episode, world.config.dt), known.points),
    ):
        if given != wanted:
            raise ValueError(
                f"{episode.name}: its {what} {_said(given)}, the world model's {_said(wanted)}"
            )


def _said(value: Any) -> str:
    return "are " + (", ".join(value) or "none") if isinstance(value, tuple) else f"is {value}"


def frames_of(
    episode: Episode, world: WorldModel, first: int = 0, last: int | None = None, step: int = 0
) -> np.ndarray:
    """Frames `first`, ... before `last` of an episode as the model sees them, [T, S, S, 3].

    Args:
        step: how many frames of the episode to go on; 0 for the model's `dt`.

    Raises:
        ValueError: the episode has no such camera or frames, or too small ones.
    """
    step = step or stride_of(episode, world.config.dt)
    pictures = episode.frames(world.config.camera, first, last)
    return np.stack(
        [_scaled(picture, world, episode.name) for picture in islice(pictures, 0, None, step)]
    )


def _scaled(picture: np.ndarray, world: WorldModel, name: str) -> np.ndarray:
    try:
        return preprocess_image(picture, world.image_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


# -- what latent actions do ------------------------------------------------------------------------


@dataclass(frozen=True)
class Motions:
    """What the tool did in the steps whose inferred latent action is a code.

    Args:
        steps: int64 [codes], how many there were.
        mean: float [codes, 3], m in the base frame; NaN where there were none.
    """

    steps: np.ndarray
    mean: np.ndarray


def motions(episodes: Sequence[Episode], world: WorldModel) -> Motions | None:
    """Of all steps of the episodes; None if one does not tell where its tool is."""
    codes, moved = [], []
    for episode in episodes:
        names = episode.proprioception_names
        if not set(_TOOL) <= set(names):
            return None
        tool = episode.proprioception[:, [names.index(name) for name in _TOOL]]
        frames = frames_of(episode, world, step=1)
        stride = stride_of(episode, world.config.dt)
        for phase in range(stride):
            if len(part := frames[phase::stride]) > 1:
                codes.append(_inferred(part, world))
                moved.append(np.diff(tool[phase::stride], axis=0))
    found = np.concatenate([np.zeros(0, np.int64), *codes])
    where = np.concatenate([np.zeros((0, 3)), *moved])
    steps = np.bincount(found, minlength=world.codes)
    sums = [np.bincount(found, weights=axis, minlength=world.codes) for axis in where.T]
    with np.errstate(invalid="ignore"):
        return Motions(steps, np.stack(sums, axis=1) / steps[:, None])


@torch.inference_mode()
def _inferred(frames: np.ndarray, world: WorldModel) -> np.ndarray:
    """Latent actions int64 [T - 1] between frames [T, S, S, 3]."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    _, codes, _ = world.latent_actions(pixels)
    return codes[0].numpy()
