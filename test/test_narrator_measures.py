"""What the narrator is measured by: cases made by hand, perfect speakers, and blind ones."""

import random
import sys
from pathlib import Path

import pytest

from vla_ros.scene_language import questions
from vla_ros.scene_language.actions import Action, step
from vla_ros.scene_language.facts import Moving, Related, narration, true_of
from vla_ros.scene_language.questions import Is, What, Where
from vla_ros.scene_language.scenes import (
    BOWL,
    PAD,
    Name,
    Place,
    Scene,
    Thing,
    changes_to_tokens,
    from_tokens,
)
from vla_ros.scene_language.sentences import phrasings, say
from vla_ros.scene_language.stories import Stories
from vla_ros.scene_language.vocabulary import EOS, encode, text_of
from vla_ros.scene_language.worlds import sample_moments, sample_scene
from vla_ros.training.narrator.measures import (
    UNREADABLE,
    after_mark,
    answer_said,
    attributes_right,
    balanced,
    close_relations,
    errors_of,
    fact_said,
    names_right,
    place_errors,
    relation_asked,
    scene_said,
    slot_f1,
    slots,
    wording_scores,
)
from vla_ros.training.narrator.ngram import MOST, NGrams, best_order

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import narrator_tasks  # noqa: E402

HERE = Place(20, 20, 6)
RED, BLUE = Name("red", "cube"), Name("blue", "cylinder")
SCENE = Scene(
    (Thing(RED, Place(30, 40, 1)), Thing(BLUE, Place(30, 30, 1)), Thing(BOWL, Place(45, 30, 0))),
    Place(20, 20, 6),
)
FACT = Moving("move", "left", None, RED, Related(RED, "left", (BLUE,)))


# -- scenes ----------------------------------------------------------------------------------------


def test_names_count_movable_things_once():
    seen = Scene(
        (Thing(RED, Place(0, 0, 1)), Thing(Name("blue", "cube"), Place(9, 9, 1))), Place(0, 0, 0)
    )
    assert names_right(SCENE, seen) == (1, 2, 2)
    assert names_right(SCENE, SCENE) == (2, 2, 2)


def test_attributes_are_those_of_the_thing_that_is_seen_where_one_is():
    assert attributes_right(SCENE, SCENE) == (4, 4)
    seen = Scene((Thing(Name("red", "cylinder"), Place(31, 40, 1)), Thing(BOWL, HERE)), HERE)
    assert attributes_right(SCENE, seen) == (1, 4)  # the colour; the blue one is not seen
    far = Scene((Thing(RED, Place(30, 51, 1)),), HERE)
    assert attributes_right(SCENE, far) == (0, 4)
    assert attributes_right(SCENE, Scene((), HERE)) == (0, 4)


def test_place_errors_are_of_what_is_in_both():
    seen = Scene((Thing(RED, Place(33, 38, 2)),), Place(20, 24, 6))
    assert place_errors(SCENE, seen, (RED, BLUE)).tolist() == [[3, 2, 1]]
    assert place_errors(SCENE, seen, (BLUE,)).shape == (0, 3)
    gripper, things = errors_of(SCENE, seen)
    assert gripper == 4 and things == pytest.approx(14**0.5)


def test_close_relations_are_those_that_hold_and_those_that_nearly_do():
    found = dict(close_relations(SCENE))
    assert found[Related(RED, "left", (BLUE,))] is True
    assert Related(BLUE, "left", (RED,)) not in found  # 14 cm away from being so
    nearer = SCENE.moved({RED: Place(30, 33, 1)})
    assert dict(close_relations(nearer))[Related(RED, "left", (BLUE,))] is False
    assert all(true_of(fact, SCENE) == true for fact, true in found.items())


def test_always_saying_the_same_is_right_in_half():
    kinds = [(kind, true) for kind, counts in (("on", (9, 1)), ("left", (1, 5))) for true, n in
             zip((False, True), counts, strict=True) for _ in range(n)]  # fmt: skip
    usual = {"on": False, "left": True}
    assert balanced((k, true, usual[k] == true) for k, true in kinds) == 0.5
    assert balanced((k, true, True) for k, true in kinds) == 1.0
    with pytest.raises(ValueError, match="more scenes"):
        balanced([("on", True, True), ("left", False, True)])


