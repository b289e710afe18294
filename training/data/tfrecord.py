"""TFRecord files of tf.train.Example, without TensorFlow: what RLDS datasets are stored in.

A record is its length (uint64), a CRC of the length, the data and a CRC of the data, little-endian;
the data is an Example: a map from feature names to lists of bytes, float32 or int64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_LARGEST = 2**31 - 1  # bytes of a protobuf message

# The schema of tensorflow/core/example/{feature,example}.proto: message -> fields from number 1 on,
# (name, type, repeated). A map is on the wire what repeated entries of key and value are.
_Field = descriptor_pb2.FieldDescriptorProto
_SCHEMA = {
    "BytesList": [("value", _Field.TYPE_BYTES, True)],
    "FloatList": [("value", _Field.TYPE_FLOAT, True)],
    "Int64List": [("value", _Field.TYPE_INT64, True)],
    "Feature": [
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    ],
    "Entry": [("key", _Field.TYPE_STRING, False), ("value", "Feature", False)],
    "Features": [("feature", "Entry", True)],
    "Example": [("features", "Features", False)],
}


def _example_class() -> type[message.Message]:
    # A package of its own: TensorFlow registers the same messages where both are imported.
    file = descriptor_pb2.FileDescriptorProto(
        name="vla_ros/example.proto", package="vla_ros.example", syntax="proto3"
    )
    for name, fields in _SCHEMA.items():
        described = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            entry = described.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                entry.type, entry.type_name = _Field.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.Example"))


_Example = _example_class()


def parse_example(data: bytes) -> dict[str, Any]:
    """Features of an Example by name: repeated fields, of bytes or numbers.

    Raises:
        ValueError: not an Example.
    """
    try:
        example = _Example.FromString(data)
    except message.DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    features = {}
    for entry in example.features.feature:
        (filled,) = entry.value.ListFields() or [(None, None)]
        features[entry.key] = filled[1].value if filled[0] else ()
    return features


def serialize_example(features: Mapping[str, list[bytes] | np.ndarray]) -> bytes:
    """An Example of lists of bytes and arrays of floats, integers or booleans (flattened).

    Raises:
        ValueError: more than a record can hold.
    """
    example = _Example()
    size = sum(sum(map(len, v)) if isinstance(v, list) else v.size for v in features.values())
    if size > _LARGEST:
        raise ValueError(f"{size / 1e9:.1f} GB are more than the 2.1 GB that one record can hold")
    for key, values in sorted(features.items()):
        feature = example.features.feature.add(key=key).value
        if isinstance(values, list):
            feature.bytes_list.value.extend(values)
        elif np.issubdtype(values.dtype, np.floating):
            feature.float_list.value.extend(values.ravel().tolist())
        else:
            feature.int64_list.value.extend(values.astype(np.int64).ravel().tolist())
    return example.SerializeToString()


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield where each record begins, and its data.

    Raises:
        ValueError: the file ends inside a record, or a checksum does not fit.
    """
    with path.open("rb") as file:
        while True:
            offset = file.tell()
            data = _read(file, path)
            if data is None:
                return
            yield offset, data


def read_record(path: Path, offset: int) -> bytes:
    """Data of the record that begins at `offset`. Raises ValueError as `read_records` does."""
    with path.open("rb") as file:
        file.seek(offset)
        data = _read(file, path)
    if data is None:
        raise ValueError(f"{path}: no record at byte {offset}: the file was shortened")
    return data


def write_record(file: BinaryIO, data: bytes) -> None:
    length = _LENGTH.pack(len(data))
    file.write(length + _CRC.pack(_masked_crc(length)))
    file.write(data)
    file.write(_CRC.pack(_masked_crc(data)))


def _read(file: BinaryIO, path: Path) -> bytes | None:
    """Data of the next record, None at the end of the file."""
    offset = file.tell()
    head = file.read(_LENGTH.size + _CRC.size)
    if not head:
        return None

    def complete(data: bytes, size: int) -> bytes:
        if len(data) < size:
            raise ValueError(f"{path}: truncated in the record at byte {offset}: copy it again")
        return data

    complete(head, _LENGTH.size + _CRC.size)
    # The length is checked before anything is read of that length.
    _check(head[: _LENGTH.size], head[_LENGTH.size :], f"{path}: length at byte {offset}")
    (size,) = _LENGTH.unpack(head[: _LENGTH.size])
    if size > os.fstat(file.fileno()).st_size - file.tell():
        complete(b"", size)
    data = complete(file.read(size), size)
    crc = complete(file.read(_CRC.size), _CRC.size)
    _check(data, crc, f"{path}: record at byte {offset}")
    return data


def _check(data: bytes, crc: bytes, what: str) -> None:
    if _CRC.pack(_masked_crc(data)) != crc:
        raise ValueError(f"{what} is corrupt (its checksum differs): copy the file again")


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord asks (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
