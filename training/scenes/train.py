"""`vla train scenes`: text -> scene -> text, from texts alone.

No picture belongs to any text. What the words of a text say is asked of the layout of its scene;
what is painted is compared with the drawing of that layout; and the captioner, which sees pixels
only, has to read it again. The names of the settings are those of the original's flags.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.language import pad
from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.cycle import CycleScenes, eight_bits
from vla_ros.models.scenes.layout import (
    ALL_COLORS,
    ALL_SHAPES,
    Layout,
    Picture,
    layout_of,
    pictures_of,
)
from vla_ros.scene_language.scenes import NAMES, Name
from vla_ros.scene_language.vocabulary import BOS, EOS, encode
from vla_ros.training.recipes import ScenesRecipe as Recipe
from vla_ros.training.run_folder import begin
from vla_ros.training.scenes import losses as loss
from vla_ros.training.scenes.cells import cell_labels, labelled, looked
from vla_ros.training.scenes.crowds import MOST, with_more_things
from vla_ros.training.scenes.narrations import (
    Narrated,
    Shown,
    calibrate,
    descriptions,
    named,
    narrations,
)
from vla_ros.training.scenes.texts import Texts, Wanted, contradiction, mentioned, wanted
from vla_ros.training.scenes.watch import Watch, conclude
from vla_ros.training.trainer import Objective, PolicyTrainer

_HELD_OUT_BATCHES = 8
_OF_PICTURES = (
    *("reconstruction", "perceptual", "color"),
    *("cells", "consistency", "looking", "matching", "embedding"),
)
_CYCLE = 0.1  # share of the gradient that passes from the picture to the words
_NAMED = 4  # things of a narration at most
_NARRATIONS = 1000  # each with a wrong word too, that scores are calibrated on
_DAMAGE = 0.03  # standard deviation of noise on what the captioner sees
Batch = dict[str, Tensor]


def model_config(recipe: Recipe) -> ScenesConfig:
    """The model that a recipe trains."""
    bottleneck = "vae" if recipe.use_vae else "vq" if recipe.use_vq else "none"
    return ScenesConfig(
        d_model=recipe.d_model, hidden_dim=recipe.hidden_dim, z_dim=recipe.z_dim,
        bottleneck=bottleneck, painter=recipe.painter, dropout=recipe.dropout,
    )  # fmt: skip


def batch(texts: Texts, step: int, count: int, things: int, read: bool = True) -> Batch:
    """Texts, then each with another word, then each contradicted, 3 * count rows of what they ask
    for, see `Wanted`; and for each of the first, whether another word could be found ("changed"),
    the seed of what is drawn for it ("seeds") and whether it is `read`; if so, 3 *
    count // 4 sentences of a robot too, see `_narrated`."""
    pairs = [texts.pair(step * count + i) for i in range(count)]
    rng = random.Random(f"{texts.seed}/{step}")
    firsts, others = [text for text, _ in pairs], [other for _, other in pairs]
    opposites = [contradiction(text, rng) or other for text, other in pairs]
    return {
        **vars(wanted([*firsts, *others, *opposites], things)),
        "changed": torch.tensor([text.words != other.words for text, other in pairs]),
        "seeds": torch.tensor(step * count).expand(count) + torch.arange(count),
        "read": torch.full((count,), read),
        **(_narrated(3 * count // 4, f"{texts.seed}/{step}") if read else {}),
    }


def losses(model: CycleScenes, batch: Batch) -> dict[str, Tensor]:
    """All losses of a batch by name; those of reading are 0 if nothing is read yet."""
    asked = Wanted(**{field.name: batch[field.name] for field in fields(Wanted)})
    rows = len(batch["seeds"])
    generator = torch.Generator().manual_seed(int(batch["seeds"][0]))
    noise = torch.randn(2, rows, model.config.z_dim, generator=generator).to(asked.ids.device)
    logits, texts = model.language(asked.ids, return_embeddings=True)
    text, other, opposite = texts.float().split(rows)
    with torch.autocast(asked.ids.device.type, enabled=False):
        # One draw for a text, its other and its opposite; places not in whole bins: what is moved
        # by less than one counts too.
        z, mu, logvar, commitment = model.decoder.bottleneck(texts.float(), noise[0].repeat(3, 1))
        everything = model.decoder.layout(z)
        first, there = everything[:rows], everything[rows : 2 * rows]
        second = model.decoder.layout(_z(model, text, noise[1]))
    named = asked[:rows]
    told = loss.told(everything, asked)
    amiss = loss.related(everything, asked) + 0.5 * loss.apart(everything, asked)
    # Where things lie is learned once it is known which they are: from the start it outweighs that.
    named_well = (-told.detach()).exp()
    return {
        "told": told,
        "bound": loss.bound(model.decoder.relations(z), asked),
        "spatial": named_well * amiss,
        "amiss": amiss.detach(),
        "kl": loss.kl(mu, logvar) + commitment,
        "diversity": named_well * loss.diverse(first, second, named),
        "unmoved": named_well * loss.unmoved(first, there, named),
        **_of_pictures(model, batch, asked, first, z[:rows], text, other, opposite),
        "language": F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), asked.ids[:, 1:].flatten(),
            ignore_index=model.config.language.pad,
        ),
    }  # fmt: skip


