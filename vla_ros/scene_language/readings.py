"""The ways in which a subtask can be read: which words name things, and what is to be done.

"put the ball near the cube on the pad" can be about a ball near [the cube on the pad], or about the
pad as the place to put it. A reading is whole if all that it names has a part in what is to be done
and no clause is left over; which of the whole ones is true, the scene decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from vla_ros.scene_language.clauses import with_a_clause
from vla_ros.scene_language.deeds import Deed, deed_of
from vla_ros.scene_language.locations import where
from vla_ros.scene_language.noun_phrases import end_of_negation, negated, noun_phrases
from vla_ros.scene_language.nouns import partitive
from vla_ros.scene_language.reference_words import COPULAS
from vla_ros.scene_language.references import Clause, Reference
from vla_ros.scene_language.scenes import BOWL, PAD, Name

_MOST = 200  # readings of one subtask; one only if it has more tokens than _LONG
_LONG = 80
_ENDS = frozenset({".", "?", "!", ";", ":", ","})
_BEGIN_A_CLAUSE = frozenset({"that", "which", "who"}) | COPULAS - {"goes", "stays"}
_POINTING = frozenset({"that", "this", "the", "it"})


@dataclass(frozen=True)
class Reading:
    """One way to read a subtask.

    Attributes:
        references: all noun phrases that are not part of another, in their order.
        thing: what is to be dealt with; None: nothing movable is named.
        deed: what is to be done with it; None if that was not understood.
        destination: the fixture that it is to be put on or in, and how it was said.
        whole: everything that is named has its part.
        loose: no clause is left over but for what may be a place or direction, with a verb that is
            not known.
        spoken_of: references that say where another one is, through "it".
        pointing: references that point to another one and mean nothing by themselves.
        used: tokens that say where to or in which direction.
        told_not: tokens from and to, of what is told not to be touched.
    """

    references: tuple[Reference, ...]
    thing: Reference | None
    deed: Deed | None
    destination: Reference | None
    whole: bool
    loose: bool
    spoken_of: tuple[Reference, ...]
    pointing: tuple[Reference, ...]
    used: frozenset[int]
    told_not: tuple[tuple[int, int], ...]


def readings(words: Sequence[str]) -> list[Reading]:
    """The ways to read the tokens of a subtask; that with the longest noun phrases first."""
    words = tuple(words)
    most = _MOST if len(words) <= _LONG else 1
    return [_read(words, found) for found in islice(_choices(words), most)]


def _choices(words: tuple[str, ...]) -> Iterator[list[Reference]]:
    pending: list[tuple[int, list[Reference]]] = [(0, [])]
    while pending:
        at, found = pending.pop()
        phrases: tuple[Reference, ...] = ()
        while at < len(words) and not phrases:
            phrases = (*_inverted(words, at), *noun_phrases(words, at))
            if not phrases:
                at = end_of_negation(words, at) or at + 1
        if not phrases:
            yield found
        pending += [(phrase.end, [*found, phrase]) for phrase in reversed(phrases)]


def _inverted(words: tuple[str, ...], at: int) -> Iterator[Reference]:
    """ "left of the bowl is a cube"."""
    if at and words[at - 1] not in _ENDS:
        return

    def landmarks(place: int) -> tuple[Reference, ...]:
        return noun_phrases(words, place)

    for added, end in where(words, at, landmarks):
        end += words[end : end + 1] == (",",)
        end += words[end : end + 1] == ("there",)
        if end >= len(words) or words[end] not in COPULAS or not isinstance(added, Clause):
            continue
        for phrase in noun_phrases(words, end + 1):
            if phrase.fixture is None:
                yield _merged(phrase, at, words, added)


def _merged(phrase: Reference, begin: int, words: Sequence[str], clause: Clause) -> Reference:
    said = " ".join(words[begin : phrase.end])
    return replace(phrase, words=said, begin=begin, clauses=(*phrase.clauses, clause))


def _read(words: tuple[str, ...], found: list[Reference]) -> Reading:
    whole_of = _fronted_partitive(words, found)
    if whole_of is not None:
        found = [r for r in found if r is not whole_of]
        found = [
            replace(r, shapes=whole_of.shapes, colors=r.colors + whole_of.colors)
            if r.noun in ("one", "") and not r.shapes and r.fixture is None
            else r
            for r in found
        ]
    found = [_with_antecedents(r, found[:i]) for i, r in enumerate(found)]
    excluded = _told_not_to_touch(words, found)
    others = any(r.other for r in found)
    told_not = tuple(sorted(set(_regions(words, found, excluded)))) if others else ()
    found = [_apart_from(r, excluded) for r in found]
    # "see the bowl? lift the cube behind it"
    spoken_of = tuple(r for r in found if any(_leads_to(r, other, words) for other in found))
    movable = [r for r in found if r.fixture is None and r not in spoken_of]
    things = _same_thing_once(movable, words)
    fixtures = [r for r in found if r.fixture is not None and r not in spoken_of]
    deed, used, destination = deed_of(words, found, negated(words, found))
    if destination is None and deed is not None and deed.family in ("pad", "bowl"):
        wanted = PAD if deed.family == "pad" else BOWL
        destination = next((r for r in _all(found) if r.fixture == wanted), None)
    whole = (
        deed is not None
        and len(things) <= 1
        and not {r.fixture for r in fixtures} - {_fixture_of(deed)}
        and all(_clauses_are_used(words, r, used) for r in found)
    )
    loose = all(_clauses_are_used(words, r, used, loosely=True) for r in found)
    thing = things[0] if things else None
    pointing = tuple(r for r in movable if r not in things and r.bare)
    return Reading(
        tuple(found), thing, deed, destination, whole, loose, spoken_of, pointing,
        frozenset(used), told_not,
    )  # fmt: skip


def _leads_to(first: Reference, other: Reference, words: Sequence[str]) -> bool:
    apart = {*_ENDS, "and"} - {","}
    return first in other.landmarks and bool(apart & set(words[first.end : other.begin]))


def _fixture_of(deed: Deed) -> Name | None:
    return {"pad": PAD, "bowl": BOWL}.get(deed.family)


def _all(found: Sequence[Reference]) -> Iterator[Reference]:
    for reference in found:
        yield reference
        yield from _all(reference.landmarks)


def _clauses_are_used(
    words: tuple[str, ...], reference: Reference, used: set[int], loosely: bool = False
) -> bool:
    """Whether the words behind a phrase that may be a clause of it say what to do with it; or may
    do so, by a verb that is not known."""

    def landmarks(place: int) -> tuple[Reference, ...]:
        return noun_phrases(words, place)

    for longer in with_a_clause(reference, words, landmarks):
        says_more = (longer.clauses, longer.extremes, longer.colors) != (
            reference.clauses, reference.extremes, reference.colors,
        )  # fmt: skip
        # "that is in the bowl" is never where to put it
        is_clause = words[reference.end] in _BEGIN_A_CLAUSE
        if says_more and (is_clause or not used & set(range(reference.end, longer.end))):
            if is_clause or not (loosely and _may_be_a_place(reference, longer)):
                return False
    return True


def _may_be_a_place(reference: Reference, longer: Reference) -> bool:
    if longer.extremes != reference.extremes:
        return True
    added = longer.clauses[len(reference.clauses) :]
    return all(
        clause.relation in ("on", "inside", "above", "near")
        and clause.landmarks[0].fixture is not None
        and not clause.negated
        for clause in added
    )


def _regions(
    words: tuple[str, ...], found: Sequence[Reference], excluded: Sequence[Reference]
) -> Iterator[tuple[int, int]]:
    """What is said of what not to touch, with the comma behind it."""
    passed_over = negated(words, found)
    for other in excluded:
        begin, end = other.begin, other.end
        while begin - 1 in passed_over:
            begin -= 1
        while end in passed_over:
            end += 1
        begin -= words[begin - 1 : begin] == ("do",)
        yield begin, end + (words[end : end + 1] in ((",",), (";",), (".",)))


def _fronted_partitive(words: tuple[str, ...], found: Sequence[Reference]) -> Reference | None:
    """ "of the two balls, push the one ..."."""
    if not found or not words:
        return None
    whole = partitive(words, 0)
    if whole is None or found[0].end != whole.end or not found[0].plural:
        return None
    return found[0]


def _with_antecedents(reference: Reference, before: Sequence[Reference]) -> Reference:
    """The reference with what "it" stands for in its clauses: what was named last."""
    if not before or not any(landmark.pronoun for landmark in reference.landmarks):
        return reference
    clauses = tuple(
        replace(
            clause,
            landmarks=tuple(before[-1] if r.pronoun else r for r in clause.landmarks),
        )
        for clause in reference.clauses
    )
    return replace(reference, clauses=clauses)


def _told_not_to_touch(words: tuple[str, ...], found: Sequence[Reference]) -> list[Reference]:
    """ "don't touch the red cube, lift the other one"."""
    excluded, at, passed_over = [], 0, negated(words, found)
    while at < len(words):
        phrases = noun_phrases(words, at) if at in passed_over else ()
        if phrases and phrases[0].fixture is None:
            excluded.append(phrases[0])
            at = phrases[0].end
        else:
            at += 1
    return excluded


def _apart_from(reference: Reference, excluded: Sequence[Reference]) -> Reference:
    if not reference.other or not excluded or reference.fixture is not None:
        return reference
    shapes = reference.shapes or (excluded[0].shapes if reference.noun == "one" else ())
    clauses = tuple(Clause("is", (other,), negated=True) for other in excluded)
    return replace(reference, shapes=shapes, clauses=(*reference.clauses, *clauses), other=False)


def _same_thing_once(things: list[Reference], words: Sequence[str]) -> list[Reference]:
    """The things without those that only point to another: "see the cube by the bowl? lift that
    cube", "the one I want you to lift is the cube by the bowl"."""
    kept: list[Reference] = []
    for thing in things:
        if kept and thing.meaning == kept[0].meaning:
            continue
        if kept and _points_to(thing, kept[0], words):
            continue
        if kept and _announces(kept[0], thing, words):
            kept[0] = thing
            continue
        kept.append(thing)
    return kept


def _points_to(later: Reference, first: Reference, words: Sequence[str]) -> bool:
    apart = any(word in _ENDS or word == "and" for word in words[first.end : later.begin])
    compatible = not later.shapes or not first.shapes or later.shapes == first.shapes
    points = words[later.begin] in _POINTING
    return later.bare and apart and compatible and points and not later.plural


def _announces(first: Reference, later: Reference, words: Sequence[str]) -> bool:
    between = words[first.end : later.begin]
    compatible = not first.shapes or first.shapes == later.shapes
    return first.bare and compatible and len(between) > 1 and between[-1] in ("is", ":")


def described(reference: Reference) -> bool:
    """Whether it is told by where it is, or by what it is not."""
    return bool(reference.clauses or reference.extremes or reference.other)
