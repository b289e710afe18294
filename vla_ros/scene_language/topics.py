"""What to say and to ask about a scene, by chance, and what is kept for tests."""

from __future__ import annotations

import random
from collections.abc import Sequence

from vla_ros.scene_language import questions
from vla_ros.scene_language.facts import (
    RELATIONS,
    Coloured,
    Counted,
    Fact,
    Fingers,
    Happened,
    Holding,
    Moving,
    Placed,
    Present,
    Related,
    related,
    where,
)
from vla_ros.scene_language.questions import (
    Answer,
    HowMany,
    Is,
    Question,
    What,
    WhatColor,
    WhatHeld,
    Where,
    WhichPlace,
)
from vla_ros.scene_language.scenes import (
    BOWL,
    COLORS,
    GRIPPER,
    MOVABLE,
    PAD,
    SHAPES,
    Name,
    Scene,
    name_order,
)
from vla_ros.scene_language.worlds import Moment

_LANDMARKS = (*MOVABLE, PAD, BOWL, GRIPPER)
# (colour, shape, relation, landmark): an eighth of all, and as many for each of the four. Were the
# landmark left out, that a thing is never said to be there would be a rule that can be learned.
HELD_OUT = frozenset(
    (color, shape, relation, landmark)
    for c, color in enumerate(COLORS)
    for s, shape in enumerate(SHAPES)
    for r, relation in enumerate(RELATIONS)
    for n, landmark in enumerate(_LANDMARKS)
    if (3 * c + 5 * s + r + 3 * n) % 8 == 0
)
# How often each is tried: more often those that are seldom true.
_TRIED = {"above": 4, "below": 4, "on": 4, "inside": 4, "between": 6, "near": 1}
_RELATIONS = tuple(name for name in RELATIONS for _ in range(_TRIED.get(name, 2)))
_Asked = tuple[Question, Answer]


def composition(fact: Fact | None) -> tuple[str, str, str, Name] | None:
    """Colour, shape, relation and (first) landmark of the thing that `fact` relates to something,
    if it does."""
    if isinstance(fact, Moving):
        fact = fact.which
    elif isinstance(fact, Happened):
        fact = fact.where
    if isinstance(fact, Related):
        return (*fact.subject, fact.relation, fact.landmarks[0])
    return None


def permitted(fact: Fact | None, held_out: bool) -> bool:
    """Whether the split may say `fact`: "held_out" says of relations only the held-out ones."""
    parts = composition(fact)
    return parts is None or (parts in HELD_OUT) == held_out


def sample_fact(scene: Scene, about: random.Random) -> Fact:
    """A true fact that is no relation."""
    name = about.choice(scene.things).name
    shapes = [thing.name.shape for thing in scene.things if thing.name.shape in SHAPES]
    single = [shape for shape in shapes if shapes.count(shape) == 1]
    facts = [Present(name), Placed(name, scene.place_of(name)), Placed(GRIPPER, scene.gripper)]
    facts += [Fingers(scene.open), Holding(scene.holds), Counted("thing", len(scene.things))]
    facts += [Counted(shape, shapes.count(shape)) for shape in shapes[:1]]
    facts += [Coloured(t.name.shape, t.name.color) for t in scene.things if t.name.shape in single]
    return about.choice(facts)


def sample_relation(scene: Scene, about: random.Random, held_out: bool) -> Related | None:
    """A true relation that the split may say: of a random kind, if that is to be had."""
    names = [thing.name for thing in scene.things]
    for _ in range(8):
        relation = about.choice(_RELATIONS)
        for _ in range(8):
            pair = _draw_pair(names, about, held_out, relation)
            if pair is not None and related(*pair, scene):
                return Related(pair[1], relation, pair[2])
    return None


def _draw_pair(
    names: Sequence[Name], about: random.Random, held_out: bool, relation: str = ""
) -> tuple[str, Name, tuple[Name, ...]] | None:
    """A relation (or the one given), a subject and landmarks by chance, true or not; None if they
    do not go together or are for the other split."""
    relation, subject = relation or about.choice(_RELATIONS), about.choice(names)
    if relation in ("above", "below", "near") and about.random() < 0.15:
        subject = GRIPPER
    landmarks = about.sample(names, min(1 + (relation == "between"), len(names)))
    if subject in landmarks or len(landmarks) != 1 + (relation == "between"):
        return None
    landmarks = tuple(sorted(landmarks, key=name_order))
    if ((*subject, relation, landmarks[0]) in HELD_OUT) != held_out:
        return None
    return relation, subject, landmarks


