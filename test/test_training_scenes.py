"""`vla train scenes`: what a run leaves to be looked at, also one that was interrupted."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.scene_language.sentences import parse
from vla_ros.training.recipes import ScenesRecipe as Recipe
from vla_ros.training.scenes import train, watch

TINY = Recipe(
    epochs=2, layout_epochs=1, num_samples=4, batch_size=2, d_model=32, hidden_dim=16, z_dim=32,
    save_every=1, warmup=1, loaders=0, precision="fp32",
)  # fmt: skip
LEFT = ("scenes_epoch_1.png", "scenes_epoch_2.png", "training_curves.png", "sample_generations.png")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(train, "_HELD_OUT_BATCHES", 1)
    monkeypatch.setattr(watch, "FIXED", watch.FIXED[:2])
    monkeypatch.setattr(watch, "_SAMPLES", 2)


def test_a_run_that_is_interrupted_and_goes_on_leaves_all_pictures(tmp_path, monkeypatch):
    wrote = watch.write_scenes

    def interrupted(model, texts, path, seed=0):
        if path.name == "scenes_epoch_2.png":
            raise KeyboardInterrupt
        wrote(model, texts, path, seed)

    monkeypatch.setattr(watch, "write_scenes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(TINY, tmp_path)
    assert (tmp_path / LEFT[0]).is_file() and not (tmp_path / LEFT[1]).exists()
    monkeypatch.setattr(watch, "write_scenes", wrote)
    folder = train.train(TINY, tmp_path)
    for name in LEFT:
        assert np.asarray(Image.open(tmp_path / name)).std() > 0
    told = (tmp_path / "training_summary.txt").read_text()
    for words in ("4 steps of 2 texts", "d_model 32", "held out", "exact", "wrong ones"):
        assert words in told
    assert not list(tmp_path.glob(".*"))  # no half of a file
    model = CycleScenes.from_pretrained(folder)
    usual = CycleScenes(train.model_config(TINY)).calibration
    assert not torch.equal(model.calibration, usual) and model.calibration.isfinite().all()


def test_epochs_end_where_their_texts_do():
    odd = Recipe(epochs=3, layout_epochs=0, num_samples=10, batch_size=4)
    assert watch.Watch(None, odd)._ends == {2: 1, 5: 2, 7: 3}
    assert max(watch.Watch(None, odd)._ends) == odd.total


def test_the_texts_that_are_watched_are_of_the_scene_language():
    for text in watch.FIXED:
        for sentence in text.split(" . "):
            assert parse(sentence if not sentence.startswith("a ") else f"there is {sentence}")
    assert len(set(watch.sampled(12))) == 12


def test_curves_are_drawn_of_a_table_with_gaps(tmp_path):
    with (tmp_path / "losses.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "told", "held_out"), (1, 2.0, ""), (2, 1.0, 3.0)])
    watch.draw_curves(tmp_path / "losses.csv", tmp_path / "curves.png")
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 0
