"""Text -> scene -> text: parts that fit each other, losses that teach, and no way to cheat."""

import random
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tiny_scenes import SMALL

from vla_ros.models.scenes.captions import caption_ids, caption_of, read_caption
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.scenes.layout import Picture, layout_of, pictures_of
from vla_ros.models.scenes.matching import LOOKS, ways
from vla_ros.models.scenes.reading import shows
from vla_ros.scene_language.facts import Moving, Related, holds
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Place, Scene, Thing
from vla_ros.scene_language.sentences import parse
from vla_ros.scene_language.topics import permitted
from vla_ros.scene_language.vocabulary import EOS
from vla_ros.scene_language.vocabulary import PAD as PAD_ID
from vla_ros.training.metrics import auroc
from vla_ros.training.recipes import ScenesRecipe as Recipe
from vla_ros.training.scenes import losses
from vla_ros.training.scenes.cells import cell_labels
from vla_ros.training.scenes.crowds import MOST, with_more_things
from vla_ros.training.scenes.judge import drawn_scene
from vla_ros.training.scenes.measures import agreement
from vla_ros.training.scenes.texts import Texts, Wanted, contradiction, wanted
from vla_ros.training.scenes.train import batch
from vla_ros.training.scenes.train import losses as all_losses

RED, GREEN = Name("red", "cube"), Name("green", "sphere")
TABLE = Picture(
    (Thing(RED, Place(40, 30, 1)), Thing(GREEN, Place(20, 12, 1)), Thing(BOWL, Place(30, 50, 0))),
    Place(33, 21, 1), False, "left",
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return CycleScenes(SMALL)


# -- texts -----------------------------------------------------------------------------------------


def test_texts_are_the_same_for_the_same_seed_and_end_in_their_split():
    train, held = Texts(3), Texts(3, "held_out")
    assert train[7] == Texts(3)[7] != Texts(4)[7]
    for number in range(150):
        assert all(permitted(fact, held_out=False) for fact in train[number].facts)
        assert not all(permitted(fact, held_out=False) for fact in held[number].facts)


def test_what_a_text_asks_for_is_what_its_sentences_say():
    for number in range(200):
        text = Texts(1)[number]
        said = " ".join(text.words)
        for sentence in filter(None, (part.strip(" .") for part in said.split(" . "))):
            short = sentence.startswith(("a ", "an ")) and not sentence.endswith(" is there")
            assert parse(f"there is {sentence}" if short else sentence) in text.facts, said
        assert len(set(text.names)) == len(text.names)
        assert all(max(places) <= len(text.names) for _, *places in text.relations)


def test_one_word_of_the_pair_is_another_and_a_contradiction_cannot_hold_too():
    rng = random.Random(0)
    for number in range(200):
        text, other = Texts(2).pair(number)
        assert len(text.words) == len(other.words)
        assert len(set(text.names) ^ set(other.names)) in (0, 2), "one thing, if any"
        assert [type(fact) for fact in text.facts] == [type(fact) for fact in other.facts]
        opposite = contradiction(text, rng)
        if opposite is not None:
            assert opposite.facts != text.facts and set(opposite.names) == set(text.names)


def test_places_without_a_loss_are_places_of_which_the_facts_hold():
    """The losses of places mean what `facts.holds` means: found by descent from random places."""
    texts = [Texts(5, moving=0.0)[number] for number in range(24)]
    asked = wanted(texts, 4)
    torch.manual_seed(0)
    place = (torch.rand(24, 4, 2) * 50 + 6).requires_grad_()
    start = layout_of([Picture(())] * 24, 4)
    optimizer = torch.optim.Adam([place], lr=1.0)
    for _ in range(300):
        layout = replace(start, place=place)
        amiss = losses.related(layout, asked) + 0.2 * losses.apart(layout, asked)
        optimizer.zero_grad()
        amiss.backward()
        optimizer.step()
    right = total = 0
    for row, text in enumerate(texts):
        at = place[row].round().long().clamp(0, 63).tolist()
        things = tuple(
            Thing(name, Place(*at[k], 0 if name in (PAD, BOWL) else 1))
            for k, name in enumerate(text.names)
        )
        for fact in text.facts:
            if isinstance(fact, Related):
                total += 1
                right += holds(fact, Scene(things, Place(0, 0, 8)))
    assert right >= 0.9 * total > 10


# -- layouts, pictures, captions -------------------------------------------------------------------


def test_layouts_and_captions_give_their_pictures_back():
    rng = np.random.default_rng(0)
    pictures = [TABLE, Picture(()), *(drawn_scene(rng) for _ in range(60))]
    for picture, back in zip(pictures, pictures_of(layout_of(pictures, MOST)), strict=True):
        assert set(back.things) == {t._replace(place=t.place) for t in _flat(picture)}
        assert back.gripper == picture.gripper
    for picture in pictures:
        read = read_caption(caption_of(picture))
        assert set(read.things) == set(_flat(picture))
        assert (read.gripper, read.motion) == (picture.gripper, picture.motion)


def _flat(picture):
    return [t._replace(place=t.place._replace(z=int(t.name not in (PAD, BOWL)))) for t in
            picture.things]  # fmt: skip


def test_a_caption_of_anything_can_be_read():
    rng = random.Random(0)
    words = ["<obj>", "red", "cube", "pad", "<x3>", "<y60>", "<grip>", "open", "left", "."]
    for _ in range(500):
        picture = read_caption(rng.choices(words, k=rng.randrange(12)))
        assert len({name for name, _ in picture.things}) == len(picture.things)
    assert read_caption(["<obj>", "red", "pad", "<x3>", "<y4>"]).things == ()


def test_a_thing_that_moves_moves_its_pixels_only(model):
    still = replace(TABLE, gripper=None)
    moved = replace(still, things=(Thing(RED, Place(43, 35, 1)), *TABLE.things[1:]))
    with torch.no_grad():
        before, after = model.decoder.paint(layout_of([still, moved], 4))
    torch.testing.assert_close(before[:, 15:30, 27:40], after[:, 12:27, 22:35])
    torch.testing.assert_close(before[:, 38:], after[:, 38:])


def test_what_is_shown_is_judged_by_the_facts_of_the_scene_language():
    assert shows(TABLE, Related(RED, "behind", (BOWL,)))
    assert not shows(TABLE, Related(RED, "front", (BOWL,)))
    assert not shows(TABLE, Related(Name("blue", "cube"), "left", (BOWL,)))
    assert shows(TABLE, Moving("move", "left", None, RED, Related(RED, "behind", (GREEN,))))
    assert not shows(TABLE, Moving("move", "right"))
    assert not shows(replace(TABLE, gripper=None, open=True), Moving("move", "left"))


def test_more_things_are_put_where_there_is_room():
    rng = np.random.default_rng(1)
    counts = set()
    for _ in range(60):
        crowd = with_more_things(TABLE, rng)
        assert crowd.things[:3] == TABLE.things
        places = np.array([place[:2] for _, place in crowd.things])
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        assert gaps[np.triu_indices(len(places), 1)].min() >= 8
        counts.add(len(crowd.things))
    assert counts >= {3, 5}


# -- texts and pictures ----------------------------------------------------------------------------


def test_ways_tell_sides_and_nothing_of_what_is_not_there():
    places = torch.tensor([[[40.0, 30.0], [20.0, 31.0], [25.0, 10.0]]])
    found = ways(places, torch.tensor([[1.0, 1.0, 0.0]])).unflatten(-1, (3, 2))[0]
    assert found[0, 0] > 0.99 and -0.3 < found[0, 1] < 0  # behind, hardly to the right
    assert (found[1:] == 0).all()
    turned = ways(places[:, [1, 0, 2]], torch.ones(1, 3)).unflatten(-1, (3, 2))[0]
    assert torch.equal(turned[0], -found[0])


def test_the_ways_that_looks_see_are_those_of_the_picture(model):
    """Each look at the cell that its thing is in, a third part nowhere."""
    pictures = [TABLE, replace(TABLE, gripper=Place(50, 40, 1))]
    asked = cell_labels(pictures)
    weights = torch.zeros(2, SMALL.things, LOOKS, 16 * 16 + 1)
    for row, picture in enumerate(pictures):
        for part, (name, place) in enumerate(picture.things[:2]):
            at = (63 - place.x) // 4 * 16 + (63 - place.y) // 4
            assert asked["thing"][row, at] == 1, name
            weights[row, part, 0, at] = 1.0
        weights[row, 2:, 0, -1] = 1.0
        weights[row, :, 1] = asked["gripper"][row].nonzero()[0, 0].eq(torch.arange(257)).float()
    seen = model.matcher.ways_seen(weights.flatten(1, 2))
    layout = layout_of(pictures, SMALL.things)
    places = torch.cat([layout.place, layout.reach[:, None]], dim=1)
    there = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0]] * 2)
    # Within the two bins from the middle of a cell to its corner, on either side.
    assert (seen - ways(places, there)).abs().max() < 0.6
    assert (seen.sign() == ways(places, there).sign()).all()


