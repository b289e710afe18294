"""Pictures in whatever form they come are the same pixels: RGB, or metres."""

import io
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from vla_ros.images import (
    depth_from_compressed,
    depth_from_message,
    image_from_compressed,
    image_from_message,
    pixels_of_file,
    rgb,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 10, 3), dtype=np.uint8)
# Red, green, blue, white, black, grey: and what BT.601 makes of them (16 to 235), by the standard.
COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128]], np.uint8
)


def message(data: np.ndarray, encoding: str, size=None, padding: int = 0, big: int = 0):
    """An Image of rows [H, ...] of numbers; `size`: height and width, where rows do not tell."""
    height, width = size or data.shape[:2]
    data = data.astype(data.dtype.newbyteorder(">" if big else "<"))
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        step=rows.shape[1],
        data=rows.tobytes(),
        is_bigendian=big,
    )


def compressed(data: bytes, form: str = "png"):
    return SimpleNamespace(format=form, data=np.frombuffer(data, np.uint8))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def yuv(colours: np.ndarray) -> np.ndarray:
    """uint8 Y, U, V of RGB, by the matrix of ITU-R BT.601."""
    red, green, blue = colours.astype(float).T / 255
    light = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112.0 * blue
    v = 128 + 112.0 * red - 93.786 * green - 18.214 * blue
    return np.stack([light, u, v], axis=-1).round().astype(np.uint8)


# --- plain encodings ------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", (0, 1, 2)),
        ("bgr8", (2, 1, 0)),
        ("rgba8", (0, 1, 2)),
        ("bgra8", (2, 1, 0)),
        ("8UC3", (2, 1, 0)),
        ("8UC4", (2, 1, 0)),
    ],
)
def test_every_encoding_and_row_padding_gives_the_same_pixels(encoding, order, padding):
    channels = 4 if "a" in encoding or encoding == "8UC4" else 3
    stored = np.zeros((6, 10, channels), np.uint8)
    stored[..., list(order)] = RGB
    assert np.array_equal(image_from_message(message(stored, encoding, padding=padding)), RGB)


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16", "16UC3", "16UC4"])
def test_sixteen_bits_are_scaled_to_eight(encoding, big):
    channels = 4 if "a" in encoding or encoding == "16UC4" else 3
    order = [0, 1, 2] if encoding.startswith("rgb") else [2, 1, 0]
    stored = np.zeros((6, 10, channels), np.uint16)
    fine = RNG.integers(0, 2**16, (6, 10, 3))
    stored[..., order] = fine
    wanted = np.round(fine / 65535 * 255)
    for padding in (0, 6):
        seen = image_from_message(message(stored, encoding, padding=padding, big=big))
        assert seen.dtype == np.uint8 and np.array_equal(seen, wanted)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16"])
def test_grey_is_repeated_over_the_channels(encoding):
    grey = np.arange(24).reshape(4, 6)
    stored = (grey * 257).astype(np.uint16) if encoding == "mono16" else grey.astype(np.uint8)
    for big in (0, 1):
        seen = image_from_message(message(stored, encoding, padding=2, big=big))
        assert np.array_equal(seen, grey[..., None].repeat(3, axis=2))


def test_images_that_cannot_be_read_are_refused():
    for encoding in ("32FC3", "8UC2", "h264", "", "bayer_rggb32", "bayer_"):
        with pytest.raises(ValueError, match=f"'{encoding}' is not supported: publish one of rgb8"):
            image_from_message(message(RGB, encoding))
    for encoding in ("16UC1", "32FC1"):
        with pytest.raises(ValueError, match=f"'{encoding}' is not supported: that is depth"):
            image_from_message(message(RGB, encoding))


@pytest.mark.parametrize("encoding", ["rgb8", "mono16", "yuv422", "nv21", "nv24", "bayer_rggb8"])
def test_a_size_that_does_not_fit_the_data_is_refused(encoding):
    good = {"height": 4, "width": 4, "step": 12, "data": bytes(48), "is_bigendian": 0}
    for change in ({"data": bytes(15)}, {"step": 3}, {"width": 0}, {"height": 0}):
        with pytest.raises(ValueError, match="does not fit its"):
            image_from_message(SimpleNamespace(encoding=encoding, **(good | change)))


