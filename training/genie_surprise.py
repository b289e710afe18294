"""Finds what surprise is usual, so that what is unusual can be told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from vla_ros.models.genie.genie import Observed, WorldModel
from vla_ros.models.genie.surprise import calibrated
from vla_ros.training.data.clips import Clips
from vla_ros.training.data.episode import Episode
from vla_ros.training.genie_robot_actions import plan

_FRAMES = 6000  # that a calibration takes at most


def watch(
    world: WorldModel, clips: Clips, number: int, phase: int = 0
) -> Iterator[tuple[int, Observed]]:
    """Let a world model see an episode as a robot would, told what the robot was told.

    Args:
        clips: at the world model's period.
        number: of the episode.
        phase: its first frame that is seen.

    Yields:
        Each frame after that, by its place in the episode, and what it told.
    """
    episode, stride = clips.episodes[number], clips.strides[number]
    index = np.arange(phase, len(episode), stride)
    dream = world.start()
    for i, frame in zip(index.tolist(), clips.frames(number, index), strict=True):
        told = _told(world, episode, i - stride, stride) if i > phase else {}
        observed = dream.observe(frame, **told)
        if i > phase:
            yield i, observed


def _told(world: WorldModel, episode: Episode, begin: int, stride: int) -> dict:
    if world.robot is None or not episode.action_names:
        return {}
    return {
        "actions": plan(episode, begin, stride),
        "proprioception": episode.proprioception[begin],
    }


def calibrate(world: WorldModel, episodes: Sequence[Episode]) -> None:
    """Set the calibration of a world model's surprise.

    Args:
        world: whose configuration gets it.
        episodes: in which all goes well and which it was not trained on; as many of them are seen
            as it takes.

    Raises:
        ValueError: they are too short together.
    """
    clips = Clips(episodes, world.config.camera, world.config.dt)
    order = sorted(range(len(clips.rows)), key=lambda row: clips.rows[row, 1])  # by phase
    seen = (o for row in order for _, o in watch(world, clips, *clips.rows[row, :2].tolist()))
    found = [observed.unexpected for observed in islice(seen, _FRAMES)]
    world.config = replace(world.config, calibration=calibrated(found))
