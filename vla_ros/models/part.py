"""Models that a configuration tells all about, with a checkpoint folder each."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from vla_ros.models import checkpoint
from vla_ros.models.config_fields import config_from


class Part(nn.Module):
    """A model that its configuration, a dataclass `Config`, tells all about."""

    Config: ClassVar[type]
    config: Any

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration, each file whole or not at all."""
        text = json.dumps(asdict(self.config), indent=1) + "\n"
        checkpoint.write(Path(folder), self, {checkpoint.CONFIG: text})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Part:
        """Load a checkpoint folder, in evaluation mode.

        Raises:
            FileNotFoundError: a file of the checkpoint is missing.
            ValueError: a file is damaged, has numbers that cannot be, or they do not fit each
                other.
        """
        folder = Path(folder)
        checkpoint.require(folder, checkpoint.CONFIG, checkpoint.WEIGHTS)
        values = checkpoint.read_json(folder, checkpoint.CONFIG)
        model = checkpoint.build(folder, lambda: cls(config_from(cls.Config, values)))
        checkpoint.read_weights(folder, model)
        for part in model.modules():
            if isinstance(part, Part) and (problem := part.problem()):
                raise checkpoint.damaged(folder, problem)
        return model.eval()

    def problem(self) -> str:
        """What is wrong with the numbers that were loaded; "" if nothing is."""
        return ""
