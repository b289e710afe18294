"""Synthetic stories: what a narrator is trained and tested on, as tokens, from a seed.

A story is a function of (seed, split, number), whoever asks for it and when. The same story can be
told in two forms: with spatial tokens, or all in words. The split "train" never says, asks or
answers one of the held-out compositions (a colour, a shape, the relation that such a thing has to
something, and to what); where relations are said in the split "held_out", it is only those.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.scene_language import grounding, questions
from vla_ros.scene_language.facts import Fact, Moving, narration
from vla_ros.scene_language.instructions import phrase
from vla_ros.scene_language.questions import Answer, Is, Question
from vla_ros.scene_language.scenes import Scene, changes_to_tokens, to_tokens
from vla_ros.scene_language.sentences import say, tell, tell_changes
from vla_ros.scene_language.topics import (
    HELD_OUT,
    composition,
    event,
    permitted,
    sample_fact,
    sample_question,
    sample_relation,
)
from vla_ros.scene_language.vocabulary import FORMS, PAD, encode
from vla_ros.scene_language.words import words_of
from vla_ros.scene_language.worlds import Moment, sample_moments, sample_scene

SPLITS = ("train", "held_out")
# Kinds of stories and how often each comes. "tell" and "picture" lead from one form to the other,
# so a form that is not mixed leaves them out.
KINDS = {
    **{"describe": 0.04, "tell": 0.05, "picture": 0.05, "ask": 0.04, "quiz": 0.32},
    **{"next": 0.20, "narrate": 0.16, "episode": 0.14},
}
_QUIZ = (2, 4)  # questions of one, at least and at most
_COMPARED = 16  # things that answers of a quiz go through in all: with more it would fit no row
_LONGEST_EPISODE = 4  # moments
_TRIES = 5  # stories that do not fit into what is left of a row


@dataclass(frozen=True)
class Story:
    """One sequence and what it is about.

    Attributes:
        kind: one of KINDS.
        form: "spatial" or "words"; "mixed" for kinds that lead from one to the other.
        tokens: from `<bos>` to `<eos>`.
        asked: for each token, whether it follows from those before it: what to be judged by.
        facts: all that the story says, asks about or answers, besides places.
        moments: what happens in it; with no action in stories of one scene.
        scene: the first scene.
        question, answer: of the kind "ask"; the first ones of the kind "quiz".
    """

    kind: str
    form: str
    tokens: tuple[str, ...]
    asked: tuple[bool, ...]
    facts: tuple[Fact, ...]
    moments: tuple[Moment, ...]
    scene: Scene
    question: Question | None = None
    answer: Answer = None

    def ids(self) -> np.ndarray:
        """int16 [n]."""
        return np.array(encode(self.tokens), np.int16)

    @property
    def prompt(self) -> tuple[str, ...]:
        """The tokens before the first one that is asked for."""
        return self.tokens[: self.asked.index(True)]


class _Draft:
    """A story while it is being written."""

    def __init__(self, form: str, wording: random.Random, lot: float) -> None:
        self.form, self.rng, self.lot = form, wording, lot
        self.tokens, self.asked = ["<bos>"], [False]
        self.facts: list[Fact] = []
        self.moments: Sequence[Moment] = ()

    def add(self, tokens: Sequence[str], asked: bool = False) -> None:
        self.tokens += tokens
        self.asked += [asked] * len(tokens)

    def scene(self, scene: Scene, form: str = "", asked: bool = False) -> None:
        if (form or self.form) == "spatial":
            self.add(["<scene>"], False)
            self.add(to_tokens(scene)[1:], asked)
        else:
            self.add(["<text>"])
            self.add(tell(scene, self.rng), asked)

    def sentence(self, fact: Fact, grounds: Sequence[str]) -> None:
        self.facts.append(fact)
        self.grounded(grounds, ["<text>", *say(fact, self.rng)])

    def grounded(self, grounds: Sequence[str], said: Sequence[str]) -> None:
        """What is said after its mark, in spatial form with its grounds before that."""
        if self.form == "spatial":
            self.add([grounding.MARK])
            self.add([*grounds, *said], True)
        else:
            self.add(said[:1])
            self.add(said[1:], True)

    def question(self, question: Question, answer: Answer, scene: Scene) -> None:
        fact = questions.fact_of(question, answer)
        self.facts += [question.fact] if isinstance(question, Is) else [fact] if fact else []
        self.add(["<q>", *questions.ask(question, self.rng)])
        said = questions.reply(question, answer, self.form == "spatial")
        self.grounded(grounding.of_answer(question, answer, scene), ["<ans>", *said, "."])

    def action(self, moment: Moment) -> None:
        if self.form == "spatial":
            self.add(moment.action.to_tokens())
        else:
            self.add(["<act>", *say(moment.action, self.rng)])

    def changes(self, moment: Moment) -> None:
        grounds = grounding.of_step(moment.before, moment.action, moment.after)
        if self.form == "spatial":
            changes = changes_to_tokens(moment.before, moment.after)
            self.add(["<next>"])  # says what is asked: an action can also be narrated
        else:
            changes = ["<next>", *tell_changes(moment.before, moment.after, self.rng)]
        self.grounded(grounds, changes)


class Stories:
    """An endless list of stories.

    Args:
        seed: 0 or more; another one gives other stories.
        split: "train", or "held_out" to be judged by.
        form: "spatial", "words", or "mixed": half of the stories each.
        kinds: those wanted, of KINDS; all that the form has if left out.
        most: most things of a scene, the pad and the bowl among them.

    Raises:
        ValueError: one of these is none of the above.
    """

    def __init__(
        self,
        seed: int,
        split: str = "train",
        form: str = "mixed",
        kinds: Sequence[str] | None = None,
        most: int = 6,
    ) -> None:
        if split not in SPLITS or form not in FORMS:
            raise ValueError(f"split '{split}' of form '{form}': use {SPLITS} and {FORMS}")
        there_are = [kind for kind in KINDS if form == "mixed" or kind not in _BETWEEN_FORMS]
        self.kinds = tuple(there_are if kinds is None else kinds)
        for kind in self.kinds or ("",):
            if kind not in there_are:
                raise ValueError(f"'{form}' has no stories of kind '{kind}': use {there_are}")
        if seed < 0 or most < 3:
            raise ValueError(f"seed {seed} and most {most}: use 0 or more, and 3 or more things")
        self.seed, self.split, self.form, self.most = seed, split, form, most
        self._cumulated = np.cumsum([KINDS[kind] for kind in self.kinds]).tolist()

    def __getitem__(self, number: int) -> Story:
        return self._story(f"{number}")

    def _story(self, number: str) -> Story:
        # What a story is about and how it is worded are drawn apart, so that forms can be compared.
        about = random.Random(f"{self.seed}/{self.split}/{number}")
        wording = random.Random(f"{self.seed}/{self.split}/{number}/words")
        kind = about.choices(self.kinds, cum_weights=self._cumulated)[0]
        form = self.form if self.form != "mixed" else wording.choice(FORMS[:2])
        lot = about.random()
        while True:
            scene = sample_scene(about, self.most, simulated=about.random() < 0.35)
            draft = _Draft(form, wording, lot)
            found = _WRITERS[kind](draft, scene, about, self.split == "held_out")
            if found is not None:
                break
        draft.add(["<eos>"], True)
        tokens, asked, facts = tuple(draft.tokens), tuple(draft.asked), tuple(draft.facts)
        form = "mixed" if kind in _BETWEEN_FORMS else form
        return Story(kind, form, tokens, asked, facts, tuple(draft.moments), scene, *found)

    def rows(self, first: int, count: int, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of whole stories, one after another, padded at the end.

        Args:
            first: number of the first row.
            count: how many rows.
            context: tokens of a row. Stories longer than that are passed over.

        Returns:
            ids: int16 [count, context].
            asked: bool [count, context], as of `Story`; False for padding.

        Raises:
            ValueError: the context is too short for stories of these kinds.
        """
        ids = np.full((count, context), PAD, np.int16)
        asked = np.zeros((count, context), bool)
        for row in range(count):
            used, passed_over = 0, 0
            for number in range(1_000_000):
                story = self._story(f"{first + row}:{number}")
                length = len(story.tokens)
                if used + length > context:
                    passed_over += 1
                    if passed_over < (_TRIES if used else 50):
                        continue
                    break
                ids[row, used : used + length] = encode(story.tokens)
                asked[row, used : used + length] = story.asked
                used += length
            if used == 0:
                raise ValueError(f"50 stories have more than {context} tokens: use more context")
        return ids, asked


