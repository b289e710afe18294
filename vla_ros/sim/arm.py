"""A Franka Panda at a table with coloured objects, a pad, a bowl and two cameras, in MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_ros.robots import panda
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.sim.controller import JointTrajectoryController
from vla_ros.sim.judges import Judge, SequenceJudge, StillJudge, judge_of
from vla_ros.sim.table_model import PARK, TIMESTEP, build_model, paint
from vla_ros.sim.tasks import Knock, Outcome, Task

TICK = 0.01  # s between two runs of the joint controller, as of ros2_control at 100 Hz
CAMERAS = ("camera", "wrist_camera")
_KNOCK_TICKS = 15  # how long a knock lasts


class ArmWorld:
    """The simulated arm.

    Time only ever goes forward, over resets too, so that it can serve as a ROS clock. Joint arrays
    follow `panda.JOINT_NAMES`; positions in metres in the base frame. Rendering needs an OpenGL
    context, which is made on first use and belongs to the thread that made it.

    Args:
        image_size: (height, width) of both cameras, pixels.
        visuals: "hulls" or "meshes", see `panda_spec`.
        shadows: cast shadows in every task (slow without a GPU), not only where one asks for them.
        distractors: how many distractors a task may have.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        visuals: str = "hulls",
        shadows: bool = False,
        distractors: int = 0,
    ) -> None:
        self.model = build_model(visuals, distractors)
        self.data = mujoco.MjData(self.model)
        self.image_size = image_size
        self._shadows = shadows
        self._distractors = distractors
        self._renderers: dict[tuple[int, int, bool], mujoco.Renderer] = {}
        self._kinematics = ArmKinematics()
        model = self.model
        self._qpos = [int(model.joint(name).qposadr[0]) for name in panda.JOINT_NAMES]
        self._dofs = [int(model.joint(name).dofadr[0]) for name in panda.JOINT_NAMES]
        self._second_finger = int(model.joint("panda_finger_joint2").qposadr[0])
        self._tool = model.site("panda_tool").id
        self._pads = [model.geom(f"panda_{side}_pad").id for side in ("left", "right")]
        self._elapsed = 0.0
        self._substeps = round(TICK / TIMESTEP)
        self.task: Task | None = None
        self.judge: Judge | SequenceJudge | StillJudge | None = None
        self.controller = JointTrajectoryController(panda.JOINT_NAMES, panda.HOME)
        self._put_arm(panda.HOME)
        for shape in ("cube", "cylinder"):
            for i in range(3):
                self._put_object(f"{shape}{i}", PARK, 0.0)
        for i in range(distractors):
            self._put_object(f"distractor{i}", PARK, 0.0)
        mujoco.mj_forward(self.model, self.data)

    # -- episodes ---------------------------------------------------------------------------------

    def reset(self, task: Task) -> None:
        """Lay out `task` with the arm near home, holding still, and start judging.

        Raises:
            ValueError: the task has more distractors than this world was made for.
        """
        if len(task.distractors) > self._distractors:
            raise ValueError(
                f"the task has {len(task.distractors)} distractors: make the world with "
                f"distractors={len(task.distractors)} or more"
            )
        started = self.time
        mujoco.mj_resetData(self.model, self.data)
        self._elapsed = started
        self.task, self.judge = task, None
        paint(self.model, task)
        for i, item in enumerate(task.objects):
            for shape in ("cube", "cylinder"):
                used = shape == item.shape
                middle = item.height + item.half_extents[1]
                place = (*item.position, middle) if used else (*PARK[:2], -1 - i)
                self._put_object(f"{shape}{i}", place, item.yaw if used else 0.0)
        for i in range(self._distractors):
            name = f"distractor{i}"
            if i < len(task.distractors):
                thing = task.distractors[i]
                self._put_object(name, (*thing.position, 0.001), thing.yaw)
            else:
                self._put_object(name, (*PARK[:2], -5 - i), 0.0)
        home, _ = self._kinematics.forward(panda.HOME[:-1])
        arm = self._kinematics.solve(
            panda.HOME[:-1], home + np.array(task.home_offset), iterations=20
        )
        self.pose(np.append(arm, panda.GRIPPER_OPEN))
        for _ in range(5):
            self._physics()
        self.judge = judge_of(task, self.object_positions(), self.time)

    @property
    def outcome(self) -> Outcome:
        return self.judge.outcome if self.judge else Outcome.IDLE

    def pose(self, joints: np.ndarray) -> None:
        """Put the arm there at once, [8] in rad and m, whatever is in the way; it holds still."""
        self._put_arm(joints)
        self.controller.hold(joints)
        mujoco.mj_forward(self.model, self.data)

    # -- time ------------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Seconds simulated since this world was made."""
        return self._elapsed + self.data.time

    def tick(self) -> None:
        """Advance by TICK: one run of the controller, the physics, one look of the judge."""
        self._physics()
        if self.judge:
            held = self.holding(self.judge.index)
            self.judge.update(self.time, self.object_positions(), self.tool_position(), held)

    def _physics(self) -> None:
        target = self.controller.sample(self.time + TICK)
        self.data.ctrl[: len(target)] = target
        self.data.ctrl[len(target)] = target[-1]  # the second finger mirrors the first
        knock = self._knock()
        if knock is None:
            mujoco.mj_step(self.model, self.data, self._substeps)
            return
        for _ in range(self._substeps):  # against friction, which would stop it within a tick
            self.push_object(knock.index, np.append(knock.shift, 0.0) / (_KNOCK_TICKS * TICK))
            mujoco.mj_step(self.model, self.data)

    def _knock(self) -> Knock | None:
        """The task's knock while it lasts."""
        knock = self.task.knock if self.judge else None
        if knock is None or self.holding(knock.index):
            return None
        since = self.time - self.judge.began - knock.time
        return knock if -1e-6 <= since < _KNOCK_TICKS * TICK - 1e-6 else None

    # -- state -----------------------------------------------------------------------------------

    def joint_positions(self) -> np.ndarray:
        return self.data.qpos[self._qpos].copy()

    def joint_velocities(self) -> np.ndarray:
        return self.data.qvel[self._dofs].copy()

    def joint_efforts(self) -> np.ndarray:
        return self.data.qfrc_actuator[self._dofs].copy()

    def tool_position(self) -> np.ndarray:
        return self.data.site_xpos[self._tool].copy()

    def object_positions(self) -> np.ndarray:
        """Centres [n, 3] of the task's objects, then of its distractors, in the task's order."""
        if self.task is None:
            return np.zeros((0, 3))
        return np.array([self.data.body(name).xpos for name in self._object_names()])

    def holding(self, index: int = 0) -> bool:
        """Whether both fingers press the task's object `index`."""
        if self.task is None:
            return False
        geom = self.model.geom(self._object_names()[index]).id
        pairs = self.data.contact.geom
        touching = pairs[(pairs == geom).any(axis=1)]
        return all((touching == pad).any() for pad in self._pads)

    def push_object(self, index: int, velocity: np.ndarray) -> None:
        """Give the task's object `index` a velocity [3] (m/s), as a hand that knocks it would."""
        address = int(self.model.joint(self._object_names()[index]).dofadr[0])
        self.data.qvel[address : address + 6] = (*velocity, 0.0, 0.0, 0.0)

    def _object_names(self) -> list[str]:
        objects = [f"{item.shape}{i}" for i, item in enumerate(self.task.objects)]
        return objects + [f"distractor{i}" for i in range(len(self.task.distractors))]

    # -- cameras ---------------------------------------------------------------------------------

    def render(
        self, camera: str, *, depth: bool = False, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Image of a camera now: uint8 RGB [H, W, 3], or float32 depth in metres [H, W].

        Raises:
            ValueError: unknown camera.
            RuntimeError: no OpenGL context could be made; the message names the packages it needs.
        """
        if camera not in CAMERAS:
            raise ValueError(f"unknown camera '{camera}': use one of {', '.join(CAMERAS)}")
        renderer = self._renderer(size or self.image_size, depth)
        name = "front" if camera == "camera" else "panda_wrist"
        shadows = self._shadows or (self.task is not None and self.task.appearance.shadows)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        renderer.update_scene(self.data, camera=name)
        return renderer.render()

    def _renderer(self, size: tuple[int, int], depth: bool) -> mujoco.Renderer:
        key = (*size, depth)
        if key not in self._renderers:
            try:
                renderer = mujoco.Renderer(self.model, *size)
            except Exception as error:
                raise RuntimeError(
                    f"no OpenGL context for rendering ({error}): install libegl1 and "
                    "libgl1-mesa-dri and set MUJOCO_GL=egl, or libosmesa6 and MUJOCO_GL=osmesa"
                ) from error
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            if depth:
                renderer.enable_depth_rendering()
            self._renderers[key] = renderer
        return self._renderers[key]

    def intrinsics(self, camera: str) -> np.ndarray:
        """Pinhole matrix [3, 3] of a camera in pixels (square, the first one's centre is (0, 0)).

        The optical axis goes through the middle of the picture, and no lens distorts.
        """
        name = "front" if camera == "camera" else "panda_wrist"
        height, width = self.image_size
        focal = height / 2 / np.tan(np.radians(self.model.camera(name).fovy[0]) / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])

    def project(self, camera: str, point: np.ndarray) -> np.ndarray:
        """Where a point [3] (m, base frame) appears in a camera's centre square: [row, column].

        Both run from -1 (top, left) to 1; NaN when the point is outside the square or behind.
        """
        name = "front" if camera == "camera" else "panda_wrist"
        view, model = self.data.camera(name), self.model.camera(name)
        x, y, z = (point - view.xpos) @ view.xmat.reshape(3, 3)  # right, up, towards the viewer
        if z > -1e-3:
            return np.full(2, np.nan)
        place = np.array([-y, x]) / -z / np.tan(np.radians(model.fovy[0]) / 2)
        return place if (np.abs(place) <= 1.0).all() else np.full(2, np.nan)

    def close(self) -> None:
        """Free the OpenGL contexts; call from the thread that rendered."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    # -- layout ----------------------------------------------------------------------------------

    def _put_arm(self, joints: np.ndarray) -> None:
        self.data.qpos[self._qpos] = joints
        self.data.qpos[self._second_finger] = joints[-1]

    def _put_object(self, name: str, position: tuple[float, ...], yaw: float) -> None:
        address = int(self.model.joint(name).qposadr[0])
        self.data.qpos[address : address + 3] = position
        self.data.qpos[address + 3 : address + 7] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