def test_another_table_gives_relations_by_chance():
    rng, names = random.Random(0), (RED, BLUE, Name("green", "cube"))

    def table():
        while True:
            scene = sample_scene(rng, simulated=True)
            if len(scene.things) == 5:
                places = [thing.place for thing in scene.things]
                things = map(Thing, (*names, PAD, BOWL), places)
                return Scene(tuple(things), scene.gripper)

    tables = [table() for _ in range(60)]

    def judged(others):
        for true, seen in zip(tables, others, strict=True):
            for fact, holds in close_relations(true):
                yield fact.relation, holds, true_of(fact, seen) == holds

    assert balanced(judged(tables), 5) == 1.0
    assert 0.42 < balanced(judged(tables[1:] + tables[:1]), 5) < 0.58


# -- what is said ----------------------------------------------------------------------------------


def test_an_answer_is_read_behind_its_grounds():
    asked = Is(Related(RED, "left", (BLUE,)))
    said = ["<obj>", "red", "cube", "<x30>", "<y40>", "<z1>", "<ans>", "yes", "."]
    assert after_mark(said) == ["yes", "."]
    assert answer_said(asked, said) is True
    assert answer_said(asked, ["no", "."]) is False
    assert answer_said(asked, ["<ans>", "the", "bowl"]) == UNREADABLE
    assert answer_said(What("left", (BLUE,)), ["nothing"]) is None != UNREADABLE


def test_relations_that_questions_are_about():
    fact = Related(RED, "left", (BLUE,))
    for question, answer in ((Is(fact), False), (What("left", (BLUE,)), RED), (Where(RED), fact)):
        assert relation_asked(question, answer) == "left"
    assert relation_asked(questions.WhatHeld(), None) is None


def test_nonsense_is_no_fact_no_scene_and_not_true():
    assert fact_said(["cube", "cube"]) is None and not true_of(None, SCENE)
    assert not true_of(Related(PAD, "left", (RED,)), SCENE)  # there is no pad
    assert scene_said(SCENE, ["<x1>"], "spatial") is None
    assert scene_said(SCENE, ["the", "cube"], "words") is None


def test_slots_are_the_pieces_of_a_fact():
    assert slots(Moving("stay")) == {("verb", "stay")}
    assert slot_f1(FACT, FACT) == 1.0 and slot_f1(None, FACT) == 0.0
    other = Moving("move", "right", None, RED, Related(RED, "left", (BLUE,)))
    assert 0.8 < slot_f1(other, FACT) < 1.0
    assert slot_f1(Moving("move", "left"), FACT) == pytest.approx(2 * 2 / (2 + len(slots(FACT))))


def test_every_phrasing_of_the_truth_is_worded_perfectly_and_another_sentence_is_not():
    rng = random.Random(0)
    said = [text_of(say(FACT, rng)) for _ in range(3)]
    perfect = wording_scores(said, [FACT] * 3)
    assert perfect == pytest.approx({"bleu4": 100.0, "rougeL": 100.0})
    worse = wording_scores(["The hand is open."] * 3, [FACT] * 3)
    assert worse["bleu4"] < 20 and worse["rougeL"] < 50
    with pytest.raises(ValueError, match="cannot be compared"):
        wording_scores([], [])


# -- counting --------------------------------------------------------------------------------------


def test_ngrams_say_what_followed_the_longest_past_that_they_met():
    a, b, c, d = encode(["red", "blue", "cube", "bowl"])
    rows = [([a, b, c, EOS], [False, True, True, True])] * 2 + [
        ([d, b, b, EOS], [False, *[True] * 3])
    ]
    three, two = NGrams(rows, 3), NGrams(rows, 2)
    assert three.generate([a], 9) == [b, c] and three.generate([d], 9) == [b, b]
    assert two.generate([d], 9) == [b, c]  # what is further back is forgotten
    assert three.generate([c, a, b], 9) == [c]
    assert three.generate([a], 1) == [b]
    assert three.right(rows) == 1.0 > two.right(rows)
    assert best_order(rows, rows).right(rows) == 1.0


@pytest.mark.parametrize("order", [0, MOST + 1])
def test_ngrams_refuse_orders_that_do_not_fit(order):
    with pytest.raises(ValueError, match="give 1 to"):
        NGrams([([1, 2], [False, True])], order)


def test_ngrams_need_something_to_count():
    with pytest.raises(ValueError, match="nothing is asked for"):
        NGrams([([1, 2], [False, False])], 2)


