"""Offline: data, training and evaluation. Installed and imported as vla_ros.training."""
