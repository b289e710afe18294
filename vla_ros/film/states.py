"""What is kept of an episode while the robot moves, which costs it next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vla_ros.observations import preprocess_image
from vla_ros.sim.arm import CAMERAS, TICK
from vla_ros.sim.tasks import Outcome, Task
from vla_ros.sim.truth import Witness

if TYPE_CHECKING:
    from vla_ros.nodes.sim_robot import SimRobot

FRAMES_PER_SECOND = 10
VIEW = 64  # pixels of either side of what is kept of the camera's frames


class View(NamedTuple):
    """What the robot's front camera showed, and how the arm stood then."""

    time: float  # s
    frame: np.ndarray  # uint8 RGB [H, W, 3]
    joints: np.ndarray  # [D], rad and m


@dataclass
class Recording:
    """One episode: at every frame of the film the time (s), the world's positions, what the judge
    says; and at every frame of the camera what it showed. It `began` at a time of its own, s."""

    task: Task
    began: float = 0.0
    times: list[float] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    views: list[View] = field(default_factory=list)

    def select(self, chosen: Sequence[int]) -> None:
        """Keep these frames of the film."""
        self.times = [self.times[k] for k in chosen]
        self.states = [self.states[k] for k in chosen]
        self.outcomes = [self.outcomes[k] for k in chosen]


class Recorder:
    """The simulated robot's `hook`: a recording for every task that the robot is given.

    `witness` sees what is true at every frame of the cameras.
    """

    def __init__(self, robot: SimRobot) -> None:
        self._robot = robot
        self._judge = robot.world.judge
        self.recordings: list[Recording] = []
        self.witness = Witness()
        self._pictures = robot.pictures
        robot.hook = self._record

    def _record(self) -> None:
        world = self._robot.world
        begins = world.judge is not self._judge
        if begins:
            self._judge = world.judge
            self.recordings.append(Recording(world.task, world.time))
        if not self.recordings:
            return
        if self._is_due(self._robot.params.camera_rate):
            self.witness.look(world)
        if self._robot.pictures is not self._pictures:  # of this tick
            self._pictures = self._robot.pictures
            frame = preprocess_image(self._pictures[CAMERAS[0]], VIEW)
            self.recordings[-1].views.append(View(world.time, frame, world.joint_positions()))
        if begins or self._is_due(FRAMES_PER_SECOND):
            self.recordings[-1].times.append(world.time)
            self.recordings[-1].states.append(world.data.qpos.copy())
            self.recordings[-1].outcomes.append(world.outcome)

    def _is_due(self, rate: float) -> bool:
        return self._robot.ticks % round(1 / (rate * TICK)) == 0
