"""Embodiments: joint names, limits, kinematics. Free of ROS, of torch and of the simulator."""
