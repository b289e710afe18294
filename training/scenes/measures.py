"""How well text -> scene -> text does what it is for, from what is said freely.

A picture is judged by what is read in it: the names of its things, and whether the facts of the
text hold of the places that the caption tells. The reader may be the model's own captioner or a
judge that has only ever seen drawings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.scenes.captions import (
    CaptionNetwork,
    caption_ids,
    caption_loss,
    read_caption,
)
from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.cycle import CycleScenes, eight_bits
from vla_ros.models.scenes.decoder import Decoded
from vla_ros.models.scenes.layout import MOTIONS, Picture, pictures_of
from vla_ros.models.scenes.reading import shows
from vla_ros.scene_language.facts import (
    INVERSE,
    Fact,
    Moving,
    Related,
    holds,
    narration,
)
from vla_ros.scene_language.scenes import NAMES, Name, Place, Scene, Thing
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.worlds import sample_moments, sample_scene
from vla_ros.training.scenes.crowds import with_more_things
from vla_ros.training.scenes.losses import drawn
from vla_ros.training.scenes.texts import Text

_ROWS = 64  # pictures at once


@dataclass(frozen=True)
class Agreement:
    """Of texts and what was read in their pictures; shares from 0 to 1.

    Attributes:
        colors, shapes: F1 of the things' colours, and of their shapes.
        names: F1 of colour and shape together.
        facts: of the texts' relations and motions.
        exact: pictures that show just the things named, and of which all facts hold.
    """

    colors: float
    shapes: float
    names: float
    facts: float
    exact: float


def agreement(texts: Sequence[Text], read: Sequence[Picture]) -> Agreement:
    """What pictures, as they were read, have of their texts."""
    sums = np.zeros((3, 3))  # of colours, shapes, names: right, said, there
    facts: list[bool] = []
    exact = []
    for text, picture in zip(texts, read, strict=True):
        there = [name for name, _ in picture.things]
        parts = (
            ([n.color for n in text.names], [n.color for n in there]),
            ([n.shape for n in text.names], [n.shape for n in there]),
            (list(text.names), there),
        )
        for row, (wanted, found) in zip(sums, parts, strict=True):
            row += _common(wanted, found), len(wanted), len(found)
        held = [shows(picture, fact) for fact in text.facts if not _is_present(fact)]
        facts += held
        same = sorted(there) == sorted(text.names)
        exact.append(same and all(held) and (picture.gripper is not None) == _has_gripper(text))
    f1 = [2 * right / max(wanted + found, 1) for right, wanted, found in sums]
    return Agreement(*f1, float(np.mean(facts)) if facts else 1.0, float(np.mean(exact)))


def _common(one: list, other: list) -> int:
    return sum(min(one.count(item), other.count(item)) for item in set(one))


def _is_present(fact: Fact) -> bool:
    return not isinstance(fact, Related | Moving)


def _has_gripper(text: Text) -> bool:
    return text.motion is not None


@torch.inference_mode()
def decoded(model: CycleScenes, texts: Sequence[Text], first_seed: int = 0) -> list[Decoded]:
    """Pictures of texts in parts, the noise of text i drawn from seed `first_seed` + i."""
    parts = []
    for begin in range(0, len(texts), _ROWS):
        some = texts[begin : begin + _ROWS]
        seeds = range(first_seed + begin, first_seed + begin + len(some))
        embedding = model.language.embed(model.encode([text.words for text in some]))
        parts.append(model.decoder(embedding, model.noise(seeds)))
    return parts


def scenes_of(parts: Sequence[Decoded]) -> Tensor:
    """All pictures, [N, 3, 64, 64], as they would be sent: in whole levels of 255."""
    return eight_bits(torch.cat([part.scene for part in parts]))


@torch.inference_mode()
def read(captioner: CaptionNetwork, scenes: Tensor) -> list[Picture]:
    """What a captioner reads in pictures."""
    captions = [
        caption
        for begin in range(0, len(scenes), _ROWS)
        for caption in captioner.generate_caption(scenes[begin : begin + _ROWS])
    ]
    return [read_caption(caption) for caption in captions]


def layouts_of(parts: Sequence[Decoded]) -> list[Picture]:
    """What the decoder meant to paint."""
    return [picture for part in parts for picture in pictures_of(part.layout)]


# -- the judge -------------------------------------------------------------------------------------


def drawn_scene(rng: np.random.Generator) -> Picture:
    """A random picture to be drawn: one to eight things anywhere, often a gripper."""
    name = NAMES[int(rng.integers(len(NAMES)))]
    x, y = (int(value) for value in rng.integers(4, 60, size=2))
    first = Thing(name, Place(x, y, 1))
    picture = with_more_things(Picture((first,)), rng)
    if rng.random() < 0.5:
        return picture
    hand = Place(*(int(value) for value in rng.integers(4, 60, size=2)), 1)
    motion = MOTIONS[int(rng.integers(len(MOTIONS)))]
    return Picture(picture.things, hand, bool(rng.random() < 0.5), motion)


def train_judge(
    config: ScenesConfig, steps: int, rows: int = 32, seed: int = 0, say: Callable = lambda _: None
) -> CaptionNetwork:
    """A captioner that has seen drawings only, none of them painted by a model.

    Args:
        config: whose shape it has.
        steps: optimizer steps.
        rows: drawings of a step.
        seed: of its weights and its drawings.
        say: told the loss now and then.
    """
    torch.manual_seed(seed)
    judge, rng = CaptionNetwork(config), np.random.default_rng([seed, 5])
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1.5e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, steps, pct_start=0.05)
    for step in range(steps):
        pictures = [drawn_scene(rng) for _ in range(rows)]
        scene, ids = drawn(pictures), caption_ids(pictures)
        scene = scene + 0.02 * float(rng.random()) * torch.randn(scene.shape)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = caption_loss(judge(scene, ids), ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            say(f"judge {step + 1}/{steps}: {loss.item():.3f} nats a token")
    return judge.eval()


# -- what is true of a robot's scene, and what is not ----------------------------------------------


def narrations(count: int, seed: int) -> list[tuple[Picture, list[str], list[str]]]:
    """What a robot sees, a true narration of it, and one with a wrong word: another colour, shape,
    side or direction, of which the scene is not true."""
    rng = random.Random(seed)
    found: list[tuple[Picture, list[str], list[str]]] = []
    while len(found) < count:
        scene = sample_scene(rng, simulated=rng.random() < 0.5)
        moment = rng.choice(sample_moments(scene, rng))
        fact = narration(moment.before, moment.after, moment.target)
        wrong = _with_a_wrong_word(fact, moment.before, moment.after, rng)
        if wrong is None:
            continue
        seed_ = rng.getrandbits(32)
        said = [say(f, random.Random(seed_)) for f in (fact, wrong)]
        found.append((Picture.seen(moment.before, moment.after), *said))
    return found


def _with_a_wrong_word(
    fact: Moving, before: Scene, after: Scene, rng: random.Random
) -> Moving | None:
    text = Text((), tuple(_named(fact)), (fact,), ())
    choices: list[Moving] = []
    for name in text.names:
        if name in NAMES[:-2]:
            for other in NAMES[:-2]:
                if (other.color == name.color) != (other.shape == name.shape):
                    changed = _exchange(fact, name, other)
                    if changed is not None:
                        choices.append(changed)
    opposite = _opposite(fact, rng)
    if opposite is not None and (not choices or rng.random() < 0.5):
        choices = [opposite]
    rng.shuffle(choices)
    for choice in choices:
        if not _holds(choice, before, after):
            return choice
    return None


def _named(fact: Moving) -> list[Name]:
    names = [fact.thing, fact.target, *(fact.which.landmarks if fact.which else ())]
    return list(dict.fromkeys(name for name in names if name is not None))


def _exchange(fact: Moving, old: Name, new: Name) -> Moving | None:
    def swap(name: Name | None) -> Name | None:
        return new if name == old else name

    try:
        which = fact.which and Related(
            swap(fact.which.subject), fact.which.relation, tuple(map(swap, fact.which.landmarks))
        )
        return Moving(fact.verb, fact.direction, swap(fact.thing), swap(fact.target), which)
    except ValueError:
        return None


def _opposite(fact: Moving, rng: random.Random) -> Moving | None:
    if fact.which is not None and fact.which.relation in INVERSE and rng.random() < 0.5:
        if INVERSE[fact.which.relation] == fact.which.relation:
            return None
        which = Related(fact.which.subject, INVERSE[fact.which.relation], fact.which.landmarks)
        return Moving(fact.verb, fact.direction, fact.thing, fact.target, which)
    if not fact.direction:
        return None
    turned = MOTIONS[1:][MOTIONS[1:].index(fact.direction) ^ 1]
    return Moving(fact.verb, turned, fact.thing, fact.target, fact.which)


def _holds(fact: Moving, before: Scene, after: Scene) -> bool:
    try:
        return holds(fact, before, after)
    except ValueError:
        return False