# -- stories ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["spatial", "words"])
@pytest.mark.parametrize("kind", narrator_tasks.MEASURED)
def test_who_goes_on_as_the_story_does_is_right_in_everything(form, kind):
    stories = narrator_tasks.held_out(form, kind, range(2), 15)
    went_on = {story.prompt: story.tokens[len(story.prompt) : -1] for _, story in stories}
    perfect = narrator_tasks.Speaker(form, lambda prompts: [went_on[tuple(p)] for p in prompts])
    told = narrator_tasks.of_stories(perfect, stories)
    assert all(all(one.right.values()) for one in told)
    silent = narrator_tasks.Speaker(form, lambda prompts: [[] for _ in prompts])
    wrong = narrator_tasks.of_stories(silent, stories)
    assert not any(any(one.right.values()) for one in wrong)


def test_who_never_looks_is_right_in_half_of_balanced_questions():
    stories = narrator_tasks.held_out("words", "ask", range(1), 400)
    training = Stories(0, "train", "words", ["ask"])
    usual = narrator_tasks.majorities([training[i] for i in range(400)])
    told = [t for t in narrator_tasks.by_majority(usual, stories) if t.kind == "Is"]
    assert balanced((t.relation, t.yes, t.right["answer"]) for t in told) == 0.5


def test_both_forms_tell_the_same_stories():
    spatial, words = (
        narrator_tasks.held_out(form, "ask", range(1), 10, 7) for form in ("spatial", "words")
    )
    assert [s.question for _, s in spatial] == [s.question for _, s in words]
    assert all(len(story.scene.things) == 7 for _, story in spatial)


def test_exchanged_ids_are_another_scene_of_the_same_things():
    tokens = ["<scene>", "<obj>", "red", "cube", "<x30>", "<y40>", "<z1>", "<a3>"]
    told = narrator_tasks.permuted(tokens)
    assert [a == b for a, b in zip(told, tokens, strict=True)] == [True] * 4 + [False] * 2 + [
        True
    ] * 2
    every = narrator_tasks.permuted([f"<x{i}>" for i in range(64)])
    assert len(set(every)) == 64


def test_an_honest_speaker_agrees_with_itself_and_a_stubborn_one_does_not():
    def honest(prompts):
        return [["yes" if asked_and_true(list(prompt)) else "no"] for prompt in prompts]

    def asked_and_true(prompt):
        begin, end = prompt.index("<scene>"), prompt.index("<q>")
        question = questions.parse(prompt[end + 1 : -1])
        return questions.answer(question, from_tokens(prompt[begin:end]))

    speaker = narrator_tasks.Speaker("spatial", honest)
    same, right = narrator_tasks.inverse(speaker, 20, 0)
    assert all(same) and all(right) and len(same) == 20
    assert narrator_tasks.transitive(speaker, 20, 0) == [True] * 20
    yes = narrator_tasks.Speaker("spatial", lambda prompts: [["yes"] for _ in prompts])
    same, right = narrator_tasks.inverse(yes, 20, 0)
    assert all(same) and sum(right) == 10  # it agrees with itself and is right by chance


def test_rollouts_of_who_knows_the_physics_never_err():
    def physics(prompts):
        said = []
        for prompt in prompts:
            act = prompt.index("<act>")
            scene = from_tokens(prompt[1:act])
            after = step(scene, Action.from_tokens(prompt[act:-2]))
            said.append(changes_to_tokens(scene, after)[1:])
        return said

    chains = narrator_tasks.episodes(4, 0)
    perfect = narrator_tasks.rollouts(narrator_tasks.Speaker("spatial", physics), chains, 0)
    assert perfect.shape == (4, len(narrator_tasks.STEPS), 2) and not perfect.any()
    silent = narrator_tasks.Speaker("spatial", lambda prompts: [[] for _ in prompts])
    still = narrator_tasks.standing_still(chains)
    assert still.any() and (narrator_tasks.rollouts(silent, chains, 0) == still).all()


def test_what_is_best_said_is_true():
    rng = random.Random(3)
    for _ in range(20):
        for moment in sample_moments(sample_scene(rng), rng)[:2]:
            fact = narration(moment.before, moment.after, moment.target)
            assert true_of(fact, moment.before, moment.after)
            assert slot_f1(fact_said(["<text>", *next(phrasings(fact))]), fact) == 1.0