def _narrated(count: int, seed: str) -> Batch:
    """Moments of a robot's scenes, and scenes at rest, as layouts, each with a true and a false
    sentence. Those of held-out compositions are left out."""
    told: list[Narrated] = []
    rng = random.Random(seed)
    for sample, most in ((narrations, 2 * count // 3), (descriptions, count)):
        while len(told) < most:
            some = sample(count, rng.getrandbits(32))
            told += [one for one in some if not one.held_out][: most - len(told)]
    return {
        "narrated_ids": pad(
            [BOS, *encode(words), EOS]
            for words in (*(one.true for one in told), *(one.false for one in told))
        ),
        "narrated_names": torch.tensor(
            [_numbers(one.fact, one.true) for one in told]
            + [_numbers(one.wrong, one.false) for one in told]
        ),
        **{
            f"narrated_{name}": value
            for name, value in vars(layout_of([one.picture for one in told], MOST)).items()
        },
    }


def _numbers(fact: Shown, words: Sequence[str]) -> list[int]:
    """Numbers in NAMES of what a narration names, in the order of its words; -1 fills up."""
    names = sorted(named(fact), key=lambda name: mentioned(name, words))
    return [*(NAMES.index(name) for name in names), *[-1] * (_NAMED - len(names))]


def _named(asked: Wanted, rows: int) -> list[list[Name]]:
    """Names of the first rows' things."""
    there, colors, shapes = asked.there.tolist(), asked.color.tolist(), asked.shape.tolist()
    return [
        [
            Name(ALL_COLORS[color], ALL_SHAPES[shape])
            for is_there, color, shape in zip(there[i], colors[i], shapes[i], strict=True)
            if is_there
        ]
        for i in range(rows)
    ]


def _painted(model: CycleScenes, pictures: list[Picture]) -> dict[str, Tensor]:
    """What the painter makes of pictures that are given. It learns this before anybody reads them:
    a captioner that knows nothing has much to say of what it is shown, and little of it helps."""
    device = model.temperature.device
    with torch.autocast(device.type, enabled=False):
        scene = model.decoder.paint(layout_of(pictures, model.config.things).to(device))
    return loss.painted(scene, loss.drawn(pictures, device))


def _of_pictures(
    model: CycleScenes, batch: Batch, asked: Wanted, layout: Layout, z: Tensor,
    text: Tensor, other: Tensor, opposite: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """What is painted, what is read in it, and what is found to fit it."""
    if not batch["read"].all():
        some = pictures_of(layout[: max(len(text) // 4, 1)].detach())
        return dict.fromkeys(_OF_PICTURES, z.new_zeros(())) | _painted(model, some)
    seed, rows, few = int(batch["seeds"][0]), len(text), len(text) // 2
    generator, more = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    pictures = pictures_of(layout.detach())
    with torch.autocast(z.device.type, enabled=False):
        scene = model.decoder.paint(layout.map(_eased).rounded(), z)
    damage = _DAMAGE * torch.randn(scene.shape, generator=generator).to(z.device)
    strength = torch.rand(rows, 1, 1, 1, generator=generator).to(z.device)
    shown = _eased(scene) + (eight_bits(scene) - scene).detach() + strength * damage
    # What a robot sees: things that no sentence names, and moments of a task.
    moments = Layout(*(batch[f"narrated_{field.name}"] for field in fields(Layout)))
    seen = [*(with_more_things(one, more) for one in pictures[:few]), *pictures_of(moments)]
    with torch.no_grad():
        painted = eight_bits(model.decoder.paint(layout_of(seen, MOST).to(z.device)))
    cells = model.captioner.look(torch.cat([shown, painted]))
    alone, crowd, robot = cells[:rows], cells[rows : rows + few], cells[rows + few :]

    text, other, opposite = _eased(text), _eased(other), _eased(opposite)
    changed = batch["changed"]
    true, false = _eased(model.language.embed(batch["narrated_ids"]).float()).chunk(2)
    match = model.matcher
    lie, other_lie, opposite_lie, true_lie, false_lie = (
        model.ways_imagined(one) for one in (text, other, opposite, true, false)
    )
    everything = match.every(text, lie, alone)
    fitting = [
        everything.diagonal(), match(text[:few], lie[:few], crowd), match(true, true_lie, robot)
    ]  # fmt: skip
    some = changed[:few]
    unfitting = [
        match(other[changed], other_lie[changed], alone[changed]),
        match(opposite, opposite_lie, alone),
        match(other[:few][some], other_lie[:few][some], crowd[some]),
        match(opposite[:few], opposite_lie[:few], crowd),
        match(false, false_lie, robot),
    ]
    embedding = model.captioner.embedding(alone)
    names, hands = _named(asked, 2 * rows), asked.gripper[: 2 * rows].tolist()
    moves = [one.gripper is not None for one in seen[few:]]
    told = [[NAMES[i] for i in one if i >= 0] for one in batch["narrated_names"].tolist()]
    # The crowds and the moments, each told rightly and with another word.
    first, again = slice(0, few), slice(rows, rows + few)
    looks = [
        looked(match, text, alone, names[:rows], hands[:rows], pictures),
        looked(match, other, alone, names[rows:], hands[rows:], pictures),
        looked(match, text[first], crowd, names[first], hands[first], seen[:few]),
        looked(match, other[first], crowd, names[again], hands[again], seen[:few]),
        looked(match, true, robot, told[: len(true)], moves, seen[few:]),
        looked(match, false, robot, told[len(true) :], moves, seen[few:]),
    ]
    found = {
        **loss.painted(scene, loss.drawn(pictures, z.device)),
        "cells": labelled(model.captioner, cells, cell_labels([*pictures, *seen])),
        "consistency": loss.captioned(model, cells, [*pictures, *seen]),
        "looking": torch.stack(looks).mean(),
        "matching": loss.matched(everything, torch.cat(fitting), torch.cat(unfitting)),
        "embedding": loss.contrastive(
            text, torch.cat([other[changed], opposite]), embedding, model.temperature
        ),
    }
    return {name: found[name] for name in _OF_PICTURES}


def _eased(value: Tensor) -> Tensor:
    """The same; a tenth of the gradient passes. What the words ask for shapes the scene; how well
    it is painted and read mends it, and must not lead while captioner and painter know nothing."""
    return value.detach() + _CYCLE * (value - value.detach())


def _z(model: CycleScenes, text: Tensor, noise: Tensor) -> Tensor:
    return model.decoder.bottleneck(text.float(), noise)[0]


def train(recipe: Recipe, out: Path, *, tensorboard: bool = False) -> Path:
    """Train, resuming whatever `out` holds; returns its folder checkpoint/. What a run leaves to be
    looked at is told in `watch`; at its end scores are calibrated.

    Raises:
        ValueError: a run there has other settings.
    """
    args = begin(recipe, out, dict(vars(recipe)))
    torch.manual_seed(recipe.seed)
    model, things = CycleScenes(model_config(recipe)), model_config(recipe).things
    texts, held = Texts(recipe.seed), Texts(recipe.seed, "held_out")
    trainer = PolicyTrainer(
        Objective(model, losses, recipe.weights),
        recipe,
        args,
        lambda step, rank: batch(
            texts, step + (rank << 32), recipe.batch_size, things, step >= recipe.layout_steps
        ),
        [batch(held, i, recipe.batch_size, things) for i in range(_HELD_OUT_BATCHES)],
        tensorboard=tensorboard,
        callbacks=[Watch(out, recipe)],
    )
    folder = trainer.fit()
    if trainer.args.should_save:
        model.cpu()
        calibrate(model, min(_NARRATIONS, recipe.num_samples))
        model.save_pretrained(folder)
        conclude(out, recipe, model)
    return folder
