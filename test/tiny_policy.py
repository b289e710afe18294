"""A policy of another kind than the package's: one camera, one layer, and what it felt before."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from vla_ros.models import checkpoint
from vla_ros.models.policy import ENTRY_POINTS, Action
from vla_ros.robots.action_config import ActionConfig

TYPE = "tiny"
WORDS = ("reach", "red", "blue")
ACTION = replace(
    ActionConfig.get_arm_config(), horizon=4, proprioception_names=("finger_opening", "tool_z")
)


class TinyPolicy(nn.Module):
    language_conditioned = True
    image_size, grid, encoder_id = 32, (1, 4, 4, 3), "pool4"
    statistics_keys, statistics_key = (), ""
    geometry_description = None

    def __init__(self, action_config=ACTION, cameras=("camera",)):
        super().__init__()
        self.action_config, self.cameras = action_config, tuple(cameras)
        felt = len(action_config.proprioception_names)
        told = action_config.horizon * action_config.action_dim + 1
        self.layer = nn.Linear(4 * 4 * 3 + 2 * felt + len(WORDS), told)

    @property
    def mean_action(self):
        return np.zeros(self.action_config.action_dim)

    def encode(self, images):
        (image,) = images
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
        return adaptive_avg_pool2d(pixels, 4).permute(1, 2, 0)[None].half().numpy()

    def unheard_words(self, instruction):
        return [word for word in instruction.split() if word not in WORDS]

    def start(self, instruction):
        if instruction and not set(instruction.split()) & set(WORDS):
            raise ValueError(f"none of {', '.join(WORDS)} is in '{instruction}'")
        return TinyEpisode(self, instruction)

    def save_pretrained(self, folder):
        config = {"type": TYPE, "action": asdict(self.action_config), "cameras": self.cameras}
        checkpoint.write(Path(folder), self, {checkpoint.CONFIG: json.dumps(config)})

    @classmethod
    def from_pretrained(cls, folder):
        config = checkpoint.read_json(folder, checkpoint.CONFIG)
        model = cls(ActionConfig.from_dict(config["action"]), config["cameras"])
        checkpoint.read_weights(folder, model)
        return model.eval()


class TinyEpisode:
    def __init__(self, model, instruction):
        self.instruction, self._model = instruction, model
        words = (instruction or "").split()
        self._told = np.array([float(word in words) for word in WORDS])
        self._before = np.zeros(len(model.action_config.proprioception_names))

    @torch.inference_mode()
    def act(self, tokens, proprioception):
        if tokens.shape != self._model.grid or proprioception.shape != self._before.shape:
            raise ValueError(f"got tokens {tokens.shape}, proprioception {proprioception.shape}")
        known = [tokens.ravel(), proprioception, self._before, self._told]
        self._before = proprioception
        out = self._model.layer(torch.from_numpy(np.concatenate(known).astype(np.float32)))
        action = self._model.action_config
        low, high = np.array(action.action_bounds).T
        part = torch.sigmoid(out[1:]).double().numpy().reshape(action.horizon, -1)
        return Action(low + part * (high - low), float(torch.sigmoid(out[0])), 1.0)

    def describe(self):
        return [f"{self.instruction}, somehow"]


def install(folder):
    """What installing a package that adds the type leaves in `folder`, to be on sys.path."""
    info = folder / "tiny_policy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{TYPE} = tiny_policy:TinyPolicy\n")
    return folder
