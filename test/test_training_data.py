"""Batches: of the simulator's shards and of recorded episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from episodes import episode, reader
from recordings import robot as recorded
from recordings import text as told
from recordings import write_bag

from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import SENTENCES, Doing, describe
from vla_ros.scene_language.instructions import COLORS, FAMILIES
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, sample_task
from vla_ros.training.data.alignment import Stream
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.episode_windows import EpisodeWindows, action_chunks
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.rlds_to_bag import write_bags
from vla_ros.training.data.shards import write_shards
from vla_ros.training.data.simulation import Shard, collect, task_list
from vla_ros.training.data.windows import Windows, mishear
from vla_ros.training.recorded_data import split

pytestmark = pytest.mark.timeout(240)
ACTION = ActionConfig.get_arm_config()
IMAGE_SIZE = 64
TOY = ActionConfig(
    robot_type="arm",
    action_dim=3,
    action_bounds=(-5.0, 5.0),
    joint_names=(),
    action_names=("x", "y", "grip"),
    proprioception_names=("a", "b"),
    control_mode="end_effector_delta",
    horizon=3,
    dt=0.1,
)


# -- the simulator's -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Shard:
    folder = tmp_path_factory.mktemp("data") / "shard"
    tasks = task_list(("reach", "push"), 3, FIRST_TRAINING_SEED)
    return Shard.load(collect(folder, tasks, 0, ACTION, IMAGE_SIZE))


def test_a_shard_holds_whole_episodes_with_labels(shard):
    frames = int(shard.lengths.sum())
    assert len(shard.lengths) == 3 and (shard.succeeded == 1).all()
    assert shard.images.shape == (frames, 2, 64, 64, 3) and shard.images.dtype == np.uint8
    assert shard.actions.shape == (frames, ACTION.horizon, 4)
    assert np.isfinite(shard.actions).all() and np.isfinite(shard.locate).all()
    assert (np.abs(shard.actions[:, 0, :3]) <= 0.0301).all(), "labels are the expert's own bounds"
    seen = np.isfinite(shard.pixels).all(-1)
    assert seen[:, 0, 0].mean() > 0.9, "the front camera sees the object nearly always"
    assert (np.abs(shard.pixels[seen]) <= 1.0).all()
    ends = np.cumsum(shard.lengths)
    for end, length in zip(ends, shard.lengths, strict=True):
        done = shard.done[end - length : end]
        assert done[0] == 0 and done[-1] == 1 and (np.diff(done.astype(int)) >= 0).all()


def test_frames_are_labelled_for_another_instruction_too(shard):
    differs = shard.instruction != shard.other_instruction
    assert differs.mean() > 0.9
    away = np.abs(shard.locate[:, :3] - shard.other_locate[:, :3]).max(axis=1) > 0.3
    assert away.mean() > 0.4, "two in three are about another object"
    moves = np.abs(shard.actions[:, 0] - shard.other_actions[:, 0]).max(axis=1)
    assert (moves[away] > 0.005).mean() > 0.8


def test_frames_say_what_the_expert_does_for_either_instruction(shard):
    for kind in ("", "other_"):
        places = getattr(shard, f"{kind}description")
        assert places.dtype == np.uint16
        for place, text in zip(places, getattr(shard, f"{kind}instruction"), strict=True):
            asked = set(str(text, "ascii").split()) & set(COLORS)
            assert asked == set(SENTENCES[place].split()) & set(COLORS)
    task = sample_task(*task_list(("reach", "push"), 3, FIRST_TRAINING_SEED)[0])
    said = shard.description[: shard.lengths[0]]
    assert SENTENCES[said[0]] == describe(Doing.MOVING, task.goal)
    done = shard.done[: shard.lengths[0]].astype(bool)
    assert {SENTENCES[i] for i in said[done]} == {describe(Doing.FULFILLED, task.goal)}


def test_equal_seeds_give_equal_data(shard, tmp_path):
    tasks = task_list(("reach", "push"), 3, FIRST_TRAINING_SEED)
    again = Shard.load(collect(tmp_path / "again", tasks, 0, ACTION, IMAGE_SIZE))
    for name, value in vars(shard).items():
        assert np.array_equal(value, getattr(again, name), equal_nan=name.endswith("pixels")), name


def test_task_lists_use_every_seed_once():
    tasks = task_list(FAMILIES, 12, 100)
    assert [seed for _, seed in tasks] == list(range(100, 112))
    assert [family for family, _ in tasks[:5]] == list(FAMILIES)


def test_some_instructions_come_with_words_never_taught():
    text = "push the small red block away from you"
    rng = np.random.default_rng(0)
    heard = [mishear(text, rng) for _ in range(400)]
    assert 0.6 < heard.count(text) / 400 < 0.8
    for other in set(heard) - {text}:
        assert {"red", "away", "from", "you"} < set(other.split())
        assert 1 <= other.split().count("unk") <= 2 and len(other.split()) <= 10
    assert not all("push" in other for other in heard), "a verb can be unknown"


def test_batches_depend_on_seed_and_step_only(shard, tmp_path):
    tasks = task_list(("reach",), 1, FIRST_TRAINING_SEED + 9)
    data = Windows([collect(tmp_path / "00_000", tasks, 0, ACTION, IMAGE_SIZE)])
    first, again, other = data.batch(0, 3, 64), data.batch(0, 3, 64), data.batch(0, 4, 64)
    assert first.pop("instruction") == again.pop("instruction")
    for name, value in first.items():
        assert value.nan_to_num(9).equal(again[name].nan_to_num(9)), name
    assert not first["proprioception"].flatten()[:8].equal(other["proprioception"].flatten()[:8])
    for step in range(20):
        batch = data.batch(0, step, 64)
        count, length = batch["mask"].shape
        assert 64 - length < count * length <= 64
        assert batch["mask"][:, 0].eq(1).all(), "every window has at least one real frame"
        assert batch["images"].shape == (count, length, 2, 3, 64, 64)
        assert batch["description"].shape == (count, length)
        assert batch["description"].dtype == torch.int64
        assert 0 <= batch["images"].min() and batch["images"].max() <= 1


# -- recorded --------------------------------------------------------------------------------------


def test_chunks_are_the_actions_that_followed_and_end_with_the_episode():
    recorded = episode(length=4)
    chunks, known = action_chunks(recorded, TOY)
    assert chunks.shape == (4, 3, 3) and known.sum() == 3 + 3 + 2 + 1
    for frame, place in np.argwhere(known):
        np.testing.assert_array_equal(chunks[frame, place], recorded.actions[frame + place])


def test_offsets_of_a_chunk_are_from_where_the_tool_was_when_it_began():
    tool = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.1, 0.2, 0]], np.float32)
    targets = np.array([[0.1, 0, 0], [0.1, 0.3, 0], [0.4, 0.3, 0.5]], np.float32)
    fingers = np.array([[0.04], [0.0], [0.04]], np.float32)
    recorded = episode(
        length=3,
        control_mode=ACTION.control_mode,
        dt=ACTION.dt,
        action_names=ACTION.action_names,
        proprioception_names=ACTION.proprioception_names,
        proprioception=np.concatenate([tool, fingers], axis=1),
        actions=np.concatenate([targets - tool, fingers], axis=1),
    )
    chunks, known = action_chunks(recorded, ACTION)
    for frame, place in np.argwhere(known):
        offset = targets[frame + place] - tool[frame]
        np.testing.assert_allclose(chunks[frame, place, :3], offset, atol=1e-7)
        assert chunks[frame, place, 3] == fingers[frame + place]
    unfelt = replace(recorded, proprioception_names=(), proprioception=np.zeros((3, 0)))
    with pytest.raises(ValueError, match="end_effector_offset needs .* tool_x"):
        action_chunks(unfelt, ACTION)


def windows(lengths=(5, 9, 30)) -> EpisodeWindows:
    """Each frame's pixels hold the number of its episode and frame."""
    episodes = []
    for number, length in enumerate(lengths):
        pictures = np.zeros((length, 8, 8, 3), np.uint8)
        pictures[..., 0], pictures[..., 1] = 10 * number, np.arange(length)[:, None, None]
        changes = {"pictures": {"front": reader(pictures)}, "depths": {}, "instruction": "go"}
        episodes.append(episode(number, length, **changes))
    return EpisodeWindows(episodes, TOY, ["front"], {"go": [3, 4]}, np.ones(2))


