"""What text -> scene -> text learns from: losses by name, each of which is finite everywhere.

All are computed in single precision. B texts, K things, R relations; places in bins of 1 cm.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.scenes.captions import Cells, caption_ids, caption_loss
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.scenes.layout import Layout, Picture
from vla_ros.models.scenes.reading import ASKED, SIDES
from vla_ros.scene_language.drawing import TABLE_RGB, draw
from vla_ros.training.scenes.texts import Wanted

_EPS = 1e-6
_SIDE = 6.0  # bins of x or y that a side is drawn at; from 4 on it may be said
_FAR = 26.0  # bins
_NEAR = 10.5  # bins; below 13 cm it may be said
_DIVERSE = 6.0  # bins between two scenes of one text, on average
_FREE_NATS = 0.1  # of each number of the bottleneck
_FOREGROUND = 6.0  # how much more a pixel of a thing counts than one of the table
_CLEARANCE = {"": 8.0, "pad": 9.0, "bowl": 11.0, "gripper": 5.0}  # bins
_KIND = {kind: i for i, kind in enumerate(ASKED)}
_TOGETHER = [_KIND[kind] for kind in ("on", "inside", "at")]


def told(layout: Layout, wanted: Wanted) -> Tensor:
    """Whether a layout has what the text names, nats a thing."""
    rows = F.binary_cross_entropy_with_logits(layout.there, wanted.there.float())
    looks = F.cross_entropy(layout.color[wanted.there], wanted.color[wanted.there])
    looks = looks + F.cross_entropy(layout.shape[wanted.there], wanted.shape[wanted.there])
    hand = F.binary_cross_entropy_with_logits(layout.gripper, wanted.gripper.float())
    shut = F.softplus(layout.open)[wanted.closed].sum() / len(layout)
    moving = F.cross_entropy(layout.motion, wanted.motion, reduction="none")
    moving = (moving * wanted.gripper).sum() / wanted.gripper.sum().clamp(min=1)
    return rows + looks + hand + shut + moving


def bound(said: Tensor, wanted: Wanted) -> Tensor:
    """Whether it is known which relation is said of which things, nats a thing: `said` are logits
    of `SceneDecoder.relations`. How a thing that is not yet known to be meant should lie is not
    learned from how things lie."""
    asked = torch.zeros_like(said)
    row, number = torch.nonzero(wanted.kind >= 0, as_tuple=True)
    kind, (first, second, third) = wanted.kind[row, number], wanted.between[row, number].T
    asked[row, first, kind, second] = asked[row, first, kind, third] = 1.0
    nats = F.binary_cross_entropy_with_logits(said, asked, reduction="none").sum((2, 3))
    return (nats * wanted.there).sum() / wanted.there.sum().clamp(min=1)


def related(layout: Layout, wanted: Wanted) -> Tensor:
    """How far the places are from being as the words say, bins a relation."""
    places = torch.cat([layout.place, layout.reach[:, None]], dim=1)  # [B, K + 1, 2]
    rows = torch.arange(len(places), device=places.device)[:, None]
    a, b, c = (places[rows, wanted.between[..., i]] for i in range(3))  # [B, R, 2]
    dx, dy = (a - b).unbind(-1)
    apart = _length(a - b)
    sides = {"left": (dy, dx), "right": (-dy, dx), "behind": (dx, dy), "front": (-dx, dy)}
    amiss = torch.zeros_like(dx)

    def add(kind: str, value: Tensor) -> None:
        nonlocal amiss
        amiss = torch.where(wanted.kind == _KIND[kind], value, amiss)

    for side in SIDES:
        along, across = sides[side]
        wide = 0.2 * F.relu(along - _FAR) + 0.1 * F.relu(across.abs() - 12)
        add(side, F.relu(_SIDE - along) + wide)
        pushed = F.relu(along - 7) + F.relu(5.5 - along) + F.relu(across.abs() - 1)
        add(f"pushed {side}", pushed)
    add("near", F.relu(apart - _NEAR))
    add("on", F.relu(apart - 3))
    add("inside", F.relu(apart - 3))
    add("at", F.relu(apart - 0.5))
    middle, span = (b + c) / 2, _length(b - c)
    off = F.relu(_length(a - middle) - 0.1 * span - 0.5)
    add("between", off + F.relu(20 - span))
    return amiss.sum() / (wanted.kind >= 0).sum().clamp(min=1)


def apart(layout: Layout, wanted: Wanted) -> Tensor:
    """How much things are in each other's way, bins a scene."""
    places = torch.cat([layout.place, layout.reach[:, None]], dim=1)
    things = wanted.there.shape[1]
    there = torch.cat([wanted.there, wanted.gripper[:, None]], dim=1)
    # Pad and bowl are the last two shapes.
    room = torch.full(there.shape, _CLEARANCE[""], device=places.device)
    room[:, :things][wanted.shape == layout.shape.shape[-1] - 2] = _CLEARANCE["pad"]
    room[:, :things][wanted.shape == layout.shape.shape[-1] - 1] = _CLEARANCE["bowl"]
    room = torch.maximum(room[:, :, None], room[:, None])
    room[:, things] = room[:, :, things] = _CLEARANCE["gripper"]
    free = torch.zeros_like(room, dtype=torch.bool)
    rows, numbers = torch.nonzero(
        torch.isin(wanted.kind, torch.tensor(_TOGETHER, device=places.device)),
        as_tuple=True,
    )
    first, second = wanted.between[rows, numbers, 0], wanted.between[rows, numbers, 1]
    free[rows, first, second] = free[rows, second, first] = True
    pairs = (there[:, :, None] & there[:, None] & ~free).triu(1)
    distance = _length(places[:, :, None] - places[:, None])
    return (F.relu(room - distance) * pairs).sum() / len(places)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the bottleneck from a normal distribution, nats a number
    (Kingma and Welling 2014, appendix B), less what is free."""
    nats = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    return F.relu(nats.mean(0) - _FREE_NATS).mean()


def diverse(one: Layout, other: Layout, wanted: Wanted) -> Tensor:
    """How much less than wanted two scenes of each text differ, bins."""
    if not wanted.there.any():
        return one.place.sum() * 0.0
    way = _length(one.place - other.place)[wanted.there]
    return F.relu(_DIVERSE - way).mean()


def unmoved(one: Layout, other: Layout, wanted: Wanted) -> Tensor:
    """How far things moved when one word, which says nothing of places, was changed, bins."""
    moved = (one.place - other.place).abs().sum(-1)
    moved = (moved * wanted.there).sum() / wanted.there.sum().clamp(min=1)
    hand = (one.reach - other.reach).abs().sum(-1)
    return moved + (hand * wanted.gripper).sum() / wanted.gripper.sum().clamp(min=1)


def drawn(pictures: list[Picture], device: torch.device | None = None) -> Tensor:
    """Pictures as the scene language draws them: [B, 3, 64, 64], 0 to 1."""
    images = [draw(p.scene(), p.gripper is not None, p.motion) for p in pictures]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device).float() / 255


def painted(scene: Tensor, target: Tensor) -> dict[str, Tensor]:
    """How a picture differs from the drawing of what it was painted from.

    Returns:
        reconstruction: of pixels, those of things counting more.
        perceptual: of edges.
        consistency of colours ("color"): whether things have the hues that their words name.
    """
    scene, target = scene.float(), target.float()
    table = torch.tensor(TABLE_RGB, device=target.device)[:, None, None] / 255
    thing = ((target - table).abs().amax(1, keepdim=True) > 0.02).float()
    weight = 1 + (_FOREGROUND - 1) * thing
    pixels = ((scene - target).abs() * weight).sum() / (3 * weight.sum())
    hue, wanted_hue = (image - image.mean(1, keepdim=True) for image in (scene, target))
    off = _length((hue - wanted_hue).movedim(1, -1))[:, None] * thing
    return {
        "reconstruction": pixels,
        "perceptual": (edges(scene) - edges(target)).abs().mean(),
        "color": off.sum() / thing.sum().clamp(min=1),
    }


def edges(image: Tensor) -> Tensor:
    """Strength [B, C, H, W] of edges, by Sobel's filters. Its gradient is finite on flat pictures
    too, where that of the root of a sum of squares is not."""
    smooth = torch.tensor([1.0, 2.0, 1.0], device=image.device) / 4
    slope = torch.tensor([-1.0, 0.0, 1.0], device=image.device)
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    planes = F.pad(image.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    found = F.conv2d(planes, kernels)
    return _length(found.movedim(1, -1)).unflatten(0, image.shape[:2])


def contrastive(texts: Tensor, others: Tensor, scenes: Tensor, temperature: Tensor) -> Tensor:
    """Cross-entropy of finding the text of a picture and the picture of a text (Radford et al.
    2021, figure 3), nats. `others` [M, D] are texts that fit none of the pictures."""
    scenes, texts, others = (F.normalize(e.float(), dim=-1) for e in (scenes, texts, others))
    scale = temperature.exp().clamp(max=100.0)
    to_texts = scale * scenes @ torch.cat([texts, others]).T
    to_scenes = scale * texts @ scenes.T
    here = torch.arange(len(texts), device=texts.device)
    return (F.cross_entropy(to_texts, here) + F.cross_entropy(to_scenes, here)) / 2


def matched(everything: Tensor, fitting: Tensor, unfitting: Tensor) -> Tensor:
    """Whether the matcher knows what fits: cross-entropy of finding the text of a picture and the
    picture of a text, of which `everything` [B, B] are the logits, and that of telling what fits
    from what does not, of which the others are; nats."""
    here = torch.arange(len(everything), device=everything.device)
    found = F.cross_entropy(everything, here) + F.cross_entropy(everything.T, here)
    return 0.25 * found + F.softplus(-fitting).mean() + F.softplus(unfitting).mean()


def captioned(model: CycleScenes, scene: Tensor | Cells, pictures: list[Picture]) -> Tensor:
    """Whether the captioner reads from a picture what was painted, nats a token."""
    ids = caption_ids(pictures).to(model.temperature.device)
    return caption_loss(model.captioner(scene, ids), ids)


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + _EPS).sqrt()
