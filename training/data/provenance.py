"""What data were made from: recordings, what they mean, and the code that reads them.

Whatever is kept of recordings (shards, tokens, a run's state) is a function of these. A file is the
same if it is the same inode, of the same size and times, as a file system keeps them whatever a
program asks for; if not, its contents decide, so that a copied or touched recording is still the
same one.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2

import vla_ros
import vla_ros.training
from vla_ros.training.data.notices import say

FILE = "provenance.json"
_IDENTITY = 5  # numbers of a file, see `Provenance.files`
_SHOWN = 3  # files, of those that changed
_READING = ("vla_ros.training.data.recordings", "vla_ros.training.data.shards")
_BLOCK = 1 << 20
# Names of shards and other parts, and of what stands beside them.
_OURS = re.compile(rf"\.?([a-z]+-)?\d{{5,6}}(\..*)?|statistics\.json|\.?{re.escape(FILE)}.*")


@dataclass(frozen=True)
class Provenance:
    """What something was made from.

    Args:
        settings: of the making, and the contract with the robot; whatever JSON can hold.
        files: of each file by name: [size, inode, times of change, digest of the contents].
        code: a digest of what reads them.
    """

    settings: dict[str, Any]
    files: dict[str, list]
    code: str

    @classmethod
    def of(
        cls, paths: Iterable[Path], settings: Mapping[str, Any], before: Provenance | None = None
    ) -> Provenance:
        """What is there now. Contents are read, but for files that `before` knows.

        Raises:
            ValueError: a path does not exist.
        """
        known = before.files if before else {}
        files = {}
        for number, path in enumerate(paths):
            if not path.exists():
                raise ValueError(f"{path} does not exist")
            for file in [path] if path.is_file() else _inside(path):
                name = f"{number}/{os.path.relpath(file, path.parent)}"
                files[name] = _identity(file, known.get(name))
        return cls(json.loads(json.dumps(settings, default=str)), files, code())

    @classmethod
    def load(cls, folder: Path) -> Provenance | None:
        """That of a folder; None if it tells none that can be read."""
        try:
            told = json.loads((folder / FILE).read_text())
            read = cls(dict(told["settings"]), dict(told["files"]), str(told["code"]))
            whole = all(isinstance(f, list) and len(f) == _IDENTITY for f in read.files.values())
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return read if whole else None

    def save(self, folder: Path) -> None:
        partial = folder / f".{FILE}.partial"
        partial.write_text(json.dumps(vars(self), indent=1) + "\n")
        os.replace(partial, folder / FILE)

    def differences(self, now: Provenance) -> list[str]:
        """What is no longer as it was, in words; nothing if all is."""
        found = []
        names = {*self.settings, *now.settings}
        for name in sorted(names):
            before, after = self.settings.get(name), now.settings.get(name)
            if before != after:
                found.append(_difference(name, before, after))
        old, new = self.files, now.files
        for what, files in (
            ("new", [name for name in new if name not in old]),
            ("gone", [name for name in old if name not in new]),
            ("changed", [name for name in new if name in old and old[name][-1] != new[name][-1]]),
        ):
            if files:
                shown = ", ".join(name.partition("/")[2] for name in files[:_SHOWN])
                more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
                found.append(f"{len(files)} file{'s are' if len(files) > 1 else ' is'} {what} "
                             f"({shown}{more})")  # fmt: skip
        if self.code != now.code:
            found.append("this version of the package makes data in another way")
        return found

    @property
    def digest(self) -> str:
        """A name for it: 16 characters."""
        files = {name: identity[-1] for name, identity in self.files.items()}
        text = json.dumps([self.settings, files, self.code], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def remove_stale(folder: Path, now: Provenance, data: Iterable[Path] = ()) -> None:
    """Remove shards, or other data in parts, that were made from anything else than there is now.

    Args:
        folder: of `write_shards` or with such folders, and what `now.save` leaves.
        now: what they would be made from.
        data: recordings, which are never removed.

    Raises:
        ValueError: there are other things in the folder.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    before = Provenance.load(folder)
    changes = ["they do not tell what they were made from"]
    if before is not None and not (changes := before.differences(now)):
        return
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    recordings = any(folder.resolve() in (p.resolve(), *p.resolve().parents) for p in data)
    if recordings or not all(map(_OURS.fullmatch, inside)):
        raise ValueError(f"{folder} holds other things than shards: name another folder for --out")
    say(f"{folder} is made anew: {'; '.join(changes)}")
    shutil.rmtree(folder)


@cache
def code(*modules: str) -> str:
    """A digest of the code that makes data, and of what decodes pictures: of these modules and all
    of this package that they import, wherever in them. What else there is may change.

    Args:
        modules: by their full names; those that read recordings if none are given.
    """
    digest = hashlib.sha256(cv2.__version__.encode())
    for _, file in sorted(_with_imports(modules or _READING).items()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _with_imports(modules: Iterable[str]) -> dict[str, Path]:
    """Files of modules and of those that they import, by name. Raises ValueError: there is none."""
    files: dict[str, Path] = {}
    left = [*modules]
    for name in left:
        if _file(name) is None:
            raise ValueError(f"there is no module {name}")
    while left:
        name = left.pop()
        file = _file(name)
        if file is None or name in files:  # a name in a module, or another package's
            continue
        files[name] = file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                left += [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                left += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
    return files


def _file(module: str) -> Path | None:
    """Of a module of this package; found without importing it, and with it libraries."""
    for package in (vla_ros.training, vla_ros):  # the first may lie outside of the second
        if module == package.__name__ or module.startswith(f"{package.__name__}."):
            inside = Path(*module.removeprefix(package.__name__).lstrip(".").split("."))
            place = Path(package.__file__).parent / inside
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.is_file():
                    return file
            return None
    return None


def _inside(folder: Path) -> Sequence[Path]:
    """Files within, in order; what begins by a dot is being written, or nobody's recording."""
    found = []
    for here, inner, files in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(here, name) for name in sorted(files) if not name.startswith(".")]
    return found


def _identity(file: Path, known: list | None) -> list:
    status = file.stat()
    quick = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    if known and known[:-1] == quick:
        return known
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return [*quick, digest.hexdigest()]


def _difference(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return "; ".join(_difference(f"{name}.{k}", before.get(k), after.get(k)) for k in keys)
    return f"{name} is {after}, not {before}"
