"""What the narrator is shown and asked on scenes of the simulator, and what it makes of them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from vla_ros.models.narrator import Narrator, nearest_place, plan_of
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.kinematics import ArmKinematics
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
from vla_ros.training.narrator.sightings import Cameras, Sighting, glance, watch
from vla_ros.training.rollout import Actor, Observation, Rollout

SEEDS = 700_000_000  # below FIRST_TRAINING_SEED: of evaluation
EPISODES = 500_000  # seeds of episodes begin so far behind those of glances
FRAMES = 4  # of an episode, evenly over it
_RELATED = 0.8  # questions below this lot are about relations, nearly all of them


@dataclass(frozen=True)
class Shown:
    """A frame, which scene or episode it is of, and what the policy said that drove, if one did."""

    sight: Sighting
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


def glances(world: ArmWorld, cameras: Cameras, count: int) -> list[Shown]:
    """Scenes laid out anew, the arm anywhere above them."""
    kinematics, rng = ArmKinematics(), np.random.default_rng(0)
    tasks = tqdm(task_list(FAMILIES, count, SEEDS), desc="glances")
    return [
        Shown(glance(world, kinematics, cameras, sample_task(family, number), rng), group)
        for group, (family, number) in enumerate(tasks)
    ]


def episodes(
    world: ArmWorld, cameras: Cameras, count: int, policy: VisionLanguageActionModel | None = None
) -> list[Shown]:
    """FRAMES of each of `count` episodes that the wandering expert drives, or a policy."""
    size = cameras.image_size if policy is None else policy.image_size
    rollout = Rollout(world, image_size=size, dt=ActionConfig.get_arm_config().dt)
    rng, found = np.random.default_rng(1), []
    tasks = task_list(FAMILIES, count, SEEDS + EPISODES)
    for group, (family, number) in enumerate(tqdm(tasks, desc="episodes")):
        said: list[str] = []  # at each frame
        actor = wandering_expert(world, rng)
        if policy is not None:
            actor = _acting(policy, sample_task(family, number).instruction, said)
        sights = list(watch(rollout, cameras, family, number, actor))
        for i in dict.fromkeys(np.linspace(0, len(sights) - 1, FRAMES).astype(int).tolist()):
            sight, frame = sights[i]
            found.append(Shown(sight, group, said[frame] if said else ""))
    return found


def _acting(policy: VisionLanguageActionModel, instruction: str, said: list[str]) -> Actor:
    """An episode of a policy, which tells `said` what it says it does."""
    episode = policy.start(instruction)

    def act(observation: Observation) -> np.ndarray:
        tokens = policy.encode(observation.images)
        chunk = episode.act(tokens, observation.proprioception).actions
        said.append(episode.describe()[0])
        return chunk

    return act


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
            tokens = narrator.encode(list(other.sight.images))
            scenes.append(narrator.see(tokens, feels).scene)
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
