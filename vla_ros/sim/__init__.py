"""The simulated robot: MuJoCo worlds, tasks judged from physics, scripted experts. Free of ROS."""

import os

if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    # MuJoCo looks at it once, when it is first imported; without a screen its own choice aborts.
    os.environ.setdefault("MUJOCO_GL", "egl")