# --- YUV and Bayer --------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")],
)
def test_pairs_of_pixels_that_share_their_colour(encoding, order, padding):
    light, u, v = yuv(COLOURS).T
    parts = {"u": u, "v": v, "y": light}
    pairs = np.stack([parts[letter] for letter in order], axis=-1)  # [6, 4]: two pixels alike
    seen = image_from_message(message(pairs, encoding, size=(6, 2), padding=padding))
    assert np.abs(seen.astype(int) - COLOURS[:, None]).max() <= 2
    with pytest.raises(ValueError, match="must come in pairs"):
        image_from_message(message(np.zeros((2, 6), np.uint8), encoding, size=(2, 3)))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_planes_of_light_and_colour(encoding, padding):
    shown = COLOURS.repeat(2, axis=0).repeat(2, axis=0).reshape(6, 4, 3)[:, [0, 0, 2, 2]]
    shown = shown[::2].repeat(2, axis=0)  # blocks of 2 x 2 are alike
    parts = yuv(shown.reshape(-1, 3)).reshape(6, 4, 3)
    colours = parts[..., [2, 1]] if encoding == "nv21" else parts[..., [1, 2]]
    if encoding == "nv24":  # rows of colour are twice as long, so are their paddings
        above = np.pad(parts[..., 0], ((0, 0), (0, padding)))
        below = np.pad(colours.reshape(6, 8), ((0, 0), (0, 2 * padding)))
        planes = np.concatenate([above, below.reshape(12, -1)])
        stored = message(planes, encoding, size=(6, 4))
    else:
        planes = np.concatenate([parts[..., 0], colours[::2, ::2].reshape(3, 4)])
        stored = message(planes, encoding, size=(6, 4), padding=padding)
    seen = image_from_message(stored)
    assert np.abs(seen.astype(int) - shown).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_gets_its_colours_back(pattern, bits):
    for colour in ((200, 100, 50), (10, 20, 250)):
        first = np.array([colour["rgb".index(letter)] for letter in pattern]).reshape(2, 2)
        mosaic = np.tile(first, (4, 6)) * (257 if bits == 16 else 1)
        stored = mosaic.astype(np.uint16 if bits == 16 else np.uint8)
        encoding = f"bayer_{pattern}{bits}"
        for big in (0, 1):
            seen = image_from_message(message(stored, encoding, padding=2, big=big))
            assert seen.shape == (8, 12, 3) and np.array_equal(seen, np.full((8, 12, 3), colour))
        # image_transport compresses a mosaic as it is, and says so in the format only
        sent = compressed(png(stored), f"{encoding}; png compressed ")
        np.testing.assert_array_equal(image_from_compressed(sent), seen)


# --- encoded pictures -----------------------------------------------------------------------------


def test_a_compressed_picture_keeps_its_colours():
    for form in ("rgb8; png compressed bgr8", "png", ""):
        seen = image_from_compressed(compressed(png(RGB[..., ::-1]), form))
        np.testing.assert_array_equal(seen, RGB)


def test_alpha_grey_and_sixteen_bits_mean_the_same_in_a_file():
    alpha = np.dstack([RGB[..., ::-1], np.zeros(RGB.shape[:2], np.uint8)])
    np.testing.assert_array_equal(rgb(pixels_of_file(png(alpha))), RGB)
    grey = RGB[..., 0]
    np.testing.assert_array_equal(rgb(pixels_of_file(png(grey))), grey[..., None].repeat(3, axis=2))
    fine = RNG.integers(0, 2**16, (4, 5, 3), dtype=np.uint16)
    wanted = np.round(fine[..., ::-1] / 65535 * 255)
    np.testing.assert_array_equal(rgb(pixels_of_file(png(fine))), wanted)


def test_pixels_stay_where_the_camera_had_them_whatever_exif_says():
    smooth = cv2.resize(RGB, (40, 24))
    plain, turned = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn it to the right to show it"
    Image.fromarray(smooth).save(plain, "jpeg")
    Image.fromarray(smooth).save(turned, "jpeg", exif=exif)
    seen = image_from_compressed(compressed(turned.getvalue(), "jpeg"))
    assert seen.shape == smooth.shape
    np.testing.assert_array_equal(seen, rgb(pixels_of_file(plain.getvalue())))


