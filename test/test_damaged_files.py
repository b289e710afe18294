"""Damaged files, whatever the damage: read as they were, or one error that names the file.

Nothing else may come of them: no other exception, no great memory, no other numbers where there is
a checksum.
"""

import json
import random
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard
from episodes import episode
from recordings import SECOND, STORE, robot, text, write_bag
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from test_bags import contract

from vla_ros.training.data import bag_files, bag_storage
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bag_report import BagReport
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.bags import open_bag
from vla_ros.training.data.rlds import open_rlds
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards
from vla_ros.training.data.statistics import EpisodeStatistics

VARIANTS = 16
MAGIC = b"\x89MCAP0\r\n"


# --- MCAP by hand: with the checksums that rosbags leaves out -------------------------------------


def record(operation: int, body: bytes) -> bytes:
    return struct.pack("<BQ", operation, len(body)) + body


def string(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def channel(number: int, topic: str, kind: str) -> bytes:
    definition, _ = STORE.generate_msgdef(kind, ros_version=2)
    schema = struct.pack("<H", number) + string(kind.encode()) + string(b"ros2msg")
    end = string(topic.encode()) + string(b"cdr") + struct.pack("<I", 0)
    return record(3, schema + string(definition.encode())) + record(
        4, struct.pack("<HH", number, number) + end
    )


def mcap_records(said) -> tuple[bytes, dict[int, int]]:
    """Channels and messages, and how many messages each channel has."""
    data, numbers, counts = b"", {}, {}
    for topic, kind, received, message in sorted(said, key=lambda one: one[2]):
        if topic not in numbers:
            numbers[topic] = len(numbers) + 1
            data += channel(numbers[topic], topic, kind)
        number, time = numbers[topic], round(received * SECOND)
        counts[number] = counts.get(number, 0) + 1
        body = struct.pack("<HIQQ", number, 0, time, time)
        data += record(5, body + bytes(STORE.serialize_cdr(message, kind)))
    return data, counts


def chunk(records: bytes, compression: bytes, size: int | None = None, crc: bool = True) -> bytes:
    packed = {
        b"": lambda data: data,
        b"zstd": zstandard.ZstdCompressor().compress,
        b"lz4": lz4.frame.compress,
    }[compression](records)
    head = struct.pack("<QQQI", 0, 0, len(records) if size is None else size, zlib.crc32(records))
    if not crc:
        head = head[:-4] + bytes(4)
    return record(6, head + string(compression) + struct.pack("<Q", len(packed)) + packed)


def write_mcap(path: Path, content: bytes, counts: dict[int, int], data_crc: bool = False) -> Path:
    data = MAGIC + record(1, string(b"ros2") + string(b"test")) + content
    crc = zlib.crc32(data) if data_crc else 0
    table = b"".join(struct.pack("<HQ", *pair) for pair in counts.items())
    head = struct.pack("<QHIIIIQQ", sum(counts.values()), 0, len(counts), 0, 0, 0, 0, 0)
    end = record(15, struct.pack("<I", crc)) + record(11, head + string(table))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data + end + record(2, struct.pack("<QQI", 0, 0, 0)) + MAGIC)
    return path


# --- whatever the damage --------------------------------------------------------------------------

PACKED = {
    "mcap": None,
    "mcap, zstd by message": (CompressionMode.MESSAGE, CompressionFormat.ZSTD),
    "mcap, zstd by chunk": (CompressionMode.STORAGE, CompressionFormat.ZSTD),
    "mcap, zstd by file": (CompressionMode.FILE, CompressionFormat.ZSTD),
    "sqlite3": None,
    "sqlite3, zstd by message": (CompressionMode.MESSAGE, CompressionFormat.ZSTD),
    "sqlite3, zstd by file": (CompressionMode.FILE, CompressionFormat.ZSTD),
}
UNCHUNKED = "no chunks, a checksum of all"
GUARDED = {"chunks with checksums": b"", "zstd chunks": b"zstd", "lz4 chunks": b"lz4"}


