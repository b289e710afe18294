"""PyTorch models. Free of ROS, of the simulator and of dataset code."""
