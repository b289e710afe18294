"""The subtasks of an instruction: "put the cube in the bowl, then push the can left" has two."""

from __future__ import annotations

from collections.abc import Sequence

from vla_ros.scene_language.deeds import PLACING, PUSHING, TAKING
from vla_ros.scene_language.noun_phrases import references
from vla_ros.scene_language.references import tokens

_BETWEEN = frozenset({"then", "afterwards", "finally", "subsequently"})
_ENDS = frozenset({".", ";", "!", "?"})
_TAKING = (
    PUSHING
    | TAKING
    | {"reach", "hover", "touch", "point", "approach", "find", "locate", "float", "aim", "fetch"}
)
_GOING = frozenset({"go", "head", "travel", "come", "position", "align", "stretch", "extend"})
VERBS = (
    _TAKING | _GOING | (PLACING - {"goes", "belongs", "should", "needs", "need", "want", "have"})
)
# What only leads to what is asked for: "find the ball and push it left".
_LEADING = frozenset({"find", "locate", "take", "reach"})
_DESTINATIONS = frozenset({"on", "inside", "above", "near"})  # relations that say where to, too
PRONOUNS = frozenset({"it", "that", "this", "them"})


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
            steps.append(piece if not steps or VERBS & set(piece) else ["put", *piece])
    if len(steps) < 2:
        return [instruction.strip()] if instruction.strip() else []
    return [text_of(step) for step in steps]


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
    return at < len(words) and words[at] in VERBS


def _trimmed(piece: list[str]) -> list[str]:
    while piece and piece[-1] in (",", "and", *_ENDS):
        piece = piece[:-1]
    while piece and piece[0] in (",", "and", *_ENDS):
        piece = piece[1:]
    return piece


def _begins_a_subtask(piece: Sequence[str], before: Sequence[str]) -> bool:
    """Whether what a piece says is another thing to do than that of the subtask before."""
    if not (VERBS | PLACING) & set(before):  # "the red cube is too close, push it away"
        return False
    mine = [r for r in references(piece) if r.fixture is None]
    if not VERBS & set(piece) and not _is_elliptical(piece):
        return False
    theirs = [r for r in references(before) if r.fixture is None]
    begun = bool(theirs) or bool(PRONOUNS & set(before))
    moves = bool(PUSHING & set(piece)) or _has_destination(piece)
    # "grab it and lift it" goes on with what was begun; what comes after a push or a placing, and
    # what is pushed, is something else.
    done = bool(PUSHING & set(before)) or _has_destination(before)
    if mine:
        another = mine[0].meaning not in [r.meaning for r in theirs]
        return begun and (another or done and moves)
    if not begun or not PRONOUNS & set(piece) or set(before) & VERBS <= _LEADING:
        return False
    return bool(PUSHING & set(piece)) or done and moves


def _has_destination(words: Sequence[str]) -> bool:
    """Whether it is said that something is to be put on the pad or into the bowl."""
    for reference in references(words):
        if reference.fixture is not None:
            return True
        for clause in reference.clauses:
            if clause.relation in _DESTINATIONS and PLACING & set(words):
                return clause.landmarks[0].fixture is not None
    return False


def _is_elliptical(piece: Sequence[str]) -> bool:
    """Whether a piece names a thing and where to put it without a verb: "then the cube on it"."""
    found = references(piece)
    fixtures = [r for r in found for r in (r, *r.landmarks) if r.fixture is not None]
    return bool(fixtures) and any(r.fixture is None for r in found)


def text_of(words: Sequence[str]) -> str:
    text = " ".join(words)
    for mark in ",.;:!?":
        text = text.replace(f" {mark}", mark)
    return text
