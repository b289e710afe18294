"""Pictures of what a world model imagines: frames of a film, contact sheets, codes' meanings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla_ros.training.genie_starts import Motions

_INK, _PAPER, _GREY, _DARK = (245, 245, 245), (24, 26, 30), (150, 154, 160), (44, 47, 54)
_EDGE = 12  # pixels around things
_PANEL = 320  # of a film
_LINE = 26  # height of a line of words
_CELL = 112  # of a sheet
_COLUMNS = 8  # imagined frames beside each other on a sheet
_WORDS = 76  # width of the names of rows on a sheet
_TABLE = 270  # width of what is known of a code
FILM_SIZE = (_PANEL + 2 * _LINE + 3 * _EDGE, 2 * _PANEL + 3 * _EDGE)  # height, width


@dataclass
class Run:
    """One imagination. Frames are uint8 [S, S, 3]; `real` is what came then, if that is known."""

    start: np.ndarray
    real: Sequence[np.ndarray] = ()
    frames: list[np.ndarray] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


def film_frame(
    left: tuple[str, np.ndarray | None], right: tuple[str, np.ndarray | None], words: str
) -> np.ndarray:
    """Two frames beside each other, each below its name, uint8 RGB [*FILM_SIZE, 3].

    Args:
        left, right: name and frame; None for a dark place.
        words: below them.
    """
    height, width = FILM_SIZE
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=16)
    for number, (name, frame) in enumerate((left, right)):
        place = (_EDGE + number * (_PANEL + _EDGE), _EDGE)
        draw.text(place, name, _GREY, font)
        _paste(canvas, frame, (place[0], place[1] + _LINE), _PANEL)
    draw.text((_EDGE, 2 * _EDGE + _LINE + _PANEL), words, _INK, font)
    return np.asarray(canvas)


def contact_sheet(runs: Sequence[Run], dt: float) -> Image.Image:
    """Every run with its codes, eight frames a row; below them what really came, if it is known."""
    rows: list[tuple[str, list[tuple[str, np.ndarray]]]] = []  # name, named frames
    for run in runs:
        named = [("start", run.start)]
        for number, (code, frame) in enumerate(zip(run.codes, run.frames, strict=True)):
            named.append((f"{_time(number + 1, dt)}, code {code}", frame))
        came = [("", frame) for frame in (run.start, *run.real)]
        for first in range(0, max(len(run.frames), 1), _COLUMNS):
            part = slice(first, first + _COLUMNS + 1)  # a row begins with what the last ended with
            rows.append(("imagined", named[part]))
            if len(run.real):
                rows.append(("real", came[part]))
    columns = max(len(frames) for _, frames in rows)
    size = (_WORDS + columns * (_CELL + 4), len(rows) * (_CELL + 24) + 4)
    canvas = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for row, (what, frames) in enumerate(rows):
        top = row * (_CELL + 24) + 2
        draw.text((8, top + 20 + _CELL // 2 - 8), what, _GREY, font)
        for column, (name, frame) in enumerate(frames):
            left = _WORDS + column * (_CELL + 4)
            draw.text((left, top + 1), name, _INK, font)
            _paste(canvas, frame, (left, top + 20), _CELL)
    return canvas


def meanings(
    starts: Sequence[np.ndarray],
    imagined: Sequence[Sequence[Sequence[np.ndarray]]],
    dt: float,
    motions: Motions | None,
) -> Image.Image:
    """What each code does: a row a code; for each start it, and what repeating the code gives.

    Args:
        starts: the last frames seen, [S, S, 3] each.
        imagined: of each code, of each start: the frames.
        dt: s between frames.
        motions: drawn beside the rows.
    """
    repeats = len(imagined[0][0])
    block = (1 + repeats) * (_CELL + 4) + _EDGE
    width = _WORDS + len(starts) * block + (_TABLE if motions else 0)
    canvas = Image.new("RGB", (width, _LINE + len(imagined) * (_CELL + 4)), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for number in range(len(starts)):
        for column in range(1 + repeats):
            name = _time(column, dt) if column else "start"
            draw.text((_WORDS + number * block + column * (_CELL + 4), 5), name, _GREY, font)
    table = _WORDS + len(starts) * block
    if motions:
        draw.text((table, 5), "the tool's mean motion, cm", _GREY, font)
    for code, row in enumerate(imagined):
        top = _LINE + code * (_CELL + 4)
        draw.text((8, top + _CELL // 2 - 8), f"code {code}", _INK, font)
        for number, frames in enumerate(row):
            for column, frame in enumerate([starts[number], *frames]):
                place = (_WORDS + number * block + column * (_CELL + 4), top)
                _paste(canvas, frame, place, _CELL)
        if motions:
            for line, words in enumerate(_told(motions, code)):
                draw.text((table, top + 14 + 21 * line), words, _INK, font)
    return canvas


def _told(motions: Motions, code: int) -> list[str]:
    steps = int(motions.steps[code])
    if not steps:
        return ["0 steps"]
    moved = 100 * motions.mean[code]
    names = ("x, away", "y, left", "z, up")
    return [f"{steps} steps", *(f"{n}: {m:+.1f}" for n, m in zip(names, moved, strict=True))]


def motion_table(motions: Motions) -> str:
    """The same as text."""
    lines = [f"{'code':>4} {'steps':>6} {'dx, cm':>7} {'dy, cm':>7} {'dz, cm':>7}"]
    for code, (steps, mean) in enumerate(zip(motions.steps, motions.mean, strict=True)):
        moved = "".join(f" {100 * m:>+7.1f}" if steps else f" {'-':>7}" for m in mean)
        lines.append(f"{code:>4} {steps:>6}{moved}")
    return "\n".join(lines)


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        picture.save(partial, format="PNG")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _time(frames: int, dt: float) -> str:
    return f"+{frames * dt:.1f} s"


def _paste(
    canvas: Image.Image, frame: np.ndarray | None, place: tuple[int, int], side: int
) -> None:
    if frame is None:
        canvas.paste(_DARK, (*place, place[0] + side, place[1] + side))
        return
    large = cv2.resize(frame, (side, side), interpolation=cv2.INTER_CUBIC)
    canvas.paste(Image.fromarray(large), place)
