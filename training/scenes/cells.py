"""What each cell of a picture shows, and where in it what a text names is: whether the captioner
and the matcher know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.scenes.captions import CELL_PIXELS, LABELS, CaptionNetwork, Cells
from vla_ros.models.scenes.layout import ALL_COLORS, ALL_SHAPES, MOTIONS, Picture
from vla_ros.models.scenes.matching import LOOKS, Matcher
from vla_ros.scene_language.drawing import SIZE
from vla_ros.scene_language.scenes import FIXTURES, Name, Place

_KINDS = tuple(FIXTURES)
_GRID = SIZE // CELL_PIXELS
_NOWHERE = _GRID**2
_OPEN = -100  # a look of which nothing is asked
_GROUPS = {  # what is there, and what is asked of it
    "thing": ("color", "shape", "thing_at"),
    "fixture": ("kind", "fixture_at"),
    "gripper": ("open", "motion", "gripper_at"),
}


def labelled(captioner: CaptionNetwork, cells: Cells, asked: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of what is in the cells of pictures, of which `cell_labels` are asked, nats a
    thing."""
    said = captioner.labels(cells)
    total = cells.content.new_zeros((), dtype=torch.float32)
    for there, parts in _GROUPS.items():
        wanted = asked[there].to(total.device)
        found = F.binary_cross_entropy_with_logits(said[there][..., 0], wanted, reduction="sum")
        row, cell = wanted.nonzero(as_tuple=True)
        for part in parts:
            target = asked[part].to(total.device)[row, cell]
            logits = said[part][row, cell]
            if LABELS[part] == 1:
                found = found + F.binary_cross_entropy_with_logits(
                    logits[:, 0], target.float(), reduction="sum"
                )
            else:
                found = found + F.cross_entropy(logits, target, reduction="sum")
        total = total + found / wanted.sum().clamp(min=1)
    return total


def cell_labels(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    """LABELS by name: float32 [B, 256] whether there is one, int64 [B, 256] which it is."""
    shape = (len(pictures), _GRID**2)
    labels = {
        name: torch.zeros(shape) if name in _GROUPS else torch.zeros(shape, dtype=torch.int64)
        for name in LABELS
    }

    def put(row: int, there: str, place: Place, **which: int) -> None:
        cell, pixel = _cell(place)
        labels[there][row, cell], labels[f"{there}_at"][row, cell] = 1.0, pixel
        for name, value in which.items():
            labels[name][row, cell] = value

    for row, picture in enumerate(pictures):
        for (color, what), place in picture.things:
            if what in FIXTURES:
                put(row, "fixture", place, kind=_KINDS.index(what))
            else:
                which = {"color": ALL_COLORS.index(color), "shape": ALL_SHAPES.index(what)}
                put(row, "thing", place, **which)
        if picture.gripper is not None:
            which = {"open": int(picture.open), "motion": MOTIONS.index(picture.motion)}
            put(row, "gripper", picture.gripper, **which)
    return labels


def _cell(place: Place) -> tuple[int, int]:
    """The cell that a place is in, and which of the cell's pixels it is."""
    row, column = SIZE - 1 - place.x, SIZE - 1 - place.y
    cell = row // CELL_PIXELS * _GRID + column // CELL_PIXELS
    return cell, row % CELL_PIXELS * CELL_PIXELS + column % CELL_PIXELS


# -- where texts look ------------------------------------------------------------------------------


def looked(
    matcher: Matcher,
    text: Tensor,
    cells: Cells,
    names: Sequence[Sequence[Name]],
    of_gripper: Sequence[bool],
    pictures: Sequence[Picture],
) -> Tensor:
    """Cross-entropy of where the parts of texts, embeddings [B, D], find what they are about, nats
    a look.

    Args:
        names: things of each text in the order of their mention.
        of_gripper: whether each is about the gripper too.
        pictures: what there is to be seen in the cells.
    """
    wanted = torch.full((len(names), matcher.parts, LOOKS), _OPEN)
    for row, (things, gripper, picture) in enumerate(zip(names, of_gripper, pictures, strict=True)):
        places = dict(picture.things)
        for part, name in enumerate(things):
            wanted[row, part, 0] = _cell(places[name])[0] if name in places else _NOWHERE
        if gripper:
            wanted[row, :, 1] = _NOWHERE if picture.gripper is None else _cell(picture.gripper)[0]
    logits = matcher.looks(text, cells)
    return F.cross_entropy(
        logits.flatten(0, 1), wanted.flatten().to(logits.device), ignore_index=_OPEN
    )
