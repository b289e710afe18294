"""What the nodes share to speak ROS 2: quality of service, parameters, messages, life cycle."""
