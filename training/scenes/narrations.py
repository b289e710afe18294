"""Narrations of what a robot sees, true ones and ones with a wrong word; and the cycle score that
should tell them apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vla_ros.models.scenes.cycle import CycleScenes, eight_bits
from vla_ros.models.scenes.layout import MOTIONS, Picture, layout_of
from vla_ros.scene_language.facts import INVERSE, Moving, Related, holds, narration
from vla_ros.scene_language.scenes import NAMES, Name, Scene
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.topics import permitted
from vla_ros.scene_language.worlds import sample_moments, sample_scene
from vla_ros.training.scenes.measures import ROWS

KINDS = ("colour", "shape", "side", "direction")  # of wrong words
_ROUNDS = 50  # of Newton's method


@dataclass(frozen=True)
class Narrated:
    """What a robot sees and does, told rightly and with a wrong word.

    Attributes:
        picture: of the scene, with the gripper's motion.
        fact, wrong: what is true, and what is not true of the scene.
        true, false: the two as words.
        kind: of the wrong word, one of KINDS.
        held_out: whether the true one says a composition that training does not say.
    """

    picture: Picture
    fact: Moving
    wrong: Moving
    true: list[str]
    false: list[str]
    kind: str
    held_out: bool


def narrations(count: int, seed: int) -> list[Narrated]:
    """Moments of random scenes, with as many wrong words of each kind."""
    rng = random.Random(seed)
    found: list[Narrated] = []
    while len(found) < count:
        scene = sample_scene(rng, simulated=rng.random() < 0.5)
        moment = rng.choice(sample_moments(scene, rng))
        fact = narration(moment.before, moment.after, moment.target)
        kind = KINDS[len(found) % len(KINDS)]
        choices = list(_wrong(fact, kind))
        rng.shuffle(choices)
        for wrong in choices:
            if not _holds(wrong, moment.before, moment.after):
                wording = rng.getrandbits(32)
                true, false = (say(f, random.Random(wording)) for f in (fact, wrong))
                picture = Picture.seen(moment.before, moment.after)
                held_out = not permitted(fact, held_out=False)
                found.append(Narrated(picture, fact, wrong, true, false, kind, held_out))
                break
    return found


def _wrong(fact: Moving, kind: str) -> list[Moving]:
    """The fact with one word of that kind changed, in all ways."""
    if kind == "direction":
        if not fact.direction:
            return []
        turned = MOTIONS[1:][MOTIONS[1:].index(fact.direction) ^ 1]
        return [Moving(fact.verb, turned, fact.thing, fact.target, fact.which)]
    if kind == "side":
        which = fact.which
        opposite = which and INVERSE.get(which.relation, which.relation)
        if which is None or opposite == which.relation:
            return []
        turned = Related(which.subject, opposite, which.landmarks)
        return [Moving(fact.verb, fact.direction, fact.thing, fact.target, turned)]
    part = KINDS.index(kind)  # of a name
    return [
        changed
        for name in named(fact)
        if name in NAMES[:-2]
        for other in NAMES[:-2]
        if other[part] != name[part] and other[1 - part] == name[1 - part]
        if (changed := _exchange(fact, name, other)) is not None
    ]


def named(fact: Moving) -> list[Name]:
    """The things that a narration names."""
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


def _holds(fact: Moving, before: Scene, after: Scene) -> bool:
    try:
        return holds(fact, before, after)
    except ValueError:
        return False


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
        found.append(model.matcher(embedding, model.captioner.look(scene)).cpu())
    return torch.cat(found).numpy()


def scores(model: CycleScenes, similarity: np.ndarray) -> np.ndarray:
    """The score of each similarity."""
    slope, offset = model.calibration.tolist()
    return 1 / (1 + np.exp(-(slope * np.asarray(similarity, float) + offset)))


def calibrate(model: CycleScenes, count: int, seed: int = 7_000_000) -> None:
    """Make scores the chance that a narration is true, where half of them are: `calibration` by
    logistic regression on narrations of scenes of its own, see `logistic`."""
    told = narrations(count, seed)
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
