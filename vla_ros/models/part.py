"""Models that a configuration tells all about, with a checkpoint folder each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

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


def config_from(kind: type, values: dict) -> Any:
    """A dataclass from what `asdict` and JSON leave of it.

    Raises:
        ValueError: other fields, or values of another type.
    """
    check_fields(kind, values)
    return kind(**values)


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Raises ValueError when `values` are not what the fields of a dataclass are, by name and
    type; counts are 0 or more, and numbers finite."""
    known = {field.name for field in fields(kind)}
    if set(values) != known:
        wrong = ", ".join(sorted(set(values) ^ known))
        raise ValueError(f"unexpected or missing settings of {kind.__name__}: {wrong}")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _is(value, hints[name]):
            raise ValueError(f"{name} of {kind.__name__} is {json.dumps(value, default=str)[:60]}")


def _is(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type; true for types that are not simple ones."""
    arguments = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_is(value, each) for each in arguments)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(each) == len(value) and all(map(_is, value, each))
    if hint is int:
        return type(value) is int and value >= 0
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return hint not in (str, bool, type(None)) or type(value) is hint
