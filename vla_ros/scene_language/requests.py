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
from dataclasses import dataclass, replace

from vla_ros.scene_language.references import (
    CONTRADICTORY,
    IMPOSSIBLE,
    Reference,
    Unresolved,
    references,
    resolve,
    tokens,
)
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene

_BETWEEN = frozenset({"then", "afterwards", "finally", "subsequently"})
_ENDS = frozenset({".", ";", "!", "?"})
_PUSHING = frozenset(
    {"push", "slide", "shove", "nudge", "scoot", "shift", "bump", "sweep", "poke", "tap", "knock"}
)
_GOING = frozenset({"go", "head", "travel", "come", "position", "align", "stretch", "extend"})
_TAKING = _PUSHING | {
    *("pick", "lift", "grab", "grasp", "grip", "raise", "hoist", "elevate", "seize", "catch"),
    *("reach", "hover", "touch", "point", "approach", "find", "locate", "float", "aim", "fetch"),
}
_PLACING = frozenset(
    {
        *("put", "place", "set", "drop", "lay", "leave", "rest", "stick", "deposit", "release"),
        *("stack", "deliver", "transfer", "transport", "relocate", "park", "move", "bring"),
        *("carry", "send", "toss", "throw", "dump", "store", "pop", "chuck", "insert", "add"),
        *("goes", "belongs", "should", "needs", "sit", "take", "get", "have", "want", "need"),
    }
)
_VERBS = _TAKING | _GOING
_VERBS |= _PLACING - {"goes", "belongs", "should", "needs", "need", "want", "have"}
_PUTTING = frozenset({"put", "place", "lay", "stack", "deposit"})
_HAND = frozenset({"gripper", "hand", "arm", "yourself", "fingers", "claw", "tool"})
_DESTINATIONS = frozenset({"on", "inside", "above", "near"})  # relations that say where to, too
_OPPOSITE = (
    ({"left", "leftwards", "leftward"}, {"right", "rightwards", "rightward"}),
    ({"away", "forward", "forwards", "farther"}, {"closer", "nearer", "backward", "backwards"}),
)
_PRONOUNS = frozenset({"it", "that", "this", "them"})


@dataclass(frozen=True)
class Subtask:
    """One subtask of an instruction in a scene.

    Attributes:
        text: what to tell a policy.
        thing: what it is done with; None if no movable thing is named.
        names: all things that it names.
    """

    text: str
    thing: Name | None
    names: tuple[Name, ...]


def subtasks_of(instruction: str) -> list[str]:
    """The subtasks of an instruction in their order; one for most instructions.

    A new one begins at "then", "afterwards", the end of a sentence or "and" where another thing
    is named to do something with; "pick up the red cube and put it in the bowl" is one.
    """
    steps: list[list[str]] = []
    for piece in _pieces(tokens(instruction)):
        if steps and not _begins_a_subtask(piece, steps[-1]):
            steps[-1] += ["and", *piece]
        else:
            steps.append(piece if not steps or _VERBS & set(piece) else ["put", *piece])
    if len(steps) < 2:
        return [instruction.strip()] if instruction.strip() else []
    return [_text(step) for step in steps]


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
    said = references(words)
    found = [_of_the_thing(reference, words) for reference in said]
    _check_directions(words, found)
    _check_destinations(words, said)
    names, changes = [], []
    for reference in found:
        name = resolve(reference, scene)
        names.append(name)
        names += [resolve(landmark, scene) for landmark in reference.landmarks]
        vague = reference.fixture is None and not reference.colors
        if reference.relation or reference.extreme is not None or vague:
            changes.append((reference.begin, reference.end, str(name)))
    movable = [name for name in names if name not in (PAD, BOWL)]
    if not movable and it is not None:
        if it not in scene:
            raise Unresolved(CONTRADICTORY, f"{it} is not there any more")
        at = next((i for i, word in enumerate(words) if word in _PRONOUNS), None)
        if at is not None:
            changes.append((at, at + 1, str(it)))
            movable = [it]
    text = subtask
    if changes:
        for begin, end, said in sorted(changes, reverse=True):
            words[begin:end] = said.split()
        text = _text(words)
    return Subtask(text, movable[0] if movable else None, tuple(dict.fromkeys([*movable, *names])))


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
    if len(said) != 1 or _VERBS & set(tokens(reply)):
        return None
    for reference in references(words):
        try:
            resolve(reference, scene)
        except Unresolved:
            try:
                name = resolve(said[0], scene)
            except Unresolved:
                return None
            words[reference.begin : reference.end] = str(name).split()
            return _text(words)
    return None


# -- subtasks --------------------------------------------------------------------------------------


