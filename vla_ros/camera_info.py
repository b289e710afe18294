"""A camera's calibration, and the part of its pictures that a model sees.

Pixels are counted as ROS and OpenCV do: the centre of the first is (0, 0). Messages are read by
their fields, whoever's class they are; nothing here imports ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

# Name in sensor_msgs/distortion_models.hpp -> how many coefficients OpenCV takes for it.
_PINHOLE = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14)}
_FISHEYE = {"equidistant": (4,), "fisheye": (4,)}
_UNDISTORTED = 0.01  # px: how well distorting an undistorted point again must hit it
_REFINEMENTS = 20
_FIELDS = ("width", "height", "k", "d", "distortion_model")  # of sensor_msgs/CameraInfo


@dataclass(frozen=True)
class CentreSquare:
    """The centre square of a picture, scaled: where a model's pixels lie in the picture.

    Attributes:
        left, top: the square's first column and row, px of the picture.
        side: of the square, px of the picture.
        size: of the square, px of the model.
    """

    left: int
    top: int
    side: int
    size: int

    @classmethod
    def of(cls, width: int, height: int, size: int) -> CentreSquare:
        """Raises ValueError when the square has fewer pixels than the model takes."""
        side = min(width, height)
        if side < size:
            raise ValueError(
                f"image of {width}x{height} is smaller than the model's {size}x{size}: "
                "raise the camera's resolution"
            )
        return cls((width - side) // 2, (height - side) // 2, side, size)

    def crop(self, picture: np.ndarray) -> np.ndarray:
        """The square of a picture [H, W, ...], not scaled; a view."""
        rows = slice(self.top, self.top + self.side)
        return picture[rows, self.left : self.left + self.side]

    def intrinsics(self, matrix: np.ndarray) -> np.ndarray:
        """Pinhole matrix [3, 3] of the square's scaled pixels, from that of the picture's."""
        scale = self.size / self.side
        # Scaling keeps the outer edges of pixels, which lie half a pixel before their centres.
        shift = [0.5 * scale - 0.5 - scale * first for first in (self.left, self.top)]
        return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1.0]]) @ matrix


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """Where each pixel of a picture looks.

    Attributes:
        width, height: of the pictures it is of, px.
        matrix: pinhole matrix [3, 3], px.
        distortion: coefficients of the lens, in OpenCV's order; none for a pinhole.
        distortion_model: whose coefficients they are, a name of sensor_msgs.
    """

    width: int
    height: int
    matrix: np.ndarray
    distortion: tuple[float, ...] = ()
    distortion_model: str = "plumb_bob"
    _rays: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CameraCalibration) and self.to_dict() == other.to_dict()

    __hash__ = None

    @classmethod
    def from_message(cls, message: Any, rectified: bool = False) -> CameraCalibration:
        """Read a sensor_msgs/CameraInfo (REP 104), with its binning and region of interest.

        Args:
            message: published beside the picture.
            rectified: of pictures that were undistorted already (`image_rect`): their pinhole is
                P. Else K and D count.

        Raises:
            ValueError: not calibrated, a matrix that no camera has, or a lens that is not known.
        """
        values = message.p if rectified else message.k
        matrix = np.array(values, np.float64).reshape(3, -1)[:, :3]
        name = "P" if rectified else "K"
        if not matrix.any():
            raise ValueError(
                f"the camera is not calibrated: its {name} holds zeros only; calibrate it (ROS "
                "package camera_calibration), or set the driver's camera_info_url"
            )
        focal = np.diag(matrix)[:2]
        if not np.isfinite(matrix).all() or (focal <= 0).any() or tuple(matrix[2]) != (0, 0, 1):
            shown = ", ".join(f"{value:g}" for value in matrix.ravel())
            raise ValueError(
                f"its {name} is no pinhole matrix: {shown}: "
                "calibrate the camera again, or set the driver's camera_info_url to a whole file"
            )
        region, first = message.roi, (0, 0)
        width, height = message.width, message.height
        if region.width and region.height:
            width, height, first = region.width, region.height, (region.x_offset, region.y_offset)
        binning = np.maximum([message.binning_x, message.binning_y], 1)
        matrix[:2, 2] -= first
        matrix[:2] /= binning[:, None]
        matrix[:2, 2] += 0.5 / binning - 0.5  # centres, as in CentreSquare.intrinsics
        distortion = () if rectified else tuple(float(value) for value in message.d)
        if not any(distortion):
            distortion = ()
        known = {**_PINHOLE, **_FISHEYE}
        if distortion and len(distortion) not in known.get(message.distortion_model, ()):
            raise ValueError(
                f"its lens model '{message.distortion_model}' with {len(distortion)} coefficients "
                f"is not known: take one of {', '.join(known)}, or rectified pictures"
            )
        size = int(width) // int(binning[0]), int(height) // int(binning[1])
        return cls(*size, matrix, distortion, message.distortion_model)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CameraCalibration:
        """Of a file: CameraInfo's width, height, k, d and distortion_model; or what ROS' package
        camera_calibration writes (image_width, camera_matrix, ...).

        Raises:
            ValueError: something is missing, or is no calibration.
        """
        if "camera_matrix" in values:
            values = {
                "width": values.get("image_width"),
                "height": values.get("image_height"),
                "k": (values["camera_matrix"] or {}).get("data"),
                "d": (values.get("distortion_coefficients") or {}).get("data"),
                "distortion_model": values.get("distortion_model"),
            }
        values = {"d": (), "distortion_model": "plumb_bob"} | {
            key: value for key, value in values.items() if value is not None
        }
        if unknown := sorted(values.keys() - {*_FIELDS}):
            raise ValueError(f"{unknown[0]} is none of {', '.join(_FIELDS)}")
        if missing := [name for name in _FIELDS if name not in values]:
            raise ValueError(
                f"{missing[0]} is missing: give {', '.join(_FIELDS[:3])} of CameraInfo"
            )
        try:
            numbers = {name: np.array(values[name], np.float64) for name in ("k", "d")}
            size = int(values["width"]), int(values["height"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"no calibration: {error}") from None
        if numbers["k"].shape != (9,) or numbers["d"].ndim != 1 or min(size) < 1:
            raise ValueError("k must have 9 numbers, d a list of them, width and height pixels")
        message = SimpleNamespace(
            **numbers,
            width=size[0],
            height=size[1],
            distortion_model=values["distortion_model"],
            binning_x=0,
            binning_y=0,
            roi=SimpleNamespace(width=0, height=0),
        )
        return cls.from_message(message)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, which `from_dict` takes."""
        return {
            "width": self.width,
            "height": self.height,
            "k": self.matrix.ravel().tolist(),
            "d": list(self.distortion),
            "distortion_model": self.distortion_model,
        }

    def scaled(self, size: int) -> CameraCalibration:
        """Of what `preprocess_image(picture, size)` returns. Raises ValueError: see
        `CentreSquare`."""
        matrix = CentreSquare.of(self.width, self.height, size).intrinsics(self.matrix)
        return CameraCalibration(size, size, matrix, self.distortion, self.distortion_model)

    def require_size(self, width: int, height: int) -> None:
        """Raises ValueError when it is not of pictures of this size."""
        if (self.width, self.height) != (width, height):
            raise ValueError(
                f"camera_info is of {self.width}x{self.height} pictures, but they have "
                f"{width}x{height}: name the camera_info that is published beside them, or set the "
                "driver to the resolution that was calibrated"
            )

    def intrinsics(self, size: int) -> np.ndarray:
        """Pinhole matrix, float32 [3, 3], of what `preprocess_image(picture, size)` returns.

        Raises:
            ValueError: the lens distorts (see `rays`), or pictures are smaller than `size`.
        """
        if self.distortion:
            raise ValueError("the lens distorts: no pinhole matrix tells where its pixels look")
        return self.scaled(size).matrix.astype(np.float32)

    def rays(self, size: int) -> np.ndarray:
        """Where the pixels of `preprocess_image(picture, size)` look, undistorted.

        Returns:
            float32 [size, size, 3] in the optical frame (x right, y down), z = 1: a point is its
            depth times its ray. NaN where the lens model has no answer. Read-only, and made once.
            Those of `scaled(size)` are the same, bit for bit.
        """
        if size not in self._rays:
            rays = self.scaled(size)._own_rays()
            rays.flags.writeable = False
            self._rays[size] = rays
        return self._rays[size]

    def _own_rays(self) -> np.ndarray:
        """Of each pixel of its pictures, float32 [H, W, 3]."""
        steps = np.arange(self.width, dtype=np.float64), np.arange(self.height, dtype=np.float64)
        pixels = np.stack(np.meshgrid(*steps, indexing="xy"), axis=-1).reshape(-1, 1, 2)
        flat = np.linalg.inv(self.matrix)
        rays = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1) @ flat.T
        if self.distortion:
            rays[..., :2] = self._undistorted(pixels)
        return rays.reshape(self.height, self.width, 3).astype(np.float32)

    def _undistorted(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [n, 1, 2] as x / z and y / z, NaN where they cannot be found."""
        undistort = cv2.fisheye.undistortPoints if self._fisheye else cv2.undistortPoints
        found = undistort(pixels, self.matrix, np.array(self.distortion))
        focal = np.diag(self.matrix)[:2]
        for _ in range(_REFINEMENTS):  # OpenCV stops after few steps, how close it came or not
            missed = self._distorted(found) - pixels
            if (np.abs(missed) < 0.1 * _UNDISTORTED).all():
                break
            found = found - np.nan_to_num(missed) / focal
        missed = np.abs(self._distorted(found) - pixels).max(axis=-1, keepdims=True)
        return np.where(missed < _UNDISTORTED, found, np.nan)

    def _distorted(self, points: np.ndarray) -> np.ndarray:
        """Where the camera sees points [n, 1, 2] of x / z and y / z, px."""
        zero, points = np.zeros(3), np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
        project = cv2.fisheye.projectPoints if self._fisheye else cv2.projectPoints
        pixels, _ = project(points, zero, zero, self.matrix, np.array(self.distortion))
        return pixels.reshape(-1, 1, 2)

    @property
    def _fisheye(self) -> bool:
        return self.distortion_model in _FISHEYE
