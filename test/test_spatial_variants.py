"""Tasks in which depth matters: what they change, that they can be done, how they are compared."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.conditions import SPATIAL, Condition, evaluation_stage, training_stage
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, Outcome
from vla_ros.training.rollout import Rollout

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def world():
    world = ArmWorld((64, 64))
    yield world
    world.close()


def laid_out(world, family, seed, *conditions):
    stage = evaluation_stage(family, seed, conditions, 2)
    world.reset(stage.task)
    return stage.task, world.object_positions()


def test_what_is_stacked_stands_on_the_other_and_stays(world):
    for seed in range(4):
        task, places = laid_out(world, "pick", seed, Condition.STACKED)
        meant, below = task.objects[:2]
        assert meant.height == pytest.approx(2 * below.half_extents[1])
        for _ in range(50):
            world.tick()
        settled = world.object_positions()
        np.testing.assert_allclose(settled[:2], places[:2], atol=0.004)
        assert settled[0, 2] == pytest.approx(meant.height + meant.half_extents[1], abs=0.003)


def test_a_push_is_of_what_stands_on_the_table(world):
    task, _ = laid_out(world, "push", 0, Condition.STACKED)
    assert [item.height > 0 for item in task.objects] == [False, False, True]


def test_what_is_occluded_is_seen_less(world):
    """Pixels in which the depth changes when the object that is meant is taken away."""
    fewer, count = 0, 6
    for seed in range(count):
        seen = []
        for conditions in ((), (Condition.OCCLUDED,)):
            task, _ = laid_out(world, "pick", seed, *conditions)
            there = world.render("camera", depth=True, size=(128, 128))
            gone = replace(task.objects[0], position=(2.0, -2.0))
            world.reset(replace(task, objects=(gone, *task.objects[1:])))
            without = world.render("camera", depth=True, size=(128, 128))
            seen.append(int((np.abs(there - without) > 0.002).sum()))
        fewer += seen[1] < 0.85 * seen[0]
    assert fewer >= count - 2, "where there is room, which there mostly is"


def test_heights_differ_and_the_camera_stands_elsewhere(world):
    usual, _ = laid_out(world, "reach", 0)
    task, _ = laid_out(world, "reach", 0, Condition.HEIGHTS)
    heights = [item.half_extents[1] for item in task.objects]
    assert max(heights) - min(heights) > 0.005
    task, _ = laid_out(world, "reach", 0, Condition.CAMERA_10CM)
    moved = np.subtract(task.appearance.camera_offset, usual.appearance.camera_offset)
    assert np.linalg.norm(moved) == pytest.approx(0.1)
    assert np.isfinite(world.project("camera", np.array([0.45, 0.0, 0.02]))).all()


@pytest.mark.parametrize("condition", SPATIAL)
def test_the_expert_does_them(world, condition):
    rollout = Rollout(world, image_size=64, cameras=())
    for family in FAMILIES:
        stage = evaluation_stage(family, 3, (condition,), 2)
        outcome = rollout.run(stage.task, lambda _: expert_chunk(world, 8, 0.05))
        assert outcome is Outcome.SUCCEEDED, (family, world.judge.reason)


def test_wrong_intrinsics_are_told_and_change_nothing_else(world):
    usual = evaluation_stage("reach", 0, (), 2)
    stage = evaluation_stage("reach", 0, (Condition.WRONG_INTRINSICS,), 2)
    assert stage == replace(usual, focal_scale=1.05)
    rollout = Rollout(world, image_size=64, needs=("depth", "intrinsics"))
    world.reset(stage.task)
    right = rollout.observe().frames[0]
    rollout.focal_scale = stage.focal_scale
    wrong = rollout.observe().frames[0]
    np.testing.assert_allclose(wrong.rays[..., :2] * 1.05, right.rays[..., :2], atol=1e-6)
    np.testing.assert_array_equal(wrong.depth, right.depth)


def test_training_has_them_only_when_asked():
    def tasks(**how):
        rng = np.random.default_rng(0)
        return [training_stage("pad", FIRST_TRAINING_SEED + i, rng, **how).task for i in range(40)]

    assert not any(item.height for task in tasks() for item in task.objects)
    stacked = sum(any(item.height for item in task.objects) for task in tasks(variants=True))
    assert 1 <= stacked <= 15


# -- the comparison --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hybrid():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("hybrid_vision", FOLDER / "hybrid_vision.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["hybrid_vision"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))


def played(rate, episodes=40):
    rng = np.random.default_rng(0)
    return {
        (0, variant, family, seed): bool(rng.random() < rate)
        for variant in ("usual", *map(str, SPATIAL))
        for family in FAMILIES
        for seed in range(episodes)
    }


def test_a_difference_has_an_interval_that_a_chance_does_not_leave(hybrid):
    spatial = [str(condition) for condition in SPATIAL]
    same = hybrid.difference(played(0.6), played(0.6), spatial)
    assert (same.points, same.low, same.high, same.tasks) == (0.0, 0.0, 0.0, 800)
    better = hybrid.difference(played(0.8), played(0.6), spatial)
    assert better.low > 0 and better.low < better.points < better.high < 35
    assert np.isnan(hybrid.difference({}, played(0.6), spatial).points)


def test_the_page_has_a_row_for_each_variant(hybrid):
    found = dict(zip(hybrid.COLUMNS, map(played, (0.6, 0.8, 0.75)), strict=True))
    told = {"command": "it", "total": 1, "frames": 2, "demonstrations": 3, "rounds": 1, "seeds": 1}
    text = hybrid.section(found, told)
    for name in ("usual", *SPATIAL, "the four together"):
        assert f"| {name} |" in text
    assert "-0.0" not in text and "nan" not in text


def test_a_run_with_other_settings_is_not_continued(hybrid, tmp_path):
    options = ["--out", str(tmp_path), "--episodes", "0"]
    with pytest.raises(SystemExit, match="--episodes is 0"):
        hybrid.main(options)
    (tmp_path / "settings.json").write_text('{"steps": 7}')
    with pytest.raises(SystemExit, match="holds a run whose demonstrations is None, not 1500"):
        hybrid.main(["--out", str(tmp_path)])