def test_every_text_and_picture_are_compared_as_those_of_a_row_are(model):
    texts = [Texts(5)[i] for i in range(3)]
    embedding = model.language.embed(wanted(texts, SMALL.things).ids)
    lie = model.ways_imagined(embedding)
    cells = model.captioner.look(model.decoder(embedding).scene)
    each, rows = model.matcher.every(embedding, lie, cells), model.matcher(embedding, lie, cells)
    assert torch.allclose(each.diagonal(), rows, atol=1e-5)
    assert not torch.allclose(each[0, 1], rows[1], atol=1e-5)


# -- losses ----------------------------------------------------------------------------------------

TAUGHT = {  # by each loss
    **{"told": ("language", "decoder.to_z", "decoder.to_thing", "decoder.arrange")},
    **{"bound": ("language", "decoder.to_z", "decoder.to_relations")},
    **{"spatial": ("language", "decoder.arrange"), "kl": ("decoder.to_z",)},
    **{"diversity": ("decoder.to_z", "decoder.arrange"), "unmoved": ("decoder.arrange",)},
    **{"reconstruction": ("decoder.painter",), "perceptual": ("decoder.painter",)},
    **{"color": ("decoder.painter",), "consistency": ("captioner.see", "captioner.cell")},
    **{"matching": ("language", "captioner.see", "matcher"), "language": ("language.core",)},
    **{
        "cells": ("captioner.see", "captioner.label"),
        "looking": ("captioner.see", "matcher.query"),
    },
    **{"embedding": ("language", "captioner.gist", "temperature")},
}


