"""A Franka Panda at a table with coloured objects, a pad, a bowl and two cameras, in MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_ros.robots import panda
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.sim.controller import JointTrajectoryController
from vla_ros.sim.panda_model import panda_spec
from vla_ros.sim.tasks import BOWL_RADIUS, Appearance, Judge, Outcome, Task

TIMESTEP = 0.002  # s of physics
TICK = 0.01  # s between two runs of the joint controller, as of ros2_control at 100 Hz
CAMERAS = ("camera", "wrist_camera")
_CAMERA_POSITION = np.array([1.15, 0.0, 0.62])
_CAMERA_TARGET = np.array([0.45, 0.0, 0.06])
_COLORS = {
    "red": (0.80, 0.12, 0.10),
    "green": (0.10, 0.60, 0.18),
    "blue": (0.10, 0.25, 0.80),
    "purple": (0.55, 0.15, 0.65),
    "pad": (0.90, 0.80, 0.10),
    "bowl": (0.88, 0.88, 0.90),
}
_PARK = (2.0, 2.0, 0.5)  # where bodies that a scene does not use wait, out of sight


class ArmWorld:
    """The simulated arm.

    Time only ever goes forward, over resets too, so that it can serve as a ROS clock. Joint arrays
    follow `panda.JOINT_NAMES`; positions in metres in the base frame. Rendering needs an OpenGL
    context, which is made on first use and belongs to the thread that made it.

    Args:
        image_size: (height, width) of both cameras, pixels.
        visuals: "hulls" or "meshes", see `panda_spec`.
        shadows: cast shadows (slow without a GPU).
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        visuals: str = "hulls",
        shadows: bool = False,
    ) -> None:
        self.model = _build_model(visuals)
        self.data = mujoco.MjData(self.model)
        self.image_size = image_size
        self._shadows = shadows
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
        self.judge: Judge | None = None
        self.controller = JointTrajectoryController(panda.JOINT_NAMES, panda.HOME)
        self._put_arm(panda.HOME)
        for shape in ("cube", "cylinder"):
            for i in range(3):
                self._put_object(f"{shape}{i}", _PARK, 0.0)
        mujoco.mj_forward(self.model, self.data)

    # -- episodes ---------------------------------------------------------------------------------

    def reset(self, task: Task) -> None:
        """Lay out `task` with the arm near home, holding still, and start judging."""
        started = self.time
        mujoco.mj_resetData(self.model, self.data)
        self._elapsed = started
        self.task = task
        self._paint(task)
        for i, item in enumerate(task.objects):
            for shape in ("cube", "cylinder"):
                used = shape == item.shape
                place = (*item.position, item.half_extents[1]) if used else (*_PARK[:2], -1 - i)
                self._put_object(f"{shape}{i}", place, item.yaw if used else 0.0)
        home, _ = self._kinematics.forward(panda.HOME[:-1])
        arm = self._kinematics.solve(
            panda.HOME[:-1], home + np.array(task.home_offset), iterations=20
        )
        joints = np.append(arm, panda.GRIPPER_OPEN)
        self._put_arm(joints)
        self.controller.hold(joints)
        mujoco.mj_forward(self.model, self.data)
        for _ in range(5):
            self._physics()
        self.judge = Judge(task, self.object_positions(), self.time)

    @property
    def outcome(self) -> Outcome:
        return self.judge.outcome if self.judge else Outcome.IDLE

    # -- time ------------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Seconds simulated since this world was made."""
        return self._elapsed + self.data.time

    def tick(self) -> None:
        """Advance by TICK: one run of the controller, the physics, one look of the judge."""
        self._physics()
        if self.judge:
            self.judge.update(
                self.time, self.object_positions(), self.tool_position(), self.holding()
            )

    def _physics(self) -> None:
        target = self.controller.sample(self.time + TICK)
        self.data.ctrl[: len(target)] = target
        self.data.ctrl[len(target)] = target[-1]  # the second finger mirrors the first
        mujoco.mj_step(self.model, self.data, self._substeps)

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
        """Centres [n, 3] of the task's objects, in the task's order."""
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
        self.data.qvel[address : address + 3] = velocity

    def _object_names(self) -> list[str]:
        return [f"{item.shape}{i}" for i, item in enumerate(self.task.objects)]

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
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._shadows
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            if depth:
                renderer.enable_depth_rendering()
            self._renderers[key] = renderer
        return self._renderers[key]

    def intrinsics(self, camera: str) -> np.ndarray:
        """Pinhole matrix [3, 3] of a camera in pixels (square pixels, centred, no distortion)."""
        name = "front" if camera == "camera" else "panda_wrist"
        height, width = self.image_size
        focal = height / 2 / np.tan(np.radians(self.model.camera(name).fovy[0]) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])

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

    def _paint(self, task: Task) -> None:
        """Sizes, colours, light and camera of an episode."""
        model, look = self.model, task.appearance
        shift = np.array(look.color_shift).reshape(5, 3)
        for i, item in enumerate(task.objects):
            radial, vertical = item.half_extents
            for shape in ("cube", "cylinder"):
                geom = model.geom(f"{shape}{i}")
                geom.size[:] = (
                    (radial, radial, vertical) if shape == "cube" else (radial, vertical, 0)
                )
                geom.rgba[:3] = np.clip(np.array(_COLORS[item.color]) + shift[i], 0, 1)
                # MuJoCo derives these from the size only when it compiles; collisions rely on them.
                model.geom_rbound[geom.id] = float(np.linalg.norm([radial, radial, vertical]))
                model.geom_aabb[geom.id, 3:] = (radial, radial, vertical)
                body = model.body(f"{shape}{i}").id
                first, count = model.body_bvhadr[body], model.body_bvhnum[body]
                model.bvh_aabb[first : first + count, 3:] = (radial, radial, vertical)
        model.body("pad").pos[:2] = task.pad
        model.body("bowl").pos[:2] = task.bowl
        model.geom("pad").rgba[:3] = np.clip(np.array(_COLORS["pad"]) + shift[3], 0, 1)
        for geom in range(model.ngeom):
            if model.geom_bodyid[geom] == model.body("bowl").id:
                model.geom_rgba[geom, :3] = np.clip(np.array(_COLORS["bowl"]) + shift[4], 0, 1)
        model.geom("table").rgba[:3] = look.table_rgb
        _paint_light(model, look)
        aim_camera(model, np.array(look.camera_offset), np.array(look.camera_rotation))