def sample_question(
    scene: Scene, about: random.Random, held_out: bool, lot: float
) -> _Asked | None:
    """A question that the split may ask, with its answer; None if chance finds none.

    Args:
        scene: what to ask about.
        about: what to choose with.
        held_out: the split, see `permitted`.
        lot: 0 to 1, decides on the kind of question and on yes or no; where a scene has no such
            question, the same lot with another scene keeps the shares as they are meant.
    """
    lot *= 0.8 if held_out else 1.0
    if lot < 0.36:
        return _ask_is(scene, about, held_out, lot < 0.18)
    if lot < 0.8:
        return (_ask_what if lot < 0.6 else _ask_where)(scene, about, held_out)
    return _ask_other(scene, about)


def _ask_is(scene: Scene, about: random.Random, held_out: bool, wanted: bool) -> _Asked | None:
    names = [thing.name for thing in scene.things]
    if not held_out and about.random() < 0.15:
        return _ask_is_plain(scene, about)
    true = sample_relation(scene, about, held_out)
    if true is None or wanted:
        return None if true is None else (Is(true), True)
    for _ in range(60):  # the same relation, or its name alone would tell that it is not so
        pair = _draw_pair(names, about, held_out, true.relation)
        if pair is not None and not related(*pair, scene):
            return Is(Related(pair[1], pair[0], pair[2])), False
    return None


def _ask_is_plain(scene: Scene, about: random.Random) -> _Asked:
    names = [thing.name for thing in scene.things]
    movable = [name for name in names if name.shape in SHAPES] or list(MOVABLE)
    fact = about.choice(
        [
            Present(about.choice([*names, about.choice(MOVABLE)])),
            Fingers(about.random() < 0.5),
            Holding(scene.holds if about.random() < 0.5 else about.choice(movable)),
            Holding(None),
        ]
    )
    return Is(fact), questions.answer(Is(fact), scene)


def _ask_what(scene: Scene, about: random.Random, held_out: bool) -> _Asked | None:
    names, nothing = [thing.name for thing in scene.things], about.random() < 0.1
    for _ in range(40):
        pair = _draw_pair(names, about, held_out)
        if pair is None or pair[1] == GRIPPER:
            continue
        relation, _, landmarks = pair
        fits = [
            name
            for name in names
            if name not in landmarks and related(relation, name, landmarks, scene)
        ]
        if not fits and nothing and not held_out:
            return What(relation, landmarks), None
        if len(fits) == 1 and permitted(Related(fits[0], relation, landmarks), held_out):
            return What(relation, landmarks), fits[0]
    return None


def _ask_where(scene: Scene, about: random.Random, held_out: bool) -> _Asked | None:
    names = [thing.name for thing in scene.things]
    for name in about.sample(names, len(names)):
        fact = where(name, scene)
        if permitted(fact, held_out) and (isinstance(fact, Related) or not held_out):
            return Where(name), fact
    return None


def _ask_other(scene: Scene, about: random.Random) -> _Asked:
    name = about.choice([*(thing.name for thing in scene.things), GRIPPER])
    shapes = [thing.name.shape for thing in scene.things if thing.name.shape in SHAPES]
    asked: list[Question] = [
        HowMany("thing" if name == GRIPPER else name.shape if name.shape in SHAPES else "cube"),
        HowMany(about.choice(COLORS)),
        WhatHeld(),
        WhichPlace(name),
        WhichPlace(name),
    ]
    asked += [WhatColor(shape) for shape in shapes if shapes.count(shape) == 1][:1]
    question = about.choice(asked)
    return question, questions.answer(question, scene)


def event(moment: Moment, about: random.Random, held_out: bool) -> Happened | None:
    """What came about, told with a new relation that the split may say, if there is one."""
    before, after = moment.before, moment.after
    if before.holds == after.holds:
        slid = [
            new.name
            for old, new in zip(before.things, after.things, strict=True)
            if old != new and new.name != after.holds
        ]
        if not slid:
            return None
        return Happened("slid", slid[0], _new_relation(slid[0], moment, about, held_out))
    if after.holds is not None:
        return Happened("grasped", after.holds)
    place = where(before.holds, after)
    if isinstance(place, Related) and permitted(place, held_out):
        return Happened("released", before.holds, place)
    return Happened("released", before.holds)


def _new_relation(
    name: Name, moment: Moment, about: random.Random, held_out: bool
) -> Related | None:
    others = [thing.name for thing in moment.after.things if thing.name != name]
    facts = [
        Related(name, relation, (other,))
        for other in about.sample(others, len(others))
        for relation in ("left", "right", "behind", "front")
        if related(relation, name, (other,), moment.after)
        and not related(relation, name, (other,), moment.before)
    ]
    return next((fact for fact in facts if permitted(fact, held_out)), None)