def test_batches_of_episodes_depend_on_seed_step_and_rank_only():
    data = windows()
    first, again = data.batch(0, 3, 64), windows().batch(0, 3, 64)
    assert all(value.equal(again[name]) for name, value in first.items())
    other = data.batch(0, 3, 64, rank=1)
    assert other["mask"].shape == first["mask"].shape, "no process waits for longer windows"
    assert not other["proprioception"].equal(first["proprioception"])
    lengths = set()
    for step in range(30):
        batch = data.batch(0, step, 64)
        count, length = batch["mask"].shape
        lengths.add(length)
        assert batch["images"].shape == (count, length, 1, 3, 8, 8)
        assert batch["actions"].shape == (count, length, 3, 3)
        assert batch["instruction"].tolist() == [[3, 4]] * count
        assert batch["mask"][:, 0].eq(1).all(), "every window has at least one real frame"
    assert lengths == {1, 2, 8, 24}, "64 would be padding only"


def test_whole_episodes_come_as_they_were_recorded():
    for number, batch in enumerate(windows().whole(20)):
        length = min((5, 9, 30)[number], 20)
        assert batch["images"].dtype == torch.uint8 and batch["mask"].eq(1).all()
        assert batch["images"][0, :, 0, 0, 0, 0].eq(10 * number).all()
        assert batch["images"][0, :, 0, 1, 0, 0].tolist() == list(range(length))
        told = {0: None, 1: True, 2: False}[number]
        assert batch["done_known"].eq(told is not None).all()
        assert batch["done"][0].sum() == (round(0.25 / 0.1) if told else 0)
        assert batch["known"][0, -1].tolist() == ([1, 1, 1] if number == 2 else [1, 0, 0])


