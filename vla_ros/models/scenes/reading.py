"""What a picture says in words, whether a fact holds of it, and what of a text it does not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vla_ros.models.scenes.layout import Picture
from vla_ros.scene_language.facts import (
    MARGIN,
    Fact,
    Moving,
    Present,
    Related,
    true_of,
    where,
)
from vla_ros.scene_language.noun_phrases import references
from vla_ros.scene_language.references import AMBIGUOUS, Unresolved, tokens
from vla_ros.scene_language.referents import resolve
from vla_ros.scene_language.scenes import FIXTURES, GRIPPER, PAD, Name
from vla_ros.scene_language.sentences import parse, say
from vla_ros.scene_language.vocabulary import text_of

SIDES = ("left", "right", "behind", "front")
RELATIONS = (*SIDES, "near", "on", "inside", "between")  # that a picture from above shows
# Of these are the relations that a text asks for too: being carried, and being pushed.
ASKED = (*RELATIONS, "at", *(f"pushed {side}" for side in SIDES))
_HELD = 2  # bins from the gripper to what it carries, at most
_PUSHED = 8  # bins from the gripper to the middle of what it pushes, at most
# Steps of a bin along x and y, seen from the robot.
_WAYS = {"left": (0, 1), "right": (0, -1), "away": (1, 0), "closer": (-1, 0)}


def can_be_shown(fact: Fact | None) -> bool:
    """Whether a fact is of those that texts about pictures say: what is there, how things lie to
    each other as seen from above, and how the gripper moves."""
    if isinstance(fact, Moving):
        return fact.which is None or can_be_shown(fact.which)
    if isinstance(fact, Related):
        if fact.relation == "on" and fact.landmarks != (PAD,):
            return False  # of heights nothing is to be seen
        return fact.relation in RELATIONS and GRIPPER not in (fact.subject, *fact.landmarks)
    return isinstance(fact, Present)


def shows(picture: Picture, fact: Fact) -> bool:
    """Whether a fact holds of a picture, which has one moment and no heights."""
    scene = picture.scene()
    if isinstance(fact, Moving):
        if picture.gripper is None or picture.motion != fact.direction:
            return False
        if fact.thing is not None and fact.thing not in scene:
            return False
        if fact.target is not None and fact.target not in scene:
            return False
        if fact.verb == "carry" and _bins(picture, fact.thing) > _HELD:
            return False
        return fact.which is None or true_of(fact.which, scene)
    return true_of(fact, scene)


def _bins(picture: Picture, name: Name) -> int:
    """From the gripper to a thing, along the axis on which they are further apart."""
    scene = picture.scene()
    a, b = scene.place_of(name), scene.gripper
    return max(abs(a.x - b.x), abs(a.y - b.y))


# -- in words --------------------------------------------------------------------------------------


def in_words(picture: Picture) -> str:
    """A picture in sentences of the scene language: "The red cube is left of the bowl."; "" if
    nothing is in it."""
    facts = [*_facts(picture)]
    return text_of([word for fact in facts for word in say(fact)])


def _facts(picture: Picture) -> Iterator[Fact]:
    moving = None if picture.gripper is None else _moving(picture)
    if moving is not None:
        yield moving
    scene = picture.scene()
    names = [name for name, _ in picture.things]
    names.sort(key=lambda name: name.shape in FIXTURES)  # what may move lies beside what does not
    told: set[frozenset[Name]] = set()
    mentioned = {moving.thing} if moving is not None else set()
    for name in names:
        fact = where(name, scene)
        if not isinstance(fact, Related):  # it is alone
            if name not in mentioned:
                yield Present(name)
            continue
        pair = frozenset((name, *fact.landmarks))
        if pair in told or name in mentioned and name.shape in FIXTURES:
            continue
        told.add(pair)
        mentioned |= pair
        yield fact


def _moving(picture: Picture) -> Moving:
    """What the gripper of a picture is doing."""
    if not picture.motion:
        return Moving("stay")
    if not picture.open:
        things = [name for name, _ in picture.things if name.shape not in FIXTURES]
        for name in things:
            if _bins(picture, name) <= _HELD:
                return Moving("carry", picture.motion, name)
        for name in things:
            if picture.motion in _WAYS and _is_pushed(picture, name):
                return Moving("push", picture.motion, name)
    return Moving("move", picture.motion)


def _is_pushed(picture: Picture, name: Name) -> bool:
    place, way = picture.scene().place_of(name), _WAYS[picture.motion]
    offset = (place.x - picture.gripper[0], place.y - picture.gripper[1])
    along = offset[0] * way[0] + offset[1] * way[1]
    across = abs(offset[0] * way[1]) + abs(offset[1] * way[0])
    return MARGIN <= along <= _PUSHED and across <= _HELD


# -- against a text --------------------------------------------------------------------------------


def not_shown(text: Sequence[str], picture: Picture) -> str:
    """What of a text a picture does not show: "" if nothing, or not known, is missing.

    Sentences of the scene language are held against the picture as facts, others thing by thing.

    Args:
        text: its tokens.
        picture: as it was read.
    """
    missing = [problem for sentence in _sentences(text) if (problem := _amiss(sentence, picture))]
    return "; ".join(dict.fromkeys(missing))


def _sentences(words: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for word in words:
        if word in (".", "?"):
            found.append([])
        else:
            found[-1].append(word)
    return [sentence for sentence in found if sentence]


def _amiss(sentence: list[str], picture: Picture) -> str:
    for reference in references(tokens(" ".join(sentence))):
        try:
            resolve(reference, picture.scene())
        except Unresolved as error:
            if error.kind != AMBIGUOUS:  # "a cube", and there are two
                return str(error)
    fact = _fact_of(sentence)
    if fact is None or not can_be_shown(fact) or shows(picture, fact):
        return ""
    if isinstance(fact, Moving) and picture.gripper is None:
        return "no gripper is to be seen"
    return f"it does not look as if {' '.join(say(fact)[:-1])}"


def _fact_of(sentence: list[str]) -> Fact | None:
    for words in (sentence, ["there", "is", *sentence]):
        try:
            return parse(words)
        except ValueError:
            continue
    return None
