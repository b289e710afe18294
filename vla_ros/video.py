"""MP4 files, written frame by frame."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np


class Video:
    """An MP4 file that appears when it is closed, whole or not at all. A context manager.

    Frames are uint8 RGB [H, W, 3], all of one size, both sides even.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self._path, self._partial = path, path.with_name(f".partial-{path.name}")
        self._rate = frames_per_second
        self._shape: tuple[int, ...] = ()
        self._writer = cv2.VideoWriter()

    def add(self, frame: np.ndarray) -> None:
        """Write a frame; the first says how large all are.

        Raises:
            OSError: this OpenCV cannot write MP4, or the folder is not there.
            ValueError: the frame is not as large as the first, or a side is odd.
        """
        if not self._shape:
            self._open(frame.shape)
        elif frame.shape != self._shape:
            raise ValueError(f"a frame of {frame.shape} in a video of {self._shape}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def _open(self, shape: tuple[int, ...]) -> None:
        height, width, _ = shape
        if height % 2 or width % 2:
            raise ValueError(f"{width}x{height} pixels are no size for MP4: give even numbers")
        code = cv2.VideoWriter_fourcc(*"mp4v")
        if not self._writer.open(str(self._partial), code, self._rate, (width, height)):
            raise OSError(
                f"cannot write {self._path}: the folder is not there, or this OpenCV has no mp4v "
                "encoder (install another)"
            )
        self._shape = shape

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._writer.release()
        if kind is None and self._shape:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink(missing_ok=True)
