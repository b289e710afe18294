"""Messages become model inputs the same way for every class that has the fields."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vla_ros.observations import (
    depth_from_compressed,
    depth_from_message,
    image_from_compressed,
    image_from_message,
    joints_from_message,
    preprocess_image,
    proprioception,
)
from vla_ros.robots import panda
from vla_ros.robots.kinematics import ArmKinematics

ORDER = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}


def image_message(pixels: np.ndarray, encoding: str, padding: int = 0) -> SimpleNamespace:
    height, width, channels = pixels.shape
    rows = np.zeros((height, width * channels + padding), np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        step=rows.shape[1],
        data=rows.tobytes(),
        is_bigendian=0,
    )


@pytest.mark.parametrize("encoding", ORDER)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_encoding_and_row_padding_gives_the_same_pixels(encoding, padding):
    rgb = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    channels = 4 if "a" in encoding[3:] else 3
    stored = np.zeros((6, 10, channels), np.uint8)
    stored[..., list(ORDER[encoding])] = rgb
    assert np.array_equal(image_from_message(image_message(stored, encoding, padding)), rgb)


def test_mono_is_repeated_over_the_channels():
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    assert np.array_equal(image_from_message(image_message(gray, "mono8")), gray.repeat(3, axis=2))


def test_images_that_cannot_be_read_are_refused():
    message = image_message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    message.encoding = "yuv422"
    with pytest.raises(ValueError, match="yuv422"):
        image_from_message(message)
    message = image_message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    message.data = message.data[:-1]
    with pytest.raises(ValueError, match="does not fit"):
        image_from_message(message)


def test_a_compressed_picture_keeps_its_colours():
    rgb = np.random.default_rng(1).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    data = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    message = SimpleNamespace(format="rgb8; png compressed bgr8", data=data)
    np.testing.assert_array_equal(image_from_compressed(message), rgb)
    with pytest.raises(ValueError, match="cannot be decoded"):
        image_from_compressed(SimpleNamespace(format="jpeg", data=b"nothing"))


@pytest.mark.parametrize("encoding, big", [("16UC1", 0), ("16UC1", 1), ("32FC1", 0)])
@pytest.mark.parametrize("padding", [0, 4])
def test_depth_is_in_metres_and_unknown_is_nan(encoding, big, padding):
    metres = np.array([[0.5, 1.25, 0.0], [2.0, 0.003, 4.0]])
    order = ">" if big else "<"
    raw = metres.astype("<f4") if encoding == "32FC1" else (1e3 * metres).astype(order + "u2")
    rows = np.zeros((2, 3 * raw.itemsize + padding), np.uint8)
    rows[:, : 3 * raw.itemsize] = raw.view(np.uint8).reshape(2, -1)
    message = SimpleNamespace(
        height=2,
        width=3,
        encoding=encoding,
        step=rows.shape[1],
        data=rows.tobytes(),
        is_bigendian=big,
    )
    depth = depth_from_message(message)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, np.where(metres > 0, metres, np.nan), rtol=1e-6)
    message.encoding = "8UC1"
    with pytest.raises(ValueError, match="depth encoding"):
        depth_from_message(message)


def test_compressed_depth_is_read_in_both_its_forms():
    metres = np.array([[0.5, 1.25, 0.0], [2.0, 0.8, 4.0]])
    plain = cv2.imencode(".png", (1e3 * metres).astype(np.uint16))[1].tobytes()
    a, b = 20000.0, 10.0  # pixels = a / depth + b, 0 where unknown
    with np.errstate(divide="ignore"):
        pixels = np.where(metres > 0, a / metres + b, 0).round().astype(np.uint16)
    head = np.array([0.0, a, b], "<f4").tobytes()
    inverse = head + cv2.imencode(".png", pixels)[1].tobytes()
    for form, data in (
        ("png", plain),
        ("16UC1; compressedDepth png", bytes(12) + plain),
        ("32FC1; compressedDepth png", inverse),
    ):
        depth = depth_from_compressed(SimpleNamespace(format=form, data=data))
        np.testing.assert_allclose(depth, np.where(metres > 0, metres, np.nan), rtol=1e-3)


def test_preprocessing_crops_the_centre_and_averages():
    image = np.zeros((128, 160, 3), np.uint8)
    image[:, 16:144:2] = 200  # alternating columns inside the centre square
    small = preprocess_image(image, 64)
    assert small.shape == (64, 64, 3) and (small == 100).all()


def test_preprocessing_refuses_what_it_would_have_to_invent():
    with pytest.raises(ValueError, match="smaller than the model"):
        preprocess_image(np.zeros((32, 64, 3), np.uint8), 64)
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess_image(np.zeros((64, 64, 3), np.float32), 64)


def test_joints_are_found_by_name_not_by_place():
    message = SimpleNamespace(name=["c", "a", "b"], position=[3.0, 1.0, 2.0])
    assert joints_from_message(message, ("a", "b", "c")).tolist() == [1.0, 2.0, 3.0]


def test_bad_joint_states_are_named():
    message = SimpleNamespace(name=["a", "b"], position=[1.0, float("nan")])
    with pytest.raises(ValueError, match="for b"):
        joints_from_message(message, ("a", "b"))
    with pytest.raises(ValueError, match="lacks z"):
        joints_from_message(message, ("a", "z"))
    with pytest.raises(ValueError, match="1 positions"):
        joints_from_message(SimpleNamespace(name=["a", "b"], position=[1.0]), ("a",))


def test_proprioception_is_the_tool_and_the_finger():
    felt = proprioception(panda.HOME, ArmKinematics())
    assert felt.dtype == np.float32
    np.testing.assert_allclose(felt, [0.45, 0.0, 0.2, panda.GRIPPER_OPEN], atol=1e-3)
