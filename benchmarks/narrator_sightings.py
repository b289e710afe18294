"""What the narrator is shown and asked on scenes of the simulator, and what it makes of them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from vla_ros.models.narrator import Narrator, nearest_place, plan_of
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language import questions
from vla_ros.scene_language.facts import Fact, Moving, distance, narration, true_of
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.scene_language.questions import Question
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.topics import sample_question
from vla_ros.scene_language.vocabulary import text_of
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.tasks import sample_task
from vla_ros.training.data.simulation import task_list
from vla_ros.training.genie_videos import wandering_expert
from vla_ros.training.narrator.measures import (
    UNREADABLE,
    answer_said,
    relation_asked,
)
from vla_ros.training.narrator.sightings import Sighting, glance, watch
from vla_ros.training.rollout import Observation, Rollout

SEEDS = 700_000_000  # below FIRST_TRAINING_SEED: of evaluation
EPISODES = 500_000  # seeds of episodes begin so far behind those of glances
FRAMES = 4  # of an episode, evenly over it
_RELATED = 0.8  # questions below this lot are about relations, nearly all of them
Actor = Callable[[Observation], np.ndarray]


@dataclass(frozen=True)
class Shown:
    """A frame: what is known of it, what people see, which scene or episode it is of, and what the
    policy said that drove, if one did."""

    sight: Sighting
    image: np.ndarray  # uint8 [S, S, 3], of the front camera
    group: int
    description: str = ""

    @property
    def narration(self) -> Moving:
        """What is best said of it."""
        return narration(self.sight.scene, self.sight.after, self.sight.target)


@dataclass(frozen=True)
class Line:
    """A sentence: what it says, or None if it is none of the scene language."""

    text: str
    fact: Fact | None
    sound: bool = True


# -- from the simulator ----------------------------------------------------------------------------


def glances(world: ArmWorld, model: VisionLanguageActionModel, count: int) -> list[Shown]:
    """Scenes laid out anew, the arm anywhere above them."""
    rollout, rng = Rollout(world, image_size=model.image_size), np.random.default_rng(0)
    found = []
    for family, number in tqdm(task_list(FAMILIES, count, SEEDS), desc="glances"):
        sight, seen = glance(rollout, model, sample_task(family, number), rng)
        found.append(Shown(sight, seen.images[0], len(found)))
    return found


def policy_actor(policy: VisionLanguageActionModel) -> Callable:
    """Begins an episode of the policy: the actor, and what tells its description."""

    def start(instruction: str) -> tuple[Actor, Callable[[], str]]:
        episode = policy.start(instruction)

        def act(observation: Observation) -> np.ndarray:
            tokens = policy.encode(observation.images)
            return episode.act(tokens, observation.proprioception).actions

        return act, lambda: episode.describe()[0]

    return start


def episodes(
    world: ArmWorld,
    model: VisionLanguageActionModel,
    count: int,
    start: Callable[[str], tuple[Actor, Callable[[], str]]] | None = None,
) -> list[Shown]:
    """FRAMES of each of `count` episodes; the wandering expert drives, or what `start` begins."""
    dt = model.config.action.dt
    rng, found = np.random.default_rng(1), []
    tasks = task_list(FAMILIES, count, SEEDS + EPISODES)
    for group, (family, number) in enumerate(tqdm(tasks, desc="episodes")):
        rollout = Rollout(world, image_size=model.image_size, dt=dt)
        actor, describe = wandering_expert(world, rng), str
        if start is not None:
            actor, describe = start(sample_task(family, number).instruction)
        frames: list[tuple[np.ndarray, np.ndarray, str]] = []

        def act(observation: Observation, actor=actor, describe=describe, frames=frames):
            chunk = actor(observation)
            frames.append((observation.proprioception, observation.images[0], describe()))
            return chunk

        sights = list(watch(rollout, model, family, number, act))
        for i in dict.fromkeys(np.linspace(0, len(sights) - 1, FRAMES).astype(int).tolist()):
            sight = sights[i]
            (image, said), *_ = (rest for felt, *rest in frames if felt is sight.proprioception)
            found.append(Shown(sight, image, group, said))
    return found


# -- what is made of it ----------------------------------------------------------------------------


def elsewhere(count: int) -> list[int]:
    """Another number for each of `count`, always the same."""
    order = np.random.default_rng(0).permutation(count)
    others = np.empty(count, int)
    others[order] = np.roll(order, 1)
    return others.tolist()


def scenes_of(narrator: Narrator, felt: Sequence[Shown], pictures: Sequence[Shown]) -> list[Scene]:
    """What is seen in `pictures` while feeling as in `felt`; what is no scene is an empty table."""
    scenes = []
    for one, other in tqdm(list(zip(felt, pictures, strict=True)), desc="seeing"):
        feels = one.sight.proprioception
        try:
            scenes.append(narrator.see(np.asarray(other.sight.tokens), feels).scene)
        except ValueError:
            scenes.append(Scene((), nearest_place(feels[:3])))
    return scenes


def tell_all(narrator: Narrator, shown: Sequence[Shown], scenes: Sequence[Scene]) -> list[Line]:
    """What the narrator says of each frame, taking `scenes` for what is there."""
    lines = []
    for one, scene in tqdm(list(zip(shown, scenes, strict=True)), desc="narrating"):
        plan = plan_of(one.sight.proprioception, one.sight.plan)
        said = narrator.narrate(scene, plan, one.sight.instruction)
        lines.append(Line(said.text, said.fact, said.sound))
    return lines


def tell_truth_of(one: Shown) -> Line:
    """What is best said of a frame."""
    return Line(text_of(say(one.narration)), one.narration)


def tell_plan(one: Shown) -> Line:
    """What the plan alone tells."""
    plan = plan_of(one.sight.proprioception, one.sight.plan)
    ways = {"left": plan.dy, "right": -plan.dy, "away": plan.dx, "closer": -plan.dx}
    ways |= {"up": 2 * plan.dz, "down": -2 * plan.dz}
    way = max(ways, key=ways.__getitem__)
    fact = Moving("move", way) if ways[way] > 1 else Moving("stay")
    return Line(text_of(say(fact)), fact)


def ask(scenes: Sequence[Scene], count: int, rng: random.Random) -> list[tuple[int, Question, Any]]:
    """`count` questions about relations in each scene, with its number and the true answer."""
    asked = []
    for number, scene in enumerate(scenes):
        while sum(one[0] == number for one in asked[-count:]) < count:
            pair = sample_question(scene, rng, False, _RELATED * rng.random())
            if pair is not None and relation_asked(*pair) is not None:
                asked.append((number, *pair))
    return asked


def answers_to(
    asked: Sequence[tuple[int, Question, Any]],
    scenes: Sequence[Scene],
    narrator: Narrator | None = None,
) -> list[Any]:
    """The answers about scenes: the narrator's, or else the scene language's own. A question that
    has none there, as it is about what is not seen, gets UNREADABLE."""
    said = []
    for number, question, _ in tqdm(asked, desc="answering", disable=narrator is None):
        scene = scenes[number]
        try:
            if narrator is None:
                said.append(questions.answer(question, scene))
            else:
                words = narrator.answer(scene, text_of(questions.ask(question))).words
                said.append(answer_said(question, words))
        except ValueError:
            said.append(UNREADABLE)
    return said


def description_true(one: Shown) -> bool | None:
    """Whether a policy's description is true between two scenes; None if it tells of no motion."""
    match = re.match(r"(moving to|carrying|lifting|pushing) the (\w+) (\w+)", one.description)
    before, after = one.sight.scene, one.sight.after
    if match is None:
        return None
    name = Name(match[2], match[3])
    if name not in before:
        return False
    if match[1] == "pushing":
        return true_of(Moving("push", one.description.split()[-1], name), before, after)
    held = before.holds == name == after.holds
    if match[1] == "lifting":
        return held and after.gripper.z > before.gripper.z
    goal = name
    if match[1] == "carrying":
        goal = PAD if one.description.endswith("pad") else BOWL
        if not held:
            return False
    place = before.place_of(goal)
    return distance(after.gripper, place) < distance(before.gripper, place)
