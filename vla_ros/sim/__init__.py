"""The simulated robot: MuJoCo worlds, tasks judged from physics, scripted experts. Free of ROS."""

import os

# MuJoCo looks at it once, when it is first imported. EGL, also where there is a screen: it needs
# none, and the other choice, GLFW, draws from the main thread only.
os.environ.setdefault("MUJOCO_GL", "egl")
