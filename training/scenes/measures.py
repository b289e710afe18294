"""How well text -> scene -> text does what it is for, from what is said freely.

A picture is judged by what is read in it: the names of its things, and whether the facts of the
text hold of the places that the caption tells. The reader may be the model's own captioner or a
judge that has only ever seen drawings. What reads without looking, and what is told by something
else than the picture, is found out by `controls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.scenes.captions import CaptionNetwork, read_caption
from vla_ros.models.scenes.cycle import CycleScenes, eight_bits
from vla_ros.models.scenes.decoder import Decoded
from vla_ros.models.scenes.layout import Picture, pictures_of
from vla_ros.models.scenes.reading import shows
from vla_ros.scene_language.drawing import TABLE_RGB
from vla_ros.scene_language.facts import Fact, Moving, Related
from vla_ros.training.scenes.texts import Text

ROWS = 64  # pictures at once
_RESAMPLES = 400
_SAME = 0.02  # what two shares may differ by and still count as the same
_HIDDEN = 0.05  # what the captioner may read more than a judge that never saw painted scenes
Reader = Callable[[Tensor], list[Picture]]  # pictures [N, 3, 64, 64] -> what they show


@dataclass(frozen=True)
class Agreement:
    """Of texts and what was read in their pictures; shares from 0 to 1.

    Attributes:
        colors, shapes: F1 of the things' colours, and of their shapes.
        names: F1 of colour and shape together.
        facts: of the texts' relations and motions, those that hold.
        exact: pictures that show just the things named, and of which all facts hold.
    """

    colors: float
    shapes: float
    names: float
    facts: float
    exact: float

    @classmethod
    def of(cls, rows: np.ndarray) -> Agreement:
        """Of rows of `tally`, one or more."""
        sums = rows.sum(0)
        f1 = [2 * right / max(wanted + found, 1) for right, wanted, found in sums[:9].reshape(3, 3)]
        facts = sums[9] / sums[10] if sums[10] else 1.0
        return cls(*map(float, (*f1, facts, sums[11] / max(len(rows), 1))))


def agreement(texts: Sequence[Text], read: Sequence[Picture]) -> Agreement:
    """What pictures, as they were read, have of their texts."""
    return Agreement.of(tally(texts, read))


def intervals(rows: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % intervals of an Agreement's shares, of texts drawn again."""
    names = [field.name for field in fields(Agreement)]

    def shares(drawn: np.ndarray) -> list[float]:
        one = Agreement.of(rows[drawn])
        return [getattr(one, name) for name in names]

    low, high = resampled(shares, len(rows))
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def resampled(
    of: Callable[[np.ndarray], float | list[float]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval, low and high, of what `of` makes of numbers of rows, drawn again
    from `count` of them."""
    rng = np.random.default_rng(0)
    again = [of(rng.integers(count, size=count)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(again, (2.5, 97.5), axis=0)
    return low, high


def tally(texts: Sequence[Text], read: Sequence[Picture]) -> np.ndarray:
    """What is right in each picture: [N, 12], of colours, shapes and names each how many are
    right, wanted and found; facts that hold, and facts; whether all is as it should be."""
    rows = np.zeros((len(texts), 12))
    for row, text, picture in zip(rows, texts, read, strict=True):
        there = [name for name, _ in picture.things]
        parts = (
            ([n.color for n in text.names], [n.color for n in there]),
            ([n.shape for n in text.names], [n.shape for n in there]),
            (list(text.names), there),
        )
        for i, (wanted, found) in enumerate(parts):
            row[3 * i : 3 * i + 3] = _common(wanted, found), len(wanted), len(found)
        held = [shows(picture, fact) for fact in relations_of(text)]
        same = sorted(there) == sorted(text.names)
        hand = (picture.gripper is not None) == (text.motion is not None)
        row[9:] = sum(held), len(held), same and all(held) and hand
    return rows


def _common(one: list, other: list) -> int:
    return sum(min(one.count(item), other.count(item)) for item in set(one))


def relations_of(text: Text) -> list[Fact]:
    """The facts of a text that say more than that something is there."""
    return [fact for fact in text.facts if isinstance(fact, Related | Moving)]


# -- pictures of texts -----------------------------------------------------------------------------


@torch.inference_mode()
def decoded(model: CycleScenes, texts: Sequence[Text], first_seed: int = 0) -> list[Decoded]:
    """Pictures of texts in parts, the noise of text i drawn from seed `first_seed` + i."""
    parts = []
    for begin in range(0, len(texts), ROWS):
        some = texts[begin : begin + ROWS]
        seeds = range(first_seed + begin, first_seed + begin + len(some))
        parts.append(model.decoder(embedded(model, some), model.noise(seeds)))
    return parts


@torch.inference_mode()
def embedded(model: CycleScenes, texts: Sequence[Text]) -> Tensor:
    """Embeddings [N, D] of texts."""
    parts = [texts[begin : begin + ROWS] for begin in range(0, len(texts), ROWS)]
    return torch.cat(
        [model.language.embed(model.encode([text.words for text in part])) for part in parts]
    )


@torch.inference_mode()
def fits(model: CycleScenes, texts: Tensor, scenes: Tensor) -> Tensor:
    """How well each of the texts, embeddings [T, D], fits each of the pictures [S, 3, 64, 64], by
    the matcher: logits [T, S]."""
    looked = [model.captioner.look(part) for part in scenes.split(ROWS)]
    imagined = [(some, model.ways_imagined(some)) for some in texts.split(ROWS)]
    parts = [[model.matcher.every(some, lie, cells) for cells in looked] for some, lie in imagined]
    return torch.cat([torch.cat(row, dim=1) for row in parts])


def scenes_of(parts: Sequence[Decoded]) -> Tensor:
    """All pictures, [N, 3, 64, 64], as they would be sent: in whole levels of 255."""
    return eight_bits(torch.cat([part.scene for part in parts]))


@torch.inference_mode()
def read(captioner: CaptionNetwork, scenes: Tensor) -> list[Picture]:
    """What a captioner reads in pictures [N, 3, 64, 64]."""
    parts = scenes.split(ROWS)
    return [read_caption(said) for part in parts for said in captioner.generate_caption(part)]


def layouts_of(parts: Sequence[Decoded]) -> list[Picture]:
    """What the decoder meant to paint."""
    return [picture for part in parts for picture in pictures_of(part.layout)]


# -- retrieval -------------------------------------------------------------------------------------


def retrieved(
    fits: Callable[[Tensor, Tensor], Tensor], texts: Tensor, scenes: Tensor, among: int = 100
) -> np.ndarray:
    """Whether each picture's own text fits it best of `among`; a tie is a share of a hit.

    Args:
        fits: takes texts and pictures; returns how well each fits each, [T, S].
        texts, scenes: N each, in the same order; what is left over at the end of the last whole
            group does not count.

    Raises:
        ValueError: fewer than `among`.
    """
    if len(texts) < among:
        raise ValueError(f"{len(texts)} texts: give {among} or more")
    hits = []
    for begin in range(0, len(texts) - among + 1, among):
        rows = slice(begin, begin + among)
        nearness = fits(texts[rows], scenes[rows]).double().round(decimals=5)  # equal ones stay so
        own = nearness.diagonal()
        above, ties = (nearness > own).sum(0), (nearness == own).sum(0)
        hits.append((above == 0) / ties)
    return torch.cat(hits).double().cpu().numpy()


def different(texts: Sequence[Text]) -> list[int]:
    """Which of the texts mean something that none before them does."""
    first: dict[tuple, int] = {}
    for number, text in enumerate(texts):
        first.setdefault((frozenset(text.facts), text.motion), number)
    return list(first.values())


# -- controls --------------------------------------------------------------------------------------


def others(count: int, seed: int = 0) -> np.ndarray:
    """For each of two or more texts another one, by chance."""
    order = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, int)
    other[order] = np.roll(order, 1)
    return other


def blanks(count: int) -> Tensor:
    """Pictures of an empty table."""
    return (torch.tensor(TABLE_RGB) / 255)[:, None, None].expand(count, 3, 64, 64)


def noises(count: int, seed: int = 0) -> Tensor:
    """Pictures of which every pixel is drawn for itself."""
    generator = torch.Generator().manual_seed(seed)
    return eight_bits(torch.rand(count, 3, 64, 64, generator=generator))


def controls(
    texts: Sequence[Text], scenes: Tensor, reader: Reader, seed: int = 0
) -> dict[str, np.ndarray]:
    """Tallies of what is read in the texts' own pictures, and where nothing can be read.

    Returns:
        "own" pictures; "chance": what was read in another text's picture, as that text's; the
        pictures "shuffled", "blank" and of "noise"; and "blank, chance" and "noise, chance": what
        was read in another text's. One who says the same of everything is right now and then too.
    """
    own, other = reader(scenes), others(len(texts), seed)
    blank, noise = reader(blanks(len(texts))), reader(noises(len(texts), seed))
    return {
        "own": tally(texts, own),
        "chance": tally(texts, [own[i] for i in other]),
        "shuffled": tally(texts, reader(scenes[torch.from_numpy(other)])),
        "blank": tally(texts, blank),
        "blank, chance": tally(texts, [blank[i] for i in other]),
        "noise": tally(texts, noise),
        "noise, chance": tally(texts, [noise[i] for i in other]),
    }


def suspicions(found: dict[str, np.ndarray], judged: np.ndarray | None = None) -> list[str]:
    """How text -> scene -> text cheats, in words; empty: not in a way that is seen here.

    Args:
        found: of `controls`.
        judged: tally of the same pictures, as read by somebody who never saw painted scenes.
    """
    own, chance = Agreement.of(found["own"]), Agreement.of(found["chance"])
    told = []
    for name in ("shuffled", "blank", "noise"):
        control = Agreement.of(found[name])
        usual = Agreement.of(found.get(f"{name}, chance", found["chance"]))
        for what in ("names", "exact"):
            if getattr(control, what) > getattr(usual, what) + _SAME:
                told.append(
                    f"{what} {getattr(control, what):.0%} from {name} pictures, "
                    f"{getattr(usual, what):.0%} by chance: the text comes by another way"
                )
    if own.names <= chance.names + _SAME:
        told.append(
            f"names {own.names:.0%} from the texts' own pictures, {chance.names:.0%} by chance: "
            "what is read does not depend on the text"
        )
    if judged is not None:
        judge = Agreement.of(judged)
        for what in ("names", "exact"):
            if getattr(own, what) > getattr(judge, what) + _HIDDEN:
                told.append(
                    f"{what} {getattr(own, what):.0%} by the captioner, {getattr(judge, what):.0%} "
                    "by the judge: it may read marks that mean nothing to others"
                )
    return told


# -- where it fails --------------------------------------------------------------------------------


def failures(
    texts: Sequence[Text], read: Sequence[Picture], least: int = 20
) -> dict[str, dict[str, tuple[int, int]]]:
    """Right and all, by what is said: exact pictures by the number of things and by word (of those
    said in `least` texts or more, the ten worst), facts by their kind."""
    exact = tally(texts, read)[:, 11] > 0
    found: dict[str, dict[str, list[bool]]] = {"things": {}, "facts": {}, "words": {}}
    for text, picture, right in zip(texts, read, exact, strict=True):
        number = f"{len(text.names)}{' and the gripper' if text.motion is not None else ''}"
        found["things"].setdefault(number, []).append(bool(right))
        for word in set(text.words):
            found["words"].setdefault(word, []).append(bool(right))
        for fact in relations_of(text):
            kind = fact.relation if isinstance(fact, Related) else fact.verb
            found["facts"].setdefault(kind, []).append(shows(picture, fact))
            if isinstance(fact, Moving) and fact.which is not None:
                kind = f"that is {fact.which.relation}"
                found["facts"].setdefault(kind, []).append(shows(picture, fact.which))
    counted = {
        what: {key: (sum(rights), len(rights)) for key, rights in sorted(groups.items())}
        for what, groups in found.items()
    }
    often = [item for item in counted["words"].items() if item[1][1] >= least]
    counted["words"] = dict(sorted(often, key=lambda item: item[1][0] / item[1][1])[:10])
    return counted
