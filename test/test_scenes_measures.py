"""Measures of text -> scene -> text: what is right counts, and who cheats is found out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import SMALL, tiny_scenes

from vla_ros.models.scenes.decoder import Decoded
from vla_ros.models.scenes.layout import Picture, layout_of
from vla_ros.models.scenes.reading import can_be_shown, shows
from vla_ros.scene_language.facts import Moving, Present, Related
from vla_ros.scene_language.scenes import BOWL, COLORS, PAD, Place, Thing
from vla_ros.training.scenes import pixels
from vla_ros.training.scenes.judge import train_judge
from vla_ros.training.scenes.losses import drawn
from vla_ros.training.scenes.measures import (
    Agreement,
    controls,
    different,
    failures,
    intervals,
    others,
    retrieved,
    suspicions,
    tally,
)
from vla_ros.training.scenes.narrations import (
    KINDS,
    calibrate,
    descriptions,
    logistic,
    narrations,
    scores,
    similarities,
)
from vla_ros.training.scenes.texts import Texts

TEXTS = [Texts(11, moving=0.0)[number] for number in range(40)]


def laid_out(text, seed=0):
    """The things of a text somewhere, whatever it says of their places."""
    rng = np.random.default_rng([seed, *map(ord, " ".join(text.words))])
    places = rng.permutation(16)[: len(text.names)]
    things = [
        Thing(name, Place(8 + 15 * int(p % 4), 8 + 15 * int(p // 4), int(name not in (PAD, BOWL))))
        for name, p in zip(text.names, places, strict=True)
    ]
    return Picture(tuple(things))


PICTURES = [laid_out(text) for text in TEXTS]
SCENES = drawn(PICTURES)


def looking(pictures=PICTURES, scenes=SCENES):
    """A reader that knows these pictures by their pixels, and sees nothing in others."""
    known = {scene.numpy().tobytes(): picture for scene, picture in zip(scenes, pictures)}  # noqa: B905
    return lambda some: [known.get(scene.numpy().tobytes(), Picture(())) for scene in some]


# -- cheats ----------------------------------------------------------------------------------------


def test_who_looks_reads_what_is_there_and_nothing_where_nothing_is():
    found = controls(TEXTS, SCENES, looking())
    assert Agreement.of(found["own"]).names == 1.0
    assert Agreement.of(found["shuffled"]) == Agreement.of(found["chance"])
    assert Agreement.of(found["chance"]).names < 0.3
    assert Agreement.of(found["blank"]).names == Agreement.of(found["noise"]).names == 0.0
    assert suspicions(found, found["own"]) == []


def test_a_captioner_that_always_says_the_same_is_found_out():
    found = controls(TEXTS, SCENES, lambda some: [PICTURES[0]] * len(some))
    (told,) = suspicions(found)
    assert "does not depend on the text" in told


def test_scenes_of_noise_are_found_out():
    scenes = torch.rand(SCENES.shape, generator=torch.Generator().manual_seed(0))
    (told,) = suspicions(controls(TEXTS, scenes, looking()))
    assert "does not depend on the text" in told


def test_text_that_comes_around_the_picture_is_found_out():
    found = controls(TEXTS, SCENES, lambda some: PICTURES[: len(some)])
    told = " ".join(suspicions(found))
    for name in ("shuffled", "blank", "noise"):
        assert f"from {name} pictures" in told
    assert "the text comes by another way" in told


def test_marks_that_only_the_captioner_reads_are_found_out():
    marks = torch.rand(SCENES.shape, generator=torch.Generator().manual_seed(1))
    found = controls(TEXTS, marks, looking(scenes=marks))
    assert suspicions(found) == []
    told = suspicions(found, tally(TEXTS, looking()(marks)))
    assert told and all("marks that mean nothing to others" in line for line in told)


def test_another_text_is_never_the_same_one():
    for count in (2, 3, 50):
        other = others(count, seed=count)
        assert sorted(other) == list(range(count)) and (other != np.arange(count)).all()


# -- shares ----------------------------------------------------------------------------------------


def test_intervals_hold_the_share_and_narrow_with_more_texts():
    rows = controls(TEXTS, SCENES, looking())["chance"]
    share = Agreement.of(rows).colors
    low, high = intervals(rows)["colors"]
    lowest, highest = intervals(rows[:10])["colors"]
    assert low <= share <= high and high - low < highest - lowest


def test_failures_are_told_by_things_facts_and_words():
    found = failures(TEXTS, PICTURES, least=5)
    assert sum(of for _, of in found["things"].values()) == len(TEXTS)
    facts = [fact for text in TEXTS for fact in text.facts if isinstance(fact, Related)]
    assert sum(of for _, of in found["facts"].values()) == len(facts)
    worst = [right / of for right, of in found["words"].values()]
    assert worst == sorted(worst) and len(worst) == 10


def test_retrieval_finds_what_fits_best_and_shares_ties():
    texts = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))

    def nearness(some, others):
        return -(some[:, None] - others).square().sum(-1)

    assert retrieved(nearness, texts, texts, 20).tolist() == [1.0] * 40
    assert retrieved(lambda a, b: -nearness(a, b), texts, texts, 20).sum() == 0
    same = torch.ones(40, 16)
    assert retrieved(nearness, same, texts, 20).mean() == pytest.approx(0.05)
    assert retrieved(nearness, same[:20], same[:20], 20).tolist() == pytest.approx([0.05] * 20)
    with pytest.raises(ValueError, match="40 texts: give 100 or more"):
        retrieved(nearness, texts, texts)


def test_texts_that_say_the_same_are_told_once():
    twice = [*TEXTS, *TEXTS]
    assert different(twice) == different(TEXTS)


# -- pixels ----------------------------------------------------------------------------------------


def single_things(count=80):
    texts = pixels.single(3, count)
    pictures = [laid_out(text, number) for number, text in enumerate(texts)]
    places = torch.tensor([p.things[0].place[:2] for p in pictures]).float()
    colors = [COLORS.index(text.names[0].color) for text in texts]
    return texts, drawn(pictures), torch.tensor(colors), places


def test_a_probe_of_pixels_tells_colours_and_places_of_drawings():
    _, scenes, colors, places = single_things()
    probe = pixels.Probe.fit(scenes[:60], colors[:60].tolist(), places[:60])
    color, place = probe(scenes[60:])
    assert (color == colors[60:]).all()
    assert (place - places[60:]).norm(dim=1).max() < 1.0
    color, place = probe(scenes.flip(1)[60:])  # red and blue exchanged
    assert (color == colors[60:]).float().mean() < 0.8
    color, place = probe(torch.full((1, 3, 64, 64), 0.0) + scenes[0, :, :1, :1])
    assert color.tolist() == [-1] and place.isnan().all()


def test_a_word_that_always_looks_the_same_has_little_spread():
    texts, scenes, _, places = single_things()
    names = [text.names[0] for text in texts]
    found = pixels.looks(scenes, names, places)
    assert all(one.spread < 2 < 40 < one.gap and one.own == 1.0 for one in found.values())
    mixed = scenes[:, torch.tensor([1, 2, 0])]
    half = torch.cat([scenes[:40], mixed[40:]])
    assert max(one.spread for one in pixels.looks(half, names, places).values()) > 20


def _decoding(places_of):
    """Stands for a model that paints like a draughtsman, things where `places_of` puts them."""

    def decoded(model, texts, first_seed=0):
        pictures = [
            Picture(tuple(Thing(n, p) for n, p in zip(text.names, places_of(i, text), strict=True)))
            for i, text in enumerate(texts)
        ]
        layout, zero = layout_of(pictures, 4), torch.zeros(len(texts), 1)
        return [Decoded(drawn(pictures), layout, zero, zero, zero, zero.sum())]

    return decoded


def test_a_changed_word_is_seen_where_its_thing_is(monkeypatch):
    slots = [Place(10, 10, 1), Place(30, 30, 1), Place(50, 10, 1), Place(10, 50, 1)]
    monkeypatch.setattr(pixels, "decoded", _decoding(lambda i, text: slots[: len(text.names)]))
    found = pixels.edits(None, Texts(5, moving=0.0), 30)
    assert found.inside.min() == 1.0 and found.changed.all()
    shifts = iter((0, 9))  # of all things, before and after

    def elsewhere(model, texts, first_seed=0):
        shift = next(shifts)
        moved = [Place(x + shift, y, z) for x, y, z in slots]
        return _decoding(lambda i, text: moved[: len(text.names)])(model, texts)

    monkeypatch.setattr(pixels, "decoded", elsewhere)
    assert pixels.edits(None, Texts(5, moving=0.0), 30).inside.mean() < 0.6


def test_harm_leaves_pictures_that_differ_little():
    for name, way in pixels.HARM.items():
        harmed = way(SCENES[:4])
        assert harmed.shape == SCENES[:4].shape, name
        assert harmed.min() >= 0.0 and harmed.max() <= 1.0
        assert (harmed - SCENES[:4]).abs().mean() < 10 / 255


# -- the judge -------------------------------------------------------------------------------------


def test_a_judge_is_trained_once_and_then_loaded(tmp_path):
    judge = train_judge(tmp_path / "judge", SMALL, steps=1)
    assert not judge.training
    written = (tmp_path / "judge/checkpoint/model.safetensors").stat().st_mtime_ns
    again = train_judge(tmp_path / "judge", SMALL, steps=1)
    assert (tmp_path / "judge/checkpoint/model.safetensors").stat().st_mtime_ns == written
    for one, other in zip(judge.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="steps 1 not 2"):
        train_judge(tmp_path / "judge", SMALL, steps=2)


# -- narrations and their scores -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "kinds"), [(narrations, KINDS), (descriptions, ("colour", "shape", "side"))]
)
def test_one_word_makes_a_sentence_untrue(sample, kinds):
    found = sample(len(kinds) * 20, seed=0)
    assert [one.kind for one in found] == [*kinds] * 20
    assert {type(one.fact) for one in found} == (
        {Moving} if sample is narrations else {Present, Related}
    )
    for one in found:
        assert one.fact != one.wrong and (one.picture.gripper is None) == (sample is descriptions)
        assert can_be_shown(one.fact) and can_be_shown(one.wrong)
        # Pictures have no heights: what is carried over the pad looks as if it lay there.
        if isinstance(one.fact, Related) and one.fact.relation not in ("on", "inside"):
            assert shows(one.picture, one.fact) and not shows(one.picture, one.wrong)
        if one.kind in ("colour", "shape"):
            assert len(one.true) == len(one.false)
        if one.kind == "direction":
            assert replace(one.wrong, direction=one.fact.direction) == one.fact
        if one.kind == "side" and isinstance(one.fact, Moving):
            assert replace(one.wrong, which=one.fact.which) == one.fact
        elif one.kind == "side":
            assert replace(one.wrong, relation=one.fact.relation) == one.fact


def test_a_logistic_regression_finds_the_chances_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    slope, offset = logistic(rng.normal(0.6, 0.1, 4000), rng.normal(0.4, 0.1, 4000))
    assert slope == pytest.approx(20, rel=0.1) and offset == pytest.approx(-10, rel=0.1)


def test_scores_stay_finite_where_nothing_overlaps_or_nothing_differs():
    slope, offset = logistic(np.ones(50), np.zeros(50))
    assert np.isfinite((slope, offset)).all() and -offset / slope == pytest.approx(0.5)
    assert logistic(np.full(9, 0.3), np.full(9, 0.3)) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_calibrated_scores_are_what_match_gives_and_no_worse_than_always_one_half():
    model = tiny_scenes()
    calibrate(model, 48)
    told = narrations(24, seed=5)
    pictures = [one.picture for one in told]
    true, false = (
        scores(model, similarities(model, [getattr(one, name) for one in told], pictures))
        for name in ("true", "false")
    )
    assert model.match(told[7].true, told[7].picture) == pytest.approx(true[7], abs=1e-4)
    assert np.mean([*(true - 1) ** 2, *false**2]) < 0.3
