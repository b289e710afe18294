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

Grounds of a question begin with the relation that it asks about. Where a landmark or a subject is
still to be chosen, all that come into question are listed, and each is judged, yes or no: so every
step of the search is said, and the last yes is the answer.
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
_MIDDLE = (BINS[0] // 2, BINS[1] // 2)
_PAIRED = tuple(relation for relation in RELATIONS if relation not in (*_EXTREMES, "between"))


def offset_tokens(subject: Place, landmark: Place) -> list[str]:
    """How far the subject is from the landmark along x, y, z."""
    dx, dy, dz = (a - b for a, b in zip(subject, landmark, strict=True))
    x, y = (min(max(m + d, 0), 2 * m - 1) for m, d in zip(_MIDDLE, (dx, dy), strict=True))
    return [f"<x{x}>", f"<y{y}>", f"<a{ZERO + dz}>"]


def of_narration(before: Scene, after: Scene, target: Name | None) -> list[str]:
    """Grounds of `facts.narration`: where the gripper will be, how far that is and in which
    direction; what it carries or pushes; what it is after, with the distance from it now and then;
    and if that is told, what else is there that may tell where it is."""
    fact = narration(before, after, target)
    tokens = _placed([GRIPPER], after) + offset_tokens(after.gripper, before.gripper)
    tokens += [direction_of(before, after) or "stay"]
    tokens += _placed([] if fact.thing is None else [fact.thing], before)
    if target is not None and target != fact.thing:
        place = before.place_of(target)
        tokens += _placed([target], before)
        tokens += [_distance(before.gripper, place), _distance(after.gripper, place)]
        tokens += _around(target, before) if fact.target is not None else []
    return tokens


def of_step(before: Scene, action: Action, after: Scene) -> list[str]:
    """Grounds of what comes after an action: the things that it may touch, how far the gripper is
    from each, and whether it does; or when a thing is let go, what that may fall on, how far it is
    from there, and whether it does."""
    held = before.holds
    if held is not None and not action.opens:
        return []
    at = before.place_of(held or GRIPPER)
    closing = before.open and not action.opens  # before it moves
    level = at.z + (0 if closing else max(action.dz, 0))
    tokens = []
    for name, place in before.things:
        if held is not None:
            considered = name != held and name.shape in FLAT_SHAPES and place.z < at.z
            fits = considered and related("on", held, (name,), after)
        else:
            considered = name.shape not in FIXTURES and abs(place.z - level) <= 1
            fits = after.holds == name or after.place_of(name) != place
        if considered:
            tokens += [*_named(name), *offset_tokens(at, place), _judged(fits)]
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
    if isinstance(question, What):
        return _choice(question.relation, question.landmarks, scene)
    if isinstance(question, Is):
        fact = question.fact
        if not isinstance(fact, Related):
            return of_fact(fact, scene)
        grounds = _related(fact, scene)
        if fact.relation in _EXTREMES:  # begins with the relation, and judges, by itself
            return grounds
        return [fact.relation, *grounds, _judged(holds(fact, scene))]
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
        tokens += [*_named(landmark), *_seen(fact.subject, [landmark], scene)]
    return tokens


def _around(subject: Name, scene: Scene) -> list[str]:
    """All things that `facts.where` may tell the subject's place by, if it does by one. Each is
    judged: whether it is better than those before it."""
    if not isinstance(where(subject, scene), Related):
        return []
    tokens, place, least, found = [], scene.place_of(subject), math.inf, False
    for name, there in scene.things:
        if name in (subject, scene.holds):
            continue
        rests = any(related(kind, subject, (name,), scene) for kind in ("inside", "on"))
        better = not found and (rests or centimetres(place, there) < least)
        least, found = min(least, centimetres(place, there)), found or rests
        tokens += [*_named(name), *_seen(subject, [name], scene), _judged(better)]
    return tokens


def _choice(relation: str, landmarks: Sequence[Name], scene: Scene) -> list[str]:
    """The relation, the landmarks, and all things that may be in that relation to them. Each is
    judged: whether it is, or of nearest and farthest whether it is more so than those before it."""
    tokens, most = [relation, *_placed(landmarks, scene)], -math.inf
    for name, place in scene.things:
        if name in landmarks:
            continue
        if relation in _EXTREMES:
            far = centimetres(place, scene.place_of(landmarks[0]))
            far = -far if relation == "nearest" else far
            fits, most = far > most, max(most, far)
        else:
            fits = related(relation, name, tuple(landmarks), scene)
        tokens += [*_named(name), *_seen(name, landmarks, scene), _judged(fits)]
    return tokens


def _judged(fits: bool) -> str:
    return "yes" if fits else "no"


def _seen(subject: Name, landmarks: Sequence[Name], scene: Scene) -> list[str]:
    """Where the subject is seen from each landmark; from two of them, only the offsets."""
    places = scene.place_of(subject), *(scene.place_of(landmark) for landmark in landmarks)
    tokens = [token for there in places[1:] for token in offset_tokens(places[0], there)]
    if len(landmarks) == 2:
        return tokens
    order = ("inside", "on", side(*places), *_PAIRED)
    hold = [
        relation
        for relation in dict.fromkeys(order)
        if not (relation in OF_THINGS and GRIPPER in (subject, *landmarks))
        and related(relation, subject, tuple(landmarks), scene)
    ]
    return [*tokens, _distance(*places), *hold]


def _distance(a: Place, b: Place) -> str:
    return f"<x{min(centimetres(a, b), BINS[0] - 1)}>"


def _named(name: Name) -> list[str]:
    return ["<grip>"] if name == GRIPPER else ["<obj>", *name]


def _of_kind(kind: str, scene: Scene) -> list[Name]:
    return [thing.name for thing in scene.things if kind == "thing" or kind in thing.name]
