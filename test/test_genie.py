"""The world model as nodes and players use it: sessions, surprise, errors, checkpoints."""

import numpy as np
import pytest
import torch
from rounding import assert_same_codes, quantized_by
from tiny_world import tiny_config, untrained
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vla_ros.models.genie.config import WorldModelConfig
from vla_ros.models.genie.dynamics import DynamicsConfig
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.genie.robot_actions import RobotActionConfig
from vla_ros.models.genie.surprise import rarity, unexpected

ROBOT = RobotActionConfig(
    action_names=("x", "y", "z", "finger_opening"),
    control_mode="end_effector_offset",
    proprioception_names=("tool_x", "tool_y", "tool_z", "finger_opening"),
    points=2,
    dt=0.1,
)
TINY = tiny_config(ROBOT, longest=6)


@pytest.fixture
def world():
    return untrained(TINY)


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def watched(world, count=5, seed=0):
    dream = world.start(seed)
    for frame in frames(count):
        dream.observe(frame)
    return dream


def test_a_session_sees_what_whole_sequences_give(world):
    dream = world.start()
    seen = frames(7)
    observed = [dream.observe(frame) for frame in seen]
    pixels = torch.from_numpy(seen).permute(0, 3, 1, 2).float()[None] / 255
    quantizer = world.latent_actions.quantizer
    with quantized_by(quantizer) as given:
        _, codes, _ = world.latent_actions(pixels)
    assert observed[0].surprise is None and observed[0].latent_action is None
    found = torch.tensor([one.latent_action for one in observed[1:]])
    assert_same_codes(found, codes[0], quantizer, given[0][0])
    assert observed[0].unexpected is None
    assert all(one.surprise >= 0 for one in observed[1:])


def test_imagining_leaves_the_memory_alone_and_can_be_repeated(world):
    dream = watched(world)
    first = list(dream.imagine(latent_actions=[1, 2, 3]))
    again = list(dream.imagine(latent_actions=[1, 2, 3]))
    assert [one.latent_action for one in first] == [1, 2, 3]
    for one, other in zip(first, again, strict=True):
        assert one.frame.shape == (16, 16, 3) and one.frame.dtype == np.uint8
        np.testing.assert_array_equal(one.frame, other.frame)
    last = frames(6)[-1]
    assert dream.observe(last) == _after_six(world)
    other = list(watched(world, seed=1).imagine(latent_actions=[1, 2, 3], temperature=5.0))
    assert any((a.frame != b.frame).any() for a, b in zip(first, other, strict=True))


def _after_six(world):
    return watched(world).observe(frames(6)[-1])


def test_actions_decide_what_is_imagined(world):
    dream = watched(world)
    seen = {
        code: next(dream.imagine(latent_actions=[code], temperature=0.0)).frame.tobytes()
        for code in range(8)
    }
    assert len(set(seen.values())) > 1
    assert len(list(dream.imagine(4))) == 4  # those that the model thinks likely


@torch.inference_mode()
def test_surprise_is_of_what_was_expected_given_the_action_or_over_all(world):
    dream, frame = watched(world), frames(6)[-1]
    memory, prior = dream._memory, dream._memory.prior.softmax(-1)
    hidden = torch.full((1, 16), world.dynamics.hidden)
    each = [
        world.dynamics.step(hidden, torch.tensor([code]), memory.dynamics)[0][0].softmax(-1)
        for code in range(8)
    ]
    tokens, _ = world.tokenizer.encode_step(dream._pixels(frame), memory.encoder)
    moved = np.abs(frame / 255 - frames(6)[-2] / 255).reshape(4, 4, 4, 4, 3).max((1, 3, 4))

    def wanted(expected):
        moving = torch.tensor(moved, dtype=torch.float32)
        return unexpected(expected, tokens[0, 0], memory.tokens, moving)

    given = [watched(world).observe(frame, latent_action=code) for code in range(8)]
    for one, expected in zip(given, each, strict=True):
        np.testing.assert_allclose(one.unexpected, wanted(expected), rtol=1e-4)
        assert one.surprise == rarity(one.unexpected, TINY.calibration)
    assert len({one.unexpected for one in given}) == 8
    likely = prior * (prior > 0.05)  # the others do not count
    whole = sum(p * expected for p, expected in zip(likely / likely.sum(), each, strict=True))
    np.testing.assert_allclose(dream.observe(frame).unexpected, wanted(whole), rtol=1e-4)


