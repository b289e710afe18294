"""MapAnything: what is given to its `infer`, and what is made of the answer.

Its package is on no index. A double takes its place, which holds whoever calls it to the contract
that the package documents: every key, shape and constraint of the views and of the predictions.
"""

import json
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vla_ros.models.vision.fusion import GatedFusion
from vla_ros.models.vision.geometry import build_geometry
from vla_ros.models.vision.map_anything import MissingPackageError

SIZE, GRID, MODEL_SIZE = 32, (4, 4), 56
ALLOWED = {
    *("img", "data_norm_type", "depth_z", "ray_directions", "intrinsics", "camera_poses"),
    *("is_metric_scale", "true_shape", "idx", "instance"),
}


class Double(nn.Module):
    """A wall 2 m ahead, seen along the rays that it is told; the left quarter is ambiguous."""

    norm_type = "dinov2"
    leaves_out = ()

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(1, 1)
        self.encoder.data_norm_type = self.norm_type
        self.views = []

    @classmethod
    def from_pretrained(cls, folder, *, local_files_only):
        assert local_files_only
        assert json.loads(open(f"{folder}/config.json").read()) == {}
        return cls()

    def infer(self, views, memory_efficient_inference=True, use_amp=True, apply_mask=True, **more):
        assert apply_mask and not more
        self.views.append(views)
        return [self.predict(view) for view in views]

    def predict(self, view):
        assert {"img", "data_norm_type"} <= set(view) <= ALLOWED
        assert not {"intrinsics", "ray_directions"} <= set(view)
        if "depth_z" in view:
            assert {"intrinsics", "ray_directions"} & set(view)
        batch, channels, height, width = view["img"].shape
        assert channels == 3 and height % 14 == width % 14 == 0
        assert view["img"].dtype == torch.float32
        assert view["data_norm_type"] == [self.norm_type]  # its code reads element 0
        rays = view["ray_directions"]
        assert rays.shape == (batch, height, width, 3)
        assert view["is_metric_scale"].shape == (batch,)
        assert view["is_metric_scale"].dtype == torch.bool
        plane = rays / rays[..., 2:]
        depth = torch.full((batch, height, width, 1), 2.0)
        if "depth_z" in view:
            # Its documentation says [B, H, W, 1], its code takes (and its helper makes) [B, H, W].
            assert view["depth_z"].shape == (batch, height, width)
            assert torch.isfinite(view["depth_z"]).all()
            depth = torch.where(view["depth_z"] > 0, view["depth_z"], 2.0)[..., None]
        clear = torch.ones(batch, height, width, dtype=torch.bool)
        clear[:, :, : width // 4] = False
        mask, points = clear[..., None], depth * plane
        pose = torch.eye(4).expand(batch, 4, 4)
        prediction = {
            "img_no_norm": view["img"].permute(0, 2, 3, 1),
            "pts3d": points * mask,
            "pts3d_cam": points * mask,
            "ray_directions": rays,
            "intrinsics": torch.eye(3).expand(batch, 3, 3),
            "depth_along_ray": points.norm(dim=-1, keepdim=True) * mask,
            "depth_z": depth * mask,
            "cam_trans": torch.zeros(batch, 3),
            "cam_quats": torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(batch, 4),
            "camera_poses": pose,
            "metric_scaling_factor": torch.ones(batch),
            "mask": mask,
            "non_ambiguous_mask": clear,
            "non_ambiguous_mask_logits": clear.float(),
            "conf": torch.full((batch, height, width), 4.0),  # from 1 to infinity
        }
        return {key: value for key, value in prediction.items() if key not in self.leaves_out}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    package, models = ModuleType("mapanything"), ModuleType("mapanything.models")
    models.MapAnything = Double
    package.models = models
    monkeypatch.setitem(sys.modules, "mapanything", package)
    monkeypatch.setitem(sys.modules, "mapanything.models", models)
    (tmp_path / "config.json").write_text("{}")
    save_file({"encoder.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def make(folder, **changes):
    settings = {"source": str(folder), "model_size": MODEL_SIZE, **changes}
    return build_geometry({"model_type": "map_anything", **settings}, SIZE, GRID)


def intrinsics(batch=2):
    matrix = [[40.0, 0, 16.2], [0, 40.0, 15.1], [0, 0, 1]]
    return torch.tensor(matrix).expand(batch, 3, 3)


def images(batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def test_its_points_come_to_the_grid(folder):
    encoder = make(folder)
    geometry = encoder(images(), intrinsics=intrinsics())
    assert geometry.points.shape == (2, *GRID, 3)
    assert not geometry.valid[:, :, 0].any()
    assert geometry.valid[:, :, 1:].all()
    assert geometry.confidence[:, :, 1:].flatten().tolist() == pytest.approx([0.75] * 24)
    assert (geometry.confidence[:, :, 0] == 0).all()
    # The grid's cells in pixels of the image, through the real camera.
    centre = torch.arange(4) * 8 + 3.5
    expected = 2.0 * (centre - 16.2) / 40
    torch.testing.assert_close(geometry.points[0, 0, 1:, 0], expected[1:], atol=1e-5, rtol=1e-4)
    expected = 2.0 * (centre - 15.1) / 40
    torch.testing.assert_close(geometry.points[0, :, 2, 1], expected, atol=1e-5, rtol=1e-4)
    tokens = torch.randn(2, *GRID, 8)
    assert torch.isfinite(GatedFusion(8)(tokens, geometry)).all()


def test_rays_are_those_of_its_own_pixels(folder):
    encoder = make(folder)
    encoder(images(), intrinsics=intrinsics())
    (views,) = encoder._held[0].views
    rays = views[0]["ray_directions"]
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(2, MODEL_SIZE, MODEL_SIZE))
    u = (torch.arange(MODEL_SIZE) + 0.5) * SIZE / MODEL_SIZE - 0.5
    expected = ((u - 16.2) / 40).expand(2, MODEL_SIZE, MODEL_SIZE)
    torch.testing.assert_close(rays[..., 0] / rays[..., 2], expected, atol=1e-5, rtol=1e-4)


def test_images_are_normalised_as_its_encoder_says(folder, monkeypatch):
    white = torch.full((1, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    for name, expected in (("dinov2", (1 - 0.485) / 0.229), ("dust3r", 1.0), ("identity", 1.0)):
        monkeypatch.setattr(Double, "norm_type", name)
        encoder = make(folder)
        encoder(white, intrinsics=intrinsics(1))
        image = encoder._held[0].views[0][0]["img"]
        assert image[0, 0].flatten().tolist() == pytest.approx([expected] * MODEL_SIZE**2)
    monkeypatch.setattr(Double, "norm_type", "croco")
    with pytest.raises(ValueError, match="normalised as 'croco': known are dinov2"):
        make(folder)


def test_it_completes_the_depth_of_a_camera(folder):
    encoder = make(folder, use_depth=True)
    depth = torch.full((2, SIZE, SIZE), 1.2)
    depth[:, 16:] = float("nan")
    geometry = encoder(images(), depth, intrinsics())
    assert geometry.points[:, :2, 1:, 2].flatten().tolist() == pytest.approx([1.2] * 12, rel=1e-4)
    assert geometry.points[:, 2:, 1:, 2].flatten().tolist() == pytest.approx([2.0] * 12, rel=1e-4)
    assert (make(folder)(images(), depth, intrinsics()).points[:, :, 1:, 2] > 1.9).all()


@pytest.mark.parametrize("key", ["pts3d_cam", "conf", "mask"])
def test_an_answer_of_another_version_is_named(folder, monkeypatch, key):
    monkeypatch.setattr(Double, "leaves_out", (key,))
    with pytest.raises(ValueError, match=f"infer gave nothing for {key}"):
        make(folder)(images(), intrinsics=intrinsics())


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "mapanything", None)
    with pytest.raises(MissingPackageError, match="package mapanything.*pip install git"):
        build_geometry("map_anything", SIZE, GRID)


def test_only_safetensors_of_this_machine_are_read(folder, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    with pytest.raises(FileNotFoundError, match="hf download facebook/map-anything-apache"):
        build_geometry("map_anything-apache", SIZE, GRID)
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(FileNotFoundError, match="lacks.*model.safetensors"):
        make(folder)


def test_its_weights_stay_in_their_folder_and_follow_the_model(folder):
    encoder = make(folder).train()
    assert encoder.state_dict() == {}
    held = encoder._held[0]
    assert not held.training
    assert not any(parameter.requires_grad for parameter in held.parameters())
    encoder.double()
    assert held.encoder.weight.dtype == torch.float64
    description = json.loads(json.dumps(encoder.description()))
    assert build_geometry(description).description() == description
    with pytest.raises(ValueError, match="500 pixels: take a multiple of 14"):
        make(folder, model_size=500)
