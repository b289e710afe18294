"""What a sentence or an answer rests on: things, where they are, and how far apart.

Grounds come before what is said, in places and offsets:

    <rel> <obj> red cube <x36> <y42> <z1> <obj> white bowl <x3> <y8> <a17> right near <x8>

They show a reader what the speaker looked at, and spare the speaker the looking, the comparing and
the saying at once: a chain of thought (Wei et al. 2022) without words.

Things come with their place. A thing that is compared comes with where it is seen from the other:
the offset, subject minus landmark, along x and y as <x3> forwards and <y3> backwards, along z as
the level from 16; the relations that hold, the one that tells best first; and the distance in whole
centimetres (<y0> is 64 of them):

    <obj> white bowl <x3> <y8> <a17> right near <x8>

Grounds of a question begin with the relation that it asks about. Where a landmark or a subject is
still to be chosen, all things are listed, and each is judged, yes or no, right behind the number
that it is judged by: so every step of the search is said, and the last yes is the answer. No thing
is left out, because a list is easier to go through than to go through with gaps; one that does not
come into question has a judgement alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vla_ros.scene_language.actions import ZERO, Action
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
    clearly,
    comes_closer,
    direction_of,
    holds,
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
from vla_ros.scene_language.scenes import (
    BINS,
    FIXTURES,
    FLAT_SHAPES,
    GRIPPER,
    Name,
    Place,
    Scene,
    place_tokens,
)

MARK = "<rel>"
_EXTREMES = ("nearest", "farthest")  # of all things, so all are compared
_RESTING = ("inside", "on")
_PAIRED = tuple(relation for relation in RELATIONS if relation not in (*_EXTREMES, "between"))


def offset_tokens(subject: Place, landmark: Place) -> list[str]:
    """How far the subject is from the landmark along x, y, z."""
    dx, dy, dz = (a - b for a, b in zip(subject, landmark, strict=True))
    return [*(f"<x{way}>" if way >= 0 else f"<y{-way}>" for way in (dx, dy)), f"<a{ZERO + dz}>"]


def of_narration(before: Scene, after: Scene, target: Name | None) -> list[str]:
    """Grounds of `facts.narration`: where the gripper will be, how far that is and in which
    direction; what it carries or pushes; what it is after, how far that will be, and whether it is
    closer then; and if it is told, what else is there that may tell where it is."""
    fact = narration(before, after, target)
    tokens = _placed([GRIPPER], after) + offset_tokens(after.gripper, before.gripper)
    tokens += [direction_of(before, after) or "stay"]
    tokens += _placed([] if fact.thing is None else [fact.thing], before)
    if target is not None and target != fact.thing:
        tokens += _placed([target], before)
        tokens += offset_tokens(before.place_of(target), after.gripper)
        tokens.append(_judged(comes_closer(target, before, after)))
        tokens += _around(target, before) if fact.target is not None else []
    return tokens


def of_step(before: Scene, action: Action, after: Scene) -> list[str]:
    """Grounds of what comes after an action: where the gripper will be; then what it carries, with
    how that lies in the fingers; or all that it may touch, or that what it lets go may fall on,
    with how far that is, and whether it does."""
    held = before.holds
    tokens = _placed([GRIPPER], after)
    if held is not None and not action.opens:
        return [*tokens, *_named(held), *offset_tokens(before.place_of(held), before.gripper)]
    at = before.place_of(held or GRIPPER)
    closing = before.open and not action.opens  # before it moves
    level = at.z + (0 if closing else max(action.dz, 0))
    listed, considered = [], False
    for name, place in before.things:
        if name.shape in FIXTURES:
            continue
        if held is None:
            may = abs(place.z - level) <= 1
            does = may and (after.holds == name or after.place_of(name) != place)
        else:
            may = name != held and name.shape in FLAT_SHAPES and place.z < at.z
            does = may and related("on", held, (name,), after)
        offset = [] if name == held else offset_tokens(at, place)
        listed += [*_named(name), *offset, _judged(does)]
        considered = considered or may
    return tokens + listed if considered else tokens


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
    if isinstance(question, What):
        return _choice(question.relation, question.landmarks, scene)
    if isinstance(question, Is):
        fact = question.fact
        if not isinstance(fact, Related):
            return of_fact(fact, scene)
        if fact.relation in _EXTREMES:
            return _outdone(fact, scene)
        return [fact.relation, *_related(fact, scene), _judged(holds(fact, scene))]
    if isinstance(question, Where):
        return _placed([question.subject], scene) + _around(question.subject, scene)
    if isinstance(question, HowMany):
        return _placed(_of_kind(question.kind, scene), scene)
    if isinstance(question, WhatColor):
        return _placed([Name(answer, question.shape)], scene)
    return []


def _placed(names: Iterable[Name], scene: Scene) -> list[str]:
    """Each of `names` that is there with its place."""
    there = [name for name in names if name in scene]
    return [
        token for name in there for token in (*_named(name), *place_tokens(scene.place_of(name)))
    ]


def _related(fact: Related, scene: Scene) -> list[str]:
    if fact.relation in _EXTREMES:
        return _choice(fact.relation, fact.landmarks, scene)
    tokens = _placed([fact.subject], scene)
    for landmark in fact.landmarks:
        tokens += [*_named(landmark), *_seen(fact.subject, landmark, scene)]
    return tokens + _apart(fact.landmarks, scene)


def _around(subject: Name, scene: Scene) -> list[str]:
    """All things, of which `facts.where` may tell the subject's place by one, if it does by one.
    Each is judged: whether it is better than those before it."""
    if not isinstance(where(subject, scene), Related):
        return []
    tokens, place, least, found = [], scene.place_of(subject), math.inf, False
    for name, there in scene.things:
        tokens += _named(name)
        if name in (subject, scene.holds):
            tokens.append(_judged(False))
            continue
        rests = [kind for kind in _RESTING if related(kind, subject, (name,), scene)]
        far = centimetres(place, there)
        better = not found and (bool(rests) or far < least)
        least, found = min(least, far), found or bool(rests)
        tokens += [*offset_tokens(place, there), *(rests or [side(place, there)])]
        tokens += [_distance(place, there), _judged(better)]
    return tokens


def _choice(relation: str, landmarks: Sequence[Name], scene: Scene) -> list[str]:
    """The relation, the landmarks, and all things. Each is judged: whether it is in that relation
    to them, or of nearest and farthest whether it is more so than those before it."""
    tokens, most = [relation, *_placed(landmarks, scene), *_apart(landmarks, scene)], -math.inf
    for name, place in scene.things:
        tokens += _named(name)
        fits = False
        if name not in landmarks:
            if relation in _EXTREMES:
                far = centimetres(place, scene.place_of(landmarks[0]))
                far = -far if relation == "nearest" else far
                fits, most = far > most, max(most, far)
            else:
                fits = related(relation, name, tuple(landmarks), scene)
            for landmark in landmarks:
                tokens += _seen(name, landmark, scene)
        tokens.append(_judged(fits))
    return tokens


def _outdone(fact: Related, scene: Scene) -> list[str]:
    """The relation, which is one of the extremes, the landmark, the subject, and all things. Each
    is judged: whether it leaves the fact true."""
    (landmark,) = fact.landmarks
    origin = scene.place_of(landmark)
    mine = centimetres(scene.place_of(fact.subject), origin)
    tokens = [fact.relation, *_placed([landmark], scene)]
    tokens += [*_named(fact.subject), *_seen(fact.subject, landmark, scene)]
    for name, place in scene.things:
        leaves = True
        tokens += _named(name)
        if name not in (landmark, fact.subject):
            leaves = clearly(fact.relation, mine, centimetres(place, origin))
            tokens += _seen(name, landmark, scene)
        tokens.append(_judged(leaves))
    return tokens


def _judged(fits: bool) -> str:
    return "yes" if fits else "no"


def _seen(subject: Name, landmark: Name, scene: Scene) -> list[str]:
    """Where the subject is seen from the landmark."""
    a, b = scene.place_of(subject), scene.place_of(landmark)
    order = (*_RESTING, side(a, b), *_PAIRED)
    hold = [
        relation
        for relation in dict.fromkeys(order)
        if not (relation in OF_THINGS and GRIPPER in (subject, landmark))
        and related(relation, subject, (landmark,), scene)
    ]
    return [*offset_tokens(a, b), *hold, _distance(a, b)]


def _apart(landmarks: Sequence[Name], scene: Scene) -> list[str]:
    """How far two landmarks are from each other; of one alone, nothing."""
    return [_distance(*map(scene.place_of, landmarks))] if len(landmarks) == 2 else []


def _distance(a: Place, b: Place) -> str:
    whole = centimetres(a, b)
    return f"<x{whole}>" if whole < BINS[0] else f"<y{whole - BINS[0]}>"


def _named(name: Name) -> list[str]:
    return ["<grip>"] if name == GRIPPER else ["<obj>", *name]


def _of_kind(kind: str, scene: Scene) -> list[Name]:
    return [thing.name for thing in scene.things if kind == "thing" or kind in thing.name]