def made(kind: str, folder: Path) -> tuple[Path, Callable[[Path], list]]:
    """A small one of its kind, and how it is read."""
    said = [text("/instruction", 99.0, "lift it"), *robot(5)]
    if kind == "rlds":
        return write_rlds(folder, "toys", map(episode, range(2))), lambda path: [*open_rlds(path)]
    if kind == "shards":
        write_shards(folder / "shards", map(episode, range(3)), ("front", "wrist"), 5)
        return folder / "shards", read_shards
    if kind in PACKED:
        storage = kind.partition(",")[0]
        return write_bag(folder / "bag", said, storage, PACKED[kind]), read_bag
    records, counts = mcap_records(said)
    if kind == UNCHUNKED:
        write_mcap(folder / "bag" / "a.mcap", records, counts, data_crc=True)
    else:
        write_mcap(folder / "bag" / "a.mcap", chunk(records, GUARDED[kind]), counts)
    return folder / "bag", read_bag


def read_bag(path: Path) -> list:
    list(BagReport.of(path).lines())
    return [*open_bag(path, contract())]


def read_shards(path: Path) -> list:
    EpisodeStatistics.load(path / "statistics.json")
    return [
        one for shard in map(EpisodeShard.load, shard_folders(path)) for one in shard.episodes()
    ]


def content(episodes: list) -> list:
    return [
        (
            one.instruction,
            *(array.tobytes() for array in (one.stamps, one.proprioception, one.actions)),
            *(frame.tobytes() for camera in one.cameras for frame in one.frames(camera)),
            *(depth.tobytes() for camera in one.depths for depth in one.depth(camera)),
        )
        for one in episodes
    ]


def damage(data: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    place = rng.randrange(len(data))
    kind = rng.choice(["bit", "byte", "cut", "insert", "zero", "twice", "huge", "word"])
    if kind == "bit":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[place] = rng.randrange(256)
    elif kind == "cut":
        del data[place:]
    elif kind == "insert":
        data[place:place] = rng.randbytes(rng.choice([1, 8, 100]))
    elif kind == "zero":
        data[place : place + 16] = bytes(len(data[place : place + 16]))
    elif kind == "twice":
        data[place:place] = data[place : place + rng.randrange(1, 200)]
    elif kind == "huge":
        data[place : place + 8] = b"\xff" * len(data[place : place + 8])
    else:
        words = list(re.finditer(rb"\w+", data))
        word = rng.choice(words) if words else None
        if word:
            data[word.start() : word.end()] = rng.choice([b"-1", b"9" * 20, b"NaN", b"null", b"[]"])
    return bytes(data)


@pytest.mark.parametrize("kind", [*PACKED, *GUARDED, UNCHUNKED, "rlds", "shards"])
def test_damage_is_one_error_that_names_the_file_or_none(tmp_path, kind):
    path, read = made(kind, tmp_path)
    whole = content(read(path))
    checked = kind not in PACKED
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    rng = random.Random(kind)
    refused = 0
    for variant in range(VARIANTS):
        file = rng.choice(files)
        kept = file.read_bytes()
        file.write_bytes(damage(kept, rng))
        try:
            found = content(read(path))
        except (ValueError, OSError) as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error), (variant, str(error))
        else:
            # An MCAP file that was cut may be an unfinished recording, which is read and noted.
            assert not checked or "chunk" in kind or found == whole, (variant, file.name)
        file.write_bytes(kept)
    assert refused > VARIANTS // 8
    assert content(read(path)) == whole


@pytest.mark.parametrize("kind", [*GUARDED, UNCHUNKED])
def test_a_flipped_bit_is_noticed_where_a_checksum_is(tmp_path, kind):
    path, read = made(kind, tmp_path)
    (file,) = path.glob("*.mcap")
    whole = file.read_bytes()
    picture = whole.index(b"rgb8") if kind == "chunks with checksums" else len(whole) // 2
    for place in range(picture + 20, picture + 120, 9):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{file} is corrupt|{path}"):
            content(read(path))


def test_a_finished_file_that_breaks_off_is_damaged_not_unfinished(tmp_path):
    path, read = made(UNCHUNKED, tmp_path)
    (file,) = path.glob("*.mcap")
    whole = file.read_bytes()
    middle = whole.index(b"rgb8")
    file.write_bytes(whole[:middle] + bytes(50) + whole[middle:])
    with pytest.raises(ValueError, match=f"{file} is corrupt"):
        read(path)
    file.write_bytes(whole[:middle])  # and this is what a killed recorder leaves
    assert "unfinished recording" in Bag(path).notes[0]


