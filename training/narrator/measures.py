"""How right a narrator is: what it reads, says and answers beside what is true.

Scenes, facts and tokens in, figures out; no model and no simulator. Distances are in bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from vla_ros.scene_language import questions
from vla_ros.scene_language.facts import (
    RELATIONS,
    Fact,
    Happened,
    Moving,
    Related,
    distance,
    related,
)
from vla_ros.scene_language.questions import Answer, Is, Question, What, Where
from vla_ros.scene_language.scenes import (
    BINS,
    FIXTURES,
    Name,
    Place,
    Scene,
    changed,
)
from vla_ros.scene_language.sentences import parse, phrasings, read
from vla_ros.scene_language.vocabulary import text_of
from vla_ros.training.metrics import require

UNREADABLE = "unreadable"  # what was said is no answer at all; equal to no answer
_SAME = 10.0  # cm between where a thing is and where it is seen
_MARKS = ("<ans>", "<text>", "<next>")
_CLOSE = ((3, 0, 0), (-3, 0, 0), (0, 3, 0), (0, -3, 0), (0, 0, 1), (0, 0, -1))  # bins

# -- what tokens say ------------------------------------------------------------------------------


def after_mark(tokens: Sequence[str]) -> list[str]:
    """What is said: all that is behind the last mark, or everything if there is none."""
    ends = [i for i, token in enumerate(tokens) if token in _MARKS]
    return list(tokens[ends[-1] + 1 if ends else 0 :])


def answer_said(question: Question, tokens: Sequence[str]) -> Answer:
    """The answer in what was generated; UNREADABLE if there is none."""
    try:
        return questions.read_reply(question, [t for t in after_mark(tokens) if t not in ".,"])
    except ValueError:
        return UNREADABLE


def fact_said(tokens: Sequence[str]) -> Fact | None:
    """The fact in what was generated; None if it is no sentence of the scene language."""
    try:
        return parse(after_mark(tokens))
    except ValueError:
        return None


def scene_said(before: Scene, tokens: Sequence[str], form: str) -> Scene | None:
    """The scene that is told to come next, behind `<next>`; None if it is none."""
    try:
        if form == "words":
            return read(after_mark(tokens), before)
        return changed(before, ["<next>", *after_mark(tokens)])
    except ValueError:
        return None


def relation_asked(question: Question, answer: Answer) -> str | None:
    """The relation that a question is about; of "where is it?" the one that answers it."""
    if isinstance(question, What):
        return question.relation
    fact = question.fact if isinstance(question, Is) else answer
    return fact.relation if isinstance(question, Is | Where) and isinstance(fact, Related) else None


# -- scenes ---------------------------------------------------------------------------------------


def movable(scene: Scene) -> list[Name]:
    """The things that differ from scene to scene: not the pad and the bowl, which always are."""
    return [thing.name for thing in scene.things if thing.name.shape not in FIXTURES]


def names_right(true: Scene, seen: Scene) -> tuple[int, int, int]:
    """Movable things: seen with the right colour and shape; seen; there."""
    there, found = set(movable(true)), set(movable(seen))
    return len(there & found), len(found), len(there)


def attributes_right(true: Scene, seen: Scene) -> tuple[int, int]:
    """Colours and shapes of movable things that are seen right; and how many there are, two of each
    thing. A thing is compared with the movable one that is seen nearest to it, within 10 cm."""
    right = 0
    for name in movable(true):
        place = true.place_of(name)
        near = [(distance(place, seen.place_of(other)), *other) for other in movable(seen)]
        far, color, shape = min(near, default=(math.inf, "", ""))
        right += ((color == name.color) + (shape == name.shape)) * (far <= _SAME)
    return right, 2 * len(movable(true))


def place_errors(true: Scene, seen: Scene, names: Iterable[Name]) -> np.ndarray:
    """How far off the things of `names` are that are in both, along each axis: int [n, 3]."""
    both = [name for name in names if name in true and name in seen]
    ways = [np.subtract(seen.place_of(name), true.place_of(name)) for name in both]
    return np.abs(np.array(ways, int).reshape(-1, 3))


def close_relations(scene: Scene) -> list[tuple[Related, bool]]:
    """Relations of two things of a scene that hold, and such as nearly do, which is the test.

    Nearly holds what would, were the subject 3 cm beside or one bin higher or lower.
    """
    names = [thing.name for thing in scene.things]
    found = []
    for subject in names:
        nudged = [_nudged(scene, subject, way) for way in _CLOSE]
        for landmark in names:
            if landmark == subject:
                continue
            for relation in RELATIONS[:-1]:  # all but "between"
                told = (relation, subject, (landmark,))
                true = related(*told, scene)
                if true or any(related(*told, other) for other in nudged):
                    found.append((Related(subject, relation, (landmark,)), true))
    return found


def _nudged(scene: Scene, name: Name, way: Sequence[int]) -> Scene:
    place = np.clip(np.add(scene.place_of(name), way), 0, np.array(BINS) - 1)
    return scene.moved({name: Place(*map(int, place))})


def balanced(judged: Iterable[tuple[str, bool, bool]], least: int = 1) -> float:
    """Accuracy on what holds and on what does not, half each, mean over the kinds.

    Args:
        judged: (kind, whether it holds, whether it was judged right). Always saying the same gives
            0.5.
        least: kinds with fewer of either are left out.

    Raises:
        ValueError: no kind has enough of both.
    """
    groups: dict[str, tuple[list[bool], list[bool]]] = {}
    for kind, true, right in judged:
        groups.setdefault(kind, ([], []))[true].append(right)
    means = [
        (np.mean(no) + np.mean(yes)) / 2
        for no, yes in groups.values()
        if min(len(no), len(yes)) >= least
    ]
    if not means:
        raise ValueError("no relation holds in some cases and not in others: give more scenes")
    return float(np.mean(means))


def errors_of(true: Scene, told: Scene) -> tuple[float, float]:
    """How far the gripper is off, and the movable things on average, both in bins (Euclidean)."""
    things = place_errors(true, told, movable(true))
    gripper = np.subtract(told.gripper, true.gripper)
    mean = float(np.linalg.norm(things, axis=1).mean()) if len(things) else 0.0
    return float(np.linalg.norm(gripper)), mean


# -- sentences ------------------------------------------------------------------------------------


def slots(fact: Fact | None) -> frozenset[tuple[str, ...]]:
    """What a sentence claims, piece by piece, as SPICE does with objects, attributes, relations."""
    if fact is None:
        return frozenset()
    if isinstance(fact, Moving):
        found = {("verb", fact.verb), ("direction", fact.direction)}
        found |= _named("thing", fact.thing) | _named("target", fact.target) | slots(fact.which)
    elif isinstance(fact, Happened):
        found = {("event", fact.event)} | _named("thing", fact.thing) | slots(fact.where)
    elif isinstance(fact, Related):
        found = {("relation", fact.relation)} | _named("subject", fact.subject)
        for landmark in fact.landmarks:
            found |= _named("landmark", landmark)
    else:
        found = {(type(fact).__name__, *map(str, vars(fact).values()))}
    return frozenset(piece for piece in found if piece[-1])


def _named(role: str, name: Name | None) -> frozenset[tuple[str, ...]]:
    if name is None:
        return frozenset()
    return frozenset({(role, "colour", name.color), (role, "shape", name.shape)})


def slot_f1(said: Fact | None, true: Fact) -> float:
    """F1 of the pieces of two facts, 0 to 1: a similarity of meaning without a model of words."""
    one, other = slots(said), slots(true)
    return 2 * len(one & other) / (len(one) + len(other)) if one else 0.0


@cache
def references(fact: Fact) -> tuple[str, ...]:
    """All sentences that say a fact."""
    return tuple(text_of(words) for words in phrasings(fact))


def wording_scores(said: Sequence[str], facts: Sequence[Fact]) -> dict[str, float]:
    """How near sentences come to any way of saying what is true, each 0 to 100.

    Args:
        said: one for each of `facts`.
        facts: what should be said; all phrasings of it are references.

    Returns:
        "bleu4" of the corpus (sacrebleu's) and "rougeL", the mean of the best F1 (rouge-score's).

    Raises:
        RuntimeError: one of these packages is missing.
        ValueError: no sentences, or not as many of both.
    """
    require()
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    if not said or len(said) != len(facts):
        raise ValueError(f"{len(said)} sentences cannot be compared with {len(facts)} facts")
    told = [references(fact) for fact in facts]
    most = max(map(len, told))
    streams = [[row[i] if i < len(row) else None for row in told] for i in range(most)]
    bleu = sacrebleu.BLEU(effective_order=True).corpus_score(list(said), streams)
    scorer, scores = RougeScorer(["rougeL"]), {}
    for pair in zip(said, facts, strict=True):
        if pair not in scores:
            best = scorer.score_multi(references(pair[1]), pair[0])
            scores[pair] = best["rougeL"].fmeasure
    rouge = np.mean([scores[pair] for pair in zip(said, facts, strict=True)])
    return {"bleu4": min(float(bleu.score), 100.0), "rougeL": 100.0 * float(rouge)}
