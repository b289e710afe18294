"""Pictures of episodes: states recorded while the robot moves, drawn when there is time for it.

Recording costs the running robot next to nothing, and what is drawn afterwards can be larger and
finer than what its cameras deliver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# isort: off
import vla_ros.sim  # noqa: F401  (before MuJoCo: it chooses how to draw)
import mujoco
# isort: on

from vla_ros.scene_language.sentences import parse
from vla_ros.sim.arm import CAMERAS, TICK, ArmWorld
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, Task
from vla_ros.sim.truth import AHEAD, Witness

if TYPE_CHECKING:
    from vla_ros.nodes.sim_robot import SimRobot

FRAMES_PER_SECOND = 10
_SIZE = (480, 640)  # height, width of the picture, pixels
_INSET = 150
_BAR = 112
_SHEET_PART = (slice(40, 480), slice(70, 450))  # of the picture, rows and columns
_SIDE, _PANEL = 216, 192  # widths of the column beside the picture, and of what is in it
_INK, _PAPER, _GREY, _DARK = (245, 245, 245), (24, 26, 30), (150, 154, 160), (44, 47, 54)
_CURVE = (240, 190, 80)
_CLOSE = 1e-3  # s that times of the same moment may differ
_FRESH = 0.3  # s: an older frame is not what the camera shows
_SUBTITLE = 1.5  # s that a sentence is shown for, at most
_COLORS = {
    Outcome.RUNNING: _GREY,
    Outcome.SUCCEEDED: (96, 211, 122),
    Outcome.FAILED: (240, 104, 96),
    Outcome.IDLE: _GREY,
}
_VERDICTS = {
    True: ("true", _COLORS[Outcome.SUCCEEDED]),
    False: ("false", _COLORS[Outcome.FAILED]),
    None: ("not judged", _GREY),
}


@dataclass
class Recording:
    """One episode: at every frame the time (s), the world's positions, what the judge says."""

    task: Task
    times: list[float] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


class Recorder:
    """The simulated robot's `hook`: a recording for every task that the robot is given.

    `witness` sees what is true at every frame of the cameras.
    """

    def __init__(self, robot: SimRobot) -> None:
        self._robot = robot
        self._judge = robot.world.judge
        self.recordings: list[Recording] = []
        self.witness = Witness()
        robot.hook = self._record

    def _record(self) -> None:
        world = self._robot.world
        begins = world.judge is not self._judge
        if begins:
            self._judge = world.judge
            self.recordings.append(Recording(world.task))
        if not self.recordings:
            return
        if self._is_due(self._robot.params.camera_rate):
            self.witness.look(world)
        if begins or self._is_due(FRAMES_PER_SECOND):
            self.recordings[-1].times.append(world.time)
            self.recordings[-1].states.append(world.data.qpos.copy())
            self.recordings[-1].outcomes.append(world.outcome)

    def _is_due(self, rate: float) -> bool:
        return self._robot.ticks % round(1 / (rate * TICK)) == 0


class Studio:
    """Draws recorded episodes: the arm from the side, and what its two cameras see."""

    def __init__(self) -> None:
        self._world = ArmWorld(visuals="meshes")
        model = self._world.model
        model.vis.quality.offsamples = 4
        model.geom("floor").size[:2] = 20.0  # m: up to the horizon
        model.geom_rbound[model.geom("floor").id] = 30.0
        self._renderer = mujoco.Renderer(model, *_SIZE)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._view = mujoco.MjvCamera()
        self._view.lookat[:] = (0.36, 0.1, 0.17)
        self._view.distance, self._view.azimuth, self._view.elevation = 1.25, 142.0, -32.0

    def pictures(self, recording: Recording) -> Iterator[np.ndarray]:
        """Every frame of a recording, uint8 RGB [H, W, 3]."""
        world = self._world
        world.reset(recording.task)
        world.model.vis.headlight.ambient[:] += 0.08
        for state in recording.states:
            world.data.qpos[:] = state
            mujoco.mj_forward(world.model, world.data)
            self._renderer.update_scene(world.data, self._view)
            picture = self._renderer.render().copy()
            for i, camera in enumerate(CAMERAS):
                inset = world.render(camera, size=(_INSET, _INSET))
                top, left = 10 + i * (_INSET + 10), _SIZE[1] - _INSET - 10
                picture[top - 2 : top + _INSET + 2, left - 2 : left + _INSET + 2] = _INK
                picture[top : top + _INSET, left : left + _INSET] = inset
            yield picture

    def close(self) -> None:
        self._renderer.close()
        self._world.close()


