"""Where things are that an instruction speaks of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What the first keypoints of each camera are trained to find.
NAMED_KEYPOINTS = ("object", "goal")


class InstructedKeypoints(nn.Module):
    """What in one camera's tokens the instruction is about, and where it is.

    Every keypoint asks with a query made from the instruction: its weight on a cell is the softmax
    of the query's product with the cell's features. It reports the expected position under these
    weights (spatial softmax) and a few features from there. In training the first keypoints are
    shown where to look (see NAMED_KEYPOINTS).
    """

    VALUES = 8  # features that a keypoint brings along

    def __init__(self, channels: int, width: int, keypoints: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.value = nn.Linear(width, self.VALUES)
        self.query = nn.Linear(condition, keypoints * width)

    def queries(self, condition: Tensor) -> Tensor:
        """Instructions [B, E] to queries [B, K, C]."""
        return self.query(condition).unflatten(1, (-1, self.second.in_channels))

    def forward(self, tokens: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, K * (2 + VALUES)] and log-weights [B, K, h * w] of tokens [B, h, w, C]."""
        x = F.relu(self.first(tokens.permute(0, 3, 1, 2)))
        x = F.relu(self.second(x))
        height, width = x.shape[2:]
        x = x.flatten(2).float()
        log_weight = torch.log_softmax(queries.float() @ x, dim=-1)
        weight = log_weight.exp()
        rows = torch.linspace(-1, 1, height, device=x.device).repeat_interleave(width)
        columns = torch.linspace(-1, 1, width, device=x.device).repeat(height)
        places = weight @ torch.stack([rows, columns], dim=-1)
        values = weight @ self.value(x.transpose(1, 2)).float()
        return torch.cat([places, values], dim=-1).flatten(1), log_weight
