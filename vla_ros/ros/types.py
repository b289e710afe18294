"""Message types by their names: the class to subscribe with, the definition to record."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

_SEPARATOR = "=" * 80


def message_class(kind: str) -> type:
    """The class of a type such as sensor_msgs/msg/Image. Raises ValueError if not installed."""
    package, _, name = kind.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ModuleNotFoundError, AttributeError):
        raise ValueError(f"type {kind} is not installed here: source its workspace") from None


@functools.cache
def message_definition(kind: str) -> tuple[str, str]:
    """What a recording keeps of a type: its .msg file with those of all types in it, and its hash.

    Raises:
        ValueError: the type's files are not installed.
    """
    try:
        described = json.loads(_file(kind, "json").read_text())
        hashes = {entry["type_name"]: entry["hash_string"] for entry in described["type_hashes"]}
        texts = [_file(kind, "msg").read_text()]
        for other in hashes:
            if other != kind:
                header = f"{_SEPARATOR}\nMSG: {other.replace('/msg/', '/')}\n"
                texts.append(header + _file(other, "msg").read_text())
    except (PackageNotFoundError, OSError) as error:
        raise ValueError(
            f"type {kind} cannot be recorded, its files are missing: {error}"
        ) from None
    return "\n".join(texts), hashes[kind]


def _file(kind: str, ending: str) -> Path:
    package, folder, name = kind.split("/")
    return Path(get_package_share_directory(package), folder, f"{name}.{ending}")
