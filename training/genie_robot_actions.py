"""Trains what maps robot actions to the latent actions that were inferred for them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.genie.robot_actions import RobotActionConfig, RobotActions
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.tokens import TokenClips

_STEPS, _BATCH, _RATE = 2000, 256, 3e-3
_TOOL = ("tool_x", "tool_y", "tool_z")


def train_robot_actions(
    trained: TokenClips, held: TokenClips, codes: int, dt: float, seed: int
) -> RobotActions | None:
    """Train on all steps of episodes whose actions are known; None if there are none.

    Prints how often the likeliest latent action is the inferred one, on held-out episodes.

    Raises:
        ValueError: episodes of different robots.
    """
    data = steps_of(trained)
    if data is None:
        return None
    plans, felt, latent = data
    first = next(episode for episode in trained.clips.episodes if episode.action_names)
    config = RobotActionConfig(
        first.action_names, first.control_mode, first.proprioception_names,
        points=plans.shape[1], dt=dt / plans.shape[1], codes=codes,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = RobotActions(config)
    known = torch.cat([plans.flatten(1), felt], dim=1)
    model.mean.copy_(known.mean(0))
    model.std.copy_(known.std(0).clamp(min=1e-6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        pick = torch.randint(len(latent), (_BATCH,))
        loss = F.cross_entropy(model(plans[pick], felt[pick]), latent[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    if (kept := steps_of(held)) is not None:
        print(f"latent actions of robot actions: {agreement(model, *kept):.0%} as inferred")
    return model


@torch.no_grad()
def agreement(model: RobotActions, plans: Tensor, felt: Tensor, latent: Tensor) -> float:
    """Share of the steps whose likeliest latent action is the inferred one."""
    return (model(plans, felt).argmax(-1) == latent).float().mean().item()


def steps_of(tokens: TokenClips) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of all steps: robot actions [X, P, A], told from where the tool is at the step's beginning;
    proprioception then [X, F]; and the latent action int64 [X] that was inferred.

    Raises:
        ValueError: episodes of different robots.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    kinds = set()
    for number, index, _, latent in tokens.sequences():
        episode = tokens.clips.episodes[number]
        if not episode.action_names or len(index) < 2:
            continue
        stride = tokens.clips.strides[number]
        kinds.add(
            (episode.action_names, episode.proprioception_names, episode.control_mode, stride)
        )
        plans = np.stack([plan(episode, int(begin), stride) for begin in index[:-1]])
        found.append((plans, episode.proprioception[index[:-1]], latent[1:].astype(np.int64)))
    if not found:
        return None
    if len(kinds) > 1:
        raise ValueError("the episodes are of robots with different actions: train on one of them")
    plans, felt, latent = (torch.from_numpy(np.concatenate(x)) for x in zip(*found, strict=True))
    return plans, felt, latent


def plan(episode: Episode, begin: int, points: int) -> np.ndarray:
    """What was done in frames `begin` .. `begin` + `points` - 1, [points, A]; offsets from the tool
    are told from where it was at `begin`."""
    actions = episode.actions[begin : begin + points].copy()
    if episode.control_mode == "end_effector_offset":
        felt = list(episode.proprioception_names)
        tool = episode.proprioception[begin : begin + points, [felt.index(n) for n in _TOOL]]
        actions[:, [episode.action_names.index(n) for n in "xyz"]] += tool - tool[0]
    return actions