def test_robot_actions_become_latent_ones(world):
    dream, felt = watched(world), np.zeros(4)
    plan = np.linspace(0, 1, 24).reshape(6, 4)  # three steps of two points
    codes = [one.latent_action for one in dream.imagine(actions=plan, proprioception=felt)]
    assert len(codes) == 3
    first = world.robot(torch.tensor(plan[None, :2]).float(), torch.zeros(1, 4))
    assert codes[0] == int(first.argmax())
    further = list(dream.imagine(5, actions=plan, proprioception=felt))  # two as the model thinks
    assert len(further) == 5 and [one.latent_action for one in further][:3] == codes
    with pytest.raises(ValueError, match="there are 3 actions"):
        dream.imagine(2, actions=plan, proprioception=felt)
    # Later steps are told from where the tool will be by then.
    chances = world.robot.rollout(torch.tensor(plan).float(), torch.zeros(4))
    moved = plan[2:4].copy()
    moved[:, :3] -= plan[1, :3]
    then = torch.tensor(plan[1]).float()
    direct = world.robot(torch.tensor(moved[None]).float(), then[None]).softmax(-1)
    torch.testing.assert_close(chances[1], direct[0])
    told = dream.observe(frames(1)[0], actions=plan[:2], proprioception=felt)
    assert told.unexpected != watched(world).observe(frames(1)[0]).unexpected


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda d: d.observe(np.zeros((15, 16, 3), np.uint8)), r"\[15, 16, 3\]"),
        (lambda d: d.observe(np.zeros((16, 16, 3))), "float64"),
        (lambda d: d.observe([1, 2]), "list"),
        (lambda d: d.observe(frames(1)[0], latent_action=8), "latent action 8 is unknown"),
        (lambda d: d.imagine(latent_actions=[0, -1]), "latent action -1 is unknown"),
        (lambda d: d.imagine(0), "horizon is 0 frames: give 1 to 6"),
        (lambda d: d.imagine(7), "horizon is 7 frames: give 1 to 6"),
        (lambda d: d.imagine(2, latent_actions=[1]), "there are 1 actions"),
        (lambda d: d.imagine(), "give a horizon"),
        (
            lambda d: d.imagine(latent_actions=[1], actions=np.zeros((2, 4))),
            "not both",
        ),
        (
            lambda d: d.imagine(actions=np.zeros((3, 4)), proprioception=np.zeros(4)),
            "multiple of 2",
        ),
        (
            lambda d: d.imagine(actions=np.zeros((2, 3)), proprioception=np.zeros(4)),
            "finger_opening",
        ),
        (lambda d: d.imagine(actions=np.zeros((2, 4))), "tool_x"),
        (
            lambda d: d.imagine(actions=np.full((2, 4), np.nan), proprioception=np.zeros(4)),
            "NaN",
        ),
    ],
)
def test_what_cannot_be_done_is_said_at_once(world, wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong(watched(world))


def test_nothing_is_imagined_before_something_is_seen(world):
    with pytest.raises(ValueError, match="observe a frame"):
        world.start().imagine(1)


def test_a_world_model_without_robot_says_so():
    world = WorldModel.from_size("nano")
    dream = world.eval().start()
    with pytest.raises(ValueError, match="without robot actions"):
        dream.imagine(actions=np.zeros((4, 4)))


def test_a_checkpoint_brings_the_same_imagination(world, tmp_path):
    world.save_pretrained(tmp_path)
    loaded = WorldModel.from_pretrained(tmp_path)
    assert loaded.config == TINY
    for one, other in zip(
        watched(world).imagine(latent_actions=[3, 4]),
        watched(loaded).imagine(latent_actions=[3, 4]),
        strict=True,
    ):
        np.testing.assert_array_equal(one.frame, other.frame)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="missing settings"):
        WorldModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        WorldModel.from_pretrained(tmp_path)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="vocabulary 1000 and 900"):
        WorldModelConfig(dynamics=DynamicsConfig(vocabulary=900))
    with pytest.raises(ValueError, match="no size 'huge'"):
        WorldModel.from_size("huge")


def test_the_sizes_are_what_they_say():
    with torch.device("meta"):
        counts = {
            size: sum(p.numel() for p in WorldModel.from_size(size).parameters()) / 1e6
            for size in ("nano", "small", "paper")
        }
    assert 4 * counts["nano"] < 25  # MB in single precision
    assert 20 < counts["small"] < 80 and counts["paper"] > 1000


class Work(TorchDispatchMode):
    """Counts the numbers that operations are given and give: what they cost, on any machine."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = tree_leaves((args, kwargs, out))
        self.count += sum(x.numel() for x in found if isinstance(x, torch.Tensor))
        return out


def test_a_late_frame_costs_what_an_early_one_does():
    world = WorldModel.from_size("nano").eval()
    dream = world.start()
    for frame in np.zeros((6, 64, 64, 3), np.uint8):
        dream.observe(frame)
    costs, imagined = [], dream.imagine(latent_actions=[0] * 16, steps=2)
    for _ in range(16):
        with Work() as work:
            next(imagined)
        costs.append(work.count)
    assert costs[15] == costs[1] > 1e6
