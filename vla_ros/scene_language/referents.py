"""Which thing of a scene a reference means there, or why none."""

from __future__ import annotations

from collections.abc import Sequence

from vla_ros.scene_language.facts import centimetres, clearly, related
from vla_ros.scene_language.reference_words import ANY_NOUNS, FREE, MIDDLE
from vla_ros.scene_language.references import (
    ABSENT,
    AMBIGUOUS,
    CONTRADICTORY,
    UNSAID,
    Clause,
    Extreme,
    Reference,
    Unresolved,
)
from vla_ros.scene_language.scenes import BOWL, GRIPPER, PAD, Name, Place, Scene
from vla_ros.scene_language.wording import RELATION_PHRASES

_APART = 2  # bins by which one is further out than the next


def resolve(reference: Reference, scene: Scene) -> Name:
    """The thing of the scene that is meant.

    Raises:
        Unresolved: there is none, or more than one, or what is said of it is not true.
    """
    if reference.gripper:
        return GRIPPER
    if reference.plural:
        raise Unresolved(
            AMBIGUOUS,
            f"'{reference.words}' are several: name one thing; {what_is_there(scene)}",
            reference,
        )
    meant = candidates(reference, scene)
    if len(meant) > 1:
        raise Unresolved(
            AMBIGUOUS, f"'{reference.words}' may be {_listed(meant, 'or')}: say which", reference
        )
    return meant[0]


def candidates(reference: Reference, scene: Scene) -> list[Name]:
    """The things of the scene that may be meant, one or more.

    Raises:
        Unresolved: there is none, or what is said of it is not true.
    """
    if len(set(reference.colors)) > 1:
        raise Unresolved(
            CONTRADICTORY,
            f"'{reference.words}' is {' and '.join(reference.colors)} at once: name one colour",
            reference,
        )
    if reference.unknown:
        a = "an" if reference.unknown[0] in "aeiou" else "a"
        raise Unresolved(
            ABSENT,
            f"I do not know what {a} {reference.unknown} is; {what_is_there(scene)}",
            reference,
        )
    if reference.pronoun:
        raise Unresolved(
            AMBIGUOUS, f"I do not know what '{reference.words}' is: name the thing", reference
        )
    fitting = [thing.name for thing in scene.things if reference.fits(thing.name)]
    if not fitting:
        raise Unresolved(ABSENT, f"{what_is_there(scene)}, no {_plain(reference)}", reference)
    by_distance = [c for c in reference.clauses if c.relation in ("nearest", "farthest")]
    for clause in reference.clauses:
        if clause not in by_distance:
            fitting = _held_to(clause, reference, fitting, scene)
    for clause in by_distance:
        fitting = _held_to(clause, reference, fitting, scene)
    for extreme in reference.extremes:
        if len(fitting) > 1:
            fitting = _outermost(extreme, fitting, scene)
        elif extreme.rank > 1:
            raise Unresolved(ABSENT, f"there is no second {_plain(reference)}", reference)
    return fitting


def what_is_there(scene: Scene) -> str:
    """The movable things of a scene: "I see a red cube and a green can"."""
    movable = [thing.name for thing in scene.things if thing.name not in (PAD, BOWL)]
    if not movable:
        return "I see nothing to move"
    said = [f"{'an' if name.color[0] in 'aeiou' else 'a'} {' '.join(name)}" for name in movable]
    return f"I see {_join(said, 'and')}"


# -- where things are ------------------------------------------------------------------------------


def _held_to(clause: Clause, said: Reference, names: list[Name], scene: Scene) -> list[Name]:
    """Those of the names of which the clause is true."""
    if clause.relation == "is":
        true = [
            n
            for n in names
            if any(n in _all(r, said, scene) for r in clause.landmarks) != clause.negated
        ]
        if not true:
            raise Unresolved(
                CONTRADICTORY, f"'{said.words}': there is no other than {names[0]}", said
            )
        return true
    if clause.inverse:
        true = _accompanied(clause, names, scene)
    elif any(landmark.other for landmark in clause.landmarks):
        true = _beside_another(clause, names, scene)
    else:
        landmarks = _landmarks(clause, names, scene)
        others = [n for n in names if n not in landmarks]
        if not others:
            raise Unresolved(
                CONTRADICTORY, f"'{said.words}' names {names[0]} and where it is by itself", said
            )
        if clause.relation in ("nearest", "farthest"):
            true = _by_distance(clause, others, landmarks[0], scene)
        elif clause.negated:
            true = [n for n in others if related(clause.relation, n, landmarks, scene)]
        else:
            true = _on_that_side(clause.relation, others, landmarks, scene)
        names = others
    if clause.negated:
        true = [n for n in names if n not in true]
    if not true:
        raise Unresolved(CONTRADICTORY, _untrue(clause, names), said)
    return true


def _all(landmark: Reference, said: Reference, scene: Scene) -> list[Name]:
    """All that a description is true of; "one" is what the noun that it belongs to means."""
    things = [thing.name for thing in scene.things]
    fitting = [n for n in things if (landmark.fits(n) if landmark.fixture is None else False)]
    if landmark.noun in ("one", "") and said.shapes:
        fitting = [n for n in fitting if n.shape in said.shapes]
    if not fitting and not landmark.clauses:
        return []  # "not the green one", and there is none
    for clause in landmark.clauses:
        try:
            fitting = _held_to(clause, landmark, fitting, scene)
        except Unresolved as error:
            if error.kind == CONTRADICTORY and error.reference is landmark:
                return []
            raise
    for extreme in landmark.extremes:
        pool = [n for n in fitting if said.fits(n)]
        fitting = _outermost(extreme, pool, scene) if len(pool) > 1 else pool
    return fitting


