"""The offline control loop: the same gate, kinematics and controller as live, in simulated time."""

import numpy as np
import pytest

from vla_ros.robots import panda
from vla_ros.safety.gate import CommandGate
from vla_ros.sim.arm import TICK, ArmWorld
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.tasks import Outcome, sample_task
from vla_ros.training.rollout import FRAME_TICKS, Rollout
from vla_ros.training.scenarios import MAX_LATENCY


@pytest.fixture(scope="module")
def world():
    world = ArmWorld((64, 64))
    yield world
    world.close()


@pytest.mark.parametrize("latency_ticks", [0, 2, 4, 12, MAX_LATENCY])
def test_the_expert_succeeds_with_latency(world, latency_ticks):
    rollout = Rollout(world, image_size=64, latency_ticks=latency_ticks)
    seen = []

    def act(observation):
        seen.append(observation)
        return expert_chunk(world, 8, 0.05)

    assert rollout.run(sample_task("pick", 1), act) is Outcome.SUCCEEDED
    seconds = world.time - world.judge.began
    assert len(seen) == pytest.approx(seconds / (FRAME_TICKS * TICK), abs=1)
    first = seen[0]
    assert [image.shape for image in first.images] == [(64, 64, 3)] * 2
    assert first.proprioception.shape == (4,) and first.joints.shape == (8,)


def test_the_gripper_keeps_what_it_holds_while_the_gate_holds_the_arm(world, monkeypatch):
    """From half a second after it grips, for a second, no chunk comes: a hold, silence, a start."""
    accept, command, fingers = CommandGate.accept, CommandGate.command, []
    gripped = []

    def accept_or_not(gate, chunk, now):
        width = gate.measured[7]
        if gate.last is not None and gate.last[7] < 0.005 and 0.01 < width < 0.036:
            gripped.append(now)
        if gripped and 0.5 < now - gripped[0] < 1.5:
            return "lost"
        return accept(gate, chunk, now)

    def watch(gate, now):
        sent = command(gate, now)
        if sent is not None and sent.hold:
            fingers.append(sent.positions[7])
        return sent

    monkeypatch.setattr(CommandGate, "accept", accept_or_not)
    monkeypatch.setattr(CommandGate, "command", watch)
    rollout = Rollout(world, image_size=64)
    outcome = rollout.run(sample_task("bowl", 500), lambda _: expert_chunk(world, 8, 0.05))
    assert outcome is Outcome.SUCCEEDED and gripped
    assert len(fingers) > 10 and max(fingers) < 0.005


@pytest.mark.parametrize("latency_ticks", [-1, MAX_LATENCY + 1])
def test_a_latency_with_which_the_gate_takes_no_chunk_is_refused(world, latency_ticks):
    rollout = Rollout(world, image_size=64)
    rollout.latency_ticks = latency_ticks
    with pytest.raises(ValueError, match=f"{latency_ticks} ticks: give 0 to {MAX_LATENCY}"):
        rollout.run(sample_task("reach", 1), lambda _: np.zeros((8, 4)))


def test_a_chunk_of_nan_never_moves_the_arm(world):
    rollout = Rollout(world, image_size=64)
    start = []

    def act(observation):
        start.append(observation.joints)
        return np.full((8, 4), np.nan)

    with np.errstate(invalid="ignore"):
        rollout.run(sample_task("reach", 1), act, max_seconds=0.5)
    assert len(start) == 10
    np.testing.assert_allclose(world.joint_positions(), start[0], atol=2e-3)


def test_an_actor_that_stops_making_sense_leaves_the_arm_holding(world):
    rollout = Rollout(world, image_size=64)
    frames = 0

    def act(_):
        nonlocal frames
        frames += 1
        chunk = expert_chunk(world, 8, 0.05)
        return chunk if frames <= 6 else np.full_like(chunk, np.inf)

    with np.errstate(invalid="ignore"):
        rollout.run(sample_task("reach", 2), act, max_seconds=0.9)
        before = world.joint_positions()
        for _ in range(50):
            world.tick()
    np.testing.assert_allclose(world.joint_positions(), before, atol=2e-2)
    assert (world.joint_positions() >= panda.LOWER - 1e-3).all()


def test_limits_of_time_and_the_tail_are_kept(world):
    rollout = Rollout(world, image_size=64)

    def act(_):
        return expert_chunk(world, 8, 0.05)

    task = sample_task("reach", 3)
    rollout.run(task, act, max_seconds=0.3)
    assert world.time - world.judge.began == pytest.approx(0.3, abs=TICK)
    rollout.run(task, act)
    decided = world.time - world.judge.began
    rollout.run(task, act, tail_seconds=0.4)
    assert world.time - world.judge.began == pytest.approx(decided + 0.4, abs=2 * TICK)
