"""The checkpoints that ship with the package."""

from __future__ import annotations

from pathlib import Path


def resolve(name_or_path: str) -> Path:
    """Folder of a shipped checkpoint by its name, or of any checkpoint by its path.

    Raises:
        FileNotFoundError: neither, or the folder holds none; the message lists what ships.
    """
    here = Path(__file__).parent
    shipped = {path.parent.name: path.parent for path in sorted(here.glob("*/config.json"))}
    if name_or_path in shipped:
        return shipped[name_or_path]
    folder = Path(name_or_path).expanduser()
    if name_or_path and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} holds no checkpoint: config.json is missing")
        return folder
    raise FileNotFoundError(
        f"no checkpoint '{name_or_path}': give a folder that holds one, or a shipped one "
        f"({', '.join(shipped) or 'none is installed'})"
    )
