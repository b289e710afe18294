"""Which files are one recording."""

from __future__ import annotations

from pathlib import Path

import yaml

_ENDINGS = (".mcap", ".db3")


def find_files(path: Path) -> tuple[dict, list[Path]]:
    """Contents of metadata.yaml, if there is one, and the files of the recording in order."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_file():
        if not _is_storage(path):
            raise ValueError(f"{path} is no recording: expected a folder, .mcap or .db3")
        return {}, [path]
    try:
        text = (path / "metadata.yaml").read_text()
        metadata = yaml.safe_load(text)["rosbag2_bagfile_information"]
        files = [path / Path(name).name for name in metadata["relative_file_paths"]]
    except FileNotFoundError:
        metadata, files = {}, sorted(filter(_is_storage, path.iterdir()), key=_split_number)
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}/metadata.yaml is damaged ({type(error).__name__}): move it away to read the "
            "files without it"
        ) from None
    if not files:
        raise ValueError(f"{path} is no recording: neither .mcap nor .db3 is in it")
    for number, file in enumerate(files):
        if not file.exists():
            packed = file.with_name(f"{file.name}.zstd")
            if not packed.exists():
                raise ValueError(f"{path} lacks {file.name}, a part that metadata.yaml names")
            files[number] = packed
    return metadata, files


def _is_storage(path: Path) -> bool:
    return path.name.removesuffix(".zstd").endswith(_ENDINGS)


def _split_number(path: Path) -> tuple[int, str]:
    digits = path.name.split(".")[0].rpartition("_")[2]
    return (int(digits) if digits.isdigit() else -1), path.name
