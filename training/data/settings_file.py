"""YAML files of settings, checked against the dataclasses that they fill, before anything runs.

Read as YAML 1.2, which is what people mean: 1e-2 is a number (1.1, which PyYAML speaks, takes it
for a text), `on` and `no` are texts, 010 is ten. Numbers and texts are never taken for each other.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

_MOST_BYTES = 1_000_000
_UNIONS = (Union, types.UnionType)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema; a key that comes twice is an error."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: a key is no text")
            if key.value in seen:
                first = seen[key.value].start_mark.line + 1
                raise ValueError(f"line {line}: {key.value} is there already, in line {first}")
            seen[key.value] = key
        return super().construct_mapping(node, deep=True)


for _tag, _pattern, _first in (
    ("merge", r"<<", ["<"]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
    )


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    if text.startswith("0o"):
        return int(text[2:], 8)
    return int(text[2:], 16) if text.startswith("0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def read(path: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        ValueError: it is no YAML, has a key twice, or is a list or a text rather than keys; one
            line that names the file and the place.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a YAML file")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has more than {_MOST_BYTES} bytes: that is no file of settings")
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.load(text, _Loader)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: give a YAML file, in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        tab = ", indent with spaces" if "\\t" in str(error.problem) else ""
        raise ValueError(f"{path} is no YAML: {line}{error.problem}{tab}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path} is no YAML: nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {str(error).splitlines()[0]}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} has no keys: {_shown(content)}")
    return content


def check_keys(told: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    """Raises ValueError for a key that is not among the known ones; it tells the nearest."""
    known = list(known)
    for key in told:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            cure = f"did you mean {near[0]}?" if near else f"choose of {', '.join(known)}"
            raise ValueError(f"{_join(where, key)} is not known: {cure}")


def fill(kind: type, told: Any, where: str, given: Mapping[str, Any] | None = None) -> Any:
    """An instance of a dataclass from what a file says of its fields.

    Args:
        kind: the dataclass.
        told: of the file.
        where: the place in the file, such as "bag.state".
        given: fields that do not come from the file.

    Raises:
        ValueError: a key is unknown or missing, a value is of another type, or the dataclass does
            not take it; one line that names the place and the cure.
    """
    given = given or {}
    hints = get_type_hints(kind)
    own = [field for field in fields(kind) if field.init and field.name not in given]
    if not isinstance(told, dict):
        needed = [field.name for field in own if _required(field)]
        if isinstance(told, str) and hints[own[0].name] is str and needed in ([], [own[0].name]):
            told = {own[0].name: told}  # a topic alone stands for a stream
        else:
            names = ", ".join(field.name for field in own)
            text = f"one {own[0].name}, or keys of" if hints[own[0].name] is str else "keys of"
            raise ValueError(f"{where} is {_shown(told)}: give {text} {names}")
    check_keys(told, [field.name for field in own], where)
    for field in own:
        if _required(field) and field.name not in told:
            raise ValueError(f"{_join(where, field.name)} is missing")
    values = {name: convert(value, hints[name], _join(where, name)) for name, value in told.items()}
    try:
        return kind(**values, **given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` of a file as the type `hint`. Raises ValueError, see `fill`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in _UNIONS:
        return _of_several(value, arguments, where)
    if is_dataclass(hint):
        return fill(hint, value, where)
    if origin is tuple and Ellipsis not in arguments:
        if isinstance(value, list) and len(value) == len(arguments):
            pairs = enumerate(zip(value, arguments, strict=True))
            return tuple(convert(one, kind, f"{where}[{i}]") for i, (one, kind) in pairs)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, dict):
            for key in value:
                convert(key, str, f"a name in {where}")
            return {
                key: convert(one, arguments[1], _join(where, key)) for key, one in value.items()
            }
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        if isinstance(value, list):
            return tuple(convert(one, arguments[0], f"{where}[{i}]") for i, one in enumerate(value))
    elif isinstance(hint, type) and issubclass(hint, Enum):
        choices = [member.value for member in hint]
        if value in choices:
            return hint(value)
        near = difflib.get_close_matches(str(value), choices, 1)
        cure = f"did you mean {near[0]}?" if near else f"choose {', '.join(choices)}"
        raise ValueError(f"{where} is {_shown(value)}: {cure}")
    elif _is_scalar(value, hint):
        return hint(value)
    raise ValueError(f"{where} is {_shown(value)}: give {_asked(hint, value)}")


def _of_several(value: Any, hints: Sequence[Any], where: str) -> Any:
    errors = []
    for hint in hints:
        if hint is type(None):
            if value is None:
                return None
            continue
        try:
            return convert(value, hint, where)
        except ValueError as error:
            errors.append(error)
    # Whoever got farthest into the value tells what is wrong with it.
    raise max(reversed(errors), key=lambda error: len(str(error).partition(" is ")[0]))


def _is_scalar(value: Any, hint: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float:
        return number and math.isfinite(value)
    if hint is int:
        return number and math.isfinite(value) and value == int(value)
    return hint in (str, bool, type(None)) and type(value) is hint


def _asked(hint: Any, value: Any = None) -> str:
    """What is wanted, in words."""
    if hint in (int, float):
        what = "a whole number" if hint is int else "a finite number"
        return f"{what}, without quotes" if isinstance(value, str) and _numeric(value) else what
    if hint is str:
        scalar = isinstance(value, bool | int | float)
        return f'a text: "{value}"' if scalar else "a text"
    if hint is bool:
        return "true or false"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(map(_asked, arguments))}]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"names, each with {_asked(arguments[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        alone = isinstance(value, str) and arguments[0] is str
        return f"a list: [{', '.join(value.split())}]" if alone else "a list"
    return "its fields" if is_dataclass(hint) else "another value"


def _numeric(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _shown(value: Any) -> str:
    """A value as in the file, cut short."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return f"the text {reprlib.repr(value)}" if isinstance(value, str) else reprlib.repr(value)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
