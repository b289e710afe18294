"""Calibrations: the model's pixels look where the camera's did, whatever was cropped and scaled."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vla_ros.observations import CameraCalibration, preprocess_depth, preprocess_image

PLUMB_BOB = (-0.28, 0.09, 0.001, -0.0008, -0.01)  # of a wide webcam
RATIONAL = (0.52, -2.6, 0.0006, -0.0003, 1.49, 0.4, -2.43, 1.42)  # of an Azure Kinect
FISHEYE = (-0.02, 0.005, -0.003, 0.0006)


def camera_info(width=640, height=480, focal=500.0, **changes):
    matrix = [focal, 0, width / 2 + 3, 0, focal * 1.02, height / 2 - 5, 0, 0, 1]
    region = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    fields = {
        **{"width": width, "height": height, "k": matrix, "d": [0.0] * 5, "roi": region},
        **{"distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0},
        "p": [400.0, 0, 300, 0, 0, 400, 200, 0, 0, 0, 1, 0],
    }
    return SimpleNamespace(**{**fields, **changes})


def project(info, points):
    """Pixels [n, 2] of points [n, 3], by OpenCV."""
    matrix, distortion = np.reshape(info.k, (3, 3)), np.array(info.d)
    zero = np.zeros(3)
    if info.distortion_model == "equidistant":
        pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, matrix, distortion)
    else:
        pixels, _ = cv2.projectPoints(points, zero, zero, matrix, distortion)
    return pixels.reshape(-1, 2)


def picture_of(pixel, width, height):
    """A soft white dot at a pixel of a black image, its middle exactly there."""
    v, u = np.mgrid[:height, :width]
    dot = np.exp(-((u - pixel[0]) ** 2 + (v - pixel[1]) ** 2) / (2 * 6.0**2))
    return np.repeat((255 * dot).round().astype(np.uint8)[..., None], 3, axis=-1)


def middle(image):
    """Where the dot is, (u, v)."""
    weights = image[..., 0].astype(float)
    v, u = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weights * u).sum(), (weights * v).sum()]) / weights.sum()


@pytest.mark.parametrize("size", [480, 240, 224, 64])
@pytest.mark.parametrize("shape", [(640, 480), (480, 640), (481, 480)])
def test_a_known_point_is_where_the_intrinsics_put_it(shape, size):
    """Cropping and scaling a picture moves a point as its intrinsics say."""
    info = camera_info(*shape)
    point = np.array([[0.12, -0.08, 1.1]])
    image = preprocess_image(picture_of(project(info, point)[0], *shape), size)
    calibration = CameraCalibration.from_message(info)
    expected = calibration.intrinsics(size) @ (point[0] / point[0, 2])
    assert middle(image) == pytest.approx(expected[:2], abs=0.03)
    # The ray of the pixel nearest to it passes it.
    u, v = np.round(expected[:2]).astype(int)
    ray = calibration.rays(size)[v, u]
    assert ray[2] == 1
    pixel = shape[1] / size / 500  # rad
    assert np.abs(ray[:2] - point[0, :2] / point[0, 2]).max() < 0.6 * pixel * max(1, 480 / size)


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", PLUMB_BOB),
        ("rational_polynomial", RATIONAL),
        ("equidistant", FISHEYE),
    ],
)
def test_rays_undo_the_lens(model, coefficients):
    info = camera_info(distortion_model=model, d=list(coefficients))
    calibration = CameraCalibration.from_message(info)
    rays = calibration.rays(240).astype(np.float64)
    assert np.isfinite(rays).all()
    pixels = project(info, rays.reshape(-1, 3)).reshape(240, 240, 2)
    steps = 2 * np.arange(240) + 0.5  # centres of the scaled pixels in the picture
    assert np.abs(pixels[..., 0] - (80 + steps)).max() < 0.02
    assert np.abs(pixels[..., 1] - steps[:, None]).max() < 0.02
    straight = CameraCalibration.from_message(camera_info()).rays(240)
    assert np.abs(straight - rays).max() > 0.005  # that it matters
    with pytest.raises(ValueError, match="lens distorts"):
        calibration.intrinsics(240)


def test_pixels_that_no_direction_can_have_are_unknown():
    """Beyond where a polynomial turns back, nothing is made up."""
    info = camera_info(d=[-0.9, 0.0, 0.0, 0.0, 0.0], focal=300.0)
    rays = CameraCalibration.from_message(info).rays(120)
    assert np.isnan(rays[0, 0, 0])
    assert np.isfinite(rays[60, 60]).all()


def test_rectified_pictures_have_their_own_matrix():
    info = camera_info(d=list(PLUMB_BOB))
    calibration = CameraCalibration.from_message(info, rectified=True)
    assert calibration.distortion == ()
    assert calibration.intrinsics(480)[0] == pytest.approx([400, 0, 300 - 80])


def test_binning_and_regions_of_interest_move_the_matrix():
    """A camera that sends a part of its sensor, binned, has a matrix for what it sends."""
    whole = camera_info()
    region = SimpleNamespace(x_offset=100, y_offset=60, width=400, height=320)
    part = camera_info(roi=region, binning_x=2, binning_y=2)
    calibration = CameraCalibration.from_message(part)
    assert (calibration.width, calibration.height) == (200, 160)
    point = np.array([[0.05, -0.1, 1.0]])
    image = picture_of(project(whole, point)[0], 640, 480)[60:380, 100:500]
    binned = cv2.resize(image, (200, 160), interpolation=cv2.INTER_AREA)
    expected = calibration.matrix @ point[0]
    assert middle(binned) == pytest.approx(expected[:2], abs=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": [0.0] * 9}, "not calibrated.*K.*camera_calibration"),
        ({"k": [-500.0, 0, 320, 0, 500, 240, 0, 0, 1]}, "no pinhole matrix"),
        ({"k": [500.0, 0, float("nan"), 0, 500, 240, 0, 0, 1]}, "no pinhole matrix"),
        ({"k": [500.0, 0, 320, 0, 500, 240, 0, 0, 0]}, "no pinhole matrix"),
        ({"distortion_model": "thin_prism", "d": [0.1] * 5}, "lens model 'thin_prism'"),
        ({"d": [0.1] * 3}, "'plumb_bob' with 3 coefficients"),
    ],
)
def test_calibrations_that_no_camera_has_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CameraCalibration.from_message(camera_info(**changes))


def test_a_lens_that_is_not_known_but_does_not_distort_is_a_pinhole():
    info = camera_info(distortion_model="", d=[])
    assert CameraCalibration.from_message(info).rays(64).shape == (64, 64, 3)


def test_camera_info_of_another_resolution_is_refused():
    calibration = CameraCalibration.from_message(camera_info())
    calibration.require_size(640, 480)
    with pytest.raises(ValueError, match="camera_info is of 640x480 pictures, but .* 1280x720"):
        calibration.require_size(1280, 720)


# -- depth -----------------------------------------------------------------------------------------


def test_depth_is_averaged_where_it_was_measured():
    depth = np.full((8, 12), 2.0, np.float32)
    depth[:, 4] = 4.0
    depth[0, 2:4] = (np.nan, 0.0)  # half of a pixel of the model
    depth[1, 2] = np.inf
    small = preprocess_depth(depth, 4)
    assert small.shape == (4, 4)
    assert np.isnan(small[0, 0])
    assert small[:, 1] == pytest.approx(3.0)
    assert small[1:, 2:] == pytest.approx(2.0)
    assert np.array_equal(preprocess_depth(depth[:, 2:10], 8)[1:, 1:], depth[1:, 3:10])


def test_depth_that_is_not_in_metres_is_refused():
    with pytest.raises(ValueError, match="float32.*uint16"):
        preprocess_depth(np.full((8, 8), 800, np.uint16), 4)
    with pytest.raises(ValueError, match="smaller than the model's 16x16"):
        preprocess_depth(np.ones((8, 8), np.float32), 16)