def test_messages_that_the_statistics_count_are_missed(tmp_path):
    records, counts = mcap_records(robot(5))
    file = write_mcap(tmp_path / "a.mcap", chunk(records, b"zstd"), counts | {2: 6})
    with pytest.raises(ValueError, match="statistics count 6 messages on /.*, 5 are there"):
        Bag(file)


def test_a_damaged_schema_is_one_line(tmp_path):
    path, read = made("sqlite3", tmp_path)
    (file,) = path.glob("*.db3")
    file.write_bytes(file.read_bytes().replace(b"CREATE TABLE messages", b'CREATE TABLE "essages'))
    with pytest.raises(ValueError, match=f"{file} cannot be read: ") as error:
        read(path)
    assert "\n" not in str(error.value)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [b"zstd", b"lz4"])
def test_a_chunk_is_not_unpacked_beyond_what_it_says(tmp_path, monkeypatch, compression):
    monkeypatch.setattr("vla_ros.training.data.bag_mcap.LARGEST", 2**20)
    records, counts = mcap_records(robot(1))
    much = records + record(200, bytes(2**22))  # an application's own record, of zeros
    for size, problem in (
        (1000, "1000|size is wrong|full frame"),
        (2**21, "are the most that are read"),
        (2**63, "are the most that are read"),
    ):
        file = write_mcap(tmp_path / f"{size}.mcap", chunk(much, compression, size), counts)
        with pytest.raises(ValueError, match=f"{file} is corrupt: chunk at byte .*({problem})"):
            Bag(file)


def test_a_message_is_not_unpacked_beyond_a_limit(monkeypatch):
    monkeypatch.setattr(bag_storage, "LARGEST", 1000)
    told = zstandard.ZstdCompressor().compress(bytes(10_000))
    untold = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10_000))
    for data in (told, untold, told[: len(told) // 2], b"", b"nothing"):
        with pytest.raises(ValueError, match="zstd: "):
            bag_storage.inflate(data)
    small = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc" * 9)
    assert bag_storage.inflate(small) == b"abc" * 9


def test_a_packed_file_is_not_unpacked_beyond_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_files, "_FEW", 10_000)
    monkeypatch.setattr(bag_files, "_RATIO", 10)
    (tmp_path / "a.mcap.zstd").write_bytes(zstandard.compress(MAGIC + bytes(100_000)))
    with pytest.raises(ValueError, match=r"a.mcap.zstd unpacks to more than .* `zstd -d`"):
        Bag(tmp_path / "a.mcap.zstd")
    (tmp_path / "b.db3.zstd").write_bytes(zstandard.compress(bytes(100_000)))
    with pytest.raises(ValueError, match=r"b.db3.zstd holds no .db3 file"):
        Bag(tmp_path / "b.db3.zstd")


# --- what metadata and definitions say ------------------------------------------------------------


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xff\xfe",
        b"rosbag2_bagfile_information: 3",
        b"rosbag2_bagfile_information: {relative_file_paths: 5}",
        b"rosbag2_bagfile_information: {relative_file_paths: [5]}",
        b"rosbag2_bagfile_information: {relative_file_paths: [a.mcap], "
        b"topics_with_message_count: [{message_count: 3}]}",
        b"rosbag2_bagfile_information: {relative_file_paths: [a.mcap], custom_data: [1]}",
        b"a: " + b"[" * 5000,
    ],
)
def test_damaged_metadata_is_told_with_the_cure(tmp_path, damaged):
    path = write_bag(tmp_path / "bag", robot())
    (path / "metadata.yaml").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"bag/metadata.yaml is damaged .*move it away"):
        Bag(path)


def test_a_definition_that_misnames_fields_is_not_used(tmp_path):
    said = [text("/instruction", 99.0, "lift it"), *robot()]
    path = write_bag(tmp_path / "bag", said)
    (file,) = path.glob("*.mcap")
    whole = file.read_bytes()
    assert b"string data" in whole and b"float64[] position" in whole
    damaged = whole.replace(b"string data", b"string dada")
    file.write_bytes(damaged.replace(b"float64[] position", b"float64[] postion "))
    (one,) = open_bag(path, contract())
    assert one.instruction == "lift it" and one.proprioception[:, 0].tolist() == [*range(6)]


