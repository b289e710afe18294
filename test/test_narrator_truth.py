"""What the shipped narrator says while the shipped policy drives, judged by physics."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from vla_ros.checkpoints import resolve
from vla_ros.models.narrator import Narrator, plan_of
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.observations import preprocess_image
from vla_ros.robots.actions import end_effector_chunk_to_joints, joint_chunk_to_end_effector
from vla_ros.scene_language.actions import Action
from vla_ros.scene_language.facts import Fact
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, sample_task
from vla_ros.sim.truth import AHEAD, Witness
from vla_ros.training.data.simulation import task_list
from vla_ros.training.rollout import Rollout

EPISODES, FIRST_SEED = 10, 4100
EVERY = 10  # frames of 0.05 s
LONGEST = 5.0  # s of an episode


@dataclass(frozen=True)
class Moment:
    """What the narrator gets, when, and of which episode."""

    episode: int
    time: float
    tokens: np.ndarray
    felt: np.ndarray
    plan: Action
    instruction: str


@pytest.fixture(scope="module")
def narrator():
    return Narrator.from_pretrained(resolve("narrator"))


@pytest.fixture(scope="module")
def watched(narrator):
    """Moments of the policy's episodes on tasks that no training saw, and who witnessed them."""
    model = VisionLanguageActionModel.from_pretrained(resolve("arm"))
    assert narrator.config.horizon == pytest.approx(AHEAD)
    dt = model.config.action.dt
    point = round(narrator.config.horizon / dt) - 1
    world, witness, moments = ArmWorld(), Witness(), []
    rollout = Rollout(world, image_size=model.image_size, dt=dt)
    for number, (family, seed) in enumerate(task_list(FAMILIES, EPISODES, FIRST_SEED)):
        assert seed < FIRST_TRAINING_SEED
        task = sample_task(family, seed)
        policy, frames = model.start(task.instruction), 0

        def act(seen, policy=policy, task=task, number=number):
            nonlocal frames
            witness.look(world)
            chunk = policy.act(model.encode(seen.images), seen.proprioception).actions
            if frames % EVERY == 0:
                # As joint targets and back, which is how the node hears of it.
                joints = end_effector_chunk_to_joints(rollout.kinematics, seen.joints, chunk)
                told = joint_chunk_to_end_effector(
                    rollout.kinematics, seen.joints, joints[point : point + 1]
                )
                plan = plan_of(seen.proprioception, told[0])
                tokens = narrator.encode(
                    [
                        preprocess_image(world.render(camera), narrator.image_size)
                        for camera in narrator.config.cameras
                    ]
                )
                moments.append(
                    Moment(number, world.time, tokens, seen.proprioception, plan, task.instruction)
                )
            frames += 1
            return chunk

        rollout.run(task, act, max_seconds=LONGEST, tail_seconds=AHEAD + 0.1)
    world.close()
    # Of the very last it is not known what came of them.
    return [moment for moment in moments if _known(witness, moment.time)], witness


def _known(witness: Witness, time: float) -> bool:
    return witness.episode(time) is not None and witness.episode(time) == witness.episode(
        time + AHEAD
    )


def speak(narrator, moments, tokens) -> list[Fact | None]:
    """What is said of moments by pictures; None: nothing, as it does not hold of what was read."""
    facts = []
    for moment, shown in zip(moments, tokens, strict=True):
        scene = narrator.see(shown, moment.felt).scene
        said = narrator.narrate(scene, moment.plan, moment.instruction)
        facts.append(said.fact if said.sound else None)
    return facts


@pytest.mark.timeout(300)
def test_what_is_said_is_true_and_rests_on_what_is_seen(narrator, watched):
    moments, witness = watched
    assert len(moments) > 4 * EPISODES
    facts = speak(narrator, moments, [moment.tokens for moment in moments])
    told = [
        (fact, witness.judge(fact, moment.time))
        for fact, moment in zip(facts, moments, strict=True)
        if fact is not None
    ]
    assert len(told) >= 0.6 * len(moments)
    true = [fact for fact, verdict in told if verdict]
    assert len(true) >= 0.85 * len(told), [fact for fact, verdict in told if not verdict]
    assert len(set(true)) >= 5

    # Blind: the picture of another episode, while all else stays as it was.
    some = moments[::2]
    rng = random.Random(0)
    others = [
        rng.choice([one.tokens for one in moments if one.episode != moment.episode])
        for moment in some
    ]
    guessed = [
        fact is not None and bool(witness.judge(fact, moment.time))
        for fact, moment in zip(speak(narrator, some, others), some, strict=True)
    ]
    assert sum(guessed) / len(some) < 0.6 * len(true) / len(moments)
