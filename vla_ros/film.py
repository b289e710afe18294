"""Pictures of episodes: states recorded while the robot moves, drawn when there is time for it.

Recording costs the running robot next to nothing, and what is drawn afterwards can be larger and
finer than what its cameras deliver.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# isort: off
import vla_ros.sim  # noqa: F401  (before MuJoCo: it chooses how to draw)
import mujoco
# isort: on

from vla_ros.sim.arm import CAMERAS, TICK, ArmWorld
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, Task

if TYPE_CHECKING:
    from vla_ros.nodes.sim_robot import SimRobot

FRAMES_PER_SECOND = 10
_SIZE = (480, 640)  # height, width of the picture, pixels
_INSET = 150
_BAR = 64
_SHEET_PART = (slice(40, 480), slice(70, 450))  # of the picture, rows and columns
_INK, _PAPER, _GREY = (245, 245, 245), (24, 26, 30), (150, 154, 160)
_COLORS = {
    Outcome.RUNNING: _GREY,
    Outcome.SUCCEEDED: (96, 211, 122),
    Outcome.FAILED: (240, 104, 96),
    Outcome.IDLE: _GREY,
}


@dataclass
class Recording:
    """One episode: at every frame the world's positions, and what the judge says."""

    task: Task
    states: list[np.ndarray] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


class Recorder:
    """The simulated robot's `hook`: a recording for every task that the robot is given."""

    def __init__(self, robot: SimRobot) -> None:
        self._robot = robot
        self._judge = robot.world.judge
        self.recordings: list[Recording] = []
        robot.hook = self._record

    def _record(self) -> None:
        world = self._robot.world
        if world.judge is not self._judge:
            self._judge = world.judge
            self.recordings.append(Recording(world.task))
        elif self._robot.ticks % round(1 / (FRAMES_PER_SECOND * TICK)):
            return
        if self.recordings:
            self.recordings[-1].states.append(world.data.qpos.copy())
            self.recordings[-1].outcomes.append(world.outcome)


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


def caption(picture: np.ndarray, number: str, instruction: str, outcome: Outcome) -> np.ndarray:
    """The picture with a bar below it that says what is to be done and how it stands."""
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
    return np.asarray(canvas)


class Video:
    """An MP4 file that appears when it is closed, whole or not at all. A context manager.

    Raises:
        OSError: this OpenCV cannot write MP4.
    """

    def __init__(self, path: Path, frames_per_second: float = FRAMES_PER_SECOND) -> None:
        self._path, self._partial = path, path.with_name(f".partial-{path.name}")
        size = (_SIZE[1], _SIZE[0] + _BAR)
        code = cv2.VideoWriter_fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._partial), code, frames_per_second, size)
        if not self._writer.isOpened():
            raise OSError(f"cannot write {path}: this OpenCV has no mp4v encoder, install another")

    def add(self, frame: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._writer.release()
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink(missing_ok=True)


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
