"""The control loop of the live stack, run offline in simulated time.

Camera frames at 20 Hz, an action chunk for each, the command gate at 50 Hz and on every chunk, the
joint trajectory controller at 100 Hz: the same objects the ROS nodes use, without ROS between them,
so that what is trained and evaluated here is what runs there. The time the live stack needs from
frame to command is modelled as a latency in controller ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.observations import (
    CameraCalibration,
    CameraFrame,
    camera_frame,
    proprioception,
)
from vla_ros.robots import panda
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.safety.gate import Chunk, CommandGate, GateConfig
from vla_ros.sim.arm import CAMERAS, ArmWorld
from vla_ros.sim.tasks import Outcome, Task
from vla_ros.training.scenarios import check_latency

FRAME_TICKS = 5  # camera period in controller ticks: 20 Hz
GATE_TICKS = 2  # gate period in controller ticks: 50 Hz


@dataclass(frozen=True)
class Observation:
    """What the policy gets at one frame."""

    images: list[np.ndarray]  # one uint8 [size, size, 3] a camera, in the rollout's order
    proprioception: np.ndarray  # float32 [4]
    joints: np.ndarray  # float64 [8], rad and m
    frames: Sequence[CameraFrame] = ()  # of each camera, with `images`


# Takes the observation, returns the action chunk [K, 4] to execute.
Actor = Callable[[Observation], np.ndarray]


class Rollout:
    """Runs episodes of a world through kinematics, gate and controller.

    Args:
        world: the simulated robot.
        image_size: side of the square model input, pixels.
        dt: s between the points of an action chunk.
        latency_ticks: controller ticks from a frame to the arrival of its action chunk, see
            `check_latency`.
        cameras: those of CAMERAS that are looked through, in this order.
        needs: what of "depth" and "intrinsics" the policy takes beside images.
    """

    def __init__(
        self,
        world: ArmWorld,
        *,
        image_size: int,
        dt: float = 0.05,
        latency_ticks: int = 2,
        cameras: Sequence[str] = CAMERAS,
        needs: Collection[str] = (),
    ) -> None:
        self.world = world
        self.kinematics = ArmKinematics()
        self._image_size = image_size
        self._dt, self._cameras, self._needs = dt, cameras, needs
        self.focal_scale = 1.0  # by which camera_info is wrong
        self._calibrations: dict[tuple[str, float], CameraCalibration] = {}
        self.latency_ticks = latency_ticks
        self._gate_config = GateConfig(
            names=panda.JOINT_NAMES,
            lower=panda.LOWER,
            upper=panda.UPPER,
            velocity=panda.VELOCITY,
            margin=panda.MARGIN,
            tracking=panda.TRACKING,
        )

    def observe(self) -> Observation:
        joints = self.world.joint_positions()
        frames = [self._frame(camera) for camera in self._cameras]
        return Observation(
            images=[frame.image for frame in frames],
            proprioception=proprioception(joints, self.kinematics),
            joints=joints,
            frames=frames,
        )

    def _frame(self, camera: str) -> CameraFrame:
        depth = self.world.render(camera, depth=True) if "depth" in self._needs else None
        calibration = self.calibration(camera) if "intrinsics" in self._needs else None
        image = self.world.render(camera)
        return camera_frame(image, self._image_size, self._needs, depth, calibration)

    def calibration(self, camera: str) -> CameraCalibration:
        """What the simulated robot's camera_info says, its focal lengths times `focal_scale`."""
        key = camera, self.focal_scale
        if key not in self._calibrations:
            height, width = self.world.image_size
            matrix = self.world.intrinsics(camera)
            matrix[[0, 1], [0, 1]] *= self.focal_scale
            self._calibrations[key] = CameraCalibration(width, height, matrix)
        return self._calibrations[key]

    def run(
        self,
        task: Task,
        actor: Actor,
        *,
        max_seconds: float = float("inf"),
        tail_seconds: float = 0.0,
    ) -> Outcome:
        """One episode: reset to `task`, let `actor` drive until it is judged.

        Args:
            task: what to do.
            actor: called at every frame.
            max_seconds: end the episode after this time, whatever the outcome.
            tail_seconds: go on for this long after a success.

        Raises:
            ValueError: the latency is too long.
        """
        check_latency(self.latency_ticks)
        world = self.world
        world.reset(task)
        gate = CommandGate(self._gate_config)
        began, tick = world.time, 0
        pending: deque[tuple[int, Chunk]] = deque()  # tick of arrival, chunk
        end = began + max_seconds
        while world.time < end and world.outcome is not Outcome.FAILED:
            if world.outcome is Outcome.SUCCEEDED:
                if tail_seconds == 0.0:
                    break
                end, tail_seconds = min(end, world.time + tail_seconds), float("inf")
            if tick % FRAME_TICKS == 0:
                observation = self.observe()
                targets = end_effector_chunk_to_joints(
                    self.kinematics, observation.joints, actor(observation)
                )
                chunk = Chunk(world.time, self._dt, panda.JOINT_NAMES, targets)
                pending.append((tick + self.latency_ticks, chunk))
            gate.update_state(panda.JOINT_NAMES, world.joint_positions(), world.time)
            arrived = bool(pending) and pending[0][0] <= tick
            if arrived:
                gate.accept(pending.popleft()[1], world.time)
            if arrived or tick % GATE_TICKS == 0:
                self._send(gate)
            world.tick()
            tick += 1
        return world.outcome

    def _send(self, gate: CommandGate) -> None:
        command = gate.command(self.world.time)
        if command is not None:
            self.world.controller.accept(
                panda.JOINT_NAMES,
                command.positions[None],
                np.array([command.time_from_start]),
                command.stamp,
                self.world.time,
            )
