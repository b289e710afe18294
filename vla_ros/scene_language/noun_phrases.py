"""The noun phrases of an instruction, with all that is said of the things.

One sentence may be read in several ways ("put the ball near the cube on the pad"): `noun_phrases`
gives all of them, and the scene decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from vla_ros.scene_language.clauses import with_a_clause
from vla_ros.scene_language.nouns import nouns
from vla_ros.scene_language.reference_words import FREE
from vla_ros.scene_language.references import Reference

_LONGEST = 50  # tokens of a noun phrase
_MOST_READINGS = 40  # of one noun phrase
_DEEPEST = 4  # noun phrases within noun phrases


def references(words: Sequence[str]) -> list[Reference]:
    """The noun phrases in the tokens of an instruction that mean things to be found in a scene,
    each as long as it can be.

    What is told not to be touched, and the robot's own parts, are passed over.
    """
    found, at = [], 0
    while at < len(words):
        phrases = noun_phrases(words, at)
        if not phrases:
            at = end_of_negation(words, at) or at + 1
            continue
        found.append(phrases[0])
        at = phrases[0].end
    return found


_NOT = frozenset({"not", "don't", "dont", "never", "without", "avoid", "ignore", "cannot", "nor"})


def end_of_negation(words: Sequence[str], at: int) -> int | None:
    """Where what is told not to be done ends, if it begins at a token: at the next comma, "and",
    "but" or end."""
    two = tuple(words[at : at + 2])
    if words[at] not in _NOT and two not in (("instead", "of"), ("rather", "than")):
        return None
    at += 1
    while at < len(words) and words[at] not in (",", ".", ";", ":", "!", "and", "but", "then"):
        at += 1
    return at


def negated(words: Sequence[str], found: Sequence[Reference] = ()) -> set[int]:
    """Places of tokens that are said of what not to do; "not" in one of the noun phrases that were
    found is part of it."""
    places: set[int] = set()
    inside = {place for reference in found for place in range(reference.begin, reference.end)}
    for at in range(len(words)):
        end = None if at in inside else end_of_negation(words, at)
        if end is not None:
            places |= set(range(at, end)) - inside
    return places


def noun_phrases(words: Sequence[str], at: int) -> tuple[Reference, ...]:
    """The noun phrases that begin at a token, the longest first; they differ in which clauses are
    of them."""
    found = _noun_phrases(tuple(words[at : at + _LONGEST]), 0, 0)
    return tuple(_moved(reference, at) for reference in found)


def _moved(reference: Reference, by: int) -> Reference:
    clauses = tuple(
        replace(clause, landmarks=tuple(_moved(landmark, by) for landmark in clause.landmarks))
        for clause in reference.clauses
    )
    return replace(reference, begin=reference.begin + by, end=reference.end + by, clauses=clauses)


@lru_cache(maxsize=4096)
def _noun_phrases(words: tuple[str, ...], at: int, depth: int) -> tuple[Reference, ...]:
    if depth > _DEEPEST:
        return ()

    def landmarks(place: int) -> tuple[Reference, ...]:
        return _noun_phrases(words, place, depth + 1)

    found: list[Reference] = []
    pending = list(nouns(words, at))
    while pending and len(found) < _MOST_READINGS:
        reference = pending.pop(0)
        if reference not in found:
            found.append(reference)
            pending += with_a_clause(reference, words, landmarks)
    # "whatever" alone says nothing
    found = [r for r in found if r.noun not in FREE or r.clauses or r.extremes]
    return tuple(sorted(found, key=lambda r: -r.end))
