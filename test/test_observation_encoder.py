"""What encodes frames live and offline: geometry at its own rate, of whatever policy fuses it."""

from dataclasses import replace

import numpy as np
import pytest
from depth_recordings import HEIGHT, WIDTH, K, fused, metres, pixels

from vla_ros.camera_info import CameraCalibration
from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.observations import CameraFrame, camera_frame

CAMERA = CameraCalibration(WIDTH, HEIGHT, np.reshape(K, (3, 3)))
NEEDS = {"depth", "intrinsics"}


def frame(number=0, size=64, depth=None):
    far = metres(number) if depth is None else depth
    return camera_frame(pixels(number), size, NEEDS, far, CAMERA)


def test_it_needs_what_the_policy_fuses():
    assert ObservationEncoder(fused(None)).needs == frozenset()
    assert ObservationEncoder(fused("none")).needs == frozenset()
    assert ObservationEncoder(fused()).needs == NEEDS


def test_a_policy_of_images_alone_is_given_images_alone():
    model, one = fused(None), frame()
    encoder = ObservationEncoder(model)
    np.testing.assert_array_equal(encoder.encode([one]), model.encode([one.image]))
    assert encoder.points_of(0.0) is None and encoder.nothing_measured() == []


def test_geometry_is_kept_between_frames_and_made_anew_when_the_clock_begins_anew():
    model = fused()
    encoder, stamps = ObservationEncoder(model, rate=10.0), []
    far = frame(depth=metres(0) + 1)
    encoder.encode([frame()], 5.0)
    for stamp in (5.03, 5.06, 5.1, 5.15, 5.2, 1.0, 1.05):
        encoder.encode([far], stamp)
        if encoder.points_of(stamp) is not None:
            stamps.append(stamp)
    assert stamps == [5.1, 5.2, 1.0]
    fresh = ObservationEncoder(model).encode([far])
    np.testing.assert_array_equal(encoder.encode([far], 1.07), fresh)


def test_what_was_never_measured_is_known_by_camera():
    encoder = ObservationEncoder(fused())
    assert encoder.nothing_measured() == [], "nothing was asked yet"
    encoder.encode([frame(depth=np.zeros((HEIGHT, WIDTH), np.float32))], 1.0)
    assert encoder.nothing_measured() == [0]
    encoder.encode([frame()], 2.0)
    encoder.encode([frame(depth=np.zeros((HEIGHT, WIDTH), np.float32))], 3.0)
    assert encoder.nothing_measured() == []
    encoder.reset()
    encoder.encode([frame(depth=np.zeros((HEIGHT, WIDTH), np.float32))], 4.0)
    assert encoder.nothing_measured() == [0]


def test_pictures_that_may_not_be_written_are_taken():
    one = frame()
    one.image.flags.writeable = False
    assert ObservationEncoder(fused()).encode([one]).shape == fused().grid


@pytest.mark.parametrize(
    ("lacking", "words"),
    [("depth", "there is no depth beside"), ("intrinsics", "there is no camera_info beside")],
)
def test_a_frame_that_lacks_something_is_refused(lacking, words):
    given = {"depth": metres(0), "calibration": CAMERA}
    del given["depth" if lacking == "depth" else "calibration"]
    with pytest.raises(ValueError, match=words):
        camera_frame(pixels(0), 64, NEEDS, **given)


def test_a_policy_without_weights_of_its_geometry_gets_it_by_its_description():
    pytest.importorskip("transformers")
    import tiny_spatial_vla as tiny

    from vla_ros.models.spatial_vla.policy import SpatialContract, SpatialVLAPolicy
    from vla_ros.models.vision.fusion import FourierFeatures
    from vla_ros.robots.action_config import ActionConfig

    processor, told = tiny.processor(), {"model_type": "depth_camera"}
    action = replace(ActionConfig.get_arm_config(), horizon=4)
    contract = SpatialContract(action, ("camera",), statistics_key="arm", geometry=told)
    model = tiny.model(processor, geometry_dim=FourierFeatures().channels + 2)
    policy = SpatialVLAPolicy(model, processor, contract)
    encoder = ObservationEncoder(policy)
    assert encoder.needs == NEEDS
    near, far = (
        encoder.encode([frame(size=tiny.SIZE, depth=depth)], stamp)
        for stamp, depth in enumerate((metres(0), metres(0) + 1))
    )
    assert near.shape == policy.grid and (near != far).any()


def test_a_depth_model_without_weights_is_refused():
    model = fused(None)

    class Other:
        geometry_description = {"model_type": "depth_model"}
        cameras, image_size, grid = model.cameras, model.image_size, model.grid

    with pytest.raises(ValueError, match="no weights of its depth model: take one with geometry"):
        ObservationEncoder(Other())


def test_frames_of_a_model_have_what_it_wants_and_no_more():
    one = camera_frame(pixels(0), 64, (), metres(0), CAMERA)
    assert isinstance(one, CameraFrame) and one.depth is None and one.rays is None