def caption(
    picture: np.ndarray,
    number: str,
    instruction: str,
    outcome: Outcome,
    saying: Saying | None = None,
) -> np.ndarray:
    """The picture with a bar below it that says what is to be done and how it stands, and what the
    robot says and whether that is true."""
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + _BAR), _PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(size=22), ImageFont.load_default(size=16)
    draw.text((14, height + 8), _shortened(instruction, font, width - 28), _INK, font)
    draw.text((14, height + 38), number, _GREY, small)
    words = "" if outcome in (Outcome.RUNNING, Outcome.IDLE) else outcome.name.lower()
    left = width - 14 - small.getlength(words)
    draw.text((left, height + 38), words, _COLORS[outcome], small)
    if saying is not None:
        words, color = _VERDICTS[saying.true]
        left = width - 14 - small.getlength(words)
        draw.text((left, height + 66), words, color, small)
        for i, line in enumerate(_wrapped(saying.text, small, left - 28)[:2]):
            draw.text((14, height + 66 + 20 * i), line, color, small)
    return np.asarray(canvas)


@dataclass(frozen=True)
class Saying:
    """A sentence of the robot's.

    Attributes:
        time: s, of the frame that it is about.
        text: the sentence.
        true: by physics; None: not known.
    """

    time: float
    text: str
    true: bool | None

    @property
    def verdict(self) -> str:
        return _VERDICTS[self.true][0]


class Sayings:
    """What the robot said, judged as soon as it is known what came of it; times are the world's, s.

    Args:
        witness: who judges.
        tell: called with every sentence once it is judged.
    """

    def __init__(self, witness: Witness, tell: Callable[[Saying], None]) -> None:
        self.judged: list[Saying] = []
        self._witness, self._tell = witness, tell
        self._said: list[tuple[float, str]] = []  # and not judged yet

    def add(self, time: float, text: str) -> None:
        """A sentence about the frame of `time`."""
        self._said.append((time, text))

    def settle(self, now: float = float("inf")) -> None:
        """Judge what is about a time of which, `now`, it is known what came of it."""
        known = [said for said in self._said if said[0] + AHEAD + _CLOSE < now]
        self._said = [said for said in self._said if said not in known]
        for time, text in known:
            self.judged.append(Saying(time, text, self._is_true(time, text)))
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

    def summary(self) -> str:
        """How many are true, of those that could be judged."""
        verdicts = [saying.true for saying in self.judged if saying.true is not None]
        unknown = len(self.judged) - len(verdicts)
        rest = f" ({unknown} could not be judged)" if unknown else ""
        return f"{sum(verdicts)} of {len(verdicts)} sentences true by physics{rest}"


@dataclass(frozen=True)
class _Expected:
    """A frame that the world model imagined."""

    made: float  # s, when the last real frame before it was taken
    time: float  # s, when the camera was to show it
    dt: float  # s between imagined frames
    frame: np.ndarray


class Expectations:
    """What the camera showed and what the world model expected; all times in s of one clock.

    Frames are uint8 [S, S, 3] and kept as they come: give small ones.
    """

    def __init__(self) -> None:
        self._shown: list[tuple[float, np.ndarray]] = []
        self._expected: list[_Expected] = []
        self._surprises: dict[float, float] = {}

    @property
    def any_imagined(self) -> bool:
        return bool(self._expected)

    def add_camera(self, time: float, frame: np.ndarray) -> None:
        """A frame that was taken at `time`, later than those before."""
        self._shown.append((time, frame))

    def add_imagination(
        self, made: float, dt: float, frames: Sequence[np.ndarray], surprise: float
    ) -> None:
        """What was imagined after the real frame of `made`: frame k is expected at `made` + (k + 1)
        dt. May come late, and again.

        Args:
            surprise: by that real frame; negative if it is not known.
        """
        for k, frame in enumerate(frames):
            self._expected.append(_Expected(made, made + (k + 1) * dt, dt, frame))
        if surprise >= 0.0:
            self._surprises[made] = surprise

    def camera(self, time: float, since: float) -> np.ndarray | None:
        """The newest frame taken from `since` to `time`, if it is fresh."""
        found = [shown for shown in self._shown if since <= shown[0] <= time + _CLOSE]
        return found[-1][1] if found and time - found[-1][0] < _FRESH else None

    def imagined(self, time: float, since: float) -> tuple[np.ndarray, float] | None:
        """The frame expected at a time nearest to `time`, and how long before that it was made, s.

        Of several the one that was made last; None if nothing made after `since` was expected
        within half the time between imagined frames.
        """
        near = [
            one
            for one in self._expected
            if one.made >= since and abs(one.time - time) <= one.dt / 2 + _CLOSE
        ]
        if not near:
            return None
        distance = min(abs(one.time - time) for one in near)
        best = max(
            (one for one in near if abs(one.time - time) < distance + _CLOSE),
            key=lambda one: one.made,
        )
        return best.frame, best.time - best.made

    def surprises(self, since: float, until: float) -> list[tuple[float, float]]:
        """Time and surprise of the frames of that time."""
        return sorted(o for o in self._surprises.items() if since <= o[0] <= until + _CLOSE)

    def scale(self) -> float:
        """What a curve of surprises should reach up to: the newly laid out scene that an episode
        begins with may be more."""
        values = list(self._surprises.values())
        return 1.5 * float(np.quantile(values, 0.95)) if values else 0.0


