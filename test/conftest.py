"""Shared by all tests: a ROS domain of their own, an untrained checkpoint, other arithmetic."""

import ctypes
import gc
import os
import random
import sys

import pytest

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)

# Before rclpy is imported: tests must not meet robots, the demo, or other tests on this network.
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def pytest_addoption(parser):
    """What makes numbers come out a little otherwise, as on another machine (see portable.py)."""
    group = parser.getgroup("portable")
    group.addoption("--seed-shift", type=int, default=0, help="added to every seed given to torch")
    group.addoption("--no-onednn", action="store_true", help="torch without oneDNN")
    group.addoption("--kernels", help="this library of Mamba kernels instead of the built one")


def pytest_configure(config):
    shift, library = config.getoption("--seed-shift"), config.getoption("--kernels")
    if not (shift or library or config.getoption("--no-onednn")):
        return
    import torch

    if shift:
        seeded = torch.manual_seed
        torch.manual_seed = lambda seed: seeded(seed + 1_000_003 * shift)
    if config.getoption("--no-onednn"):
        torch.backends.mkldnn.enabled = False
    if library:
        from vla_ros.models import mamba_native

        mamba_native._library = ctypes.CDLL(library)


@pytest.fixture(scope="module", autouse=True)
def no_participants_left():
    """Nodes of tests that ended leave the network.

    A destroyed node is in cycles, with its action server for one, and its DDS participant lives
    until those are collected. On one machine participants find only the first 32 of a domain, so
    that nodes of a later test would not find each other.
    """
    yield
    if "rclpy" in sys.modules:
        gc.collect()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of an untrained model: what it does is arbitrary, its shapes are the real ones."""
    import torch

    from vla_ros.models.vlam import VisionLanguageActionModel
    from vla_ros.robots.action_config import ActionConfig

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    model = VisionLanguageActionModel.from_size(
        "tiny", ActionConfig.get_arm_config(), cameras=("camera", "wrist_camera")
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def context():
    """A ROS context of its own, for nodes of this test."""
    import rclpy
    from rclpy.context import Context

    context = Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()
