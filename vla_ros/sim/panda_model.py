"""The Franka Panda's MuJoCo model, read from an installed wheel (nothing is downloaded).

The arm's meshes and inertias come with the wheel `gym-hil` (Apache-2.0, after DeepMind's MuJoCo
Menagerie). That wheel holds no Franka hand, so the hand is built here from boxes of its published
dimensions.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import mujoco

from vla_ros.robots import panda

# Position servos of the arm: stiffness (N m / rad) and damping chosen for a lag of about 70 ms,
# which is what a joint trajectory controller on an effort interface shows.
STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
LAG = 0.07
EFFORT = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)

_HAND = """
<mujoco>
  <worldbody>
    <body name="hand" gravcomp="1">
      <inertial mass="0.73" pos="-0.01 0 0.03" diaginertia="0.001 0.0025 0.0017"/>
      <geom name="hand" type="box" size="0.0315 0.1 0.022" pos="0 0 0.0305" rgba="0.9 0.92 0.93 1"/>
      <geom name="flange" type="cylinder" size="0.035 0.012" pos="0 0 0.002" rgba="0.3 0.3 0.3 1"/>
      <site name="tool" pos="0 0 0.1034" group="4"/>
      <camera name="wrist" pos="0.085 0 0.056" xyaxes="0 1 0 0.866 0 0.5" fovy="84"/>
      <body name="left_finger" pos="0 0 0.0584" gravcomp="1">
        <inertial mass="0.03" pos="0 0 0.03" diaginertia="2e-5 2e-5 1e-5"/>
        <joint name="finger_joint1" type="slide" axis="0 1 0" range="0 0.04"
               armature="0.1" damping="4"/>
        <geom name="left_pad" type="box" size="0.0105 0.005 0.027" pos="0 0.005 0.0267"
              rgba="0.25 0.25 0.27 1"/>
      </body>
      <body name="right_finger" pos="0 0 0.0584" gravcomp="1">
        <inertial mass="0.03" pos="0 0 0.03" diaginertia="2e-5 2e-5 1e-5"/>
        <joint name="finger_joint2" type="slide" axis="0 -1 0" range="0 0.04"
               armature="0.1" damping="4"/>
        <geom name="right_pad" type="box" size="0.0105 0.005 0.027" pos="0 -0.005 0.0267"
              rgba="0.25 0.25 0.27 1"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""


def panda_assets() -> Path:
    """Folder of the installed Panda model (panda.xml and its meshes).

    Raises:
        FileNotFoundError: the wheel is not installed; the message says how to install it.
    """
    found = importlib.util.find_spec("gym_hil")
    roots = list(found.submodule_search_locations or []) if found else []
    for root in roots:
        assets = Path(root) / "assets"
        if (assets / "panda.xml").is_file():
            return assets
    raise FileNotFoundError(
        "the Panda model is not installed: run `pip install --no-deps gym-hil` (6 MB, Apache-2.0)"
    )


def panda_spec(visuals: str = "hulls") -> mujoco.MjSpec:
    """MuJoCo spec of the Panda with the Franka hand, position servos and a wrist camera.

    Args:
        visuals: "hulls" draws the collision hulls (2 k faces, fast on a CPU), "meshes" the full
            visual meshes (127 k faces).

    Raises:
        ValueError: unknown `visuals`.
        FileNotFoundError: see `panda_assets`.
    """
    if visuals not in ("hulls", "meshes"):
        raise ValueError(f"unknown visuals '{visuals}': use 'hulls' or 'meshes'")
    spec = mujoco.MjSpec.from_file(str(panda_assets() / "panda.xml"))
    for element in (*spec.actuators, *spec.sensors, *spec.keys, *spec.equalities, *spec.tendons):
        spec.delete(element)
    for pair in (*spec.excludes, *spec.pairs):
        spec.delete(pair)
    spec.delete(spec.body("attachment"))

    for body in spec.bodies:
        body.gravcomp = 1
        for geom in list(body.geoms):
            drawn = geom.contype == 0 and geom.conaffinity == 0
            if drawn and visuals == "hulls":
                spec.delete(geom)
            elif not drawn:
                # Links touch objects (bit 1) but not each other: self-collision is the gate's
                # matter.
                geom.contype, geom.conaffinity = 2, 1
                geom.group = 2 if visuals == "hulls" else 3
                geom.rgba = (0.9, 0.92, 0.93, 1.0)
    if visuals == "hulls":
        used = {geom.meshname for body in spec.bodies for geom in body.geoms}
        for mesh in list(spec.meshes):
            if mesh.name not in used:
                spec.delete(mesh)

    flange = spec.body("link7").add_frame(pos=(0, 0, 0.107), quat=(0.9238795, 0, 0, -0.3826834))
    hand = mujoco.MjSpec.from_string(_HAND)
    for geom in hand.geoms:
        geom.contype, geom.conaffinity, geom.group, geom.condim = 2, 1, 2, 4
        geom.friction = (1.2, 0.02, 0.001)
        geom.solref, geom.solimp = (0.006, 1.0), (0.95, 0.99, 0.001, 0.5, 2)
    flange.attach_body(hand.body("hand"), "panda_", "")

    for i, joint in enumerate(panda.ARM_JOINTS):
        spec.joint(f"joint{i + 1}").name = joint
        _add_servo(spec, joint, STIFFNESS[i], STIFFNESS[i] * LAG, EFFORT[i])
    for finger in (panda.GRIPPER_JOINT, "panda_finger_joint2"):
        _add_servo(spec, finger, 800.0, 40.0, 30.0)
    mimic = spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT,
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        name1="panda_finger_joint2",
        name2=panda.GRIPPER_JOINT,
    )
    mimic.data[:2] = (0.0, 1.0)
    return spec


def _add_servo(
    spec: mujoco.MjSpec, joint: str, stiffness: float, damping: float, effort: float
) -> None:
    servo = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    servo.set_to_position(kp=stiffness, kv=damping)
    servo.forcerange = (-effort, effort)
    servo.forcelimited = True