# --- shards ---------------------------------------------------------------------------------------


def shards(folder: Path) -> tuple[Path, Path]:
    write_shards(folder / "shards", map(episode, range(3)), ("front", "wrist"), 5)
    return folder / "shards", folder / "shards" / "00000"


@pytest.mark.parametrize("name", ["images", "actions", "proprioception", "stamps", "image_sums"])
def test_a_shard_with_an_array_of_another_shape_is_refused(tmp_path, name):
    folder, shard = shards(tmp_path)
    array = np.load(shard / f"{name}.npy")
    (shard / "checksums.json").unlink()  # as in those of earlier versions
    cure = f"{name}.npy is damaged .*: delete the folder {folder}, to have it written again"
    for other in (array[:-1], array.astype("complex128"), array[None]):
        np.save(shard / f"{name}.npy", other)
        with pytest.raises(ValueError, match=cure):
            read_shards(folder)


def test_a_shard_with_numbers_that_are_none_is_refused(tmp_path):
    folder, shard = shards(tmp_path)
    actions = np.load(shard / "actions.npy")
    actions[5, 1] = np.nan
    np.save(shard / "actions.npy", actions)
    with pytest.raises(
        ValueError, match=r"actions.npy is damaged \(its checksum differs\): delete"
    ):
        read_shards(folder)
    (shard / "checksums.json").unlink()
    with pytest.raises(ValueError, match="actions hold NaN or infinity in frame 1.*delete"):
        read_shards(folder)


def test_a_flipped_bit_in_an_image_of_a_shard_is_noticed(tmp_path):
    folder, shard = shards(tmp_path)
    with open(shard / "images.npy", "r+b") as file:
        file.seek(-10, 2)
        file.write(bytes([file.read(1)[0] ^ 1]))
    *whole, last = read_shards(folder)
    content(whole)
    with pytest.raises(
        ValueError, match="images.npy is damaged .an image's checksum differs.*delete"
    ):
        content([last])


def test_a_shard_that_is_gone_is_missed(tmp_path):
    folder = tmp_path / "shards"
    write_shards(folder, map(episode, range(3)), ("front",), 5, frames=4)
    shutil.rmtree(folder / "00001")
    with pytest.raises(ValueError, match="counts 3 episodes, 2 are there.: delete the folder"):
        shard_folders(folder)


def test_shards_of_earlier_versions_are_read(tmp_path):
    folder, shard = shards(tmp_path)
    whole = content(read_shards(folder))
    (shard / "checksums.json").unlink()
    (shard / "image_sums.npy").unlink()
    assert content(read_shards(folder)) == whole


def test_shards_without_a_camera_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="no camera is named, and the recordings have none"):
        write_shards(tmp_path / "shards", map(episode, range(3)), (), 5)
    assert not list(tmp_path.iterdir())


# --- RLDS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("dataset_info.json", {"splits": 3}),
        ("dataset_info.json", {"splits": [{"name": "train", "shardLengths": ["x"]}]}),
        ("dataset_info.json", {"splits": [{"name": ["train"]}, {}]}),
        (
            "dataset_info.json",
            {"splits": [{"name": "train", "shardLengths": ["2"], "filepathTemplate": "{WHAT"}]},
        ),
        ("features.json", {"featuresDict": {"features": {"steps": 5}}}),
        ("features.json", {"featuresDict": []}),
        (
            "features.json",
            {"featuresDict": {"features": {"steps/a": {"tensor": {"dtype": True, "shape": {}}}}}},
        ),
        ("metadata.json", {"vla_ros": 7}),
        ("metadata.json", {"vla_ros": []}),
        ("metadata.json", {"vla_ros": ""}),
        ("metadata.json", {"vla_ros": {"robot": ["x"] * 100_000}}),
        ("metadata.json", {"vla_ros": {"dt": "soon"}}),
        ("metadata.json", {"vla_ros": {"action_names": 3}}),
    ],
)
def test_damaged_descriptions_of_rlds_are_named(tmp_path, file, change):
    folder = write_rlds(tmp_path, "toys", map(episode, range(2)))
    told = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(told | change))
    with pytest.raises(ValueError, match=f"{folder}/{file}") as refused:
        list(open_rlds(folder))
    assert len(str(refused.value)) < 1000
