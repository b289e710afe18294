"""Narrations of what a robot sees, true ones and ones with a wrong word; and the cycle score that
should tell them apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vla_ros.models.scenes.cycle import CycleScenes, eight_bits
from vla_ros.models.scenes.layout import MOTIONS, Picture, layout_of
from vla_ros.models.scenes.reading import can_be_shown
from vla_ros.scene_language.facts import (
    INVERSE,
    Fact,
    Moving,
    Present,
    Related,
    narration,
    true_of,
    where,
)
from vla_ros.scene_language.scenes import NAMES, Name, Scene
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.topics import permitted, sample_relation
from vla_ros.scene_language.worlds import sample_moments, sample_scene
from vla_ros.training.scenes.measures import ROWS

KINDS = ("colour", "shape", "side", "direction")  # of wrong words
_PRESENT = 0.3  # share of descriptions that only say what is there
_WHERE = 0.5  # of the others, that say another relation than the nearest thing's
_HELD_OUT = 0.1
_ROUNDS = 50  # of Newton's method
Shown = Moving | Related | Present
_Sampled = tuple[Scene, Scene | None, Fact]  # before, after, what is said


@dataclass(frozen=True)
class Narrated:
    """What a robot sees and does, told rightly and with a wrong word.

    Attributes:
        picture: of the scene, with the gripper's motion if the sentence is about that.
        fact, wrong: what is true, and what is not true of the scene.
        true, false: the two as words.
        kind: of the wrong word, one of KINDS.
        held_out: whether the true one says a composition that training does not say.
    """

    picture: Picture
    fact: Shown
    wrong: Shown
    true: list[str]
    false: list[str]
    kind: str
    held_out: bool


def narrations(count: int, seed: int) -> list[Narrated]:
    """Moments of random scenes, with as many wrong words of each of KINDS. Only what a picture can
    show is said."""
    return _told(count, seed, _moment, KINDS)


def descriptions(count: int, seed: int) -> list[Narrated]:
    """As `narrations`, of scenes in which nothing moves: what is there, and how it lies."""
    return _told(count, seed, _rest, KINDS[:3])


def _told(
    count: int, seed: int, sample: Callable[[random.Random], _Sampled], kinds: Sequence[str]
) -> list[Narrated]:
    rng = random.Random(seed)
    found: list[Narrated] = []
    while len(found) < count:
        before, after, fact = sample(rng)
        kind = kinds[len(found) % len(kinds)]
        choices = list(_wrong(fact, kind)) if can_be_shown(fact) else []
        rng.shuffle(choices)
        for wrong in choices:
            if can_be_shown(wrong) and not true_of(wrong, before, after):
                wording = rng.getrandbits(32)
                true, false = (say(f, random.Random(wording)) for f in (fact, wrong))
                picture = Picture.seen(before, after)
                held_out = not permitted(fact, held_out=False)
                found.append(Narrated(picture, fact, wrong, true, false, kind, held_out))
                break
    return found


def _scene(rng: random.Random) -> Scene:
    return sample_scene(rng, simulated=rng.random() < 0.5)


def _moment(rng: random.Random) -> _Sampled:
    scene = _scene(rng)
    moment = rng.choice(sample_moments(scene, rng))
    return moment.before, moment.after, narration(moment.before, moment.after, moment.target)


def _rest(rng: random.Random) -> _Sampled:
    scene = _scene(rng)
    name = rng.choice(scene.things).name
    if rng.random() < _PRESENT:
        return scene, None, Present(name)
    fact = where(name, scene)
    if rng.random() < _WHERE or not isinstance(fact, Related):
        fact = sample_relation(scene, rng, held_out=rng.random() < _HELD_OUT)
    return scene, None, fact or Present(name)


def _wrong(fact: Shown, kind: str) -> list[Shown]:
    """The fact with one word of that kind changed, in all ways."""
    if kind == "direction":
        if not isinstance(fact, Moving) or not fact.direction:
            return []
        return [replace(fact, direction=MOTIONS[1:][MOTIONS[1:].index(fact.direction) ^ 1])]
    if kind == "side":
        which = fact.which if isinstance(fact, Moving) else fact
        opposite = isinstance(which, Related) and INVERSE.get(which.relation)
        if not opposite or opposite == which.relation:
            return []
        turned = replace(which, relation=opposite)
        return [replace(fact, which=turned) if isinstance(fact, Moving) else turned]
    part = KINDS.index(kind)  # of a name
    return [
        changed
        for name in named(fact)
        if name in NAMES[:-2]
        for other in NAMES[:-2]
        if other[part] != name[part] and other[1 - part] == name[1 - part]
        if (changed := _exchange(fact, name, other)) is not None
    ]


def named(fact: Shown) -> list[Name]:
    """The things that a sentence names."""
    if isinstance(fact, Present):
        return [fact.subject]
    if isinstance(fact, Related):
        return [fact.subject, *fact.landmarks]
    names = [fact.thing, fact.target, *(fact.which.landmarks if fact.which else ())]
    return list(dict.fromkeys(name for name in names if name is not None))


def _exchange(fact: Shown, old: Name, new: Name) -> Shown | None:
    """The fact with one name for another; None if that makes no fact."""

    def swap(name: Name | None) -> Name | None:
        return new if name == old else name

    if isinstance(fact, Present):
        return Present(swap(fact.subject))
    try:
        if isinstance(fact, Related):
            landmarks = tuple(map(swap, fact.landmarks))
            return replace(fact, subject=swap(fact.subject), landmarks=landmarks)
        which = fact.which and _exchange(fact.which, old, new)
        return replace(fact, thing=swap(fact.thing), target=swap(fact.target), which=which)
    except ValueError:
        return None


# -- the cycle score -------------------------------------------------------------------------------


@torch.inference_mode()
def similarities(
    model: CycleScenes, texts: Sequence[Sequence[str]], pictures: Sequence[Picture]
) -> np.ndarray:
    """What `CycleScenes.match` makes its score of, [N]: logits of the matcher that texts (their
    tokens) fit what is seen."""
    found = []
    for begin in range(0, len(texts), ROWS):
        part = pictures[begin : begin + ROWS]
        embedding = model.language.embed(model.encode(texts[begin : begin + ROWS]))
        layout = layout_of(part, max(1, *(len(picture.things) for picture in part)))
        scene = eight_bits(model.decoder.paint(layout.to(embedding.device)))
        found.append(model.fits(embedding, scene).cpu())
    return torch.cat(found).numpy()


def scores(model: CycleScenes, similarity: np.ndarray) -> np.ndarray:
    """The score of each similarity."""
    slope, offset = model.calibration.tolist()
    return 1 / (1 + np.exp(-(slope * np.asarray(similarity, float) + offset)))


def calibrate(model: CycleScenes, count: int, seed: int = 7_000_000) -> None:
    """Make scores the chance that a sentence is true, where half of them are: `calibration` by
    logistic regression on narrations and descriptions of scenes of its own, see `logistic`."""
    told = [*narrations(count // 2, seed), *descriptions(count // 2, seed)]
    pictures = [one.picture for one in told]
    true = similarities(model, [one.true for one in told], pictures)
    false = similarities(model, [one.false for one in told], pictures)
    with torch.no_grad():
        model.calibration.copy_(torch.tensor(logistic(true, false)))


def logistic(high: np.ndarray, low: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the chance that a value is of `high` and not of `low`, by Newton's
    method. Both are as of one more of each kind, so that they stay finite where the two do not
    overlap (Platt 1999, section 2.2)."""
    x = np.concatenate([high, low]).astype(float)
    middle, width = x.mean(), max(x.std(), 1e-9)
    design = np.stack([(x - middle) / width, np.ones_like(x)], axis=1)
    wanted = np.repeat(
        [(len(high) + 1) / (len(high) + 2), 1 / (len(low) + 2)], [len(high), len(low)]
    )
    weights = np.zeros(2)
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (chance - wanted)
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        weights -= step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0] / width), float(weights[1] - weights[0] * middle / width)