def test_some_of_each_few_episodes_are_held_out():
    episodes = [episode(number, 1) for number in range(50)]
    trained, held = split(episodes, 0.2)
    assert len(held) == 10 and len(trained) == 40
    for begin in range(0, 50, 5):
        assert sum(one in held for one in episodes[begin : begin + 5]) == 1
    assert split(episodes, 0.2)[1] == held


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_of_a_few_episodes_one_is_held_out_and_of_fewer_none(share):
    for count in range(1, 12):
        episodes = [episode(number, 1) for number in range(count)]
        trained, held = split(episodes, share)
        assert len(trained) + len(held) == count and trained
        assert bool(held) == (count >= 4)


def test_one_robots_recordings_are_read_from_whatever_they_are_in(tmp_path):
    originals = [episode(number, 3) for number in range(2)]
    robot = Robot(TOY, ["front"])
    write_bags(tmp_path / "bags", iter(originals))
    write_shards(tmp_path / "shards", originals, ["front"], 6)
    rlds = write_rlds(tmp_path, "toys", originals)
    for path in (tmp_path / "bags", tmp_path / "shards", rlds):
        found = list(robot.episodes([path]))
        assert [one.instruction for one in found] == [one.instruction for one in originals]
        for one, original in zip(found, originals, strict=True):
            np.testing.assert_array_equal(one.actions, original.actions)
    assert len(list(robot.episodes([rlds, tmp_path / "bags"]))) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dt": 0.2}, "its dt is 0.1, the robot's is 0.2"),
        ({"control_mode": "joint_position"}, "control mode is end_effector_delta"),
        ({"action_names": ("x", "z", "grip")}, "actions are x, y, grip"),
    ],
)
def test_recordings_of_another_robot_are_refused(change, said, tmp_path):
    write_shards(tmp_path / "shards", [episode(0, 3)], ["front"], 6)
    with pytest.raises(ValueError, match=said):
        next(Robot(replace(TOY, **change)).episodes([tmp_path / "shards"]))


def test_a_robot_is_a_preset_or_a_file(tmp_path):
    assert Robot.load("arm").action == ACTION
    file = tmp_path / "robot.yaml"
    file.write_text(
        "action: {robot_type: arm, action_names: [x], action_bounds: [[-1, 1]]}\n"
        "bag: {state: arm/state, cameras: {front: {topic: eye, align: as_of, tolerance: 0.05}}}\n"
    )
    robot = Robot.load(str(file))
    assert robot.action.action_dim == 1 and robot.bag["cameras"]["front"].tolerance == 0.05
    assert robot.bag["state"].topic == "arm/state"


def test_a_recording_without_an_episode_is_left_out_and_said_unless_all_are_so(tmp_path, capsys):
    joints = ("a", "b")
    contract = replace(
        TOY,
        action_dim=2,
        action_names=joints,
        action_bounds=(-9.0, 9.0),
        proprioception_names=joints,
        control_mode="joint_position",
    )
    topics = {"cameras": {"front": Stream("/camera")}, "command": Stream("/command")}
    robot = Robot(contract, bag=topics)
    idle = [told("/instruction", 99.0, "")]  # nobody says what to do
    write_bag(tmp_path / "bags" / "idle", [*recorded(), *idle])
    with pytest.raises(ValueError, match=r"idle holds no episode: 6 frames .* without an instruct"):
        list(robot.episodes([tmp_path / "bags"]))
    write_bag(tmp_path / "bags" / "used", recorded())
    assert len(list(robot.episodes([tmp_path / "bags"]))) == 1
    assert "without an instruction: left out" in capsys.readouterr().err
