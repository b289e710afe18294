"""Small episodes for the tests, pictures and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vla_ros.training.data.episode import Episode, FrameReader


def reader(pictures: np.ndarray) -> FrameReader:
    def read(first: int, last: int) -> Iterator[np.ndarray]:
        yield from pictures[first:last]

    return read


def episode(number: int = 0, length: int = 4, **changes: Any) -> Episode:
    """Another for each number, with two cameras of which one has depth; stamps are of today."""
    rng = np.random.default_rng(number)

    def colour(height: int, width: int) -> FrameReader:
        return reader(rng.integers(0, 256, (length, height, width, 3), dtype=np.uint8))

    depth = rng.uniform(0.2, 3.0, (length, 6, 8)).astype(np.float32)
    depth[:, :2] = np.nan
    values = {
        "name": f"made up {number}",
        "robot": "toy",
        "control_mode": "end_effector_delta",
        "instruction": f"pick up the {number}. cube",
        "dt": 0.1,
        "action_names": ("x", "y", "grip"),
        "proprioception_names": ("a", "b"),
        "stamps": 1_795_000_000.123456 + 0.1 * np.arange(length),
        "proprioception": rng.normal(size=(length, 2)),
        "actions": rng.normal(size=(length, 3)),
        "pictures": {"front": colour(6, 8), "wrist": colour(5, 5)},
        "depths": {"front": reader(depth)},
        "outcome": (None, True, False)[number % 3],
    }
    return Episode(**(values | changes))


def assert_same(one: Episode, other: Episode, stamps: bool = True) -> None:
    """All but the names of the sources; stamps to the 0.25 us that a float holds of today's."""
    for field in ("robot", "control_mode", "instruction", "dt", "outcome", "cameras"):
        assert getattr(one, field) == getattr(other, field), field
    assert one.action_names == other.action_names
    assert one.proprioception_names == other.proprioception_names
    np.testing.assert_array_equal(one.actions, other.actions)
    np.testing.assert_array_equal(one.proprioception, other.proprioception)
    if stamps:
        np.testing.assert_allclose(one.stamps, other.stamps, rtol=0.0, atol=2.5e-7)
    assert set(one.depths) == set(other.depths)
    for camera in one.cameras:
        np.testing.assert_array_equal([*one.frames(camera)], [*other.frames(camera)])
    for camera in one.depths:
        np.testing.assert_array_equal([*one.depth(camera)], [*other.depth(camera)])
