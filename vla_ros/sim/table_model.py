"""The table, its objects and cameras as a MuJoCo model, and how a task makes them look."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_ros.sim.looks import COLORS_RGB, DISTRACTORS
from vla_ros.sim.panda_model import panda_spec
from vla_ros.sim.tasks import BOWL_RADIUS, Appearance, Task

TIMESTEP = 0.002  # s of physics
_CAMERA_POSITION = np.array([1.15, 0.0, 0.62])
_CAMERA_TARGET = np.array([0.45, 0.0, 0.06])
_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
_GEOMS = {
    "box": _BOX,
    "cylinder": _CYLINDER,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
}
PARK = (2.0, 2.0, 0.5)  # where bodies that a scene does not use wait, out of sight


def paint(model: mujoco.MjModel, task: Task) -> None:
    """Sizes, colours, light and camera of an episode."""
    look = task.appearance
    shift = np.array(look.color_shift).reshape(5, 3)
    for i, item in enumerate(task.objects):
        radial, vertical = item.half_extents
        for shape in ("cube", "cylinder"):
            geom = model.geom(f"{shape}{i}")
            geom.size[:] = (radial, radial, vertical) if shape == "cube" else (radial, vertical, 0)
            geom.rgba[:3] = np.clip(np.array(COLORS_RGB[item.color]) + shift[i], 0, 1)
            # MuJoCo derives these from the size only when it compiles; collisions rely on them.
            model.geom_rbound[geom.id] = float(np.linalg.norm([radial, radial, vertical]))
            model.geom_aabb[geom.id, 3:] = (radial, radial, vertical)
            body = model.body(f"{shape}{i}").id
            first, count = model.body_bvhadr[body], model.body_bvhnum[body]
            model.bvh_aabb[first : first + count, 3:] = (radial, radial, vertical)
    for i, thing in enumerate(task.distractors):
        for j, (kind, size, height) in enumerate(DISTRACTORS[thing.kind]):
            geom = model.geom(f"distractor{i}_{j}")
            geom.type[:], geom.size[:], geom.pos[2] = _GEOMS[kind], size, height
            model.geom_sameframe[geom.id] = 0  # compiled at its body's place, now above it
            geom.rgba[:3] = thing.rgb
    model.body("pad").pos[:2] = task.pad
    model.body("bowl").pos[:2] = task.bowl
    model.geom("pad").rgba[:3] = np.clip(np.array(COLORS_RGB["pad"]) + shift[3], 0, 1)
    for geom in range(model.ngeom):
        if model.geom_bodyid[geom] == model.body("bowl").id:
            model.geom_rgba[geom, :3] = np.clip(np.array(COLORS_RGB["bowl"]) + shift[4], 0, 1)
    model.geom("table").rgba[:3] = look.table_rgb
    _paint_light(model, look)
    aim_camera(
        model,
        np.array(look.camera_offset),
        np.array(look.camera_rotation),
        np.array(look.camera_moved),
        np.array(look.camera_turned),
    )


def _paint_light(model: mujoco.MjModel, look: Appearance) -> None:
    light = model.light("lamp")
    light.pos[:] = look.light_position
    direction = np.array([0.45, 0.0, 0.0]) - light.pos
    light.dir[:] = direction / np.linalg.norm(direction)
    light.diffuse[:] = look.light_strength * np.array(look.light_tint)
    model.vis.headlight.ambient[:] = look.ambient
    model.vis.headlight.diffuse[:] = look.headlight


def aim_camera(
    model: mujoco.MjModel,
    offset: np.ndarray,
    rotation: np.ndarray,
    moved: np.ndarray | tuple[float, ...] = (0.0, 0.0, 0.0),
    turned: np.ndarray | tuple[float, ...] = (0.0, 0.0, 0.0),
) -> None:
    """Aim the front camera: see `Appearance` (m; rad, vectors of rotation)."""
    camera = model.camera("front")
    position = _CAMERA_POSITION + offset
    back = position - _CAMERA_TARGET
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.stack([right, np.cross(back, right), back], axis=1)
    turn, quat = np.zeros(9), np.zeros(4)
    for vector in (rotation, np.array(turned)):
        angle = np.linalg.norm(vector)
        mujoco.mju_axisAngle2Quat(quat, vector / max(angle, 1e-9), angle)
        mujoco.mju_quat2Mat(turn, quat)
        pose = turn.reshape(3, 3) @ pose
    mujoco.mju_mat2Quat(quat, pose.flatten())
    camera.pos[:] = position + moved
    camera.quat[:] = quat


def build_model(visuals: str, distractors: int) -> mujoco.MjModel:
    """The arm at its table with bodies for three objects of either shape and for distractors.

    Raises:
        ValueError, FileNotFoundError: see `panda_spec`.
    """
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
    spec.visual.quality.shadowsize = 512  # pixels; 4096 takes 60 ms a frame without a GPU
    world = spec.worldbody
    world.add_light(
        name="lamp", pos=(0.5, 0, 2), dir=(0, 0, -1), castshadow=True, specular=(0.05, 0.05, 0.05)
    )
    world.add_camera(name="front", pos=_CAMERA_POSITION, fovy=37)
    touch = {"contype": 1, "conaffinity": 3, "condim": 4, "friction": (0.9, 0.01, 0.001)}
    world.add_geom(name="table", type=_BOX, size=(0.5, 0.6, 0.02), pos=(0.35, 0, -0.02), **touch)
    world.add_geom(
        name="floor",
        type=_BOX,
        size=(3, 3, 0.05),
        pos=(0, 0, -0.75),
        rgba=(0.3, 0.32, 0.35, 1),
        **touch,
    )
    pad = world.add_body(name="pad", pos=(0.5, 0.2, 0))
    pad.add_geom(
        name="pad", type=_BOX, size=(0.045, 0.045, 0.0008), pos=(0, 0, 0.0008), contype=0,
        conaffinity=0, rgba=(0.9, 0.8, 0.1, 1),
    )  # fmt: skip
    bowl = world.add_body(name="bowl", pos=(0.5, -0.2, 0))
    bowl.add_geom(
        name="bowl", type=_CYLINDER, size=(BOWL_RADIUS, 0.002, 0), pos=(0, 0, 0.002), **touch
    )
    sides = 14
    for i in range(sides):
        angle = 2 * np.pi * i / sides
        width = BOWL_RADIUS * np.tan(np.pi / sides) + 0.002
        bowl.add_geom(
            type=_BOX, size=(0.003, width, 0.016),
            quat=(np.cos(angle / 2), 0, 0, np.sin(angle / 2)),
            pos=(BOWL_RADIUS * np.cos(angle), BOWL_RADIUS * np.sin(angle), 0.016), **touch,
        )  # fmt: skip
    for i in range(3):
        for shape, kind in (("cube", _BOX), ("cylinder", _CYLINDER)):
            body = world.add_body(name=f"{shape}{i}", pos=PARK)
            body.add_freejoint(name=f"{shape}{i}")
            body.add_geom(
                name=f"{shape}{i}", type=kind, size=(0.02, 0.02, 0.02), mass=0.06,
                solref=(0.006, 1.0), **touch,
            )  # fmt: skip
    for i in range(distractors):
        body = world.add_body(name=f"distractor{i}", pos=PARK)
        body.add_freejoint(name=f"distractor{i}")
        body.mass, body.ipos, body.inertia = 0.08, (0, 0, 0.012), (3e-5, 3e-5, 3e-5)
        body.explicitinertial = True
        for j in range(2):  # boxes as large as any part, so that nothing of a part is missed
            body.add_geom(
                name=f"distractor{i}_{j}", type=_BOX, size=(0.05, 0.05, 0.05),
                solref=(0.006, 1.0), **touch,
            )  # fmt: skip
    return spec.compile()
