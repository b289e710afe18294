"""Recordings and the simulator's demonstrations as training samples of SpatialVLA."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_spatial_vla as tiny
import torch
from episodes import episode, reader

from vla_ros.models.spatial_vla.layout import SpatialLayout
from vla_ros.models.spatial_vla.motions import Motions
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.simulation import collect, task_list
from vla_ros.training.spatial_vla.demonstrations import of_episode, of_simulation
from vla_ros.training.spatial_vla.samples import (
    Collate,
    SpatialSamples,
    fit_motions,
    new_processor,
    save_statistics,
)

ARM = replace(ActionConfig.get_arm_config(), horizon=4)
DELTA = ActionConfig(
    robot_type="arm",
    action_dim=7,
    action_bounds=[(-0.5, 0.5)] * 6 + [(0.0, 1.0)],
    joint_names=(),
    action_names=("x", "y", "z", "roll", "pitch", "yaw", "gripper_open"),
    binary_names=("gripper_open",),
    control_mode="end_effector_delta",
    horizon=4,
    dt=0.2,
)


def motions(action=DELTA):
    return Motions(action, SpatialLayout.of(action))


def recorded(number=0, length=9, action=DELTA, **changes):
    rng = np.random.default_rng(number)
    actions = rng.normal(0.0, 0.1, (length, action.action_dim))
    actions[:, -1] = rng.integers(0, 2, length) * action.action_bounds[-1][1]
    pictures = rng.integers(0, 256, (length, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
    values = {
        "action_names": action.action_names,
        "proprioception_names": action.proprioception_names,
        "proprioception": rng.normal(size=(length, len(action.proprioception_names))),
        "control_mode": action.control_mode,
        "dt": action.dt,
        "stamps": action.dt * np.arange(length),
        "actions": actions,
        "pictures": {"camera": reader(pictures), "wrist": reader(pictures[::-1])},
        "depths": {},
        "outcome": None,
    }
    return episode(number, length, **(values | changes))


def made(episodes, action=DELTA, cameras=("camera",), **options):
    shown = [of_episode(one, motions(action), cameras) for one in episodes]
    found = fit_motions(shown, SpatialLayout.of(action), min_sigma=0.05)
    processor = new_processor(found, "toy", tiny.SENTENCES, tiny.SIZE, tiny.SIZE // 2)
    return SpatialSamples(shown, processor, "toy", **options), processor


def test_a_sample_is_what_the_processor_makes_of_the_same_frame():
    samples, processor = made([recorded()])
    sample = samples[2]
    one = samples._demonstrations[0]
    wanted = processor(
        [one.images(2)[0]],
        [f"What action should the robot take to {one.instructions[2]}?"],
        suffix_actions=processor.normalize_actions(one.motions[2], "toy"),
    )
    for name in ("input_ids", "attention_mask", "token_type_ids", "labels"):
        torch.testing.assert_close(sample[name], wanted[name][0])
    torch.testing.assert_close(sample["pixel_values"], wanted["pixel_values"])


def test_labels_hold_the_motions_and_neither_the_prompt_nor_what_nobody_recorded():
    samples, processor = made([recorded(length=6)])
    first = processor.action_token_begin_idx
    for frame, known in ((0, 4), (4, 2), (5, 1)):
        labels = samples[frame]["labels"]
        said = labels[samples[frame]["token_type_ids"] == 1]
        assert (labels[samples[frame]["token_type_ids"] == 0] == -100).all()
        assert (said[: 3 * known] >= first).all() and (said[3 * known : 12] == -100).all()
        held = samples[frame]["input_ids"][-13 + 3 * known : -1].view(-1, 3)[:, :2] - first
        assert (held == torch.tensor(processor.action_tokenizer.hold)).all()


def test_offsets_from_the_tool_become_motions_and_sum_up_again():
    one = recorded(action=ARM, length=7)
    shown = of_episode(one, motions(ARM), ("camera",))
    tool = one.proprioception[:, :3].astype(float)
    target = tool + one.actions[:, :3]  # of each frame
    np.testing.assert_allclose(shown.motions[2, 0, :3], one.actions[2, :3], rtol=1e-6)
    np.testing.assert_allclose(shown.motions[2, 1, :3], target[3] - target[2], atol=1e-6)
    assert (shown.motions[..., 3:6] == 0).all()
    opening = shown.motions[2, :, 6]
    np.testing.assert_allclose(opening, one.actions[2:6, 3] / ARM.action_bounds[3][1])
    chunk = motions(ARM).to_chunks(0.05 * shown.motions[2])
    np.testing.assert_allclose(
        chunk[3, :3], np.clip(0.05 * (target[5] - tool[2]), -0.16, 0.16), atol=1e-6
    )


def test_an_unknown_action_hides_the_motions_from_and_to_it():
    known = np.ones(7, bool)
    known[3] = False
    shown = of_episode(recorded(action=ARM, length=7, actions_known=known), motions(ARM), ["wrist"])
    assert shown.known[1].tolist() == [True, True, False, False]
    shown = of_episode(recorded(length=7, actions_known=known), motions(), ["wrist"])
    assert shown.known[1].tolist() == [True, True, False, True]


def test_joints_are_no_motions():
    action = replace(DELTA, control_mode="joint_delta")
    with pytest.raises(ValueError, match="motions of the tool, not joint_delta: record or convert"):
        motions(action)


def test_a_fulfilled_instruction_has_the_end_alone_to_say():
    samples, processor = made([recorded(outcome=True)])
    sample = samples[8]
    assert sample["labels"][-1] == processor.tokenizer.eos_token_id
    assert (sample["labels"][:-1] == -100).all() and sample["token_type_ids"].sum() == 1


def test_every_camera_has_its_tokens_and_a_batch_trains():
    samples, processor = made([recorded(i) for i in range(3)], cameras=("camera", "wrist"))
    batch = Collate(processor)([samples[i] for i in (0, 9, 20, 8)])
    assert batch["pixel_values"].shape == (8, 3, tiny.SIZE, tiny.SIZE)
    image = batch["input_ids"] == processor.image_token_id
    assert (image.sum(1) == 2 * processor.image_seq_length).all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    model = tiny.model(processor, geometry_dim=0)
    model(**batch).loss.backward()
    with pytest.raises(ValueError, match="row 0 of input_ids has 8 image tokens, its images 4"):
        model(**batch | {"pixel_values": batch["pixel_values"][::2]})


def test_augmented_pictures_differ_and_torch_repeats_them():
    samples, _ = made([recorded()], augment=True)
    pictures = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        pictures.append(samples[0]["pixel_values"])
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    assert all(((one >= 0) & (one <= 1)).all() for one in pictures)


def test_statistics_are_of_what_is_trained_on_and_found_by_their_key(tmp_path):
    shown = [of_episode(recorded(i), motions(), ["camera"]) for i in range(4)]
    layout = SpatialLayout.of(DELTA)
    found = fit_motions(shown[:3], layout)
    known = np.concatenate([one.motions[one.known] for one in shown[:3]])
    assert found.statistics["num_transitions"] == len(known) == 3 * (6 * 4 + 6)
    np.testing.assert_allclose(found.statistics["action"]["mean"], known.mean(0))
    path = save_statistics(tmp_path, {"toy": found.statistics})
    assert json.loads(path.read_text())["toy"] == found.statistics
    processor = new_processor(found, "toy", tiny.SENTENCES, tiny.SIZE, tiny.SIZE // 2)
    with pytest.raises(ValueError, match="no statistics of actions 'other': there are toy"):
        SpatialSamples(shown, processor, "other")


def test_chunks_of_another_length_are_told():
    shown = [of_episode(recorded(), motions(replace(DELTA, horizon=2)), ["camera"])]
    found = fit_motions(shown, SpatialLayout.of(DELTA))
    processor = new_processor(found, "toy", tiny.SENTENCES, tiny.SIZE, tiny.SIZE // 2)
    with pytest.raises(ValueError, match="has chunks of 2 motions, the processor of 4"):
        SpatialSamples(shown, processor, "toy")


def test_a_camera_that_was_not_recorded_is_told():
    with pytest.raises(ValueError, match="has no camera 'top'; it has: camera, wrist"):
        of_episode(recorded(), motions(), ["top"])


def test_the_simulators_demonstrations_are_told_by_both_their_instructions(tmp_path):
    folder = collect(tmp_path / "00_000", task_list(["reach"], 1, 7), 0, ARM, tiny.SIZE)
    given, other = of_simulation(folder, motions(ARM), [0, 1])
    assert len(given) == len(other) and given.images(0).shape == (2, tiny.SIZE, tiny.SIZE, 3)
    assert len(set(given.instructions)) == 1 < len(set(other.instructions))
    assert not other.done.any()
    found = fit_motions([given, other], SpatialLayout.of(ARM))
    processor = new_processor(found, "arm", tiny.SENTENCES, tiny.SIZE, tiny.SIZE // 2)
    samples = SpatialSamples([given, other], processor)
    assert len(samples) == 2 * len(given)
    batch = Collate(processor)([samples[0], samples[len(given)]])
    assert batch["labels"].shape == batch["input_ids"].shape
