"""Shards hold what the episodes held, scaled; statistics are exact and know what they are of."""

import numpy as np
import pytest

from vla_ros.observations import preprocess_image
from vla_ros.training.data import statistics as module
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards
from vla_ros.training.data.statistics import StatisticsBuilder, statistics

SIZE = 8


def episode(number: int, length: int, **changes) -> Episode:
    rng = np.random.default_rng(number)
    pictures = rng.integers(0, 256, (2, length, 12, 16, 3), dtype=np.uint8)
    values = {
        "name": f"episode {number}",
        "robot": "arm",
        "control_mode": "joint_position",
        "instruction": f"lift {number}",
        "dt": 0.1,
        "action_names": ["x", "grip"],
        "proprioception_names": ["x"],
        "stamps": 5.0 + 0.1 * np.arange(length),
        "proprioception": rng.normal(2.0, 3.0, (length, 1)),
        "actions": rng.normal(-1.0, 0.5, (length, 2)),
        "pictures": {
            "front": lambda first, last: iter(pictures[0, first:last]),
            "wrist": lambda first, last: iter(pictures[1, first:last]),
        },
        "outcome": (True, False, None)[number % 3],
        "notes": ("a note",),
    }
    return Episode(**{**values, **changes})


def test_shards_give_the_episodes_back(tmp_path):
    originals = [episode(i, length) for i, length in enumerate((5, 9, 2, 7))]
    write_shards(tmp_path / "shards", iter(originals), ["wrist", "front"], SIZE, frames=10)
    shards = [EpisodeShard.load(folder) for folder in shard_folders(tmp_path / "shards")]
    assert [shard.images.shape for shard in shards] == [(14, 2, 8, 8, 3), (9, 2, 8, 8, 3)]
    assert all(isinstance(shard.images, np.memmap) for shard in shards)
    copies = [copy for shard in shards for copy in shard.episodes()]
    for original, copy in zip(originals, copies, strict=True):
        assert (copy.instruction, copy.outcome) == (original.instruction, original.outcome)
        assert (copy.name, copy.notes, copy.dt) == (original.name, original.notes, original.dt)
        np.testing.assert_array_equal(copy.actions, original.actions)
        np.testing.assert_array_equal(copy.proprioception, original.proprioception)
        np.testing.assert_array_equal(copy.stamps, original.stamps)
        for camera in ("front", "wrist"):
            pairs = zip(copy.frames(camera), original.frames(camera), strict=True)
            for small, picture in pairs:
                np.testing.assert_array_equal(small, preprocess_image(picture, SIZE))


def test_shards_appear_whole_or_not_at_all(tmp_path):
    bad = episode(1, 4, pictures={"front": lambda first, last: iter(())})
    with pytest.raises(ValueError, match="front ended after 0 of 4"):
        write_shards(tmp_path / "shards", [episode(0, 3), bad], ["front"], SIZE)
    with pytest.raises(ValueError, match="no camera 'side'"):
        write_shards(tmp_path / "shards", [episode(0, 3)], ["side"], SIZE)
    with pytest.raises(ValueError, match="no frames"):
        write_shards(tmp_path / "shards", [], ["front"], SIZE)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no shards"):
        shard_folders(tmp_path)


def test_pictures_that_are_too_small_are_named(tmp_path):
    with pytest.raises(ValueError, match="episode 0: front: image of 16x12 is smaller"):
        write_shards(tmp_path / "shards", [episode(0, 3)], ("front",), 13)
    assert not list(tmp_path.iterdir())


def test_statistics_are_those_of_all_frames():
    episodes = [episode(i, 3 + 7 * i) for i in range(6)]
    builder = StatisticsBuilder()
    for one in episodes:
        builder.add(one)
    found = builder.result()
    actions = np.concatenate([one.actions for one in episodes]).astype(np.float64)
    assert (found.episodes, found.frames) == (6, len(actions))
    assert found.actions.names == ["x", "grip"]
    np.testing.assert_allclose(found.actions.mean, actions.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.actions.std, actions.std(0), rtol=1e-12)
    np.testing.assert_allclose(found.actions.q01, np.quantile(actions, 0.01, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.actions.q99, np.quantile(actions, 0.99, axis=0), rtol=1e-6)


def test_the_sample_of_many_frames_is_fair(monkeypatch):
    """Early and late frames are kept alike, and twice the same way."""
    monkeypatch.setattr(module, "RESERVOIR", 2000)
    found = []
    for _ in range(2):
        builder = StatisticsBuilder()
        for block in np.split(np.arange(60_000.0), 40):
            builder.add(episode(0, 1500, actions=np.stack([block, -block], axis=1)))
        found.append(builder.result())
    assert found[0] == found[1]
    assert found[0].actions.q99[0] == pytest.approx(0.99 * 60_000, abs=600)
    assert found[0].actions.q01[0] == pytest.approx(0.01 * 60_000, abs=600)


def test_stored_statistics_serve_the_same_episodes_only(tmp_path):
    store = tmp_path / "statistics.json"
    episodes = [episode(i, 10) for i in range(3)]
    first = statistics(episodes, store)
    store.write_text(store.read_text().replace('"frames": 30', '"frames": 31'))
    assert statistics(episodes, store).frames == 31  # it is the stored one
    other = statistics([episodes[0], episodes[2]], store)
    assert other.fingerprint != first.fingerprint and other.frames == 20
    assert statistics(episodes, store) == first
    store.write_text("{}")
    with pytest.raises(ValueError, match="holds no statistics"):
        statistics(episodes, store)


@pytest.mark.parametrize("change", [{"control_mode": "twist"}, {"action_names": ["y", "grip"]}])
def test_numbers_of_another_meaning_are_refused(change):
    builder = StatisticsBuilder()
    builder.add(episode(0, 4))
    with pytest.raises(ValueError, match="differ in control mode, dt or names"):
        builder.add(episode(1, 4, **change))