@pytest.mark.parametrize("kind", [".png", ".jpg"])
def test_a_picture_that_breaks_off_is_no_picture(kind):
    whole = cv2.imencode(kind, cv2.resize(RGB, (40, 24)))[1].tobytes()
    for kept in (1, 10, 20, len(whole) // 2, len(whole) - 2):
        with pytest.raises(ValueError, match="format 'jpeg' cannot be decoded"):
            image_from_compressed(compressed(whole[:kept], "jpeg"))
    with pytest.raises(ValueError, match="format 'jpeg' has no bytes"):
        image_from_compressed(compressed(b"", "jpeg"))
    with pytest.raises(ValueError, match="cannot be decoded: it is neither JPEG nor PNG"):
        image_from_compressed(compressed(b"nothing at all", "jpeg"))


def test_a_flipped_bit_in_a_png_is_noticed():
    whole = bytearray(png(RGB))
    for place in range(16, len(whole), 7):
        damaged = whole.copy()
        damaged[place] ^= 4
        try:
            assert np.array_equal(rgb(pixels_of_file(bytes(damaged)))[..., ::-1], RGB)
        except ValueError:
            continue


def huge(width: int, height: int) -> dict[str, bytes]:
    """Pictures of a few bytes that claim to be so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    small = cv2.imencode(".jpg", RGB)[1].tobytes()
    at = small.index(b"\xff\xc0") + 5
    return {
        "png": b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(9))),
        "jpg": small[:at] + struct.pack(">HH", height, width) + small[at + 4 :],
        "bmp": b"BM" + bytes(16) + struct.pack("<ii", width, -height) + bytes(40),
    }


def test_a_picture_of_a_few_bytes_does_not_ask_for_gigabytes():
    for name, data in huge(30_000, 30_000).items():
        with pytest.raises(ValueError, match="claims 30000x30000 pixels, more than the 134 mill"):
            image_from_compressed(compressed(data, name))


# --- depth ----------------------------------------------------------------------------------------

METRES = np.array([[0.5, 1.25, 0.0], [2.0, 0.003, 4.0]])


@pytest.mark.parametrize(
    ("encoding", "big"), [("16UC1", 0), ("16UC1", 1), ("mono16", 0), ("32FC1", 0), ("32FC1", 1)]
)
@pytest.mark.parametrize("padding", [0, 4])
def test_depth_is_in_metres_and_unknown_is_nan(encoding, big, padding):
    raw = METRES.astype("f4") if encoding == "32FC1" else (1e3 * METRES).round().astype("u2")
    depth = depth_from_message(message(raw, encoding, padding=padding, big=big))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, np.where(METRES > 0, METRES, np.nan), rtol=1e-6)
    with pytest.raises(ValueError, match="depth encoding '8UC1' is not supported"):
        depth_from_message(message(raw, "8UC1"))


def run_length_coded(depth: np.ndarray) -> bytes:
    """RVL as its paper writes it: one number after the other, in nibbles of 32-bit words."""
    nibbles = []

    def put(value: int) -> None:
        while True:
            nibble, value = value & 7, value >> 3
            nibbles.append(nibble | (8 if value else 0))
            if not value:
                return

    flat, place, previous = depth.reshape(-1).tolist(), 0, 0
    while place < len(flat):
        for measured in (False, True):
            end = place
            while end < len(flat) and bool(flat[end]) == measured:
                end += 1
            put(end - place)
            if measured:
                for value in flat[place:end]:
                    delta = value - previous
                    put((delta << 1) ^ (delta >> 31))
                    previous = value
            place = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)
    ]
    return struct.pack("<II", depth.shape[1], depth.shape[0]) + struct.pack(
        f"<{len(words)}I", *words
    )


def test_compressed_depth_is_read_in_all_its_forms():
    plain = (1e3 * METRES).astype(np.uint16)
    a, b = 20000.0, 10.0  # pixels = a / depth + b, 0 where unknown
    with np.errstate(divide="ignore"):
        inverse = np.where(METRES > 0.01, a / METRES + b, 0).round().astype(np.uint16)
    head = np.array([0.0, a, b], "<f4").tobytes()
    near = np.where(METRES > 0, METRES, np.nan)
    far = np.where(METRES > 0.01, METRES, np.nan)
    for form, data, wanted in (
        ("png", png(plain), near),
        ("16UC1; png compressed ", png(plain), near),
        ("16UC1; compressedDepth", bytes(12) + png(plain), near),
        ("16UC1; compressedDepth png", bytes(12) + png(plain), near),
        ("16UC1; compressedDepth rvl", bytes(12) + run_length_coded(plain), near),
        ("32FC1; compressedDepth png", head + png(inverse), far),
        ("32FC1; compressedDepth rvl", head + run_length_coded(inverse), far),
    ):
        depth = depth_from_compressed(compressed(data, form))
        np.testing.assert_allclose(depth, wanted, rtol=1e-3, err_msg=form)


def test_run_length_coded_depth_of_every_number_comes_back():
    rng = np.random.default_rng(3)
    depth = rng.integers(0, 2**16, (40, 30), dtype=np.uint16)
    depth[rng.random(depth.shape) < 0.4] = 0
    depth[5:9] = 0
    for one in (depth, np.zeros((3, 4), np.uint16), np.full((3, 4), 65535, np.uint16)):
        form = "16UC1; compressedDepth rvl"
        seen = depth_from_compressed(compressed(bytes(12) + run_length_coded(one), form))
        np.testing.assert_allclose(seen, np.where(one > 0, one / 1e3, np.nan), rtol=1e-6)


@pytest.mark.parametrize(
    "form", ["png", "16UC1; compressedDepth png", "16UC1; compressedDepth rvl"]
)
def test_damaged_compressed_depth_is_one_error(form):
    head = bytes(12) if "Depth" in form else b""
    depth = np.full((20, 30), 1000, np.uint16)
    body = run_length_coded(depth) if "rvl" in form else png(depth)
    for data in (b"", head, head + body[:5], head + body[: len(body) // 2], head + bytes(30)):
        with pytest.raises(ValueError, match=f"compressed depth of format '{form}'"):
            depth_from_compressed(compressed(data, form))
    eight = compressed(head + png(RGB), form)
    with pytest.raises(ValueError, match=f"compressed depth of format '{form}'"):
        depth_from_compressed(eight)


def test_depth_is_no_colour():
    with pytest.raises(ValueError, match="is depth: name a colour topic"):
        image_from_compressed(compressed(bytes(40), "16UC1; compressedDepth png"))
