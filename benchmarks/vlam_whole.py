"""The whole VLAM: how large its sizes are, and what a frame takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from measuring import interleaved, ms, table
from torch import nn
from tqdm import tqdm
from vlam_core import Scale

from vla_ros.checkpoints import resolve
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.models.vlam_config import SIZES
from vla_ros.robots.action_config import ActionConfig

# DINOv2 as published (Oquab et al. 2023, table 16): built from its shape, so no weights are needed.
_DINOV2 = {
    "small": {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12},
    "large": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
}
NOMINAL = {"small": 50e6, "base": 150e6, "large": 350e6}  # parameters
TOLERANCE = 0.1


def vision(size: str) -> dict:
    """The encoder of a size as a description, which needs no weights."""
    named = SIZES[size]["vision_model"]
    if isinstance(named, dict):
        return named
    published = {"model_type": "dinov2", "image_size": 518, "patch_size": 14}
    return published | _DINOV2[named.removeprefix("dinov2-")]


def count(*modules: nn.Module) -> int:
    return sum(weights.numel() for module in modules for weights in module.parameters())


def sizes(scale: Scale) -> str:
    """Parameters of each size, and of which part."""
    rows = []
    for size, shape in SIZES.items():
        with torch.device("meta"):
            model = VisionLanguageActionModel.from_size(
                size, ActionConfig.get_arm_config(), vision_model=vision(size)
            )
        parts = [
            count(model.encoders),
            count(model.core),
            count(model.language, model.instruction),
        ]
        total = count(model)
        nominal = NOMINAL.get(size)
        verdict = "-"
        if nominal:
            off = total / nominal - 1
            within = "" if abs(off) <= TOLERANCE else ": not within 10 %"
            verdict = f"{nominal / 1e6:.0f} ({off:+.1%}{within})"
        named = shape["vision_model"]
        rows.append(
            [size, named if isinstance(named, str) else named["model_type"]]
            + [model.config.d_model, model.config.n_layers, model.config.d_state]
            + [f"{part / 1e6:.2f}" for part in (total, *parts, total - sum(parts))]
            + [verdict]
        )
    head = ["size", "encoder", "d_model", "layers", "d_state", "all"]
    head += ["encoder", "core", "language", "the rest", "nominal"]
    return f"""
## The whole model: sizes

Parameters in millions, one camera. Language: the instruction's encoder and the decoder of
descriptions. The rest: keypoints, fusion, heads. The arm's policy is a tiny one with two cameras.

{table(head, rows)}
"""


def frame(model: VisionLanguageActionModel) -> dict[str, Callable[[], object]]:
    """What is done for a frame at batch 1, as calls: encode, act, describe."""
    shape = (model.image_size, model.image_size, 3)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in model.config.cameras]
    felt = np.zeros(len(model.config.action.proprioception_names))
    episode = model.start(None)
    tokens = model.encode(images)
    episode.act(tokens, felt)
    return {
        "encode": lambda: model.encode(images),
        "act": lambda: episode.act(tokens, felt),
        "core": core_step(model),
        "describe": episode.describe,
    }


def core_step(model: VisionLanguageActionModel) -> Callable[[], None]:
    state = model.core.initial_state(1)
    x = torch.zeros(1, model.config.d_model, device=state[0].ssm.device)

    @torch.inference_mode()
    def call() -> None:
        nonlocal state
        _, state = model.core.step(x, state)

    return call


def latency(scale: Scale) -> str:
    """Milliseconds from a frame to an action chunk, on the robot's side of ROS."""
    torch.manual_seed(0)
    models = {"the arm's policy": VisionLanguageActionModel.from_pretrained(resolve("arm"))}
    if scale.whole:
        action = ActionConfig.get_arm_config()
        small = VisionLanguageActionModel.from_size("small", action, vision_model=vision("small"))
        models["small, DINOv2-S with random weights"] = small.eval()
    rows = []
    for title, model in tqdm(models.items(), desc="latency"):
        model.to(scale.device)
        for precision, half in (("fp32", False), ("bf16 autocast", True)):
            with torch.autocast(scale.device, torch.bfloat16, enabled=half):
                work = frame(model)
                if half:
                    del work["describe"]  # single words: autocast only adds conversions
                times = interleaved(work, scale.seconds, scale.device, calls=2)
            both = times["encode"] + times["act"]
            rows.append(
                [title, len(model.config.cameras), f"{model.image_size} px", precision]
                + [ms(times[name]) for name in ("encode", "act")]
                + [ms(both), f"{times['core'] / both:.0%}", ms(times.get("describe"))]
            )
    head = ["model", "cameras", "images", "precision", "encode", "act", "encode + act"]
    return f"""
## The whole model: a frame

Milliseconds at batch 1, medians. Encode: all cameras' images to visual tokens. Act: tokens,
proprioception and the state to an action chunk; of it the core's share of encode + act. Describe:
one sentence, on demand, in fp32.

{table([*head, "the core's step", "describe"], rows)}
"""
