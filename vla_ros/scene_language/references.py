"""What a noun phrase of an instruction means.

"the block nearest to the bowl" is a `Reference`: what it says of a thing, with clauses on where it
is and what it is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vla_ros.scene_language.scenes import BOWL, PAD, Name

ABSENT, AMBIGUOUS, CONTRADICTORY = "absent", "ambiguous", "contradictory"
IMPOSSIBLE = "impossible"  # no task of this robot
UNSAID = -2  # axis of which end is said behind the noun: "the second cube from the left"


class Unresolved(ValueError):
    """It is not clear what is meant, or it cannot be.

    Attributes:
        kind: ABSENT, AMBIGUOUS, CONTRADICTORY or IMPOSSIBLE; the text says why, and what is there
            instead.
        reference: the noun phrase that it is about, if it is about one.
    """

    def __init__(self, kind: str, text: str, reference: Reference | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.reference = reference


@dataclass(frozen=True)
class Extreme:
    """The first (`rank`) along an axis from one end: of x (0, away) or y (1, left), `sign` 1 the
    far or left end; axis MIDDLE: the one in the middle."""

    axis: int
    sign: int
    rank: int = 1


@dataclass(frozen=True)
class Clause:
    """What is said of a thing beside colour and noun.

    Attributes:
        relation: one of facts.RELATIONS, or "is": it is what the landmark says.
        landmarks: one; two or a plural one for "between".
        negated: that is not so.
        inverse: the landmark stands so to the thing ("the cube with the ball behind it").
        rank: 2 for "second nearest".
    """

    relation: str
    landmarks: tuple[Reference, ...]
    negated: bool = False
    inverse: bool = False
    rank: int = 1


@dataclass(frozen=True)
class Reference:
    """What a noun phrase says of one thing.

    Attributes:
        words: the phrase as it was said.
        begin, end: which tokens of the instruction it is.
        colors: those named; more than one contradict each other.
        shapes: that the noun may mean; () is any movable thing.
        fixture: PAD or BOWL if it is that one.
        noun: as said; "" if there was none.
        unknown: a noun that means nothing here, as "banana"; "" if there was none.
        plural: more than one thing is meant.
        count: how many, if a number was said.
        extremes: "leftmost", "closest to you" and the like.
        clauses: where it is said to be, and what it is not.
        other: it is said to be another one than a thing named elsewhere.
        pronoun: it is "it", what was spoken of before.
        gripper: it is the robot's own, a landmark only.
    """

    words: str
    begin: int
    end: int
    colors: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    fixture: Name | None = None
    noun: str = ""
    unknown: str = ""
    plural: bool = False
    count: int = 0
    extremes: tuple[Extreme, ...] = ()
    clauses: tuple[Clause, ...] = ()
    other: bool = False
    pronoun: bool = False
    gripper: bool = False

    def fits(self, name: Name) -> bool:
        """Whether colour and noun are those of a thing, wherever it is."""
        if self.fixture is not None:
            return name == self.fixture
        return (
            name not in (PAD, BOWL)
            and all(name.color == color for color in self.colors)
            and (not self.shapes or name.shape in self.shapes)
        )

    @property
    def bare(self) -> bool:
        """It says no more than a noun."""
        return not (self.colors or self.extremes or self.clauses or self.fixture or self.other)

    @property
    def meaning(self) -> tuple:
        """The same for two that say the same."""
        clauses = tuple(
            (c.relation, c.negated, c.inverse, c.rank, tuple(r.meaning for r in c.landmarks))
            for c in self.clauses
        )
        return self.colors, self.shapes, self.fixture, self.extremes, clauses

    @property
    def landmarks(self) -> tuple[Reference, ...]:
        return tuple(landmark for clause in self.clauses for landmark in clause.landmarks)


def tokens(text: str) -> list[str]:
    """Lower-case words and punctuation; short forms are written out."""
    text = re.sub(r"\s[-–—]+\s|[–—()]", " , ", text.lower().replace("’", "'"))
    text = _IS_NOT.sub(r"\1 not", text)
    text = re.sub(r"\b(that|which|it|what|whatever|there|who|where|here)'s\b", r"\1 is", text)
    return re.findall(r"let's|'s\b|[^\W\d_]+(?:'(?!s\b)[^\W\d_]+)?|\d+|[,.;:!?]", text)


# "don't touch it" stays as it is, since policies know these words.
_IS_NOT = re.compile(r"\b(is|are|was|does|has)n't\b")
