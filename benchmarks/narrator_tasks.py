"""What the narrator benchmark gives to do without pictures, and how it is judged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla_ros.models.narrator import LONGEST_SENTENCE, Narrator
from vla_ros.scene_language import questions
from vla_ros.scene_language.actions import Action
from vla_ros.scene_language.facts import (
    INVERSE,
    TRANSITIVE,
    Moving,
    Related,
    direction_of,
    related,
    true_of,
)
from vla_ros.scene_language.grounding import MARK
from vla_ros.scene_language.questions import Is
from vla_ros.scene_language.scenes import BINS, Place, Scene, to_tokens
from vla_ros.scene_language.sentences import say, tell
from vla_ros.scene_language.stories import Stories, Story
from vla_ros.scene_language.vocabulary import decode, encode
from vla_ros.scene_language.worlds import Moment, sample_moments, sample_scene
from vla_ros.training.narrator.measures import (
    answer_said,
    errors_of,
    fact_said,
    relation_asked,
    scene_said,
)
from vla_ros.training.narrator.ngram import NGrams, best_order

Speak = Callable[[Sequence[Sequence[str]]], list[list[str]]]  # what follows each prompt, in tokens
FIRST_SEED = 1000  # of the stories; training's are below
BATCH = 50
COUNTED, CHOSEN_ON = 20_000, 1000  # training stories that n-grams are counted and chosen on
STEPS = (1, 5, 10)  # of a rollout
MEASURED = ("ask", "next", "narrate")


@dataclass(frozen=True)
class Speaker:
    """Who answers, and in which form it is told things."""

    form: str
    speak: Speak


def of_checkpoint(folder: Path, form: str) -> Speaker:
    """The language of a narrator."""
    model = Narrator.from_pretrained(folder).language

    def speak(prompts: Sequence[Sequence[str]]) -> list[list[str]]:
        said: list[list[str]] = []
        for first in range(0, len(prompts), BATCH):
            ids = [encode(prompt) for prompt in prompts[first : first + BATCH]]
            most = min(LONGEST_SENTENCE, model.config.context - max(map(len, ids)))
            said += [decode(one.ids) for one in model.generate(ids, most)]
        return said

    return Speaker(form, speak)


def of_counts(form: str) -> tuple[Speaker, NGrams]:
    """N-grams of training stories, of the order that says most of others right."""
    stories = Stories(0, "train", form, MEASURED)
    rows = [
        (story.ids(), story.asked)
        for story in (stories[i] for i in tqdm(range(COUNTED + CHOSEN_ON), desc="n-grams"))
    ]
    model = best_order(rows[:COUNTED], rows[COUNTED:])

    def speak(prompts: Sequence[Sequence[str]]) -> list[list[str]]:
        return [decode(model.generate(encode(prompt), LONGEST_SENTENCE)) for prompt in prompts]

    return Speaker(form, speak), model


# -- stories ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """How one story was gone on with: what it is of, and what of that is right."""

    kind: str
    relation: str | None
    seed: int
    right: dict[str, bool]
    yes: bool = False  # the right answer to "is it so?"


def of_stories(speaker: Speaker, stories: Sequence[tuple[int, Story]]) -> list[Told]:
    """Let a speaker go on with stories of the kinds MEASURED, each with its seed."""
    said = speaker.speak([story.prompt for _, story in stories])
    return [
        judge(story, seed, tokens, speaker.form)
        for (seed, story), tokens in zip(stories, said, strict=True)
    ]


def judge(story: Story, seed: int, tokens: Sequence[str], form: str) -> Told:
    """Hold what was said against the story."""
    if story.kind == "ask":
        right = answer_said(story.question, tokens) == story.answer
        relation = relation_asked(story.question, story.answer)
        kind, yes = type(story.question).__name__, story.answer is True
        return Told(kind, relation, seed, {"answer": right}, yes)
    (moment,) = story.moments
    if story.kind == "next":
        return judge_next(moment, scene_said(moment.before, tokens, form), seed)
    return judge_narration(story, fact_said(tokens), seed)


def judge_next(moment: Moment, after: Scene | None, seed: int) -> Told:
    there = after is not None
    right = {
        "scene": after == moment.after,
        "gripper": there and hand(after) == hand(moment.after),
        "things": there and after.things == moment.after.things,
    }
    return Told("next", None, seed, right)


def hand(scene: Scene) -> tuple:
    return scene.gripper, scene.open, scene.holds


def judge_narration(story: Story, fact: Any, seed: int) -> Told:
    (moment,) = story.moments
    right = {
        "fact": fact == story.facts[-1],
        "true": true_of(fact, moment.before, moment.after),
    }
    return Told("narrate", None, seed, right)


def held_out(
    form: str, kind: str, seeds: Sequence[int], items: int, things: int | None = None
) -> list[tuple[int, Story]]:
    """Held-out stories, `items` of each seed; with `things`, only of scenes with so many."""
    found = []
    for seed in seeds:
        stories = Stories(FIRST_SEED + seed, "held_out", form, [kind], things or 6)
        number = count = 0
        while count < items:
            story = stories[number]
            number += 1
            if things is None or len(story.scene.things) == things:
                found.append((seed, story))
                count += 1
    return found


def permuted(tokens: Sequence[str]) -> list[str]:
    """A prompt whose x and y each have their ids exchanged, always in the same way."""
    rng = np.random.default_rng(0)
    orders = {axis: rng.permutation(64) for axis in "xy"}
    return [
        f"<{token[1]}{orders[token[1]][int(token[2:-1])]}>" if token[:2] in ("<x", "<y") else token
        for token in tokens
    ]


# -- without looking -------------------------------------------------------------------------------


def majorities(stories: Sequence[Story]) -> dict[tuple, Any]:
    """The most frequent answer to each kind of question about each relation, and the fact."""
    counts: dict[tuple, Counter] = {}
    for story in stories:
        if story.kind == "ask":
            reply = tuple(questions.reply(story.question, story.answer))
            counts.setdefault(question_kind(story), Counter())[reply] += 1
        elif story.kind == "narrate":
            counts.setdefault(("narrate",), Counter())[story.facts[-1]] += 1
    return {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}


def question_kind(story: Story) -> tuple:
    """Of "where?" the relation is the answer, so it is none of the kind."""
    name, relation = type(story.question).__name__, relation_asked(story.question, story.answer)
    return (name,) if name == "Where" else (name, relation)


def by_majority(usual: dict[tuple, Any], stories: Sequence[tuple[int, Story]]) -> list[Told]:
    """What never looks: the usual answer, the usual fact, and a world where all stays."""
    told = []
    for seed, story in stories:
        if story.kind == "ask":
            told.append(judge(story, seed, usual.get(question_kind(story), ("no",)), "words"))
        elif story.kind == "next":
            told.append(judge_next(story.moments[0], story.moments[0].before, seed))
        else:
            told.append(judge_narration(story, usual[("narrate",)], seed))
    return told


def by_rule(stories: Sequence[tuple[int, Story]]) -> list[Told]:
    """What knows the action only: the gripper does as told and meets nothing."""
    told = []
    for seed, story in stories:
        moment = story.moments[0]
        after = as_told(moment.before, moment.action)
        if story.kind == "next":
            told.append(judge_next(moment, after, seed))
        else:
            way = direction_of(moment.before, after)
            fact = Moving("move", way) if way else Moving("stay")
            told.append(judge_narration(story, fact, seed))
    return told


def as_told(scene: Scene, action: Action) -> Scene:
    """The scene after an action that nothing stands in the way of; what is held comes along."""
    ways = (action.dx, action.dy, action.dz)
    place = np.clip(np.add(scene.gripper, ways), 0, np.array(BINS) - 1)
    gripper = Place(*map(int, place))
    if action.opens or scene.holds is None:
        return scene.moved({}, gripper=gripper, open=action.opens, holds=None)
    carried = np.clip(np.add(scene.place_of(scene.holds), ways), 0, np.array(BINS) - 1)
    return scene.moved({scene.holds: Place(*map(int, carried))}, gripper=gripper)


# -- own prompts -----------------------------------------------------------------------------------


def scene_prompt(scene: Scene, form: str, rng: random.Random) -> list[str]:
    told = to_tokens(scene) if form == "spatial" else ["<text>", *tell(scene, rng)]
    return ["<bos>", *told]


def question_prompt(fact: Related, scene: Scene, form: str, rng: random.Random) -> list[str]:
    mark = MARK if form == "spatial" else "<ans>"
    return [*scene_prompt(scene, form, rng), "<q>", *questions.ask(Is(fact), rng), mark]


def next_prompt(scene: Scene, action: Action, form: str, rng: random.Random) -> list[str]:
    act = action.to_tokens() if form == "spatial" else ["<act>", *say(action, rng)]
    return [*scene_prompt(scene, form, rng), *act, "<next>", *[MARK] * (form == "spatial")]


# -- consistency -----------------------------------------------------------------------------------


def ask_all(
    speaker: Speaker, asked: Sequence[tuple[Related, Scene]], rng: random.Random
) -> list[tuple[Any, bool]]:
    """To "is it so?" of each: the answer, and the true one."""
    prompts = [question_prompt(fact, scene, speaker.form, rng) for fact, scene in asked]
    said = speaker.speak(prompts)
    return [
        (answer_said(Is(fact), tokens), true_of(fact, scene))
        for (fact, scene), tokens in zip(asked, said, strict=True)
    ]


def inverse(speaker: Speaker, items: int, seed: int) -> tuple[list[bool], list[bool]]:
    """Of pairs such as "is a left of b?", "is b right of a?", whether both have one answer; and
    whether that is right. Half of the true answers are yes."""
    rng, asked = random.Random(seed), []
    while len(asked) < 2 * items:
        scene, relation = sample_scene(rng), rng.choice(TRANSITIVE)
        a, b = rng.sample([thing.name for thing in scene.things], 2)
        if related(relation, a, (b,), scene) == (len(asked) % 4 < 2):
            asked += [(Related(a, relation, (b,)), scene)]
            asked += [(Related(b, INVERSE[relation], (a,)), scene)]
    replies = ask_all(speaker, asked, rng)
    pairs = list(zip(replies[::2], replies[1::2], strict=True))
    same = [one[0] == other[0] and isinstance(one[0], bool) for one, other in pairs]
    return same, [ok and one[0] == one[1] for ok, (one, _) in zip(same, pairs, strict=True)]


def transitive(speaker: Speaker, items: int, seed: int) -> list[bool]:
    """Where a is left of b and b left of c, both said so, whether a is said to be left of c."""
    rng, asked = random.Random(seed), []
    while len(asked) < 3 * items:
        scene, relation = sample_scene(rng), rng.choice(TRANSITIVE)
        names = [thing.name for thing in scene.things]
        if len(names) < 3:
            continue
        a, b, c = rng.sample(names, 3)
        if related(relation, a, (b,), scene) and related(relation, b, (c,), scene):
            asked += [(Related(x, relation, (y,)), scene) for x, y in ((a, b), (b, c), (a, c))]
    said = [answer for answer, _ in ask_all(speaker, asked, rng)]
    triples = zip(said[::3], said[1::3], said[2::3], strict=True)
    return [last is True for first, second, last in triples if first is second is True]


# -- rollouts --------------------------------------------------------------------------------------


def episodes(count: int, seed: int) -> list[list[Moment]]:
    """Chains of as many moments as a rollout has, each beginning where the last one ended."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        scene, moments = sample_scene(rng, simulated=rng.random() < 0.35), []
        while len(moments) < STEPS[-1]:
            moments += sample_moments(scene, rng)
            scene = moments[-1].after
        found.append(moments[: STEPS[-1]])
    return found


def rollouts(speaker: Speaker, chains: Sequence[Sequence[Moment]], seed: int) -> np.ndarray:
    """Errors [episodes, STEPS, 2] of what is told to come, each step from the one told before: of
    the gripper and of the things. What cannot be read leaves all as it was."""
    rng, errors = random.Random(seed), []
    now = [chain[0].before for chain in chains]
    for step in range(STEPS[-1]):
        actions = [chain[step].action for chain in chains]
        prompts = [
            next_prompt(scene, action, speaker.form, rng)
            for scene, action in zip(now, actions, strict=True)
        ]
        said = speaker.speak(prompts)
        told = [scene_said(b, tokens, speaker.form) for b, tokens in zip(now, said, strict=True)]
        now = [before if after is None else after for before, after in zip(now, told, strict=True)]
        if step + 1 in STEPS:
            errors.append([errors_of(c[step].after, s) for c, s in zip(chains, now, strict=True)])
    return np.array(errors).swapaxes(0, 1)


def standing_still(chains: Sequence[Sequence[Moment]]) -> np.ndarray:
    """The same errors of a world that stays as it was at first."""
    return np.array([[errors_of(c[s - 1].after, c[0].before) for s in STEPS] for c in chains])