def _pieces(words: Sequence[str]) -> list[list[str]]:
    """Parts between what may divide subtasks, each with something to do; punctuation is dropped at
    their ends."""
    pieces: list[list[str]] = [[]]
    for at, word in enumerate(words):
        divides = word in _BETWEEN or word in _ENDS
        divides = divides or word in ("and", ",") and _verb_at(words, at + 1)
        if divides:
            pieces.append([])
        else:
            pieces[-1].append(word)
    trimmed = [_trimmed(piece) for piece in pieces]
    return [piece for piece in trimmed if piece]


def _verb_at(words: Sequence[str], at: int) -> bool:
    return at < len(words) and words[at] in _VERBS


def _trimmed(piece: list[str]) -> list[str]:
    while piece and piece[-1] in (",", "and", *_ENDS):
        piece = piece[:-1]
    while piece and piece[0] in (",", "and", *_ENDS):
        piece = piece[1:]
    return piece


def _begins_a_subtask(piece: Sequence[str], before: Sequence[str]) -> bool:
    """Whether what a piece says is another thing to do than that of the subtask before."""
    if not (_VERBS | _PLACING) & set(before):  # "the red cube is too close, push it away"
        return False
    mine = [r for r in references(piece) if r.fixture is None]
    if not _VERBS & set(piece) and not _is_elliptical(piece):
        return False
    theirs = [r for r in references(before) if r.fixture is None]
    begun = bool(theirs) or bool(_PRONOUNS & set(before))
    moves = bool(_PUSHING & set(piece)) or _has_destination(piece)
    # "grab it and lift it" goes on with what was begun; what comes after a push or a placing, and
    # what is pushed, is something else.
    done = bool(_PUSHING & set(before)) or _has_destination(before)
    if mine:
        another = _same(mine[0]) not in map(_same, theirs)
        return begun and (another or done and moves)
    if not begun or not _PRONOUNS & set(piece):
        return False
    return bool(_PUSHING & set(piece)) or done and moves


def _has_destination(words: Sequence[str]) -> bool:
    """Whether it is said that something is to be put on the pad or into the bowl."""
    for reference in references(words):
        if reference.fixture is not None:
            return True
        if reference.relation in _DESTINATIONS and _PLACING & set(words):
            return reference.landmarks[0].fixture is not None
    return False


def _is_elliptical(piece: Sequence[str]) -> bool:
    """Whether a piece names a thing and where to put it without a verb: "then the cube on it"."""
    found = references(piece)
    fixtures = [r for r in found for r in (r, *r.landmarks) if r.fixture is not None]
    return bool(fixtures) and any(r.fixture is None for r in found)


def _same(reference: Reference) -> tuple:
    return reference.colors, reference.shapes, reference.relation, reference.landmarks


def _text(words: Sequence[str]) -> str:
    text = " ".join(words)
    for mark in ",.;:!?":
        text = text.replace(f" {mark}", mark)
    return text


# -- what can be done ------------------------------------------------------------------------------


def _of_the_thing(reference: Reference, words: Sequence[str]) -> Reference:
    """A reference without what is said of where to put or push the thing: "put the cube on the
    pad", "push the cube on the left" (which may mean either)."""
    taking = bool(_TAKING & set(words)) and not _PLACING & set(words)
    if reference.extreme is not None and {"left", "right"} & set(reference.words.split()):
        if not taking or _PUSHING & set(words):
            return replace(reference, extreme=None)
    if reference.relation not in _DESTINATIONS or reference.landmarks[0].fixture is None:
        return reference
    later = references(words[reference.end :])
    if any(r.fixture is not None for r in later):
        return reference
    return reference if taking else replace(reference, relation="", landmarks=())


def _check_directions(words: Sequence[str], found: Sequence[Reference]) -> None:
    if not _PUSHING & set(words):
        return
    silent = {place for r in found for place in range(r.begin, r.end)}
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


def _check_destinations(words: Sequence[str], found: Sequence[Reference]) -> None:
    """Raises Unresolved for "on the pad and in the bowl", and for any other place to put it."""
    places = [r for r in found for r in (r, *r.landmarks) if r.fixture is not None]
    if not places and found and _PUTTING & set(words) and not _HAND & set(words):
        raise Unresolved(
            IMPOSSIBLE, "I can put things on the yellow pad or in the white bowl only: say which"
        )
    for first, second in zip(places, places[1:], strict=False):
        between = words[first.end : second.begin]
        if first.fixture != second.fixture and len(between) == 2 and between[0] == "and":
            raise Unresolved(
                CONTRADICTORY, "nothing can be on the pad and in the bowl at once: say one"
            )
