"""What an instruction asks of a scene: its subtasks, each in words that a policy knows.

    subtasks_of("put the red cube in the bowl, then push the can left")
    ground("pick up the block nearest to the bowl", scene).text  # "pick up the green cube"

A policy follows any instruction that it can read, whether or not the thing is there, and knows
things by colour and shape only. So an instruction is first taken apart here and held against the
scene that was read: what is absent, ambiguous or contradicts the scene raises `Unresolved` with a
sentence for the person, and where something is becomes what it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.scene_language.deeds import PUSHING, Deed
from vla_ros.scene_language.noun_phrases import negated, references
from vla_ros.scene_language.readings import Reading, described, readings
from vla_ros.scene_language.references import (
    AMBIGUOUS,
    CONTRADICTORY,
    IMPOSSIBLE,
    Reference,
    Unresolved,
    tokens,
)
from vla_ros.scene_language.referents import resolve
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene
from vla_ros.scene_language.subtasks import PRONOUNS, VERBS, subtasks_of, text_of

__all__ = ["Subtask", "completed", "ground", "subtasks_of"]
_PUTTING = frozenset({"put", "place", "lay", "stack", "deposit"})
_HAND = frozenset({"gripper", "hand", "arm", "yourself", "fingers", "claw", "tool"})
_ENDS = frozenset({".", "?", "!", ";", ":"})
_OPPOSITE = (
    ({"left", "leftwards", "leftward"}, {"right", "rightwards", "rightward"}),
    ({"away", "forward", "forwards", "farther"}, {"closer", "nearer", "backward", "backwards"}),
)


@dataclass(frozen=True)
class Subtask:
    """One subtask of an instruction in a scene.

    Attributes:
        text: what to tell a policy.
        thing: what it is done with; None if no movable thing is named.
        names: all things that it names.
        deed: what is to be done; None if the words for it are not known, which a policy may know.
    """

    text: str
    thing: Name | None
    names: tuple[Name, ...]
    deed: Deed | None = None


def ground(subtask: str, scene: Scene, it: Name | None = None) -> Subtask:
    """A subtask, as `subtasks_of` gives it, in a scene.

    Args:
        subtask: its words; they stay as they are, but for things that are named without colour or
            by where they are: those are then named by colour and shape.
        scene: as it is now.
        it: what "it" means if the words do not say; what the subtask before was about.

    Raises:
        Unresolved: absent, ambiguous, or contradictory.
    """
    words = tokens(subtask)
    ways = readings(words)
    _check_directions(words, ways[0].references)
    _check_destinations(words, ways)
    whole = [way for way in ways if way.whole]
    reading, names = _true_one(whole or [way for way in ways if way.loose] or ways[:1], scene)
    changes = _changes(reading, names, scene, words)
    movable = _movable(reading, names)
    if not movable and it is not None:
        if it not in scene:
            raise Unresolved(CONTRADICTORY, f"{it} is not there any more")
        at = next((i for i, word in enumerate(words) if word in PRONOUNS), None)
        if at is not None:
            changes.append((at, at + 1, str(it)))
            movable = [it]
    text = subtask
    if changes:
        if reading.destination is not None and reading.deed is not None:
            changes += _pronouns_for(reading, words)
        for begin, end, said in sorted(changes, reverse=True):
            words[begin:end] = said.split()
        text = text_of(words)
    deed = reading.deed if reading.whole else None
    all_names = (*movable, *(n for found in names.values() for n in found))
    return Subtask(text, movable[0] if movable else None, tuple(dict.fromkeys(all_names)), deed)


def completed(subtask: str, reply: str, scene: Scene) -> str | None:
    """The subtask that could not be resolved, with what a person answered put in its place.

    Args:
        subtask: its words; one thing of it was not clear.
        reply: such as "the red one"; an instruction of its own is no reply.
        scene: as it is now.

    Returns:
        The subtask that is meant now, or None if the reply names no thing of the scene, or asks for
        something itself.
    """
    words, said = tokens(subtask), references(tokens(reply))
    if len(said) != 1 or VERBS & set(tokens(reply)):
        return None
    try:
        ground(subtask, scene)
    except Unresolved as error:
        unclear = error.reference
        if unclear is None or unclear.end <= unclear.begin:
            return None
        try:
            name = resolve(said[0], scene)
        except Unresolved:
            return None
        words[unclear.begin : unclear.end] = str(name).split()
        return text_of(words)
    return None


# -- which reading is meant ------------------------------------------------------------------------


def _true_one(ways: Sequence[Reading], scene: Scene) -> tuple[Reading, dict[int, list[Name]]]:
    """The reading that is true of the scene, with the names of what its references mean.

    Raises:
        Unresolved: none is, or two that ask for different things.
    """
    true: list[tuple[Reading, dict[int, list[Name]]]] = []
    first: Unresolved | None = None
    for way in ways:
        try:
            names = {i: _names(r, scene) for i, r in enumerate(way.references) if _counts(r, way)}
        except Unresolved as error:
            first = first or error
            continue
        true.append((way, names))
    if not true:
        assert first is not None
        raise first
    # Nobody says where a thing is that is the only one: then it is where to put or push it.
    true.sort(key=lambda found: (not found[0].used, 0 if found[0].whole else _length(found[0])))
    asked = {tuple(_movable(way, names)) for way, names in true}
    deeds = {way.deed for way, _ in true if way.used}
    if len(asked) > 1 or len(deeds) > 1:
        said = [_said(way, names) for way, names in true]
        different = list(dict.fromkeys(said))
        raise Unresolved(AMBIGUOUS, f"that may mean {' or '.join(different)}: say it another way")
    way, names = true[0]
    movable = _movable(way, names)
    if len(movable) > 1:
        raise Unresolved(
            AMBIGUOUS,
            f"I do not understand what to do with {' and '.join(map(str, movable))}: "
            "say it of one thing",
        )
    return way, names


def _length(way: Reading) -> int:
    return sum(reference.end - reference.begin for reference in way.references)


def _said(way: Reading, names: dict[int, list[Name]]) -> str:
    about = " and ".join(map(str, _movable(way, names))) or "nothing"
    if way.deed is None:
        return f"something with {about}"
    where = f" {way.deed.direction}" if way.deed.direction else ""
    verbs = {"pad": "putting {} on the pad", "bowl": "putting {} in the bowl", "pick": "picking {}"}
    doing = verbs.get(way.deed.family, way.deed.family + "ing {}")
    return doing.format(about) + where


def _counts(reference: Reference, way: Reading) -> bool:
    """Whether a reference has to mean something by itself: not if it points to another one."""
    return reference not in (*way.pointing, *way.spoken_of)


def _names(reference: Reference, scene: Scene) -> list[Name]:
    """What a reference means, and then its landmarks."""
    found = [resolve(reference, scene)]
    for clause in reference.clauses:
        if clause.relation == "is" or clause.inverse or clause.negated:
            continue
        for landmark in clause.landmarks:
            if not (landmark.plural or landmark.other or landmark.gripper):
                found.append(resolve(landmark, scene))
    return found


def _movable(way: Reading, names: dict[int, list[Name]]) -> list[Name]:
    """What the references mean that are no fixtures, without their landmarks."""
    found = [names[i][0] for i, r in enumerate(way.references) if i in names and r.fixture is None]
    return list(dict.fromkeys(found))


def _changes(
    way: Reading, names: dict[int, list[Name]], scene: Scene, words: Sequence[str]
) -> list[tuple[int, int, str]]:
    """Tokens from and to, and what to say instead."""
    changes = []
    for i, reference in enumerate(way.references):
        if reference in way.spoken_of:  # "see the bowl?"
            ends = [at for at, word in enumerate(words) if word in (*_ENDS, "and")]
            begin = max([at + 1 for at in ends if at < reference.begin], default=0)
            end = min(at + 1 for at in ends if at >= reference.end)
            changes.append((begin, end, ""))
            continue
        if i not in names:
            movable = _movable(way, names)
            changes += [(reference.begin, reference.end, str(n)) for n in movable]
            continue
        alike = [thing for thing in scene.things if reference.fits(thing.name)]
        vague = reference.fixture is None and not reference.colors
        excluding = described(reference) and not _excludes_only(reference)
        if vague or excluding or len(alike) > 1:
            changes.append((reference.begin, reference.end, str(names[i][0])))
    if any(way.references[i].other for i in names) or way.told_not:
        changes += [(begin, end, "") for begin, end in way.told_not]
    return changes if any(said for _, _, said in changes) else []


def _excludes_only(reference: Reference) -> bool:
    said = reference.clauses
    return bool(said) and not reference.extremes and all(c.relation == "is" for c in said)


def _pronouns_for(way: Reading, words: Sequence[str]) -> list[tuple[int, int, str]]:
    """ "into it" where "it" is the bowl, whose name is gone with where the thing was."""
    place = str(PAD if way.deed.family == "pad" else BOWL)
    return [(at, at + 1, place) for at in sorted(way.used) if words[at] == "it"]


# -- what can be done ------------------------------------------------------------------------------


def _check_directions(words: Sequence[str], found: Sequence[Reference]) -> None:
    if not PUSHING & set(words):
        return
    silent = {place for r in found for place in range(r.begin, r.end)} | negated(words, found)
    for place, pair in enumerate(zip(words, [*words[1:], ""], strict=True)):
        if pair[1] == "of":
            silent.add(place)
        if pair in (("right", "away"), ("right", "now")):
            silent |= {place, place + 1}
    plain = [word for place, word in enumerate(words) if place not in silent]
    for one, other in _OPPOSITE:
        if one & set(plain) and other & set(plain):
            said = [word for word in plain if word in one | other]
            raise Unresolved(
                CONTRADICTORY, f"'{said[0]}' and '{said[1]}' cannot be done at once: say one"
            )


def _check_destinations(words: Sequence[str], ways: Sequence[Reading]) -> None:
    """Raises Unresolved for "on the pad and in the bowl", and for any other place to put it."""
    shortest = ways[-1].references
    places = [r for r in shortest if r.fixture is not None]
    for first, second in zip(places, places[1:], strict=False):
        between = words[first.end : second.begin]
        if first.fixture != second.fixture and len(between) == 2 and between[0] == "and":
            raise Unresolved(
                CONTRADICTORY, "nothing can be on the pad and in the bowl at once: say one"
            )
    found = ways[0].references
    if any(way.whole for way in ways) or not found or _HAND & set(words):
        return
    if _PUTTING & set(words) and not any(way.destination for way in ways):
        raise Unresolved(
            IMPOSSIBLE, "I can put things on the yellow pad or in the white bowl only: say which"
        )
