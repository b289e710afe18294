"""Pictures of messages and files as pixels: one way for every source, live and recorded.

Colour is always uint8 RGB. Grey is repeated, alpha dropped, 16 bits become 8 by scaling 65535 to
255. An EXIF orientation is not followed: a camera's pixels stay where its calibration and a
sensor_msgs/Image have them. Depth is float32 in m, NaN where nothing was measured.

Nothing here imports ROS: messages are read by their fields, whoever's class they are.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np

MAX_PIXELS = 2**27  # of one encoded picture: 11,585 x 11,585; a few bytes can claim any size

# encoding -> (type of a number, numbers a pixel, which of them are red, green and blue).
# 8UC3 and the like name no colours: they are what OpenCV's users publish, blue first, and what
# RViz shows as such.
_PACKED: dict[str, tuple[str, int, tuple[int, int, int]]] = {
    "rgb8": ("u1", 3, (0, 1, 2)),
    "bgr8": ("u1", 3, (2, 1, 0)),
    "rgba8": ("u1", 4, (0, 1, 2)),
    "bgra8": ("u1", 4, (2, 1, 0)),
    "mono8": ("u1", 1, (0, 0, 0)),
    "rgb16": ("u2", 3, (0, 1, 2)),
    "bgr16": ("u2", 3, (2, 1, 0)),
    "rgba16": ("u2", 4, (0, 1, 2)),
    "bgra16": ("u2", 4, (2, 1, 0)),
    "mono16": ("u2", 1, (0, 0, 0)),
    "8UC1": ("u1", 1, (0, 0, 0)),
    "8UC3": ("u1", 3, (2, 1, 0)),
    "8UC4": ("u1", 4, (2, 1, 0)),
    "16UC3": ("u2", 3, (2, 1, 0)),
    "16UC4": ("u2", 4, (2, 1, 0)),
}
# The first two pixels of the first two rows, as the driver saw them.
_BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}
_YUV422 = {  # two bytes a pixel, two pixels share their colour
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUYV,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUYV,
}
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_DEPTHS = {"32FC1": "f4", "16UC1": "u2", "mono16": "u2"}
_MOSAICS = [f"bayer_{pattern}{bits}" for pattern in _BAYER for bits in (8, 16)]
COLOURS = (*_PACKED, *_MOSAICS, *_YUV422, *_YUV420, "nv24")


def image_from_message(message: Any) -> np.ndarray:
    """RGB pixels of a sensor_msgs/Image in any encoding of `COLOURS`.

    YUV is that of BT.601 with 16 to 235 for black and white, as cv_bridge takes it.

    Returns:
        uint8 [height, width, 3]; a read-only view of the message where its layout allows.

    Raises:
        ValueError: another encoding, or a size that does not fit the data.
    """
    encoding = message.encoding
    if encoding in _PACKED:
        kind, channels, order = _PACKED[encoding]
        pixels = _rows(message, kind, channels)
        if kind == "u1" and order == (0, 1, 2) and channels == 3:
            return pixels
        return eight_bits(np.ascontiguousarray(pixels[:, :, order]))
    if encoding in _MOSAICS:
        kind = "u2" if encoding.endswith("16") else "u1"
        return _from_mosaic(_rows(message, kind, 1)[:, :, 0], encoding)
    if encoding in _YUV422:
        _require_even(message, height=False)
        return cv2.cvtColor(np.ascontiguousarray(_rows(message, "u1", 2)), _YUV422[encoding])
    if encoding in _YUV420:
        _require_even(message, height=True)
        planes = _rows(message, "u1", 1, message.height * 3 // 2)
        return cv2.cvtColor(np.ascontiguousarray(planes), _YUV420[encoding])
    if encoding == "nv24":
        return _from_nv24(message)
    cure = f"publish one of {', '.join(COLOURS)}"
    if encoding in _DEPTHS:
        cure = "that is depth; name a colour topic here, and depth topics under depth"
    raise ValueError(f"image encoding '{encoding}' is not supported: {cure}")


def image_from_compressed(message: Any) -> np.ndarray:
    """RGB pixels of a sensor_msgs/CompressedImage, uint8 [height, width, 3].

    Its `format` is looked at for one thing only: a Bayer mosaic, which image_transport compresses
    as it is.

    Raises:
        ValueError: the data are no whole picture, or depth.
    """
    if "compressedDepth" in message.format:
        raise ValueError(
            f"compressed image of format '{message.format}' is depth: name a colour topic here, "
            "and depth topics under depth"
        )
    try:
        stored = pixels_of_file(message.data)
    except ValueError as error:
        raise ValueError(f"compressed image of format '{message.format}' {error}") from None
    encoding = message.format.partition(";")[0].strip()
    if encoding in _MOSAICS and stored.ndim == 2:
        return _from_mosaic(stored, encoding)
    return rgb(stored)


def pixels_of_file(data: bytes | np.ndarray) -> np.ndarray:
    """What a JPEG, PNG, WebP or BMP stores: uint8 or uint16, [H, W], or [H, W, 3 or 4] from blue.

    Raises:
        ValueError: no bytes, no picture, one that breaks off, or more than `MAX_PIXELS`. The text
            begins with a verb; the caller says of what.
    """
    encoded = np.frombuffer(data, np.uint8)
    if not encoded.size:
        raise ValueError("has no bytes: nothing was recorded")
    head = encoded.tobytes()
    size = _claimed_size(head)
    if size is None:
        raise ValueError("cannot be decoded: it is neither JPEG nor PNG")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"claims {size[0]}x{size[1]} pixels, more than the {MAX_PIXELS / 1e6:.0f} million that "
            "are read"
        )
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if _is_whole(head) else None
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError("cannot be decoded: it is damaged or breaks off")
    return pixels


def is_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes (12 or more) is of a kind that is read."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head.startswith((_JPEG, _PNG, b"BM"))


def rgb(stored: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of what `pixels_of_file` returns: alpha is dropped, grey repeated."""
    if stored.ndim == 2:
        return eight_bits(stored)[:, :, None].repeat(3, axis=2)
    return eight_bits(np.ascontiguousarray(stored[:, :, 2::-1]))


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or uint16, 65535 being 255; rounded."""
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


# --- depth ----------------------------------------------------------------------------------------


def depth_from_message(message: Any) -> np.ndarray:
    """Depth of a sensor_msgs/Image: 32FC1 in m, 16UC1 or mono16 in mm (REP 118).

    Returns:
        float32 [height, width], m; NaN where nothing was measured.

    Raises:
        ValueError: another encoding, or a size that does not fit the data.
    """
    if message.encoding not in _DEPTHS:
        raise ValueError(
            f"depth encoding '{message.encoding}' is not supported: publish one of "
            f"{', '.join(_DEPTHS)}"
        )
    return metres(_rows(message, _DEPTHS[message.encoding], 1)[:, :, 0])


def depth_from_compressed(message: Any) -> np.ndarray:
    """Depth of a sensor_msgs/CompressedImage: 16-bit PNG in mm, or what compressedDepth makes.

    compressed_depth_image_transport puts twelve bytes before a PNG or RVL: an enumeration and two
    numbers a, b; for 32FC1 the pixels hold a / depth + b, else mm.

    Returns:
        float32 [height, width], m; NaN where nothing was measured.

    Raises:
        ValueError: the data are no 16-bit picture.
    """
    data, decode, inverse = np.frombuffer(message.data, np.uint8), pixels_of_file, None
    what = f"compressed depth of format '{message.format}'"
    if "compressedDepth" in message.format:
        if data.size <= 12:
            raise ValueError(f"{what} has {data.size} bytes: nothing was recorded")
        if message.format.startswith("32FC1"):
            inverse = data[4:12].view("<f4")
        data = data[12:]
        if "rvl" in message.format.lower():
            decode = _from_rvl
    try:
        raw = decode(data)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    if raw.dtype != np.uint16 or raw.ndim != 2:
        raise ValueError(f"{what} is no picture of one 16-bit number a pixel: record 16-bit PNG")
    if inverse is None:
        return metres(raw)
    scale, offset = inverse
    with np.errstate(divide="ignore", invalid="ignore"):
        return metres(np.where(raw > 0, scale / (raw - offset), np.nan))


def metres(raw: np.ndarray) -> np.ndarray:
    """Depth in mm (unsigned) or m as float32 in m, NaN where nothing was measured."""
    if raw.dtype.kind == "u":
        return np.where(raw > 0, raw * np.float32(1e-3), np.nan).astype(np.float32)
    depth = raw.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


# --- layouts --------------------------------------------------------------------------------------


def _rows(message: Any, kind: str, channels: int, rows: int = 0) -> np.ndarray:
    """[rows or height, width, channels] of numbers of a message, without the padding of rows."""
    order = ">" if message.is_bigendian else "<"
    number = np.dtype(order + kind)
    height, width, step = rows or message.height, message.width, message.step
    data, used = np.frombuffer(message.data, dtype=np.uint8), width * channels * number.itemsize
    if not height or not width or step < used or data.size < height * step:
        raise ValueError(
            f"picture of {width}x{message.height} {message.encoding} with step {step} does not fit "
            f"its {data.size} bytes"
        )
    pixels = data[: height * step].reshape(height, step)[:, :used]
    if number.itemsize > 1:
        pixels = np.ascontiguousarray(pixels).view(number).astype(number.newbyteorder("="))
    return pixels.reshape(height, width, channels)


def _require_even(message: Any, *, height: bool) -> None:
    if message.width % 2 or (height and message.height % 2):
        raise ValueError(
            f"picture of {message.width}x{message.height} {message.encoding}: pixels that share "
            "their colour must come in pairs"
        )


def _from_mosaic(mosaic: np.ndarray, encoding: str) -> np.ndarray:
    if min(mosaic.shape) < 4:
        raise ValueError(f"picture of {encoding} is too small to have its colours interpolated")
    return eight_bits(cv2.cvtColor(np.ascontiguousarray(mosaic), _BAYER[encoding[6:10]]))


def _from_nv24(message: Any) -> np.ndarray:
    """A plane of Y, then one of U and V in turns, in rows of twice the length."""
    height, width, step = message.height, message.width, message.step
    planes = _rows(message, "u1", 1, 3 * height)[:, :, 0]
    data = np.frombuffer(message.data, np.uint8)[height * step : 3 * height * step]
    colours = data.reshape(height, 2 * step)[:, : 2 * width].reshape(height, width, 2)
    light = planes[:height]
    # Every pixel twice, as two that share their colour: then OpenCV's arithmetic serves.
    twice = np.stack([colours[..., 0], light, colours[..., 1], light], axis=-1)
    pixels = cv2.cvtColor(twice.reshape(height, 2 * width, 2), cv2.COLOR_YUV2RGB_UYVY)
    return np.ascontiguousarray(pixels[:, ::2])


_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def _claimed_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the head of an encoded picture tells; None: it is none that is read."""
    try:
        if data.startswith(_PNG):
            return struct.unpack_from(">II", data, 16)
        if data.startswith(_JPEG):
            return _jpeg_size(data)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return 1, 1  # the format ends at 16,383 x 16,383
    except struct.error:
        return None
    return None


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end, and a PNG its checksums.

    OpenCV would say so on the terminal, each version in its way; or, of a JPEG, fill up with grey
    what is missing and say nothing.
    """
    if data.startswith(_JPEG):
        return b"\xff\xd9" in data
    if not data.startswith(_PNG):
        return True
    position, view = len(_PNG), memoryview(data)
    while position + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + size
        if end + 4 > len(data):
            return False
        needed = kind[:1].isupper()  # others tell what can be done without
        if (
            needed
            and zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]
        ):
            return False
        if kind == b"IEND":
            return True
        position = end + 4
    return False


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Of the first frame header (markers C0 to CF, but for three that are something else)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, size = data[position + 1], struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        position += 2 + size
    return None


def _from_rvl(data: np.ndarray) -> np.ndarray:
    """uint16 [H, W] of run-length coded depth (Wilson 2017), after its width and height.

    Raises:
        ValueError: as `pixels_of_file`.
    """
    if data.size < 8:
        raise ValueError("breaks off before its size")
    width, height = (int(n) for n in data[:8].view("<u4"))
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"claims {width}x{height} pixels")
    values = _rvl_numbers(data[8:])
    depth = np.zeros(width * height, np.int64)  # differences, where anything was measured
    measured = np.zeros(width * height, bool)
    place = at = 0
    while place < depth.size:
        if at + 2 > len(values):
            raise ValueError("cannot be decoded: it breaks off")
        place += int(values[at])
        count = int(values[at + 1])
        steps = values[at + 2 : at + 2 + count]
        if place + count > depth.size or len(steps) < count:
            raise ValueError("cannot be decoded: it is damaged or breaks off")
        depth[place : place + count] = (steps >> 1) ^ -(steps & 1)
        measured[place : place + count] = True
        place, at = place + count, at + 2 + count
    depth = np.cumsum(depth)
    return np.where(measured, depth, 0).astype(np.uint16).reshape(height, width)


def _rvl_numbers(data: np.ndarray) -> np.ndarray:
    """int64 numbers of nibbles: three bits each, the lowest first; the fourth: there is more."""
    words = data[: data.size // 4 * 4].reshape(-1, 4)[:, ::-1].reshape(-1)  # of 32 bits
    nibbles = np.stack([words >> 4, words & 15], axis=1).reshape(-1).astype(np.int64)
    ends = np.flatnonzero(nibbles < 8)
    if not len(ends):
        return ends
    begins = np.append(0, ends[:-1] + 1)
    lengths = ends - begins + 1
    if lengths.max() > 11:  # more than 32 bits
        raise ValueError("cannot be decoded: it is damaged")
    nibbles = nibbles[: ends[-1] + 1]
    digit = np.arange(len(nibbles)) - begins.repeat(lengths)
    return np.add.reduceat((nibbles & 7) << (3 * digit), begins)
