"""Pictures of several cameras that are seen together: one rule for the live nodes and recordings.

The first camera's pictures are the moments. Of each other camera, the picture that was taken with
it belongs to it, `TOGETHER` earlier or later; of a camera that is slower or out of step, the newest
one before it, as long as that is not older than `longest_held` says. Nothing here imports ROS.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Generic, TypeVar

from vla_ros.joint_states import CLOCK_RESTART, SECOND

TOGETHER = 0.01  # s
_PERIODS, _LONGEST = 1.5, 0.5  # of a camera, and s: how long its picture is held
_EXPECTED = 0.9  # of a period, from which on the next picture may come any moment
_REMEMBERED = 8  # pictures of a camera whose stamps tell its period
_KEPT = 3  # of them, those that are kept
_RESTART = CLOCK_RESTART / SECOND

T = TypeVar("T")


def beside(topic: str, name: str) -> str:
    """The topic `name` in the namespace of an image topic, raw or compressed: "camera/camera_info"
    is beside "camera/image_raw"."""
    namespace = topic.removesuffix("/compressed").rpartition("/")[0]
    return f"{namespace}/{name}" if namespace or topic.startswith("/") else name


def longest_held(period: float) -> float:
    """How old the newest picture of a camera with that period may be at a moment, s."""
    return min(_PERIODS * period, _LONGEST)


class PicturePairs(Generic[T]):
    """Pictures as they arrive, in any order of cameras; gives those of one moment.

    Args:
        cameras: how many; the first one's pictures are the moments.
    """

    def __init__(self, cameras: int) -> None:
        self._stamps: list[list[float]] = [[] for _ in range(cameras)]
        self._pictures: list[dict[float, T]] = [{} for _ in range(cameras)]
        self._moment: float | None = None  # s, of the first camera's picture that waits for others

    def add(
        self, camera: int, stamp: float, picture: T, together: float = TOGETHER
    ) -> list[list[T]]:
        """A picture has come.

        Args:
            camera: its index.
            stamp: s.
            together: s by which pictures of one moment may differ.

        Returns:
            For each moment that is complete now, one picture of each camera; mostly none or one.
        """
        if self._stamps[camera] and stamp < self._stamps[camera][-1] - _RESTART:
            self.__init__(len(self._stamps))  # the clock began anew
        found = []
        if camera == 0:
            if self._moment is not None:
                found += self._complete(self._moment, together, wait=False)
            self._moment = stamp
        self._keep(camera, stamp, picture)
        if self._moment is not None and (now := self._complete(self._moment, together, wait=True)):
            self._moment = None
            found += now
        return found

    def _keep(self, camera: int, stamp: float, picture: T) -> None:
        stamps, pictures = self._stamps[camera], self._pictures[camera]
        if stamp not in pictures:
            stamps.append(stamp)
            stamps.sort()
        pictures[stamp] = picture
        del stamps[:-_REMEMBERED]
        for old in sorted(pictures)[:-_KEPT]:
            del pictures[old]

    def _complete(self, moment: float, together: float, wait: bool) -> list[list[T]]:
        """The pictures of a moment in a list, or an empty one; `wait` for what may still come."""
        chosen = []
        for camera, pictures in enumerate(self._pictures):
            stamps = self._stamps[camera]
            known = [s for s in pictures if s <= (moment + together if camera else moment)]
            if not known:
                return []
            stamp = max(known)
            period = median(b - a for a, b in pairwise(stamps)) if len(stamps) > 1 else 0.0
            coming = not period or stamp + _EXPECTED * period <= moment + together
            if abs(moment - stamp) > together:
                if wait and coming and stamps[-1] <= moment + together:
                    return []
                if moment - stamp > longest_held(period):
                    return []
            chosen.append(pictures[stamp])
        return [chosen]
