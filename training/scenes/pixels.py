"""What is in the pixels of painted scenes, without a captioner: where things are and of which
colour, what one word changes, whether a word always looks the same, and what harms pictures.

Pictures are [N, 3, 64, 64], 0 to 1; a level is 1 / 255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.scenes.cycle import CycleScenes, eight_bits
from vla_ros.models.scenes.decoder import Decoded
from vla_ros.models.scenes.layout import Layout
from vla_ros.scene_language.drawing import SIZE, TABLE_RGB
from vla_ros.scene_language.scenes import COLORS, Name
from vla_ros.training.scenes.measures import decoded, scenes_of
from vla_ros.training.scenes.texts import Text, Texts

_REACH = 2  # pixels from the middle of a thing that can be moved to its last one
_BOX = 4  # pixels from the middle of the box that a changed thing may change
_CHANGED = 8  # levels of a pixel that is another one
_FEW = 3  # changed pixels that make another thing
_TABLE_PIXELS = 24  # of a picture, to learn from
_JPEG = 75


def single(seed: int, count: int) -> list[Text]:
    """Texts that name one thing and nothing else."""
    texts, found, number = Texts(seed, moving=0.0), [], 0
    while len(found) < count:
        text = texts[number]
        number += 1
        if len(text.names) == 1:
            found.append(text)
    return found


def layouts(parts: Sequence[Decoded]) -> Layout:
    """The layouts of all parts as one."""
    values = zip(*(vars(part.layout).values() for part in parts), strict=True)
    return Layout(*map(torch.cat, values))


# -- a linear probe --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A linear classifier of single pixels: a colour, or the table.

    Logistic regression from red, green and blue. What all pixels are taken for together says which
    colour a picture's thing has, and where: the middle of what is no table.
    """

    weight: Tensor  # [3, C + 1]
    bias: Tensor  # [C + 1]

    @classmethod
    def fit(cls, scenes: Tensor, colors: Sequence[int], places: Tensor) -> Probe:
        """Learn from pictures of one thing each.

        Args:
            scenes: [N, 3, 64, 64].
            colors: of their things, places in COLORS.
            places: [N, 2], the things' x and y in bins.
        """
        generator = torch.Generator().manual_seed(0)
        inputs, targets = [], []
        near = _near(places)
        for scene, color, box in zip(scenes, colors, near, strict=True):
            pixels = scene.flatten(1).T
            thing = pixels[box.flatten() & _differs(scene).flatten()]
            table = pixels[~box.flatten()]
            some = torch.randint(len(table), (_TABLE_PIXELS,), generator=generator)
            inputs += [thing, table[some]]
            targets += [color] * len(thing) + [len(COLORS)] * _TABLE_PIXELS
        x, y = torch.cat(inputs), torch.tensor(targets)
        parameters = [torch.zeros(size, requires_grad=True) for size in ((3, 9), (9,))]
        weight, bias = parameters
        optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy((x - 0.5) @ weight + bias, y) + 1e-7 * weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        return cls(weight.detach(), bias.detach())

    def __call__(self, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [N], places in COLORS, and places [N, 2] in bins of pictures of one thing each;
        -1 and not a number where there is only table."""
        scores = torch.einsum("bchw,cl->bhwl", scenes - 0.5, self.weight) + self.bias
        taken = F.one_hot(scores.argmax(-1), len(COLORS) + 1)[..., :-1]
        counts = taken.sum((1, 2))
        there = taken.sum(-1).float()
        total = there.sum((1, 2))
        along = SIZE - 1 - torch.arange(SIZE, dtype=torch.float32)
        x = torch.einsum("bhw,h->b", there, along) / total
        y = torch.einsum("bhw,w->b", there, along) / total
        return counts.argmax(-1).where(total > 0, -1), torch.stack([x, y], dim=1)


def _near(places: Tensor, reach: int = _REACH) -> Tensor:
    """bool [N, 64, 64], the pixels of boxes around places [N, 2]."""
    along = torch.arange(SIZE)
    row = ((SIZE - 1 - places[:, :1]) - along).abs() <= reach
    column = ((SIZE - 1 - places[:, 1:]) - along).abs() <= reach
    return row[:, :, None] & column[:, None]


def _differs(scene: Tensor) -> Tensor:
    """bool [..., 64, 64], which pixels are no table."""
    table = torch.tensor(TABLE_RGB)[:, None, None] / 255
    return (scene - table).abs().amax(-3) > 3 * _CHANGED / 255


# -- one word changed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edits:
    """What changes in pictures when one word of their texts is another, the draw being the same.

    Attributes:
        inside: share of the changed pixels that lie in the box of the changed thing, for each pair
            with any.
        changed: whether enough of its box did change, for each pair.
        unrelated: as `inside`, against the picture of another text.
    """

    inside: np.ndarray
    changed: np.ndarray
    unrelated: np.ndarray


def edits(model: CycleScenes, texts: Texts, count: int, first_seed: int = 0) -> Edits:
    """The changes of `count` pairs of texts, of those that have another word."""
    pairs, number = [], 0
    while len(pairs) < count:
        pair = texts.pair(number)
        number += 1
        if pair[0].words != pair[1].words:
            pairs.append(pair)
    before = decoded(model, [text for text, _ in pairs], first_seed)
    after = decoded(model, [other for _, other in pairs], first_seed)
    one, other = scenes_of(before), scenes_of(after)
    rows = torch.arange(count)
    which = torch.tensor([_changed_thing(*pair) for pair in pairs])
    boxes = _near(layouts(before).place[rows, which], _BOX)
    difference = _difference(one, other)
    inside, _ = _share(difference, boxes)
    unrelated, _ = _share(_difference(one, other.roll(1, 0)), boxes)
    changed = (difference & boxes).sum((1, 2)) >= _FEW
    return Edits(inside, changed.numpy(), unrelated)


def _changed_thing(text: Text, other: Text) -> int:
    (name,) = set(text.names) - set(other.names)
    return text.names.index(name)


def _difference(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().amax(1) > _CHANGED / 255


def _share(difference: Tensor, boxes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    total, inside = difference.sum((1, 2)), (difference & boxes).sum((1, 2))
    any_ = total > 0
    return (inside[any_] / total[any_]).numpy(), any_.numpy()


# -- the same word looks the same ------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """How a colour's things look over texts and draws, in levels.

    Attributes:
        spread: root mean square distance from their mean of things of this colour.
        gap: from that mean to the nearest mean of another colour.
        own: share of things that are nearest to the mean of their own colour.
    """

    spread: float
    gap: float
    own: float


def looks(scenes: Tensor, names: Sequence[Name], places: Tensor) -> dict[str, Looks]:
    """Of each colour that two or more pictures of one thing each show."""
    mask = (_near(places) & _differs(scenes)).float()
    means = torch.einsum("bchw,bhw->bc", scenes, mask) / mask.sum((1, 2)).clamp(min=1)[:, None]
    means = 255 * means
    colors = np.array([name.color for name in names])
    shown = [color for color in COLORS if (colors == color).sum() > 1]
    centres = torch.stack([means[torch.from_numpy(colors == color)].mean(0) for color in shown])
    found = {}
    for number, color in enumerate(shown):
        own = means[torch.from_numpy(colors == color)]
        spread = (own - centres[number]).square().sum(-1).mean().sqrt()
        away = torch.cdist(centres[number][None], centres)[0]
        away[number] = torch.inf
        nearest = torch.cdist(own, centres).argmin(-1) == number
        found[color] = Looks(spread.item(), away.min().item(), nearest.float().mean().item())
    return found


# -- what harms pictures ---------------------------------------------------------------------------


def _jpeg(scenes: Tensor) -> Tensor:
    harmed = []
    for image in (scenes * 255).round().byte().permute(0, 2, 3, 1).numpy():
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG]
        _, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), options)
        harmed.append(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    return torch.from_numpy(np.stack(harmed)).permute(0, 3, 1, 2).float() / 255


def _blur(scenes: Tensor) -> Tensor:
    along = torch.exp(-0.5 * (torch.arange(-2, 3) / 0.6).square())
    kernel = torch.outer(along, along) / along.sum() ** 2
    planes = F.pad(scenes.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="replicate")
    return F.conv2d(planes, kernel[None, None])[:, 0].unflatten(0, scenes.shape[:2])


def _noise(levels: float) -> Callable[[Tensor], Tensor]:
    def harmed(scenes: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return scenes + levels / 255 * torch.randn(scenes.shape, generator=generator)

    return harmed


HARM: dict[str, Callable[[Tensor], Tensor]] = {
    "whole levels (8 bits)": eight_bits,
    "noise of 5 levels": lambda scenes: eight_bits(_noise(5)(scenes).clamp(0, 1)),
    "noise of 10 levels": lambda scenes: eight_bits(_noise(10)(scenes).clamp(0, 1)),
    f"JPEG of quality {_JPEG}": _jpeg,
    "blur of 0.6 pixels": lambda scenes: eight_bits(_blur(scenes)),
}