@pytest.mark.parametrize("name", TAUGHT)
def test_each_loss_teaches_its_part_with_finite_gradients(model, name):
    model.zero_grad()
    drawn = batch(Texts(0, moving=0.5), 0, 8, SMALL.things)
    all_losses(model, drawn)[name].backward()
    for part in TAUGHT[name]:
        gradients = [p.grad for n, p in model.named_parameters() if n.startswith(part)]
        gradients = [g for g in gradients if g is not None]
        assert any(g.abs().max() > 0 for g in gradients), part
        assert all(g.isfinite().all() for g in gradients), part


def test_a_caption_teaches_the_painter_too(model):
    """Text -> scene -> text: what cannot be read is painted otherwise."""
    model.zero_grad()
    all_losses(model, batch(Texts(0), 0, 8, SMALL.things))["consistency"].backward()
    assert model.decoder.painter.thing[0].weight.grad.abs().max() > 0
    assert model.decoder.arrange.place[1].weight.grad.abs().max() > 0


@pytest.mark.parametrize(("rows", "half"), [(8, False), (16, True), (32, True)])
def test_some_steps_leave_no_nan_whatever_the_batch_and_precision(rows, half):
    torch.manual_seed(0)
    model = CycleScenes(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = Texts(0, moving=0.4)
    for step in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = all_losses(model, batch(texts, step, rows, SMALL.things))
        assert all(value.isfinite() for value in found.values()), found
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_edges_have_finite_gradients_on_flat_pictures():
    flat = torch.full((2, 3, 64, 64), 0.5, requires_grad=True)
    losses.edges(flat).mean().backward()
    assert flat.grad.isfinite().all()
    step = torch.zeros(1, 1, 64, 64)
    step[..., 32:] = 1.0
    found = losses.edges(step)[0, 0]
    assert found[10, 31:33].min() > 0.4 and found[:, :30].max() < 0.01


@pytest.mark.parametrize("bottleneck", ["vae", "vq", "none"])
@pytest.mark.parametrize("painter", ["sprites", "convolutions"])
def test_every_bottleneck_and_painter_gives_pictures(bottleneck, painter):
    torch.manual_seed(0)
    model = CycleScenes(replace(SMALL, bottleneck=bottleneck, painter=painter))
    found = all_losses(model, batch(Texts(0), 0, 4, SMALL.things))
    sum(found.values()).backward()
    assert all(value.isfinite() for value in found.values())
    imagined = model.eval().imagine("a red cube left of the bowl", seed=3)
    assert imagined.image.shape == (64, 64, 3) and 0.0 <= imagined.score <= 1.0
    again = model.imagine("a red cube left of the bowl", seed=3)
    assert (again.image == imagined.image).all()


def test_an_unknown_setting_is_refused():
    for wrong in ({"bottleneck": "ae"}, {"painter": "oil"}, {"z_dim": 12}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(SMALL, **wrong)
    with pytest.raises(ValueError, match="--no-use-vae"):
        Recipe(use_vae=True, use_vq=True)


def test_words_that_were_never_taught_are_named(model):
    with pytest.raises(ValueError, match="'teapot'"):
        model.imagine("a red teapot")
    with pytest.raises(ValueError, match="no words"):
        model.imagine(" ")


def test_a_checkpoint_gives_the_same_pictures(model, tmp_path):
    model.eval().save_pretrained(tmp_path / "scenes")
    again = CycleScenes.from_pretrained(tmp_path / "scenes")
    text = "the gripper is pushing the red cube left"
    assert (model.imagine(text).image == again.imagine(text).image).all()
    assert model.match(text, TABLE) == again.match(text, TABLE)
    model.train()


# -- measures --------------------------------------------------------------------------------------


def test_agreement_sees_what_is_missing_wrong_or_too_much():
    text = next(t for t in (Texts(0, moving=0.0)[i] for i in range(99)) if len(t.names) == 2)
    places = [Place(30, 30, 1), Place(30, 30, 1)]
    kind, subject, landmark, _ = text.relations[0]
    shift = {"left": (0, 8), "right": (0, -8), "behind": (8, 0), "front": (-8, 0)}.get(kind, (3, 3))
    places[subject] = Place(30 + shift[0], 30 + shift[1], 1)
    right = Picture(tuple(Thing(n, p) for n, p in zip(text.names, places, strict=True)))
    assert agreement([text], [right]).exact == agreement([text], [right]).names == 1.0
    more = replace(right, things=(*right.things, Thing(Name("pink", "ring"), Place(5, 5, 1))))
    assert agreement([text], [more]).exact == 0.0
    assert agreement([text], [more]).names == pytest.approx(0.8)
    assert agreement([text], [Picture(())]).names == 0.0


def test_auroc_is_the_chance_to_be_above():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40), rng.integers(0, 7, 30)
    pairs = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_the_batch_of_a_step_is_always_the_same():
    one, other = (batch(Texts(0), 5, 4, SMALL.things) for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert {field.name for field in fields(Wanted)} <= set(one)


def test_ids_of_captions_end_and_are_padded():
    ids = caption_ids([TABLE, Picture(())])
    assert ids[1, 0] == EOS and (ids[1, 1:] == PAD_ID).all()