def _landmarks(clause: Clause, names: list[Name], scene: Scene) -> tuple[Name, ...]:
    """The landmarks of a clause; what is between, nearest to or left of "the ball" is none itself
    where that leaves one ball only."""
    if clause.relation == "between" and len(clause.landmarks) == 1:
        both = clause.landmarks[0]
        meant = candidates(both, scene)
        if len(meant) != 2:
            raise Unresolved(AMBIGUOUS, f"'{both.words}' are {len(meant)}: name two things", both)
        return tuple(meant)
    return tuple(resolve(landmark, scene) for landmark in clause.landmarks)


def _accompanied(clause: Clause, names: list[Name], scene: Scene) -> list[Name]:
    """Those beside which a companion of the clause stands so: "with the ball behind it"."""
    companions = candidates(clause.landmarks[0], scene)

    def by(name: Name, holds: object) -> bool:
        return any(other != name and holds(other, name) for other in companions)

    return [n for n in names if by(n, lambda o, n: related(clause.relation, o, (n,), scene))]


def _beside_another(clause: Clause, names: list[Name], scene: Scene) -> list[Name]:
    """Those that stand so to the other one: "the cube left of the other cube"."""
    true = []
    for name in names:
        others = [n for n in candidates(clause.landmarks[0], scene) if n != name]
        if len(others) == 1 and clause.relation not in ("between", "nearest", "farthest"):
            true += [name] * related(clause.relation, name, (others[0],), scene)
    return true


def _on_that_side(
    relation: str, names: list[Name], landmarks: tuple[Name, ...], scene: Scene
) -> list[Name]:
    true = [n for n in names if related(relation, n, landmarks, scene)]
    # The relations have margins; a person may mean what is on that side by less.
    return true or [
        n for n in names if _leans(relation, scene.place_of(n), scene.place_of(landmarks[0]))
    ]


def _leans(relation: str, place: Place, landmark: Place) -> bool:
    dx, dy = place[0] - landmark[0], place[1] - landmark[1]
    return {"left": dy > 0, "right": dy < 0, "behind": dx > 0, "front": dx < 0}.get(relation, False)


def _by_distance(clause: Clause, names: list[Name], landmark: Name, scene: Scene) -> list[Name]:
    """Those that no other is clearly nearer (farther) than; of the second nearest, without the
    nearest."""
    origin = scene.place_of(landmark)
    if landmark == GRIPPER:
        origin = Place(origin.x, origin.y, 1)
    away = {name: centimetres(scene.place_of(name), origin) for name in names}
    for _ in range(clause.rank):
        first = [
            n
            for n in names
            if not any(clearly(clause.relation, away[o], away[n]) for o in names if o != n)
        ]
        names = [n for n in names if n not in first] if _ + 1 < clause.rank else names
    return first


def _outermost(extreme: Extreme, names: list[Name], scene: Scene) -> list[Name]:
    if extreme.axis == MIDDLE:
        return _in_the_middle(names, scene)
    if extreme.axis == UNSAID:
        return names
    along = {name: extreme.sign * scene.place_of(name)[extreme.axis] for name in names}
    ordered = sorted(names, key=lambda name: -along[name])
    if extreme.rank > len(ordered):
        return names
    it = ordered[extreme.rank - 1]
    return [name for name in ordered if abs(along[it] - along[name]) < _APART]


def _in_the_middle(names: list[Name], scene: Scene) -> list[Name]:
    """The one with as many on its one side as on its other, along the axis on which they lie
    apart; all of them if that is not clear."""
    if len(names) % 2 == 0:
        return names
    places = {name: scene.place_of(name) for name in names}
    spread = [max(p[axis] for p in places.values()) - min(p[axis] for p in places.values())
              for axis in (0, 1)]  # fmt: skip
    middles = set()
    for axis in (0, 1):
        if spread[axis] * 4 < max(spread) * 3:
            continue
        ordered = sorted(names, key=lambda name: places[name][axis])
        at = len(ordered) // 2
        gaps = [abs(places[ordered[at + by]][axis] - places[ordered[at]][axis]) for by in (-1, 1)]
        if min(gaps) < _APART:
            return names
        middles.add(ordered[at])
    return list(middles) if len(middles) == 1 else names


# -- words -----------------------------------------------------------------------------------------


def _untrue(clause: Clause, names: Sequence[Name]) -> str:
    """ "neither the red cube nor the blue cube is left of the bowl"."""
    where = " and ".join(landmark.words for landmark in clause.landmarks)
    phrase = RELATION_PHRASES.get(clause.relation, ("between",))[0]
    if clause.inverse:
        said = f"{_plain_words(where)} {phrase} it"
        if clause.negated:
            return f"{_join([str(n) for n in names], 'and')} have {said}"
        if len(names) == 1:
            return f"{names[0]} has not {said}"
        return f"neither {_listed(names, 'nor')} has {said}"
    if clause.negated:
        verb = "is" if len(names) == 1 else "are"
        return f"{_listed(names, 'and')} {verb} {phrase} {where}"
    if len(names) == 1:
        return f"{names[0]} is not {phrase} {where}"
    return f"neither {_listed(names, 'nor')} is {phrase} {where}"


def _plain_words(text: str) -> str:
    return text or "that"


def _plain(reference: Reference) -> str:
    noun = reference.noun
    return " ".join([*reference.colors, "thing" if noun in {"", *FREE, *ANY_NOUNS} else noun])


def _listed(names: Sequence[Name], last: str) -> str:
    return _join([str(name) for name in names], last)


def _join(said: Sequence[str], last: str) -> str:
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} {last} {said[-1]}"
