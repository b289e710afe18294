"""Configurations from JSON: dataclasses whose fields are checked by name and type."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


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
