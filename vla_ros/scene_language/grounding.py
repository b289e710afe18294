"""What a sentence or an answer rests on: the things it is about, and where they are.

Grounds come before what is said: `<rel> <obj> red cube <x36> <y42> <z1> <obj> white bowl ...`. They
show a reader what the speaker looked at, and spare the speaker the looking and the saying at once
(a chain of thought, Wei et al. 2022, in places instead of words).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vla_ros.scene_language.facts import (
    Coloured,
    Counted,
    Fact,
    Happened,
    Moving,
    Placed,
    Present,
    Related,
    narration,
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
from vla_ros.scene_language.scenes import GRIPPER, Name, Scene, place_tokens

MARK = "<rel>"


def tokens_of_grounds(names: Iterable[Name], scene: Scene) -> list[str]:
    """Each of `names` that is there with its place: `<obj> colour shape <x> <y> <z>`, or `<grip>
    <x> <y> <z>`."""
    tokens = []
    for name in dict.fromkeys(names):
        if name in scene:
            said = ["<grip>"] if name == GRIPPER else ["<obj>", *name]
            tokens += [*said, *place_tokens(scene.place_of(name))]
    return tokens


def of_narration(before: Scene, after: Scene, target: Name | None) -> list[str]:
    """Grounds of `facts.narration`: where the gripper will be, what it carries or pushes, what it
    is after and what is next to that."""
    thing = narration(before, after).thing
    names = [] if thing is None else [thing]
    if target is not None and target != thing:
        names += [target, *_landmarks(where(target, before))]
    return tokens_of_grounds([GRIPPER], after) + tokens_of_grounds(names, before)


def of_fact(fact: Fact, scene: Scene) -> list[str]:
    """Grounds of a sentence about a scene, or about what led to it."""
    if isinstance(fact, Counted):
        return tokens_of_grounds(_of_kind(fact.kind, scene), scene)
    if isinstance(fact, Coloured):
        return tokens_of_grounds([Name(fact.color, fact.shape)], scene)
    if isinstance(fact, Moving):
        named = [fact.thing, fact.target, *_landmarks(fact.which)]
        return tokens_of_grounds([name for name in named if name is not None], scene)
    if isinstance(fact, Happened):
        return tokens_of_grounds([fact.thing, *_landmarks(fact.where)], scene)
    if isinstance(fact, Related | Present | Placed):
        return tokens_of_grounds([fact.subject, *_landmarks(fact)], scene)
    return []


def of_answer(question: Question, answer: Answer, scene: Scene) -> list[str]:
    """Grounds of an answer; `answer` is that of `questions.answer`."""
    if isinstance(question, Is):
        return of_fact(question.fact, scene)
    if isinstance(question, Where):
        return tokens_of_grounds([question.subject, *_landmarks(answer)], scene)
    if isinstance(question, What):
        found = [] if answer is None else [answer]
        return tokens_of_grounds([*question.landmarks, *found], scene)
    if isinstance(question, HowMany):
        return tokens_of_grounds(_of_kind(question.kind, scene), scene)
    if isinstance(question, WhatColor):
        return tokens_of_grounds([Name(answer, question.shape)], scene)
    return []


def _landmarks(fact: object) -> Sequence[Name]:
    return fact.landmarks if isinstance(fact, Related) else ()


def _of_kind(kind: str, scene: Scene) -> list[Name]:
    return [thing.name for thing in scene.things if kind == "thing" or kind in thing.name]
