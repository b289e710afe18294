"""Texts about scenes, and what they ask of a picture: no picture belongs to any of them.

A text names one to four things and how some of them lie to each other, or what the gripper does
among them. What the words ask of a layout is told as `Wanted`: which things, in the order of their
mention, and relations between their places. The split "train" says none of the held-out
compositions of `scene_language.topics`; each text of "held_out" says one or more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.language import pad
from vla_ros.models.scenes.layout import ALL_COLORS, ALL_SHAPES, MOTIONS
from vla_ros.models.scenes.reading import ASKED, SIDES
from vla_ros.scene_language.facts import INVERSE, Fact, Moving, Present, Related
from vla_ros.scene_language.scenes import BOWL, COLORS, MOVABLE, PAD, SHAPES, Name
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.topics import permitted
from vla_ros.scene_language.vocabulary import BOS, EOS, IDS

SPLITS = ("train", "held_out")
# Where what the gripper comes closer to lies, seen from it.
_AHEAD = {"left": "left", "right": "right", "away": "behind", "closer": "front"}
_MOST_RELATIONS = 4
_SAID_FIRST = ("there is", "i see", "you can see", "you can find")


@dataclass(frozen=True)
class Text:
    """A text and what it says.

    Attributes:
        words: its tokens, without bos and eos.
        names: things in the order of their mention.
        facts: what it says, one a sentence.
        relations: (kind, thing, landmark, second landmark): places in `names`; len(names) is the
            gripper, and the second landmark is that of "between", else the landmark.
        motion: of the gripper, one of MOTIONS; None: there is no gripper in the text.
        closed: whether the gripper must be closed.
    """

    words: tuple[str, ...]
    names: tuple[Name, ...]
    facts: tuple[Fact, ...]
    relations: tuple[tuple[str, int, int, int], ...]
    motion: str | None = None
    closed: bool = False

    @property
    def ids(self) -> list[int]:
        return [BOS, *(IDS[word] for word in self.words), EOS]


@dataclass(frozen=True)
class _Draft:
    """What is to be said, before it is: names are places in a list that may be exchanged."""

    names: tuple[Name, ...]
    facts: tuple[tuple, ...]  # ("related", i, relation, landmarks) or ("moving", Moving's fields)
    moving: bool
    wording: int

    def text(self) -> Text:
        rng = random.Random(self.wording)
        facts = tuple(_fact(fact, self.names) for fact in self.facts)
        words: list[str] = []
        for number, fact in enumerate(facts):
            said = say(fact, rng)
            if rng.random() < 0.25 and not self.moving:
                said = _short(said)
            words += said if number < len(facts) - 1 or rng.random() < 0.7 else said[:-1]
        order = sorted(set(self.names), key=lambda name: mentioned(name, words))
        return _read(tuple(words), tuple(order), facts)


def _short(said: list[str]) -> list[str]:
    """ "a red cube left of the bowl" for "there is a red cube left of the bowl"."""
    text = " ".join(said)
    for first in _SAID_FIRST:
        if text.startswith(f"{first} a"):
            return text.removeprefix(f"{first} ").split()
    return said


def mentioned(name: Name, words: Sequence[str]) -> int:
    """Where a name is first said."""
    nouns = {
        **{"cube": "cube block box", "cylinder": "cylinder can tube", "sphere": "sphere ball"},
        **{"pad": "pad mat", "bowl": "bowl dish"},
    }.get(name.shape, name.shape)
    colors = {"gray": ("gray", "grey")}.get(name.color, (name.color,))
    for at, word in enumerate(words):
        if word in nouns.split() and (name in (PAD, BOWL) or words[at - 1] in colors):
            return at
    raise ValueError(f"{name} is not in '{' '.join(words)}'")


def _fact(fact: tuple, names: Sequence[Name]) -> Fact:
    kind, *values = fact
    if kind == "present":
        return Present(names[values[0]])
    if kind == "related":
        subject, relation, landmarks = values
        return Related(names[subject], relation, tuple(names[i] for i in landmarks))
    verb, direction, thing, target, which = values
    clause = None if which is None else _fact(which, names)
    return Moving(
        verb, direction, None if thing is None else names[thing],
        None if target is None else names[target], clause,
    )  # fmt: skip


def _read(words: tuple[str, ...], order: tuple[Name, ...], facts: tuple[Fact, ...]) -> Text:
    at = {name: i for i, name in enumerate(order)}
    hand, relations = len(order), []
    motion, closed = None, False
    for fact in facts:
        if isinstance(fact, Moving):
            motion, closed = fact.direction, fact.verb in ("carry", "push")
            if fact.verb == "carry":
                relations.append(("at", at[fact.thing], hand, hand))
            if fact.verb == "push":
                pushed = f"pushed {_AHEAD[fact.direction]}"
                relations.append((pushed, at[fact.thing], hand, hand))
            if fact.target is not None and fact.direction in _AHEAD:
                relations.append((_AHEAD[fact.direction], at[fact.target], hand, hand))
            fact = fact.which
        if isinstance(fact, Related):
            first, last = at[fact.landmarks[0]], at[fact.landmarks[-1]]
            relations.append((fact.relation, at[fact.subject], first, last))
    return Text(words, order, facts, tuple(relations), motion, closed)


class Texts:
    """An endless list of texts, each with one in which one word of a thing is another.

    Args:
        seed: 0 or more.
        split: "train" or "held_out".
        moving: share of texts about what the gripper does.

    Raises:
        ValueError: no such split.
    """

    def __init__(self, seed: int, split: str = "train", moving: float = 0.3) -> None:
        if split not in SPLITS or seed < 0 or not 0.0 <= moving <= 1.0:
            raise ValueError(f"seed {seed}, split '{split}', moving {moving}: use one of {SPLITS}")
        self.seed, self.split, self.moving = seed, split, moving

    def __getitem__(self, number: int) -> Text:
        return self.pair(number)[0]

    def pair(self, number: int) -> tuple[Text, Text]:
        """A text, and the same with another colour or shape of one thing."""
        rng = random.Random(f"{self.seed}/{self.split}/{number}")
        while True:
            moving = rng.random() < self.moving
            draft = _sample_moving(rng) if moving else _sample_still(rng)
            if not self._said(draft):
                continue
            other = _exchanged(draft, rng)
            if other is not None:
                return draft.text(), other.text()

    def _said(self, draft: _Draft) -> bool:
        facts = [_fact(fact, draft.names) for fact in draft.facts]
        if self.split == "train":
            return all(permitted(fact, held_out=False) for fact in facts)
        return any(not permitted(fact, held_out=False) for fact in facts)


def _sample_names(rng: random.Random, count: int) -> list[Name]:
    names = [name for name in (PAD, BOWL) if rng.random() < 0.3][: count - 1]
    names += rng.sample(MOVABLE, count - len(names))
    rng.shuffle(names)
    return names


def _sample_still(rng: random.Random) -> _Draft:
    count = rng.choice((1, 2, 2, 2, 3, 3, 4))
    names = _sample_names(rng, count)
    if count == 1:
        return _Draft(tuple(names), (("present", 0),), False, rng.getrandbits(32))
    facts: list[tuple] = []
    taken: set[int] = set()  # fixtures that something is on or in
    for i in range(1, count):
        earlier = list(range(i))
        subject, landmark = (i, rng.choice(earlier)) if rng.random() < 0.7 else (
            rng.choice(earlier), i)  # fmt: skip
        relation, landmarks = rng.choice((*SIDES, *SIDES, "near")), (landmark,)
        onto = {PAD: "on", BOWL: "inside"}.get(names[landmark])
        movable = names[subject] not in (PAD, BOWL)
        bound = any(fact[1] == subject for fact in facts)
        if onto and movable and not bound and landmark not in taken and rng.random() < 0.5:
            relation = onto
            taken.add(landmark)
        elif i >= 2 and subject == i and rng.random() < 0.3:
            relation, landmarks = "between", tuple(rng.sample(earlier, 2))
        facts.append(("related", subject, relation, landmarks))
    return _Draft(tuple(names), tuple(facts), False, rng.getrandbits(32))


def _sample_moving(rng: random.Random) -> _Draft:
    names = _sample_names(rng, 3)
    movable = [i for i, name in enumerate(names) if name not in (PAD, BOWL)]
    verb = rng.choice(("move", "move", "carry", "carry", "push", "stay"))
    direction = rng.choice(MOTIONS[1:] if verb != "push" else MOTIONS[1:5])
    thing = rng.choice(movable) if verb in ("carry", "push") else None
    if verb == "stay":
        said = ("moving", "stay", "", None, None, None)
        return _Draft((), (said,), True, rng.getrandbits(32))
    others = [i for i in range(3) if i != thing]
    target = which = None
    if rng.random() < 0.8:
        target, landmark = rng.sample(others, 2)
        if rng.random() < 0.7:
            which = ("related", target, rng.choice((*SIDES, "near")), (landmark,))
    said = ("moving", verb, direction, thing, target, which)
    used = [i for i in (thing, target, which and which[3][0]) if i is not None]
    places = {old: new for new, old in enumerate(dict.fromkeys(used))}
    if which is not None:
        which = ("related", places[which[1]], which[2], (places[which[3][0]],))
    said = ("moving", verb, direction, places.get(thing), places.get(target), which)
    return _Draft(tuple(names[i] for i in places), (said,), True, rng.getrandbits(32))


def _exchanged(draft: _Draft, rng: random.Random) -> _Draft | None:
    """With one colour or shape of a thing changed; as it is if nothing can be; None if there would
    be two things of one name."""
    # Gray can be said in two ways, which would word the rest otherwise too.
    movable = [
        i for i, name in enumerate(draft.names) if name not in (PAD, BOWL) and name.color != "gray"
    ]
    if not movable:
        return draft
    names, i = list(draft.names), rng.choice(movable)
    color, shape = names[i]
    if rng.random() < 0.5:
        names[i] = Name(rng.choice([c for c in COLORS if c not in (color, "gray")]), shape)
    else:
        names[i] = Name(color, rng.choice([s for s in SHAPES if s != shape]))
    if len(set(names)) < len(names):
        return None
    return _Draft(tuple(names), draft.facts, draft.moving, draft.wording)


def contradiction(text: Text, rng: random.Random) -> Text | None:
    """The text with the opposite of one relation or direction; None if it has none."""
    facts = list(text.facts)
    choices = []
    for i, fact in enumerate(facts):
        if isinstance(fact, Related) and fact.relation in SIDES:
            choices.append((i, Related(fact.subject, INVERSE[fact.relation], fact.landmarks)))
        if isinstance(fact, Moving) and fact.direction:
            turned = MOTIONS[1:][(MOTIONS[1:].index(fact.direction)) ^ 1]
            choices.append((i, Moving(fact.verb, turned, fact.thing, fact.target, fact.which)))
            if fact.which is not None and fact.which.relation in SIDES:
                which = Related(
                    fact.which.subject, INVERSE[fact.which.relation], fact.which.landmarks
                )
                choices.append(
                    (i, Moving(fact.verb, fact.direction, fact.thing, fact.target, which))
                )
    if not choices:
        return None
    place, fact = rng.choice(choices)
    facts[place] = fact
    seed = rng.getrandbits(32)
    words = [word for f in facts for word in say(f, random.Random(seed))]
    order = sorted(set(text.names), key=lambda name: mentioned(name, words))
    return _read(tuple(words), tuple(order), tuple(facts))


@dataclass(frozen=True)
class Wanted:
    """What texts ask of layouts: B texts, K things, R relations.

    Attributes:
        ids: int64 [B, T].
        there: bool [B, K].
        color, shape: int64 [B, K].
        gripper: bool [B].
        motion: int64 [B].
        closed: bool [B].
        kind: int64 [B, R], of ASKED; -1 where there is none.
        between: int64 [B, R, 3], thing, landmark and second landmark; K is the gripper.
    """

    ids: Tensor
    there: Tensor
    color: Tensor
    shape: Tensor
    gripper: Tensor
    motion: Tensor
    closed: Tensor
    kind: Tensor
    between: Tensor

    def __getitem__(self, rows: slice) -> Wanted:
        return Wanted(*(value[rows] for value in vars(self).values()))


def wanted(texts: Sequence[Text], things: int) -> Wanted:
    rows = len(texts)
    there = np.zeros((rows, things), bool)
    color, shape = np.zeros((rows, things), np.int64), np.zeros((rows, things), np.int64)
    gripper, closed = np.zeros(rows, bool), np.zeros(rows, bool)
    motion = np.zeros(rows, np.int64)
    kind = np.full((rows, _MOST_RELATIONS), -1)
    between = np.zeros((rows, _MOST_RELATIONS, 3), np.int64)
    for row, text in enumerate(texts):
        for k, name in enumerate(text.names):
            there[row, k] = True
            color[row, k] = ALL_COLORS.index(name.color)
            shape[row, k] = ALL_SHAPES.index(name.shape)
        gripper[row], closed[row] = text.motion is not None, text.closed
        motion[row] = MOTIONS.index(text.motion or "")
        for r, (name, *places) in enumerate(text.relations):
            kind[row, r] = ASKED.index(name)
            between[row, r] = [things if i == len(text.names) else i for i in places]
    ids = pad(text.ids for text in texts)
    arrays = (there, color, shape, gripper, motion, closed, kind, between)
    return Wanted(ids, *map(torch.from_numpy, arrays))
