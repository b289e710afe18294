"""Frames of a robot's cameras to visual tokens, by whatever a policy's encoder takes of them.

Nodes, rollouts and evaluation encode through this, so live and offline a policy sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np

from vla_ros.models.policy import ImageEncoder
from vla_ros.models.vision import (
    Geometry,
    PointMap,
    build_geometry,
    point_map,
    pool,
    required_inputs,
)

_RESTART = 0.5  # s that stamps go back when a clock begins anew
_ROUNDING = 1e-3  # s, of stamps


class Frame(Protocol):
    """What one camera sees at one moment: `vla_ros.observations.CameraFrame`."""

    image: np.ndarray
    depth: np.ndarray | None
    rays: np.ndarray | None


class ObservationEncoder:
    """An image encoder, and its geometry, which may run at a rate of its own.

    Args:
        model: a policy or a narrator.
        rate: of geometry, Hz by the frames' stamps; in between the last is used again. 0: each
            frame has its own, as in training.

    Raises:
        ValueError: the model's geometry cannot be made here, such as of a missing package.
    """

    def __init__(self, model: ImageEncoder, rate: float = 0.0) -> None:
        self._model, self.rate = model, rate
        description = model.geometry_description
        self.kind: str = description["model_type"] if description else ""
        self.needs = required_inputs(description)
        self._point_map = getattr(model, "point_map", None)
        if self.kind and self._point_map is None:
            if self.kind == "depth_model":
                raise ValueError(
                    "the checkpoint holds no weights of its depth model: take one with geometry "
                    "'depth_camera'"
                )
            geometry = build_geometry(description, model.image_size, model.grid[1:3])
            self._point_map = partial(point_map, geometry)
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._points: PointMap | None = None
        self._geometry: Geometry | None = None
        self._stamp = 0.0  # s, of the frame that geometry is of
        self.measured = np.zeros(len(self._model.cameras), bool)

    measured: np.ndarray  # bool [N]: of which cameras a point was ever known

    def encode(self, frames: Sequence[Frame], stamp: float = 0.0) -> np.ndarray:
        """Visual tokens float16 [N, h, w, C].

        Args:
            frames: of one moment, of each of the model's cameras.
            stamp: of the moment, s.

        Raises:
            ValueError: frames lack what the model's geometry needs.
        """
        # Pictures of files and messages are read-only, and torch knows no such arrays.
        images = [f.image if f.image.flags.writeable else f.image.copy() for f in frames]
        if not self.kind:
            return self._model.encode(images)
        if self._is_due(stamp):
            self._points = self._point_map(
                images, self._given("depth", frames), self._given("rays", frames)
            )
            self._geometry = pool(self._points, self._model.grid[1:3])
            self._stamp = stamp
            self.measured |= self._geometry.valid.flatten(1).any(1).cpu().numpy()
        return self._model.encode(images, self._geometry)

    def points_of(self, stamp: float) -> PointMap | None:
        """Points [N, S, S, 3] if they were made of the frame with that stamp."""
        return self._points if stamp == self._stamp else None

    def nothing_measured(self) -> list[int]:
        """Cameras of which no point was known yet, though frames were encoded."""
        if not self.kind or self.kind == "none" or self._points is None:
            return []
        return np.flatnonzero(~self.measured).tolist()

    def _is_due(self, stamp: float) -> bool:
        if self._geometry is None or not self.rate or stamp < self._stamp - _RESTART:
            return True
        return stamp - self._stamp >= 1.0 / self.rate - _ROUNDING

    def _given(self, what: str, frames: Sequence[Frame]) -> list[np.ndarray] | None:
        if ("intrinsics" if what == "rays" else what) not in self.needs:
            return None
        return [getattr(frame, what) for frame in frames]
