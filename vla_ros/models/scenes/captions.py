"""The caption network: what a picture shows, in tokens. It sees pixels only.

Captions are spatial tokens of the scene language: `<obj> red cube <x36> <y42>` for each thing, what
is farther away first and of equally far things the left one; then, if the gripper is there, `<grip>
open <x34> <y27>` and the word for its motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.layout import ALL_COLORS, ALL_SHAPES, MOTIONS, Picture
from vla_ros.scene_language.drawing import SIZE, TABLE_RGB
from vla_ros.scene_language.scenes import FIXTURES, NAMES, Name, Place, Thing
from vla_ros.scene_language.vocabulary import EOS, IDS, TOKENS
from vla_ros.scene_language.vocabulary import PAD as PAD_ID

_STAYS = "nothing"  # the word for no motion
_GRID = 16  # cells of either side that the captioner looks at
_WAVES = 8  # lengths, of the sines and cosines that tell where a cell is
_FEATURES = 64  # of a cell
CELL = _FEATURES + 4 * _WAVES  # numbers of a cell, with those of where it is
# What is asked of a cell: whether the middle of a thing, a fixture or the gripper is in it, which
# they are, and in which of its 4 x 4 pixels.
CELL_PIXELS = SIZE // _GRID
LABELS = {
    **{"thing": 1, "color": len(ALL_COLORS), "shape": len(ALL_SHAPES), "thing_at": CELL_PIXELS**2},
    **{"fixture": 1, "kind": len(FIXTURES), "fixture_at": CELL_PIXELS**2},
    **{"gripper": 1, "open": 1, "motion": len(MOTIONS), "gripper_at": CELL_PIXELS**2},
}
_SELDOM = -5.0  # logit at first that a cell shows something
_CONTRAST = 4.0  # of what is no table, in what the convolutions are given
_STRIKING = 30.0  # a cell stands out by no more than this
_KNOWN = frozenset(NAMES)


@dataclass(frozen=True)
class Cells:
    """B pictures that were looked at, in 16 x 16 cells.

    Attributes:
        features: [B, 64, 16, 16].
        content: [B, 256, CELL], what is in each cell, and where that is.
        stands_out: [B, 256], how much each differs from a table with nothing on it.
    """

    features: Tensor
    content: Tensor
    stands_out: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Cells:
        return Cells(self.features[rows], self.content[rows], self.stands_out[rows])


class CaptionNetwork(nn.Module):
    """Convolutions, then an LSTM that looks at one part of the picture after the other (Xu et al.
    2015, "Show, attend and tell", section 3.1.2).

    A thing is in a few of 256 cells. Were all cells looked at alike at first, next to nothing of
    it would pass and nothing would be learned from it, so what stands out from the table is looked
    at more; and where a cell lies is told beside what is in it.
    """

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.hidden_dim, _FEATURES
        self.see = nn.Sequential(
            _layer(3, 32), _layer(32, 48, 2), _layer(48, 48), _layer(48, inner, 2),
            _layer(inner, inner), _layer(inner, inner),
        )  # fmt: skip
        # Training only: what each cell shows; so features tell it long before words do.
        self.label = nn.Linear(inner, sum(LABELS.values()))
        with torch.no_grad():  # most cells show nothing
            for logit, name in zip(
                self.label.bias.split(list(LABELS.values())), LABELS, strict=True
            ):
                if name in ("thing", "fixture", "gripper"):
                    logit.fill_(_SELDOM)
        self.register_buffer("_where", _waves(), persistent=False)  # computed, hence not saved
        self.striking = nn.Parameter(torch.tensor(1.0))
        self.words = nn.Embedding(len(TOKENS), 64)
        self.cell = nn.LSTMCell(64 + CELL, width)
        self.query, self.key = nn.Linear(width, 64), nn.Linear(CELL, 64)
        self.say = nn.Sequential(
            nn.Linear(width + CELL, width), nn.SiLU(), nn.Linear(width, len(TOKENS))
        )
        self.gist = nn.Sequential(
            nn.Conv2d(inner, 16, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(),
            nn.Linear(16 * (_GRID // 2) ** 2, width // 2), nn.SiLU(),
            nn.Linear(width // 2, config.d_model),
        )  # fmt: skip

    def look(self, scene: Tensor) -> Cells:
        """What is where in pictures [B, 3, 64, 64], 0 to 1. Raises ValueError."""
        if scene.shape[1:] != (3, SIZE, SIZE) or not scene.is_floating_point():
            raise ValueError(
                f"pictures are {scene.dtype} {list(scene.shape)}: give float [B, 3, {SIZE}, {SIZE}]"
            )
        table = torch.tensor(TABLE_RGB, device=scene.device)[:, None, None] / 255
        features = self.see(_CONTRAST * (scene - table))
        seen = features.flatten(2).transpose(1, 2)  # [B, 256, 64]
        where = self._where.to(seen.dtype).expand(len(seen), -1, -1)
        stands_out = seen.detach().float().square().mean(-1).clamp(max=_STRIKING)
        content = torch.cat([seen, where], dim=-1)
        return Cells(features, content, self.striking * stands_out)

    def labels(self, cells: Cells) -> dict[str, Tensor]:
        """What each cell shows: logits [B, 256, C] of LABELS by name."""
        logits = self.label(cells.features.flatten(2).transpose(1, 2)).float()
        parts = logits.split(list(LABELS.values()), dim=-1)
        return dict(zip(LABELS, parts, strict=True))

    def embed(self, scene: Tensor) -> Tensor:
        """Embeddings [B, d_model] of pictures, to be compared with those of texts."""
        return self.embedding(self.look(scene))

    def embedding(self, cells: Cells) -> Tensor:
        """As `embed`, of pictures that were looked at."""
        return self.gist(cells.features)

    def forward(self, scene: Tensor | Cells, ids: Tensor) -> Tensor:
        """Training form: logits [B, T, V] of each of the ids [B, T] given those before it."""
        cells = scene if isinstance(scene, Cells) else self.look(scene)
        keys, state = self.key(cells.content), self._start(len(ids), ids.device)
        logits, last = [], torch.full((len(ids),), PAD_ID, device=ids.device)
        for step in range(ids.shape[1]):
            said, state = self._step(cells, keys, state, last)
            logits.append(said)
            last = ids[:, step]
        return torch.stack(logits, dim=1)

    @torch.no_grad()
    def generate_caption(self, scene: Tensor, max_tokens: int = 64) -> list[list[str]]:
        """Captions of pictures, said word by word by itself."""
        cells = self.look(scene)
        keys, state = self.key(cells.content), self._start(len(scene), scene.device)
        last = torch.full((len(scene),), PAD_ID, device=scene.device)
        captions: list[list[str]] = [[] for _ in scene]
        going = set(range(len(scene)))
        for _ in range(max_tokens):
            said, state = self._step(cells, keys, state, last)
            last = said.argmax(-1)
            for row, i in enumerate(last.tolist()):
                if row in going and i == EOS:
                    going.discard(row)
                elif row in going:
                    captions[row].append(TOKENS[i])
            if not going:
                break
        return captions

    def _start(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(rows, self.config.hidden_dim, device=device)
        return zeros, zeros

    def _step(
        self, cells: Cells, keys: Tensor, state: tuple[Tensor, Tensor], last: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        scores = torch.einsum("bd,bpd->bp", self.query(state[0]), keys) / 8 + cells.stands_out
        weights = scores.float().softmax(-1).to(cells.content.dtype)
        seen = torch.einsum("bp,bpd->bd", weights, cells.content)
        hidden, cell = self.cell(torch.cat([self.words(last).to(seen.dtype), seen], -1), state)
        return self.say(torch.cat([hidden.to(seen.dtype), seen], -1)).float(), (hidden, cell)


def _waves() -> Tensor:
    """[256, 32], where each cell is: sines and cosines of its row and its column, from the longest
    wave, four times the picture, each shorter by the root of two."""
    along = torch.linspace(-1, 1, _GRID)
    row, column = torch.meshgrid(along, along, indexing="ij")
    lengths = torch.pi / 2 * 2 ** (torch.arange(_WAVES) / 2)
    angles = torch.stack([row, column], dim=-1).flatten(0, 1)[..., None] * lengths  # [256, 2, 8]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()
    )


# -- captions and what they say --------------------------------------------------------------------


def caption_of(picture: Picture) -> list[str]:
    """The caption that a picture should get."""
    tokens = []
    for name, place in sorted(picture.things, key=lambda thing: (-thing.place.x, -thing.place.y)):
        tokens += ["<obj>", *name, f"<x{place.x}>", f"<y{place.y}>"]
    if picture.gripper is not None:
        x, y, _ = picture.gripper
        tokens += ["<grip>", "open" if picture.open else "closed", f"<x{x}>", f"<y{y}>"]
        tokens.append(picture.motion or _STAYS)
    return tokens


def caption_ids(pictures: Sequence[Picture]) -> Tensor:
    """Captions with their end, as ids int64 [B, T], padded."""
    rows = [torch.tensor([*(IDS[t] for t in caption_of(p)), EOS]) for p in pictures]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD_ID)


def read_caption(tokens: Sequence[str]) -> Picture:
    """What a caption says; what is no caption, or says a thing twice, is left out."""
    things: dict[Name, Thing] = {}
    gripper, opened, motion, at = None, True, "", 0
    while at < len(tokens):
        part = tokens[at : at + 5]
        place = _place(part[3:5] if tokens[at] == "<obj>" else part[2:4])
        if tokens[at] == "<obj>" and place is not None and Name(*part[1:3]) in _KNOWN:
            name = Name(*part[1:3])
            things.setdefault(name, Thing(name, place._replace(z=int(name.shape not in FIXTURES))))
            at += 5
        elif tokens[at] == "<grip>" and place is not None and len(part) == 5:
            gripper, opened = place, part[1] == "open"
            motion = part[4] if part[4] in MOTIONS else ""
            at += 5
        else:
            at += 1
    return Picture(tuple(things.values()), gripper, opened, motion)


def _place(tokens: Sequence[str]) -> Place | None:
    if len(tokens) < 2 or not (tokens[0].startswith("<x") and tokens[1].startswith("<y")):
        return None
    return Place(int(tokens[0][2:-1]), int(tokens[1][2:-1]), 1)


def caption_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy, nats a token."""
    return F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten(), ignore_index=PAD_ID)
