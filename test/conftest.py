"""Shared by all tests: a ROS domain of their own, and an untrained checkpoint."""

import os
import random

import pytest

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)

# Before rclpy is imported: tests must not meet robots, the demo, or other tests on this network.
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of an untrained model: what it does is arbitrary, its shapes are the real ones."""
    import torch

    from vla_ros.models.vlam import VisionLanguageActionModel
    from vla_ros.robots.action_config import ActionConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    model = VisionLanguageActionModel.from_size(
        "tiny", ActionConfig.get_arm_config(), cameras=("camera", "wrist_camera")
    )
    model.save_pretrained(folder)
    return folder
