"""Models that a configuration tells all about, with a checkpoint folder each."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from vla_ros.models import checkpoint


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
            ValueError: a file is damaged, or they do not fit each other.
        """
        folder = Path(folder)
        checkpoint.require(folder, checkpoint.CONFIG, checkpoint.WEIGHTS)
        try:
            config = config_from(cls.Config, checkpoint.read_json(folder, checkpoint.CONFIG))
            model = cls(config)
        except (ValueError, TypeError) as error:
            raise checkpoint.damaged(folder, error) from error
        checkpoint.read_weights(folder, model)
        return model.eval()


def config_from(kind: type, values: dict) -> Any:
    """A dataclass from what `asdict` and JSON leave of it. Raises ValueError: other fields."""
    known = {field.name for field in fields(kind)}
    if set(values) != known:
        wrong = ", ".join(sorted(set(values) ^ known))
        raise ValueError(f"unexpected or missing settings of {kind.__name__}: {wrong}")
    return kind(**values)