# -- one kind of story each: writes the draft; returns question and answer, or None if the scene has
# -- nothing to tell for the split ---------------------------------------------------------------

_Found = tuple[Question, Answer] | tuple[()] | None


def _tell(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    draft.scene(scene, "spatial")
    draft.scene(scene, "words", asked=True)
    return ()


def _picture(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    draft.scene(scene, "words")
    draft.scene(scene, "spatial", asked=True)
    return ()


def _describe(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    fact = sample_relation(scene, about, held_out)
    if fact is None and held_out:
        return None
    if fact is None or (not held_out and about.random() < 0.2):
        fact = sample_fact(scene, about)
    draft.scene(scene)
    draft.sentence(fact, grounding.of_fact(fact, scene))
    return ()


def _ask(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    pair = sample_question(scene, about, held_out, draft.lot)
    if pair is None:
        return None
    draft.scene(scene)
    draft.question(*pair, scene)
    return pair


def _quiz(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    """A scene is long and an answer short: many of them cost little more than one."""
    first = _ask(draft, scene, about, held_out)
    if first is None:
        return None
    for _ in range(min(about.randint(*_QUIZ), _COMPARED // len(scene.things)) - 1):
        pair = sample_question(scene, about, held_out, about.random())
        if pair is not None:
            draft.question(*pair, scene)
    return first


def _next(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    moment = about.choice(sample_moments(scene, about))
    draft.moments = [moment]
    draft.scene(moment.before)
    draft.action(moment)
    draft.changes(moment)
    return ()


def _narrate(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    """An instruction, if there are words for it, tells what the gripper is after."""
    moment = about.choice(sample_moments(scene, about))
    told = moment.goal is not None and about.random() < 0.7
    fact = narration(moment.before, moment.after, moment.target if told else None)
    if not permitted(fact, held_out) and not held_out:
        fact = Moving(fact.verb, fact.direction, fact.thing, fact.target)
    if held_out and (composition(fact) not in HELD_OUT):
        return None
    if told:
        seed = draft.rng.getrandbits(32)
        draft.add(["<text>", *words_of(phrase(moment.goal, np.random.default_rng(seed))), "."])
    draft.moments = [moment]
    draft.scene(moment.before)
    draft.action(moment)
    target = moment.target if told else None
    draft.sentence(fact, grounding.of_narration(moment.before, moment.after, target))
    return ()


def _episode(draft: _Draft, scene: Scene, about: random.Random, held_out: bool) -> _Found:
    moments = sample_moments(scene, about)
    begin = about.randrange(max(len(moments) - 1, 1))
    draft.moments = moments[begin : begin + about.randint(2, _LONGEST_EPISODE)]
    draft.scene(draft.moments[0].before)
    for moment in draft.moments:
        draft.action(moment)
        draft.changes(moment)
        happened = event(moment, about, held_out)
        if happened is not None:
            draft.sentence(happened, grounding.of_fact(happened, moment.after))
    return ()


_BETWEEN_FORMS = ("tell", "picture")
_WRITERS: dict[str, Callable[[_Draft, Scene, random.Random, bool], _Found]] = {
    **{"describe": _describe, "tell": _tell, "picture": _picture, "ask": _ask},
    **{"quiz": _quiz, "next": _next, "narrate": _narrate, "episode": _episode},
}
