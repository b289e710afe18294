"""What was seen, expected and said at which moment; all times in s of the world's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vla_ros.scene_language.sentences import parse
from vla_ros.sim.truth import AHEAD, Witness

_CLOSE = 1e-3  # s that times of the same moment may differ
_FRESH = 0.3  # s: an older frame is not what the camera shows
_SUBTITLE = 1.5  # s that a sentence is shown for, at most
VERDICTS = {True: "true", False: "false", None: "not judged"}


@dataclass(frozen=True)
class Saying:
    """A sentence of the robot's.

    Attributes:
        time: s, of the frame that it is about.
        text: the sentence.
        true: by physics; None: not known.
        doubtful: whether its cycle score was low.
    """

    time: float
    text: str
    true: bool | None
    doubtful: bool = False

    @property
    def verdict(self) -> str:
        return VERDICTS[self.true]


class Sayings:
    """What the robot said, judged as soon as it is known what came of it; times are the world's, s.

    Args:
        witness: who judges.
        tell: called with every sentence once it is judged.
    """

    def __init__(self, witness: Witness, tell: Callable[[Saying], None]) -> None:
        self.judged: list[Saying] = []
        self._witness, self._tell = witness, tell
        self._said: list[tuple[float, str, bool]] = []  # and not judged yet
        self._no_time: list[float] = []

    def add(self, time: float, text: str, doubtful: bool = False) -> None:
        """A sentence about the frame of `time`."""
        self._said.append((time, text, doubtful))

    def settle(self, now: float = float("inf")) -> None:
        """Judge what is about a time of which, `now`, it is known what came of it."""
        known = [said for said in self._said if said[0] + AHEAD + _CLOSE < now]
        self._said = [said for said in self._said if said not in known]
        for time, text, doubtful in known:
            self.judged.append(Saying(time, text, self._is_true(time, text), doubtful))
            self._tell(self.judged[-1])

    def _is_true(self, time: float, text: str) -> bool | None:
        try:
            return self._witness.judge(parse(text), time)
        except ValueError:  # it means nothing
            return False

    def at(self, time: float, since: float) -> Saying | None:
        """The newest sentence about `since` to `time`, if it is not too old to be shown."""
        first = max(since, time - _SUBTITLE) - _CLOSE
        found = [saying for saying in self.judged if first <= saying.time <= time + _CLOSE]
        return max(found, key=lambda saying: saying.time, default=None)

    def is_silent(self, time: float) -> bool:
        """Whether the robot had no time to say anything about that moment."""
        return any(0.0 <= late - time <= _SUBTITLE for late in self._no_time)

    @property
    def seconds_without_time(self) -> int:
        return len(self._no_time)

    def add_no_time(self, time: float) -> None:
        """In the second that ended at `time` the robot had no time to speak."""
        self._no_time.append(time)

    def summary(self) -> str:
        """How many are true, of those that could be judged, and how many were doubtful."""
        verdicts = [saying.true for saying in self.judged if saying.true is not None]
        unknown = len(self.judged) - len(verdicts)
        rest = f" ({unknown} could not be judged)" if unknown else ""
        doubted = [saying.true for saying in self.judged if saying.doubtful]
        if doubted:
            rest += f"; {len(doubted)} were doubtful, {doubted.count(False)} of them false"
        return f"{sum(verdicts)} of {len(verdicts)} sentences true by physics{rest}"


class Told:
    """What the policy was told at which moment: the subtask, in its words."""

    def __init__(self) -> None:
        self._told: list[tuple[float, str]] = []

    def add(self, time: float, text: str) -> None:
        """What it follows at `time`; later than what was added before."""
        if not self._told or self._told[-1][1] != text:
            self._told.append((time, text))

    def at(self, time: float, since: float) -> str:
        """What it followed at `time`, if it was begun after `since`; "" for nothing."""
        found = [text for began, text in self._told if since <= began <= time + _CLOSE]
        return found[-1] if found else ""


class Expected(NamedTuple):
    """A frame that the world model imagined."""

    made: float  # s, when the last real frame before it was taken
    time: float  # s, when the camera was to show it
    dt: float  # s between imagined frames
    frame: np.ndarray  # uint8 [S, S, 3]
    live: bool  # imagined while the robot moved, else afterwards

    @property
    def ahead(self) -> float:
        """How long before it was to come it was imagined, s of the world's time."""
        return self.time - self.made

    def fits(self, time: float) -> bool:
        """Whether it is what was expected for this time, within half the time between frames."""
        return abs(self.time - time) <= self.dt / 2 + _CLOSE


class Expectations:
    """What the camera showed and what the world model expected.

    Frames are uint8 [S, S, 3] and kept as they come: give small ones. What was imagined while the
    robot moved goes before what was imagined afterwards.
    """

    def __init__(self) -> None:
        self._shown: list[tuple[float, np.ndarray]] = []
        self._expected: list[Expected] = []
        self._surprises: dict[float, float] = {}

    def add_camera(self, time: float, frame: np.ndarray) -> None:
        """A frame that was taken at `time`, later than those before."""
        self._shown.append((time, frame))

    def add_imagination(
        self,
        made: float,
        dt: float,
        frames: Sequence[np.ndarray],
        surprise: float,
        live: bool = True,
    ) -> None:
        """What was imagined after the real frame of `made`: frame k is expected at `made` + (k + 1)
        dt. May come late, and again.

        Args:
            surprise: by that real frame; negative if it is not known.
            live: False for what is made up for afterwards.
        """
        for k, frame in enumerate(frames):
            self._expected.append(Expected(made, made + (k + 1) * dt, dt, frame, live))
        if surprise >= 0.0:
            self._surprises[made] = surprise

    def camera(self, time: float, since: float) -> np.ndarray | None:
        """The newest frame taken from `since` to `time`, if it is fresh."""
        found = [shown for shown in self._shown if since <= shown[0] <= time + _CLOSE]
        return found[-1][1] if found and time - found[-1][0] < _FRESH else None

    def imagined(self, time: float, since: float) -> Expected | None:
        """What was expected for a time nearest to `time`.

        Of several what was made last; None if nothing made after `since` fits.
        """
        near = [one for one in self._expected if one.made >= since - _CLOSE and one.fits(time)]
        near = [one for one in near if one.live] or near
        distance = min((abs(one.time - time) for one in near), default=0.0)
        nearest = [one for one in near if abs(one.time - time) < distance + _CLOSE]
        return max(nearest, key=lambda one: one.made, default=None)

    def surprise(self, time: float, within: float) -> float | None:
        """The surprise by the frame nearest to `time`; None: not known of any that is as near."""
        nearest = min(self._surprises, key=lambda made: abs(made - time), default=None)
        if nearest is None or abs(nearest - time) > within:
            return None
        return self._surprises[nearest]

    def surprises(self, since: float, until: float) -> list[tuple[float, float]]:
        """Time and surprise of the frames of that time."""
        return sorted(o for o in self._surprises.items() if since <= o[0] <= until + _CLOSE)

    def scale(self) -> float:
        """What a curve of surprises should reach up to: the newly laid out scene that an episode
        begins with may be more."""
        values = list(self._surprises.values())
        return 1.5 * float(np.quantile(values, 0.95)) if values else 0.0