def beside(
    picture: np.ndarray, expectations: Expectations, time: float, episode: tuple[float, float]
) -> np.ndarray:
    """The picture, and right of it what the camera showed at `time` and what was expected then.

    Args:
        picture: uint8 RGB [H, W, 3], with its caption.
        expectations: of the whole film.
        time: s.
        episode: s, when it began and when it ended: nothing of others is shown.
    """
    height, width = picture.shape[:2]
    began, ended = episode
    canvas = Image.new("RGB", (width + _SIDE, height), _PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    imagined: tuple[str, np.ndarray | None] = ("nothing imagined", None)
    if expected := expectations.imagined(time, began):
        imagined = (f"imagined {expected[1]:.1f} s before", expected[0])
    shown = ("camera", expectations.camera(time, began))
    for number, (words, frame) in enumerate((shown, imagined)):
        top, left = number * (_PANEL + 30), width + (_SIDE - _PANEL) // 2
        draw.text((left, top + 6), words, _GREY, font)
        place = (left, top + 28)
        if frame is None:
            canvas.paste(_DARK, (*place, left + _PANEL, top + 28 + _PANEL))
        else:
            large = cv2.resize(frame, (_PANEL, _PANEL), interpolation=cv2.INTER_CUBIC)
            canvas.paste(Image.fromarray(large), place)
    top = 2 * (_PANEL + 30)
    known = expectations.surprises(began, time)
    words = f"surprise {known[-1][1]:.2f}" if known else "surprise not known"
    draw.text((left, top + 6), words, _GREY, font)
    bottom, room = height - 14, height - 14 - (top + 34)
    draw.line([(left, bottom), (left + _PANEL, bottom)], _GREY)
    scale = max(expectations.scale(), 1e-6)
    points = [
        (
            left + _PANEL * (when - began) / max(ended - began, 1e-6),
            bottom - room * min(value / scale, 1.0),
        )
        for when, value in known
    ]
    if len(points) > 1:
        draw.line(points, _CURVE, 2)
    return np.asarray(canvas)


def contact_sheet(rows: list[tuple[EpisodeReport, list[np.ndarray]]]) -> Image.Image:
    """One row an episode: in words what happened, then some of its pictures in order."""
    height, width, words = 176, 152, 300
    columns = max((len(pictures) for _, pictures in rows), default=0)
    sheet = Image.new("RGB", (words + columns * (width + 4), len(rows) * (height + 8)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(size=19), ImageFont.load_default(size=15)
    for row, (report, pictures) in enumerate(rows):
        top = row * (height + 8) + 4
        lines = _wrapped(report.instruction, bold, words - 28)[:3]
        for i, line in enumerate(lines):
            draw.text((14, top + 8 + 24 * i), line, _INK, bold)
        outcome = Outcome.SUCCEEDED if report.success else Outcome.FAILED
        told = what_happened(report)
        below = top + 14 + 24 * len(lines)
        for i, line in enumerate(_wrapped(told, plain, words - 28)[:2]):
            draw.text((14, below + 19 * i), line, _COLORS[outcome], plain)
        draw.text((14, top + height - 24), f"{report.family}, seed {report.seed}", _GREY, plain)
        for i, picture in enumerate(pictures):
            # Without the insets, which would be too small to see.
            part = picture[_SHEET_PART]
            small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
            sheet.paste(Image.fromarray(small), (words + i * (width + 4), top))
    return sheet


def what_happened(report: EpisodeReport) -> str:
    return f"fulfilled in {report.seconds:.1f} s" if report.success else report.reason


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices, evenly spread over range(count), the first and the last included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))})


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    lines = _wrapped(text, font, width - font.getlength(" ..."))
    return lines[0] + (" ..." if len(lines) > 1 else "")
