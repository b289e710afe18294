"""Layouts: which things a scene has, where they are and what the gripper does, in numbers that
gradients pass through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.scene_language.facts import DIRECTIONS, direction_of
from vla_ros.scene_language.scenes import (
    BINS,
    BOWL,
    COLORS,
    FIXTURES,
    NAMES,
    PAD,
    SHAPES,
    Name,
    Place,
    Scene,
    Thing,
)

ALL_COLORS = (*COLORS, PAD.color, BOWL.color)
ALL_SHAPES = (*SHAPES, *FIXTURES)
MOTIONS = ("", *DIRECTIONS)  # of the gripper; "": it stays
_KNOWN = frozenset(NAMES)
_SURE = 12.0  # logit of what is known


@dataclass(frozen=True)
class Layout:
    """B scenes of K things, in the order in which a text names them, and a gripper.

    Attributes:
        there: [B, K] logits that there is such a thing.
        color: [B, K, 10] logits, of ALL_COLORS.
        shape: [B, K, 7] logits, of ALL_SHAPES.
        place: [B, K, 2] x and y in bins, not whole ones.
        gripper: [B] logits that the gripper is in the picture.
        reach: [B, 2] its x and y in bins.
        open: [B] logits that it is open.
        motion: [B, 7] logits, of MOTIONS.
    """

    there: Tensor
    color: Tensor
    shape: Tensor
    place: Tensor
    gripper: Tensor
    reach: Tensor
    open: Tensor
    motion: Tensor

    def __len__(self) -> int:
        return len(self.there)

    def __getitem__(self, rows: slice | Tensor) -> Layout:
        return self.map(lambda value: value[rows])

    def map(self, of: Callable[[Tensor], Tensor]) -> Layout:
        """With `of` done to each attribute."""
        return Layout(*(of(getattr(self, field.name)) for field in fields(self)))

    def detach(self) -> Layout:
        return self.map(Tensor.detach)

    def to(self, device: torch.device) -> Layout:
        return self.map(lambda value: value.to(device))

    def rounded(self) -> Layout:
        """Places in the middles of bins; the gradient passes as if they were not moved."""
        return replace(self, place=_whole(self.place), reach=_whole(self.reach))

    def appearance(self) -> Tensor:
        """[B, K, 17] probabilities of colour and shape."""
        parts = (self.color, self.shape)
        return torch.cat([logits.float().softmax(-1) for logits in parts], dim=-1)

    def handling(self) -> Tensor:
        """[B, 8] probabilities that the gripper is open, and of its motions."""
        opened = self.open.float().sigmoid()[:, None]
        return torch.cat([opened, self.motion.float().softmax(-1)], dim=-1)


def _whole(place: Tensor) -> Tensor:
    return place + (place.round().clamp(0, BINS[0] - 1) - place).detach()


@dataclass(frozen=True)
class Picture:
    """What a picture shows from above: a scene without heights, whose gripper may be missing, and
    the motion of the gripper, one of MOTIONS."""

    things: tuple[Thing, ...]
    gripper: Place | None = None
    open: bool = True
    motion: str = ""

    @classmethod
    def seen(cls, scene: Scene, after: Scene | None = None) -> Picture:
        """What is to be seen of a scene, all of whose things are laid on the table.

        Args:
            scene: what there is.
            after: a moment later, for the motion of the gripper; None: the things alone, as a text
                shows them that does not speak of the gripper.
        """
        things = tuple(_flat(name, place) for name, place in scene.things)
        if after is None:
            return cls(things)
        hand = Place(*scene.gripper[:2], 1)
        return cls(things, hand, scene.open, direction_of(scene, after))

    def scene(self) -> Scene:
        """As a scene; a gripper that is missing stands in a corner."""
        return Scene(self.things, self.gripper or Place(0, 0, 8), self.open)


def _flat(name: Name, place: Sequence[int]) -> Thing:
    return Thing(name, Place(place[0], place[1], 0 if name.shape in FIXTURES else 1))


def pictures_of(layout: Layout) -> list[Picture]:
    """What a layout most likely shows. A name that nothing has ("a yellow cube"), or that is there
    already, is left out."""
    colors, shapes = layout.color.argmax(-1).tolist(), layout.shape.argmax(-1).tolist()
    there, places = (layout.there > 0).tolist(), _whole(layout.place).long().tolist()
    reach, motions = _whole(layout.reach).long().tolist(), layout.motion.argmax(-1).tolist()
    pictures = []
    for row in range(len(layout)):
        things: dict[Name, Thing] = {}
        for k, is_there in enumerate(there[row]):
            name = Name(ALL_COLORS[colors[row][k]], ALL_SHAPES[shapes[row][k]])
            if is_there and name in _KNOWN and name not in things:
                things[name] = _flat(name, places[row][k])
        gripper = Place(*reach[row], 1) if layout.gripper[row] > 0 else None
        opened, motion = bool(layout.open[row] > 0), MOTIONS[motions[row]]
        pictures.append(
            Picture(tuple(things.values()), gripper, opened or gripper is None,
                    motion if gripper is not None else "")
        )  # fmt: skip
    return pictures


def layout_of(pictures: Sequence[Picture], things: int) -> Layout:
    """The layout of pictures, of each the first `things` things."""
    rows = len(pictures)
    there, gripper = torch.full((rows, things), -_SURE), torch.full((rows,), -_SURE)
    color, shape = (torch.zeros(rows, things, dtype=torch.long) for _ in range(2))
    place, reach = torch.zeros(rows, things, 2), torch.zeros(rows, 2)
    opened, motion = torch.full((rows,), _SURE), torch.zeros(rows, dtype=torch.long)
    for row, picture in enumerate(pictures):
        for k, (name, at) in enumerate(picture.things[:things]):
            there[row, k] = _SURE
            color[row, k] = ALL_COLORS.index(name.color)
            shape[row, k] = ALL_SHAPES.index(name.shape)
            place[row, k] = torch.tensor(at[:2], dtype=torch.float32)
        if picture.gripper is not None:
            gripper[row] = _SURE
            reach[row] = torch.tensor(picture.gripper[:2], dtype=torch.float32)
            opened[row] = _SURE if picture.open else -_SURE
            motion[row] = MOTIONS.index(picture.motion)
    return Layout(
        there, _logits(color, len(ALL_COLORS)), _logits(shape, len(ALL_SHAPES)), place,
        gripper, reach, opened, _logits(motion, len(MOTIONS)),
    )  # fmt: skip


def _logits(chosen: Tensor, count: int) -> Tensor:
    return _SURE * F.one_hot(chosen, count).float()
