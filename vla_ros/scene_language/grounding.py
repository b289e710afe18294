"""What a sentence or an answer rests on: things, where they are, and how far apart.

Grounds come before what is said, in places and offsets:

    <rel> <obj> red cube <x36> <y42> <z1> <obj> white bowl <x35> <y24> <a17> <x8> right near

They show a reader what the speaker looked at, and spare the speaker the looking, the comparing and
the saying at once: a chain of thought (Wei et al. 2022) without words.

Things come with their place. A thing that is compared comes with where it is seen from the other:
the offset, subject minus landmark, as the place it leads to from (32, 32) and the level from 16 (32
bins away or more as the last of them); the distance in whole centimetres; and the relations that
hold, the one that tells best first:

    <obj> white bowl <x35> <y24> <a17> <x8> right near

Where a landmark or a subject is still to be chosen, all that come into question are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vla_ros.scene_language.actions import ZERO
from vla_ros.scene_language.facts import (
    OF_THINGS,
    RELATIONS,
    Coloured,
    Counted,
    Fact,
    Happened,
    Moving,
    Placed,
    Present,
    Related,
    centimetres,
    narration,
    related,
    side,
    where,
)
from vla_ros.scene_language.questions import (
    Answer,
    HowMany,
    Is,
    Question,
    What,
    WhatColor,
    Where,
)
from vla_ros.scene_language.scenes import BINS, GRIPPER, Name, Place, Scene, place_tokens

MARK = "<rel>"
_EXTREMES = ("nearest", "farthest")  # of all things, so all are compared
_MIDDLE = (BINS[0] // 2, BINS[1] // 2)
_PAIRED = tuple(relation for relation in RELATIONS if relation not in (*_EXTREMES, "between"))


def offset_tokens(subject: Place, landmark: Place) -> list[str]:
    """How far the subject is from the landmark along x, y, z."""
    dx, dy, dz = (a - b for a, b in zip(subject, landmark, strict=True))
    x, y = (min(max(m + d, 0), 2 * m - 1) for m, d in zip(_MIDDLE, (dx, dy), strict=True))
    return [f"<x{x}>", f"<y{y}>", f"<a{ZERO + dz}>"]


def of_narration(before: Scene, after: Scene, target: Name | None) -> list[str]:
    """Grounds of `facts.narration`: where the gripper will be and how far that is, what it carries
    or pushes, what it is after, and what else is there that may tell where that is."""
    thing = narration(before, after).thing
    tokens = _placed([GRIPPER], after) + offset_tokens(after.gripper, before.gripper)
    tokens += _placed([] if thing is None else [thing], before)
    if target is not None and target != thing:
        tokens += _search(target, before)
    return tokens


def of_fact(fact: Fact, scene: Scene) -> list[str]:
    """Grounds of a sentence about a scene, or about what led to it."""
    if isinstance(fact, Counted):
        return _placed(_of_kind(fact.kind, scene), scene)
    if isinstance(fact, Coloured):
        return _placed([Name(fact.color, fact.shape)], scene)
    if isinstance(fact, Moving):
        named = [name for name in (fact.thing, fact.target) if name is not None]
        return _placed(named, scene) + (_related(fact.which, scene) if fact.which else [])
    if isinstance(fact, Happened):
        return _related(fact.where, scene) if fact.where else _placed([fact.thing], scene)
    if isinstance(fact, Related):
        return _related(fact, scene)
    return _placed([fact.subject], scene) if isinstance(fact, Present | Placed) else []


def of_answer(question: Question, answer: Answer, scene: Scene) -> list[str]:
    """Grounds of an answer; `answer` is that of `questions.answer`."""
    if isinstance(question, Is):
        return of_fact(question.fact, scene)
    if isinstance(question, Where):
        return _search(question.subject, scene)
    if isinstance(question, What):
        return _candidates(question.landmarks, scene)
    if isinstance(question, HowMany):
        return _placed(_of_kind(question.kind, scene), scene)
    if isinstance(question, WhatColor):
        return _placed([Name(answer, question.shape)], scene)
    return []


def _placed(names: Iterable[Name], scene: Scene) -> list[str]:
    """Each of `names` that is there with its place."""
    there = [name for name in names if name in scene]
    return [token for name in there for token in (*_named(name), *_at(name, scene))]


def _related(fact: Related, scene: Scene) -> list[str]:
    if fact.relation in _EXTREMES:
        return _candidates(fact.landmarks, scene)
    tokens = _placed([fact.subject], scene)
    for landmark in fact.landmarks:
        tokens += _named(landmark)
        tokens += _compared(fact.subject, landmark, scene, alone=len(fact.landmarks) == 1)
    return tokens + _between(fact.subject, fact.landmarks, scene)


def _search(subject: Name, scene: Scene) -> list[str]:
    """The subject, and all things that `facts.where` may tell its place by."""
    tokens = _placed([subject], scene)
    if isinstance(where(subject, scene), Related):
        for name, _ in scene.things:
            if name not in (subject, scene.holds):
                tokens += [*_named(name), *_compared(subject, name, scene)]
    return tokens


def _candidates(landmarks: Sequence[Name], scene: Scene) -> list[str]:
    """The landmarks, and all things that may be in a relation to them."""
    tokens = _placed(landmarks, scene)
    for name, _ in scene.things:
        if name not in landmarks:
            tokens += _named(name)
            for landmark in landmarks:
                tokens += _compared(name, landmark, scene, alone=len(landmarks) == 1)
            tokens += _between(name, landmarks, scene)
    return tokens


def _compared(subject: Name, landmark: Name, scene: Scene, alone: bool = True) -> list[str]:
    """Where the subject is seen from the landmark; only the offset if there is another landmark."""
    a, b = scene.place_of(subject), scene.place_of(landmark)
    tokens = offset_tokens(a, b)
    if not alone:
        return tokens
    order = ("inside", "on", side(a, b), *_PAIRED)
    hold = [
        relation
        for relation in dict.fromkeys(order)
        if not (relation in OF_THINGS and GRIPPER in (subject, landmark))
        and related(relation, subject, (landmark,), scene)
    ]
    return [*tokens, f"<x{min(centimetres(a, b), BINS[0] - 1)}>", *hold]


def _between(subject: Name, landmarks: Sequence[Name], scene: Scene) -> list[str]:
    both = tuple(landmarks)
    return ["between"] if len(both) == 2 and related("between", subject, both, scene) else []


def _named(name: Name) -> list[str]:
    return ["<grip>"] if name == GRIPPER else ["<obj>", *name]


def _at(name: Name, scene: Scene) -> list[str]:
    return place_tokens(scene.place_of(name))


def _of_kind(kind: str, scene: Scene) -> list[Name]:
    return [thing.name for thing in scene.things if kind == "thing" or kind in thing.name]
