"""The scene decoder: a text's embedding through a bottleneck to a layout, and to a picture of it.

    embedding [512] ─ mu, log variance ─ z [128] ─ layout ─ painter ─ spatial coherence ─ picture

Layout then details: what is where is decided before anything is painted, so that a relation is a
matter of numbers and not of pixels, and a word that is changed changes its own thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.layout import ALL_COLORS, ALL_SHAPES, MOTIONS, Layout
from vla_ros.models.scenes.reading import ASKED
from vla_ros.scene_language.drawing import SIZE, TABLE_RGB
from vla_ros.scene_language.scenes import FIXTURES

_REACH = 8  # pixels from the middle of a thing, or of the gripper with its motion, to the last one
_SPRITE = 2 * _REACH + 1
_GROUP = 8  # numbers of z that one code of a discrete vocabulary stands for
_COMMITMENT = 0.25  # van den Oord et al. 2017, equation 3
_QUIET = -5.0  # log variance at first
_SELDOM = -4.0  # logit at first that a relation is said
_ROUNDS = 3  # of attention among what is on the table
_EDGE = 3.0  # bins that things keep from the walls


@dataclass(frozen=True)
class Decoded:
    """B pictures of texts.

    Attributes:
        scene: [B, 3, 64, 64], 0 to 1.
        layout: what it was painted from, in whole bins.
        mu, logvar: [B, z_dim] of the bottleneck; log variance 0 where it has none.
        z: [B, z_dim], what was drawn from it.
        commitment: scalar, loss of a discrete bottleneck; else 0.
    """

    scene: Tensor
    layout: Layout
    mu: Tensor
    logvar: Tensor
    z: Tensor
    commitment: Tensor


class SceneDecoder(nn.Module):
    """See the module's text."""

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.config = c = config
        # Of each part of the embedding a part of z, by the same numbers for all.
        part, own = c.d_model // c.things, c.z_dim // c.things
        self.to_z = nn.Linear(part, 2 * own if c.bottleneck == "vae" else own)
        if c.bottleneck == "vae":
            with torch.no_grad():  # else nothing is heard through the noise at first
                self.to_z.bias[own:] = _QUIET
        if c.bottleneck == "vq":
            groups = c.z_dim // _GROUP
            self.codebook = nn.Parameter(torch.randn(groups, c.codes, _GROUP))
        self.to_thing = nn.Sequential(
            nn.Linear(own, c.hidden_dim), nn.SiLU(),
            nn.Linear(c.hidden_dim, 1 + len(ALL_COLORS) + len(ALL_SHAPES)),
        )  # fmt: skip
        self.arrange = Arrangement(c)
        # Training only: which relation is said of a thing, and to which.
        self.to_relations = nn.Sequential(
            nn.Linear(own, c.hidden_dim // 4), nn.SiLU(),
            nn.Linear(c.hidden_dim // 4, len(ASKED) * (c.things + 1)),
        )  # fmt: skip
        nn.init.constant_(self.to_relations[-1].bias, _SELDOM)
        self.painter = Sprites(c) if c.painter == "sprites" else Convolutions(c)
        self.coherence = SpatialCoherence()

    def forward(self, embedding: Tensor, noise: Tensor | None = None) -> Decoded:
        """Pictures of embeddings [B, d_model].

        Args:
            embedding: of texts.
            noise: [B, z_dim], what is drawn in the bottleneck, from a normal distribution; None:
                its mean. The same noise lays out the same words in the same way.
        """
        z, mu, logvar, commitment = self.bottleneck(embedding.float(), noise)
        layout = self.layout(z).rounded()
        return Decoded(self.paint(layout, z), layout, mu, logvar, z, commitment)

    def paint(self, layout: Layout, z: Tensor | None = None) -> Tensor:
        """Pictures [B, 3, 64, 64] of layouts; z is what "convolutions" paint from too (else 0)."""
        if z is None:
            z = layout.place.new_zeros(len(layout), self.config.z_dim)
        return self.coherence(self.painter(layout, z))

    def bottleneck(
        self, embedding: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zero, parts = embedding.new_zeros(()), embedding.unflatten(-1, (self.config.things, -1))
        if self.config.bottleneck == "vae":
            mu, logvar = (half.flatten(1) for half in self.to_z(parts).chunk(2, dim=-1))
            # Within what exp can bear, in half precision too.
            logvar = logvar.clamp(-8.0, 4.0)
            z = mu if noise is None else mu + (0.5 * logvar).exp() * noise
            return z, mu, logvar, zero
        mu = self.to_z(parts).flatten(1)
        logvar = torch.zeros_like(mu)
        if self.config.bottleneck == "none":
            return mu if noise is None else mu + 0.1 * noise, mu, logvar, zero
        parts = mu.unflatten(-1, (-1, _GROUP))  # [B, G, 8]
        distances = torch.cdist(parts.transpose(0, 1), self.codebook)  # [G, B, codes]
        chosen = distances.argmin(-1)  # [G, B]
        groups = torch.arange(len(self.codebook), device=mu.device)[:, None]
        codes = self.codebook[groups, chosen].transpose(0, 1)  # [B, G, 8]
        commitment = F.mse_loss(codes, parts.detach())
        commitment = commitment + _COMMITMENT * F.mse_loss(parts, codes.detach())
        z = (parts + (codes - parts).detach()).flatten(1)
        return z if noise is None else z + 0.1 * noise, mu, logvar, commitment

    def relations(self, z: Tensor) -> Tensor:
        """Logits [B, K, ASKED, K + 1] that the text says each of ASKED of a thing, and to which
        other; the last is the gripper."""
        said = self.to_relations(z.unflatten(-1, (self.config.things, -1))).float()
        return said.unflatten(-1, (len(ASKED), -1))

    def layout(self, z: Tensor) -> Layout:
        """Layouts of z [B, z_dim]; places are not yet in whole bins."""
        things = self.to_thing(z.unflatten(-1, (self.config.things, -1))).float()
        there, color, shape = things.split([1, len(ALL_COLORS), len(ALL_SHAPES)], dim=-1)
        place, hand = self.arrange(z)
        reach, gripper, opened, motion = hand.float().split([2, 1, 1, len(MOTIONS)], dim=-1)
        return Layout(
            there[..., 0], color, shape, _within(place.float()),
            gripper[:, 0], _within(reach), opened[:, 0], motion,
        )  # fmt: skip


class Arrangement(nn.Module):
    """Where things and the gripper are: each knows what the text says of it, and attends to the
    others ("left of the red cube": which of them that is, and where), a few times over."""

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.things, width = config.things, config.hidden_dim // 2
        own = config.z_dim // config.things
        self.thing, self.hand = nn.Linear(own, width), nn.Linear(config.z_dim, width)
        self.which = nn.Parameter(torch.randn(config.things + 1, width) * 0.5)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, activation=F.silu, batch_first=True,
                norm_first=True,
            )
            for _ in range(_ROUNDS)
        )  # fmt: skip
        self.place = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))
        self.do = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 + len(MOTIONS)))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of z [B, z_dim]: [B, K, 2] of places and [B, 4 + motions] of the gripper."""
        things = self.thing(z.unflatten(-1, (self.things, -1)))
        everything = torch.cat([things, self.hand(z)[:, None]], dim=1) + self.which
        for block in self.blocks:
            everything = block(everything)
        return self.place(everything[:, :-1]), self.do(everything[:, -1])


def _within(place: Tensor) -> Tensor:
    return _EDGE + (SIZE - 1 - 2 * _EDGE) * place.sigmoid()


class Sprites(nn.Module):
    """Each thing as colours and opacity of a small square, laid over the table one after another.

    What lies flat comes first, the gripper last.
    """

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        looks = len(ALL_COLORS) + len(ALL_SHAPES)
        self.thing = _sprite_network(looks, width)
        self.gripper = _sprite_network(1 + len(MOTIONS), width)
        self.table = nn.Parameter(torch.tensor(TABLE_RGB) / 255)

    def forward(self, layout: Layout, z: Tensor) -> Tensor:
        looks = layout.appearance()
        sprites = self.thing(looks).unflatten(-1, (4, _SPRITE, _SPRITE))  # [B, K, 4, s, s]
        hand = self.gripper(layout.handling()).unflatten(-1, (1, 4, _SPRITE, _SPRITE))
        fixtures = [len(ALL_COLORS) + ALL_SHAPES.index(shape) for shape in FIXTURES]
        order = looks[..., fixtures].sum(-1).argsort(dim=1, descending=True)
        rows = torch.arange(len(layout), device=order.device)[:, None]
        sprites = torch.cat([sprites[rows, order], hand], dim=1)
        places = torch.cat([layout.place[rows, order], layout.reach[:, None]], dim=1)
        there = torch.cat([layout.there[rows, order], layout.gripper[:, None]], dim=1).sigmoid()
        laid = _laid(sprites, places)  # [B, K + 1, 4, 64, 64]
        canvas = self.table[:, None, None].expand(len(layout), -1, SIZE, SIZE)
        for k in range(laid.shape[1]):
            opacity = laid[:, k, 3:] * there[:, k, None, None, None]
            canvas = canvas + opacity * (laid[:, k, :3] - canvas)
        return canvas


def _sprite_network(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, 4 * _SPRITE**2), nn.Sigmoid()
    )


def _laid(sprites: Tensor, places: Tensor) -> Tensor:
    """Sprites [B, K, 4, s, s] around places [B, K, 2] of the table: [B, K, 4, 64, 64]."""
    rows, count = sprites.shape[:2]
    along = torch.arange(SIZE, device=places.device, dtype=places.dtype)
    # x and y of the table go up and to the left of the picture.
    row = (along - (SIZE - 1 - places[..., :1])) / _REACH  # [B, K, 64]
    column = (along - (SIZE - 1 - places[..., 1:])) / _REACH
    grid = torch.stack(
        [
            column[..., None, :].expand(-1, -1, SIZE, -1),
            row[..., :, None].expand(-1, -1, -1, SIZE),
        ],
        dim=-1,
    )
    laid = F.grid_sample(sprites.flatten(0, 1).float(), grid.flatten(0, 1), align_corners=True)
    return laid.unflatten(0, (rows, count))


class Convolutions(nn.Module):
    """All at once: from 4 x 4 of the bottleneck up to 64 x 64, where the layout comes in."""

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        width = config.hidden_dim // 4
        looks = len(ALL_COLORS) + len(ALL_SHAPES) + 1 + len(MOTIONS)
        self.start = nn.Linear(config.z_dim, width * 16)
        self.up = nn.Sequential(
            *(
                layer
                for _ in range(4)
                for layer in (
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.SiLU(),
                )
            )
        )
        self.put = nn.Sequential(nn.Conv2d(looks, width, 9, padding=4), nn.SiLU())
        self.out = nn.Sequential(
            nn.Conv2d(2 * width, width, 9, padding=4), nn.SiLU(), nn.Conv2d(width, 3, 1)
        )

    def forward(self, layout: Layout, z: Tensor) -> Tensor:
        coarse = self.up(self.start(z).unflatten(-1, (-1, 4, 4)))
        thing = layout.appearance() * layout.there.sigmoid()[..., None]
        hand = layout.handling() * layout.gripper.sigmoid()[:, None]
        looks = torch.cat([F.pad(thing, (0, hand.shape[-1])),
                           F.pad(hand, (thing.shape[-1], 0))[:, None]], dim=1)  # fmt: skip
        places = torch.cat([layout.place, layout.reach[:, None]], dim=1)
        dots = sprites_of_dots(places)
        splat = torch.einsum("bkl,bkhw->blhw", looks, dots)
        return self.out(torch.cat([coarse, self.put(splat)], dim=1)).float().sigmoid()


def sprites_of_dots(places: Tensor) -> Tensor:
    """[B, K, 64, 64], 1 at each place, shared by its neighbours if it is between pixels."""
    along = torch.arange(SIZE, device=places.device, dtype=places.dtype)
    row = (1 - (along - (SIZE - 1 - places[..., :1])).abs()).clamp(min=0)
    column = (1 - (along - (SIZE - 1 - places[..., 1:])).abs()).clamp(min=0)
    return row[..., :, None] * column[..., None, :]


class SpatialCoherence(nn.Module):
    """Looks at what was painted as a whole, and mends it by up to a tenth of the range."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)
        )
        nn.init.zeros_(self.look[-1].weight)
        nn.init.zeros_(self.look[-1].bias)

    def forward(self, scene: Tensor) -> Tensor:
        return (scene + 0.1 * self.look(scene - 0.5).float().tanh()).clamp(0.0, 1.0)
