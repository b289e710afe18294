"""Training of the narrator, see `vla_ros.models.narrator`."""
