"""The simulated robot: MuJoCo worlds, tasks judged from physics, scripted experts. Free of ROS."""
