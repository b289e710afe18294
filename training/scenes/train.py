"""`vla train scenes`: text -> scene -> text, from texts alone.

No picture belongs to any text. What the words of a text say is asked of the layout of its scene;
what is painted is compared with the drawing of that layout; and the captioner, which sees pixels
only, has to read it again. The names of the settings are those of the original's flags.
"""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.cycle import CycleScenes, eight_bits
from vla_ros.models.scenes.layout import layout_of, pictures_of
from vla_ros.training.recipes import ScenesRecipe as Recipe
from vla_ros.training.run_folder import begin
from vla_ros.training.scenes import losses as loss
from vla_ros.training.scenes.crowds import MOST, with_more_things
from vla_ros.training.scenes.texts import Texts, Wanted, contradiction, wanted
from vla_ros.training.trainer import Objective, PolicyTrainer

_HELD_OUT_BATCHES = 8
_CYCLE = 0.1  # share of the gradient that passes from the picture to the words
_DAMAGE = 0.03  # standard deviation of noise on what the captioner sees
Batch = dict[str, Tensor]


def model_config(recipe: Recipe) -> ScenesConfig:
    """The model that a recipe trains."""
    bottleneck = "vae" if recipe.use_vae else "vq" if recipe.use_vq else "none"
    return ScenesConfig(
        d_model=recipe.d_model, hidden_dim=recipe.hidden_dim, z_dim=recipe.z_dim,
        bottleneck=bottleneck, painter=recipe.painter, dropout=recipe.dropout,
    )  # fmt: skip


def batch(texts: Texts, step: int, count: int, things: int) -> Batch:
    """Texts, then each with another word, then each contradicted, 3 * count rows of what they ask
    for, see `Wanted`; and for each of the first, whether another word could be found ("changed")
    and the seed of what is drawn for it ("seeds")."""
    pairs = [texts.pair(step * count + i) for i in range(count)]
    rng = random.Random(f"{texts.seed}/{step}")
    firsts, others = [text for text, _ in pairs], [other for _, other in pairs]
    opposites = [contradiction(text, rng) or other for text, other in pairs]
    return {
        **vars(wanted([*firsts, *others, *opposites], things)),
        "changed": torch.tensor([text.words != other.words for text, other in pairs]),
        "seeds": torch.tensor(step * count).expand(count) + torch.arange(count),
    }


def losses(model: CycleScenes, batch: Batch) -> dict[str, Tensor]:
    """All losses of a batch by name."""
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
        scene = model.decoder.paint(first.map(_eased).rounded(), z[:rows])
    named = asked[:rows]
    pictures = pictures_of(first.detach())
    target = loss.drawn(pictures, text.device)
    damage = _DAMAGE * torch.randn(scene.shape, generator=generator).to(text.device)
    strength = torch.rand(rows, 1, 1, 1, generator=generator).to(text.device)
    shown = scene + (eight_bits(scene) - scene).detach() + strength * damage
    more = np.random.default_rng(int(batch["seeds"][0]))
    with torch.no_grad():  # what a robot sees has things in it that a sentence does not name
        crowd = [with_more_things(picture, more) for picture in pictures]
        crowded = eight_bits(model.decoder.paint(layout_of(crowd, MOST).to(text.device)))
    unfitting = torch.cat([other[batch["changed"]], opposite])

    def _matching(scene: Tensor) -> Tensor:
        seen = model.captioner.embed(scene)
        return loss.contrastive(_eased(text), _eased(unfitting), seen, model.temperature)

    return {
        "told": loss.told(everything, asked),
        "spatial": loss.related(everything, asked) + 0.5 * loss.apart(everything, asked),
        "kl": loss.kl(mu, logvar) + commitment,
        "diversity": loss.diverse(first, second, named),
        "unmoved": loss.unmoved(first, there, named),
        **loss.painted(scene, target),
        "consistency": loss.captioned(model, shown, pictures),
        "matching": (_matching(shown) + _matching(crowded)) / 2,
        "language": F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), asked.ids[:, 1:].flatten(),
            ignore_index=model.config.language.pad,
        ),
    }  # fmt: skip


def _eased(value: Tensor) -> Tensor:
    """The same; a tenth of the gradient passes. What the words ask for shapes the scene; how well
    it is painted and read mends it, and must not lead while captioner and painter know nothing."""
    return value.detach() + _CYCLE * (value - value.detach())


def _z(model: CycleScenes, text: Tensor, noise: Tensor) -> Tensor:
    return model.decoder.bottleneck(text.float(), noise)[0]


def train(recipe: Recipe, out: Path, *, tensorboard: bool = False) -> Path:
    """Train, resuming whatever `out` holds; returns its folder checkpoint/.

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
        lambda step, rank: batch(texts, step + (rank << 32), recipe.batch_size, things),
        [batch(held, i, recipe.batch_size, things) for i in range(_HELD_OUT_BATCHES)],
        tensorboard=tensorboard,
    )
    return trainer.fit()