def _paint_light(model: mujoco.MjModel, look: Appearance) -> None:
    light = model.light("lamp")
    light.pos[:] = look.light_position
    direction = np.array([0.45, 0.0, 0.0]) - light.pos
    light.dir[:] = direction / np.linalg.norm(direction)
    light.diffuse[:] = look.light_strength
    model.vis.headlight.ambient[:] = look.ambient


def aim_camera(model: mujoco.MjModel, offset: np.ndarray, rotation: np.ndarray) -> None:
    """Put the front camera at its place plus `offset` (m), turned by `rotation` (rad, small)."""
    camera = model.camera("front")
    position = _CAMERA_POSITION + offset
    back = position - _CAMERA_TARGET
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.stack([right, np.cross(back, right), back], axis=1)
    turn, quat = np.zeros(9), np.zeros(4)
    mujoco.mju_axisAngle2Quat(
        quat, rotation / max(np.linalg.norm(rotation), 1e-9), np.linalg.norm(rotation)
    )
    mujoco.mju_quat2Mat(turn, quat)
    mujoco.mju_mat2Quat(quat, (turn.reshape(3, 3) @ pose).flatten())
    camera.pos[:] = position
    camera.quat[:] = quat


def _build_model(visuals: str) -> mujoco.MjModel:
    spec = panda_spec(visuals)
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    spec.stat.extent = 1.0  # m; the nearest thing drawn is a hundredth of it away
    spec.visual.headlight.diffuse = (0.15, 0.15, 0.15)
    spec.visual.headlight.specular = (0, 0, 0)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.visual.quality.offsamples = 0
    world = spec.worldbody
    world.add_light(
        name="lamp", pos=(0.5, 0, 2), dir=(0, 0, -1), castshadow=True, specular=(0.05, 0.05, 0.05)
    )
    world.add_camera(name="front", pos=_CAMERA_POSITION, fovy=37)
    box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    touch = {"contype": 1, "conaffinity": 3, "condim": 4, "friction": (0.9, 0.01, 0.001)}
    world.add_geom(name="table", type=box, size=(0.5, 0.6, 0.02), pos=(0.35, 0, -0.02), **touch)
    world.add_geom(
        name="floor",
        type=box,
        size=(3, 3, 0.05),
        pos=(0, 0, -0.75),
        rgba=(0.3, 0.32, 0.35, 1),
        **touch,
    )
    pad = world.add_body(name="pad", pos=(0.5, 0.2, 0))
    pad.add_geom(
        name="pad", type=box, size=(0.045, 0.045, 0.0008), pos=(0, 0, 0.0008), contype=0,
        conaffinity=0, rgba=(0.9, 0.8, 0.1, 1),
    )  # fmt: skip
    bowl = world.add_body(name="bowl", pos=(0.5, -0.2, 0))
    bowl.add_geom(
        name="bowl", type=cylinder, size=(BOWL_RADIUS, 0.002, 0), pos=(0, 0, 0.002), **touch
    )
    sides = 14
    for i in range(sides):
        angle = 2 * np.pi * i / sides
        width = BOWL_RADIUS * np.tan(np.pi / sides) + 0.002
        bowl.add_geom(
            type=box, size=(0.003, width, 0.016), quat=(np.cos(angle / 2), 0, 0, np.sin(angle / 2)),
            pos=(BOWL_RADIUS * np.cos(angle), BOWL_RADIUS * np.sin(angle), 0.016), **touch,
        )  # fmt: skip
    for i in range(3):
        for shape, kind in (("cube", box), ("cylinder", cylinder)):
            body = world.add_body(name=f"{shape}{i}", pos=_PARK)
            body.add_freejoint(name=f"{shape}{i}")
            body.add_geom(
                name=f"{shape}{i}", type=kind, size=(0.02, 0.02, 0.02), mass=0.06,
                solref=(0.006, 1.0), **touch,
            )  # fmt: skip
    return spec.compile()
