"""The eye learns to find things, before the narrator learns to tell of them.

A scene says too little of a picture to learn to see from it alone, so the eye is first asked what
the simulator knows: for each feature of the prefix and each kind of thing, whether its centre is
here, how far from here, and where that is on the table. It is what Zhou et al. 2019 ("Objects as
Points", sections 3 and 4) do, with one small head, a norm and two matrices, because what is asked
for has to lie open in the features: the SVL reads them with no more than that.

Shapes: B images, S pixels of either side, K kinds, P features of the prefix, D numbers in each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.narrator import prefix_of
from vla_ros.models.part import Part
from vla_ros.models.vision import build_encoder
from vla_ros.scene_language.instructions import COLORS, SHAPES
from vla_ros.scene_language.scenes import BINS, BOWL, GRIPPER, PAD, Name
from vla_ros.training.narrator.sightings import THINGS, Sightings

# What is to be found: the simulator's things, the gripper, and the foot of the robot, which tells
# how the camera hangs.
KINDS = (*(Name(c, s) for c in COLORS for s in SHAPES), PAD, BOWL, GRIPPER, Name("", "foot"))
WEIGHTS = {"found": 1.0, "offset": 1.0, "place": 1.0}
_SPREAD = 0.5  # features: of how near to a centre is half right
_FITTED = 1000  # sightings that tell where on the table a camera looks
_FAR = BINS[0] - 1
_RARE = -5.0  # logit at first: hardly any feature has a centre of one kind in it


@dataclass(frozen=True)
class FinderConfig:
    """The eye, see vision.build_encoder, and D of what an SVL makes of its features."""

    vision: dict
    width: int


class Finder(Part):
    """The eye and the head that asks it."""

    Config = FinderConfig

    def __init__(self, config: FinderConfig) -> None:
        super().__init__()
        self.config = config
        self.eye = build_encoder(config.vision)
        tokens = torch.zeros(1, 1, *self.eye.grid, self.eye.channels)
        count, channels = prefix_of(tokens).shape[1:]
        self.side = round(count**0.5)
        # What an SVL's `prefix` is.
        self.project = nn.Sequential(nn.RMSNorm(channels), nn.Linear(channels, config.width))
        self.read = nn.Sequential(nn.RMSNorm(config.width), nn.Linear(config.width, 6 * len(KINDS)))
        self.places = nn.Parameter(torch.zeros(count, 1, 3))  # what is usual in each feature
        nn.init.constant_(self.read[1].bias[: len(KINDS)], _RARE)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images uint8 [B, 3, S, S] to logits of a centre [B, P, K], its offset from the middle of
        the feature [B, P, K, 2] in features, and its place [B, P, K, 3], 0 to 1 along each axis."""
        features = prefix_of(self.eye(images)[:, None])
        told = self.read(self.project(features)).float().unflatten(-1, (6, -1)).transpose(2, 3)
        return told[..., 0], told[..., 1:3], told[..., 3:] + self.places

    def find(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where each kind most likely is: its probability [B, K], its centre in the picture
        [B, K, 2], row and column from -1 to 1, and its place [B, K, 3] in bins."""
        logits, offsets, places = self(images)
        best = logits.argmax(1)  # [B, K]
        rows, kinds = torch.arange(len(best))[:, None], torch.arange(best.shape[1])
        middle = torch.stack([best // self.side, best % self.side], dim=-1) + 0.5
        centres = (middle + offsets[rows, best, kinds]) * (2 / self.side) - 1
        bins = places[rows, best, kinds] * torch.tensor(BINS)
        return logits[rows, best, kinds].sigmoid(), centres, bins


Batch = dict[str, Tensor]


def batch(sightings: Sightings, seeds: tuple[int, ...], count: int) -> Batch:
    """`count` sightings: "images" uint8 [B, 3, S, S] of all their cameras, where each kind is in
    them, "centres" [B, K, 2], and on the table, "places" [B, K, 3] in bins; NaN: nowhere.

    Half of them are mirrored, left and right of the robot changed: as many tables again.
    """
    rng = np.random.default_rng([11, *seeds])
    images, centres, places = [], [], []
    for number in rng.integers(len(sightings), size=count):
        sight = sightings[int(number)]
        things = [*sight.scene.things, (GRIPPER, sight.scene.gripper)]
        rows = [*range(len(sight.scene.things)), THINGS]
        kinds = [KINDS.index(name) for name, _ in things]
        place = np.full((len(KINDS), 3), np.nan, np.float32)
        place[kinds] = [place for _, place in things]
        place[-1] = 0.0, _FAR / 2, 0.0  # the foot stands still
        mirrored = rng.random() < 0.5
        if mirrored:
            place[:, 1] = _FAR - place[:, 1]
        for image, pixels in zip(sight.images, sight.pixels, strict=True):
            centre = np.full((len(KINDS), 2), np.nan, np.float32)
            centre[kinds], centre[-1] = pixels[rows], pixels[-1]
            if mirrored:
                image, centre = image[:, ::-1], centre * [1, -1]
            images.append(image)
            centres.append(centre)
            places.append(place)
    return {
        "images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        "centres": torch.from_numpy(np.stack(centres)).float(),
        "places": torch.from_numpy(np.stack(places)),
    }


def on_table(sightings: Sightings, side: int) -> np.ndarray:
    """Where on the table the middles of the features of a prefix are: [N * P, 2], x and y in bins.

    Of all sightings together, so it is true of a camera that hangs still, but for how it is jolted.
    It is the homography (Hartley and Zisserman 2004, section 4.1) of what stands on the table.
    """
    cameras = len(sightings[0].images)
    points: list[list[np.ndarray]] = [[] for _ in range(cameras)]
    for number in np.linspace(0, len(sightings) - 1, _FITTED).astype(int):
        sight = sightings[int(number)]
        for i, (_, place) in enumerate(sight.scene.things):
            for camera, pixel in zip(points, sight.pixels[:, i], strict=True):
                if place.z <= 1 and np.isfinite(pixel).all():
                    camera.append(np.array([*pixel, 1.0, *(np.array(place[:2]) / _FAR)]))
    middles = (np.arange(side) + 0.5) * (2 / side) - 1
    rows, columns = np.meshgrid(middles, middles, indexing="ij")
    grid = np.stack([rows.ravel(), columns.ravel(), np.ones(side * side)], axis=-1)
    return np.concatenate([_homography(np.array(camera), grid) for camera in points])


def _homography(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Places [P, 2] of `asked` [P, 3] by the homography of `known`: [n, 3] pixels and [n, 2]."""
    if len(known) < 4:
        return np.full((len(asked), 2), _FAR / 2)
    pixels, (x, y), none = known[:, :3], known[:, 3:].T[..., None], np.zeros((len(known), 3))
    equations = [
        np.hstack([pixels, none, -x * pixels]),
        np.hstack([none, pixels, -y * pixels]),
    ]
    matrix = np.linalg.svd(np.concatenate(equations), full_matrices=False)[2][-1].reshape(3, 3)
    matrix *= np.sign((pixels @ matrix[2]).mean())
    found = asked @ matrix.T
    return (found[:, :2] / np.maximum(found[:, 2:], 1e-3) * _FAR).clip(0, _FAR)


def losses(model: Finder, batch: Batch) -> dict[str, Tensor]:
    """Losses of a batch by name; each is a mean over the things in sight."""
    logits, offsets, places = model(batch["images"])
    at = (batch["centres"] + 1) * (model.side / 2)  # in features, [B, K, 2]
    there = at.isfinite().all(-1)
    cell = at.nan_to_num().long().clamp(0, model.side - 1)
    middles = torch.arange(model.side, device=at.device) + 0.5
    near = torch.exp(-(((middles - at.nan_to_num()[..., None]) / _SPREAD) ** 2) / 2)
    heat = (near[:, :, 0, :, None] * near[:, :, 1, None]).flatten(2)  # [B, K, P]
    index = cell[..., 0] * model.side + cell[..., 1]
    heat = heat.scatter(2, index[..., None], 1.0) * there[..., None]
    # The focal loss of Zhou et al. 2019, equation 1.
    logits, hit = logits.transpose(1, 2), heat == 1.0
    chance = logits.sigmoid()
    found = (1 - chance).square() * F.logsigmoid(logits)
    missed = (1 - heat) ** 4 * chance.square() * F.logsigmoid(-logits)
    count = there.sum().clamp(min=1)
    rows, kinds = torch.nonzero(there, as_tuple=True)
    cells = index[rows, kinds]
    offset = offsets[rows, cells, kinds] - (at - cell - 0.5)[rows, kinds]
    wanted = batch["places"][rows, kinds] / at.new_tensor(BINS)
    return {
        "found": -torch.where(hit, found, missed).sum() / count,
        "offset": offset.abs().sum() / count,
        "place": (places[rows, cells, kinds] - wanted).abs().sum() / count,
    }
