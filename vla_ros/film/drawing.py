"""Pictures of recorded episodes: the arm from the side, and beside it what was seen and expected.

What is drawn afterwards can be larger and finer than what the robot's cameras deliver.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# isort: off
import vla_ros.sim  # noqa: F401  (before MuJoCo: it chooses how to draw)
import mujoco
# isort: on

from vla_ros.film.states import Recording
from vla_ros.film.timeline import VERDICTS, Expectations, Saying
from vla_ros.sim.arm import CAMERAS, ArmWorld
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome

_SIZE = (480, 640)  # height, width of the picture, pixels
_INSET = 150
_BAR = 136
_SHEET_PART = (slice(40, 480), slice(70, 450))  # of the picture, rows and columns
_SIDE, _PANEL = 216, 192  # widths of the column beside the picture, and of what is in it
_INK, _PAPER, _GREY, _DARK = (245, 245, 245), (24, 26, 30), (150, 154, 160), (44, 47, 54)
_CURVE = _NOTE = (240, 190, 80)
_COLORS = {
    Outcome.RUNNING: _GREY,
    Outcome.SUCCEEDED: (96, 211, 122),
    Outcome.FAILED: (240, 104, 96),
    Outcome.IDLE: _GREY,
}
_VERDICT_COLORS = {
    True: _COLORS[Outcome.SUCCEEDED],
    False: _COLORS[Outcome.FAILED],
    None: _GREY,
}


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
    silence: str = "",
    note: str = "",
) -> np.ndarray:
    """The picture with a bar below it that says what is to be done and how it stands, a `note` on
    what the robot makes of that, and what it says and whether that is true, or else why it says
    nothing."""
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + _BAR), _PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(size=22), ImageFont.load_default(size=16)
    if font.getlength(instruction) <= width - 28:
        draw.text((14, height + 8), instruction, _INK, font)
    else:
        for i, line in enumerate(_wrapped(instruction, small, width - 28)[:2]):
            draw.text((14, height + 2 + 18 * i), line, _INK, small)
    draw.text((14, height + 38), number, _GREY, small)
    draw.text((14, height + 62), _shortened(note, small, width - 28), _NOTE, small)
    words = "" if outcome in (Outcome.RUNNING, Outcome.IDLE) else outcome.name.lower()
    left = width - 14 - small.getlength(words)
    draw.text((left, height + 38), words, _COLORS[outcome], small)
    if saying is not None:
        words, color = VERDICTS[saying.true], _VERDICT_COLORS[saying.true]
        left = width - 14 - small.getlength(words)
        draw.text((left, height + 90), words, color, small)
        for i, line in enumerate(_wrapped(saying.text, small, left - 28)[:2]):
            draw.text((14, height + 90 + 20 * i), line, color, small)
    elif silence:
        draw.text((14, height + 90), silence, _GREY, small)
    return np.asarray(canvas)


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
        how = "live" if expected.live else "afterwards"
        imagined = (f"imagined {how}, {expected.ahead:.1f} s", expected.frame)
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
        lines = _wrapped(report.instruction, bold, words - 28)[:5]
        for i, line in enumerate(lines):
            draw.text((14, top + 8 + 24 * i), line, _INK, bold)
        outcome = Outcome.SUCCEEDED if report.success else Outcome.FAILED
        told = what_happened(report)
        below = top + 14 + 24 * len(lines)
        for i, line in enumerate(_wrapped(told, plain, words - 28)[: 3 if len(lines) < 4 else 1]):
            draw.text((14, below + 19 * i), line, _COLORS[outcome], plain)
        draw.text((14, top + height - 24), f"{report.family}, seed {report.seed}", _GREY, plain)
        for i, picture in enumerate(pictures):
            # Without the insets, which would be too small to see.
            part = picture[_SHEET_PART]
            small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
            sheet.paste(Image.fromarray(small), (words + i * (width + 4), top))
    return sheet


def what_happened(report: EpisodeReport) -> str:
    """In words: how it went, or what was refused and why."""
    if report.success and report.refusal:
        return f"refused: {report.refusal}"
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
