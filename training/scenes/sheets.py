"""Pictures of texts on a sheet: the text, what it looks like, what is read back, and how well that
fits; with attributions, what each word did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla_ros.models.scenes.attribution import Attribution

_INK, _PAPER, _GREY, _DARK = (245, 245, 245), (24, 26, 30), (150, 154, 160), (44, 47, 54)
_GOOD, _BAD = (96, 211, 122), (240, 104, 96)
_LIKELY = 0.5  # cycle score from which a text fits its picture rather than not
_EDGE = 16  # pixels around things
_SIDE = 320  # of a picture: five for each of its pixels
_LINE = 21  # height of a line of words
_TILE = 82  # side of a picture of one word
_DIM = 0.22  # brightness of what a word has nothing to do with
_MOST_COLUMNS = 4


@dataclass(frozen=True)
class Card:
    """One text and its picture.

    Attributes:
        text: as it was given.
        image: uint8 [64, 64, 3].
        caption: what is read back, in words.
        score: cycle score, 0 to 1.
        missing: what of the text is not read back; "" if nothing.
        attribution: what each word did; None: not shown.
    """

    text: str
    image: np.ndarray
    caption: str
    score: float
    missing: str = ""
    attribution: Attribution | None = None


def sheet(cards: Sequence[Card]) -> Image.Image:
    """Cards beside each other, in rows as even as can be."""
    columns = min(len(cards), _MOST_COLUMNS, math.ceil(math.sqrt(len(cards))))
    if any(card.attribution for card in cards):
        columns = 1
    rows = [cards[first : first + columns] for first in range(0, len(cards), columns)]
    heights = [max(_height(card) for card in row) for row in rows]
    width = max(_width(card) for card in cards)
    size = (columns * (width + _EDGE) + _EDGE, sum(heights) + _EDGE * (len(rows) + 1))
    canvas = Image.new("RGB", size, _PAPER)
    draw, top = ImageDraw.Draw(canvas), _EDGE
    for row, height in zip(rows, heights, strict=True):
        texts = max(len(_title(card)) for card in row)  # pictures of a row stand in one line
        for column, card in enumerate(row):
            _lay(canvas, draw, card, (_EDGE + column * (width + _EDGE), top), texts)
        top += height + _EDGE
    return canvas


def _lay(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, card: Card, place: tuple[int, int], texts: int
) -> None:
    left, top = place
    for number, line in enumerate(_title(card)):
        draw.text((left, top + number * _LINE), line, _INK, _font(17))
    top += texts * _LINE + 8
    canvas.paste(_enlarged(card.image, _SIDE), (left, top))
    if card.attribution is not None:
        _lay_words(canvas, draw, card, (left + _SIDE + _EDGE, top))
    top += _SIDE + 8
    score = f"cycle score {card.score:.2f}"
    draw.text((left, top), score, _GOOD if card.score >= _LIKELY else _BAD, _font(15))
    for number, (line, color) in enumerate(_below(card)):
        draw.text((left, top + (number + 1) * _LINE), line, color, _font(15))


def _lay_words(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, card: Card, place: tuple[int, int]
) -> None:
    """For each word the picture, bright where the word made it."""
    attribution = card.attribution
    most = max(float(attribution.maps.max()), 1e-6)
    columns = _word_columns(card)
    for number, (word, strength) in enumerate(
        zip(attribution.words, attribution.maps, strict=True)
    ):
        left = place[0] + number % columns * (_TILE + 8)
        top = place[1] + number // columns * (_TILE + _LINE + 6)
        share = _DIM + (1 - _DIM) * np.sqrt(strength / most)[..., None]
        lit = (card.image * share.clip(0.0, 1.0)).round().astype(np.uint8)
        canvas.paste(_enlarged(lit, _TILE), (left, top))
        draw.text((left + 2, top + _TILE + 1), word, _INK, _font(14))


def _word_columns(card: Card) -> int:
    rows = max((_SIDE + 8) // (_TILE + _LINE + 6), 1)
    return max(math.ceil(len(card.attribution.words) / rows), 3)


def _width(card: Card) -> int:
    if card.attribution is None:
        return _SIDE
    return _SIDE + _EDGE + _word_columns(card) * (_TILE + 8)


def _height(card: Card) -> int:
    return (len(_title(card)) + len(_below(card)) + 1) * _LINE + _SIDE + 24


def _title(card: Card) -> list[str]:
    return _wrapped(card.text, _font(17), _width(card))


def _below(card: Card) -> list[tuple[str, tuple[int, int, int]]]:
    lines = _wrapped(card.caption or "nothing is read back", _font(15), _width(card))
    told = [(line, _GREY) for line in lines]
    if card.missing:
        told += [(line, _BAD) for line in _wrapped(card.missing, _font(15), _width(card))]
    return told


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _enlarged(image: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines; a word that is too long is cut."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
