"""One grammar of objects, places and tasks: text <-> tokens <-> scenes. Free of ROS and torch."""
