"""Geometry and its fusion: points where things are, unknown where nothing was measured."""

import json

import numpy as np
import pytest
import torch

from vla_ros.models.vision.fusion import FourierFeatures, GatedFusion
from vla_ros.models.vision.geometry import DepthCamera, Geometry, build_geometry

SIZE, GRID = 32, (8, 8)


def intrinsics(focal=40.0, size=SIZE, shift=(0.7, -0.4)):
    centre = (size - 1) / 2
    return torch.tensor(
        [[[focal, 0, centre + shift[0]], [0, focal, centre + shift[1]], [0, 0, 1.0]]]
    )


def pixels(size=SIZE):
    v, u = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([u, v, torch.ones_like(u)], dim=-1).double()


def plane_depth(matrix, normal, distance, size=SIZE):
    """Depth [1, S, S] of the plane normal . x = distance, and its points, by solving for it."""
    rays = pixels(size) @ torch.linalg.inv(matrix[0].double()).T
    depth = distance / (rays @ torch.tensor(normal, dtype=torch.float64))
    return depth.float()[None], depth[..., None] * rays


@pytest.fixture
def camera():
    return DepthCamera(SIZE, GRID)


def test_points_of_a_known_plane(camera):
    matrix, normal = intrinsics(), (0.3, -0.5, 0.81)
    depth, points = plane_depth(matrix, normal, 0.9)
    dense = camera.observe(depth=depth, intrinsics=matrix)
    torch.testing.assert_close(dense.points[0].double(), points, atol=1e-6, rtol=1e-6)
    geometry = camera(depth=depth, intrinsics=matrix)
    assert geometry.points.shape == (1, 8, 8, 3)
    assert geometry.valid.all()
    assert (geometry.confidence == 1).all()
    # A mean of points of a plane is on it, and each is the mean of its own pixels.
    on_plane = geometry.points.double() @ torch.tensor(normal, dtype=torch.float64)
    torch.testing.assert_close(on_plane, torch.full_like(on_plane, 0.9), atol=1e-6, rtol=0)
    corner = points[-4:, :4].reshape(-1, 3).mean(dim=0)
    torch.testing.assert_close(geometry.points[0, 7, 0].double(), corner, atol=1e-6, rtol=1e-6)


def test_rays_of_a_pinhole_are_as_good_as_its_matrix(camera):
    matrix = intrinsics()
    depth, _ = plane_depth(matrix, (0.3, -0.5, 0.81), 0.9)
    rays = (pixels() @ torch.linalg.inv(matrix[0].double()).T).float()[None]
    for a, b in zip(
        camera(depth=depth, intrinsics=matrix), camera(depth=depth, intrinsics=rays), strict=True
    ):
        torch.testing.assert_close(a, b)


def look_at(position, target):
    """Rotation (camera to world) of an optical frame that looks from position at target."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def test_two_cameras_that_look_at_one_point_agree_where_it_is(camera):
    """With other places, lenses and directions, both put the table's points on the table."""
    target = np.array([0.45, 0.05, 0.02])
    found = []
    for position, focal in (((1.3, -0.4, 0.7), 40.0), ((0.1, 0.8, 1.1), 55.0)):
        position = np.array(position)
        turn = look_at(position, target)
        matrix = intrinsics(focal)
        # The table z = 0.02 as the camera sees it: normal . x = distance in its own frame.
        normal = turn.T @ np.array([0.0, 0.0, 1.0])
        depth, _ = plane_depth(matrix, tuple(normal), 0.02 - position[2])
        dense = camera.observe(depth=depth, intrinsics=matrix)
        world = dense.points[0].double().numpy() @ turn.T + position
        assert np.abs(world[..., 2] - 0.02).max() < 1e-5
        # The pixel at the principal point, between two of them, sees the target.
        u, v = matrix[0, 0, 2].item(), matrix[0, 1, 2].item()
        ray = turn @ np.array([0.0, 0.0, 1.0])
        found.append(position + ray * np.linalg.norm(target - position))
        near = world[round(v), round(u)]
        assert np.linalg.norm(near - target) < 0.05
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -1.0, float("inf"), -float("inf"), 10.5])
def test_what_was_not_measured_counts_for_nothing(camera, bad):
    matrix = intrinsics()
    depth, _ = plane_depth(matrix, (0.0, 0.0, 1.0), 0.8)
    expected = camera(depth=depth, intrinsics=matrix)
    depth[0, 0, :3] = bad  # three of the sixteen pixels of the first token
    depth[0, 4:8, 4:8] = bad  # all of another's
    geometry = camera(depth=depth, intrinsics=matrix)
    assert torch.isfinite(geometry.points).all()
    assert geometry.confidence[0, 0, 0] == pytest.approx(13 / 16)
    assert geometry.points[0, 0, 0, 2] == pytest.approx(0.8)
    assert not geometry.valid[0, 1, 1]
    assert geometry.confidence[0, 1, 1] == 0
    assert (geometry.points[0, 1, 1] == 0).all()
    assert geometry.valid.sum() == 63
    torch.testing.assert_close(geometry.points[:, 2:], expected.points[:, 2:])


def test_depth_that_was_measured_nowhere_gives_a_grid_that_is_valid_nowhere(camera):
    depth = torch.full((2, SIZE, SIZE), float("nan"))
    geometry = camera(depth=depth, intrinsics=intrinsics().expand(2, 3, 3))
    assert not geometry.valid.any()
    assert (geometry.points == 0).all()
    assert (geometry.confidence == 0).all()


def test_rays_that_are_not_known_are_not_valid(camera):
    rays = torch.ones(1, SIZE, SIZE, 3)
    rays[0, :4, :4] = float("nan")
    geometry = camera(depth=torch.ones(1, SIZE, SIZE), intrinsics=rays)
    assert not geometry.valid[0, 0, 0]
    assert geometry.valid.sum() == 63
    assert torch.isfinite(geometry.points).all()


def test_a_grid_that_does_not_divide_the_image():
    camera = build_geometry("depth_camera", 30, (7, 7))
    depth = torch.full((1, 30, 30), 0.5)
    geometry = camera(depth=depth, intrinsics=intrinsics(size=30))
    assert geometry.points.shape == (1, 7, 7, 3)
    assert geometry.points[..., 2].flatten().tolist() == pytest.approx([0.5] * 49)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": None}, "'depth_camera' needs depth"),
        ({"intrinsics": None}, "'depth_camera' needs intrinsics"),
        ({"depth": torch.ones(1, 16, 16)}, r"expected depth \[B, 32, 32\].*\[1, 16, 16\]"),
        ({"depth": torch.ones(1, 32, 32, dtype=torch.int32)}, "floating point in m.*int32"),
        ({"depth": torch.ones(2, 32, 32)}, "2 depth, 1 intrinsics"),
        ({"intrinsics": intrinsics(640.0, 480)}, "another resolution.*cropped and scaled"),
        ({"intrinsics": -intrinsics()}, "no pinhole matrices"),
        ({"intrinsics": intrinsics() * float("nan")}, "no pinhole matrices"),
        ({"intrinsics": torch.eye(4)[None]}, r"\[B, 3, 3\] or rays \[B, 32, 32, 3\]"),
    ],
)
def test_bad_inputs_are_named(camera, changes, message):
    given = {"depth": torch.ones(1, SIZE, SIZE), "intrinsics": intrinsics(), **changes}
    with pytest.raises(ValueError, match=message):
        camera(**given)


def test_bad_images_are_named():
    encoder = build_geometry("none", SIZE, GRID)
    encoder(torch.zeros(1, 3, SIZE, SIZE))
    for images, message in (
        (torch.zeros(1, SIZE, SIZE, 3), "expected RGB images"),
        (torch.full((1, 3, SIZE, SIZE), 2.0), "0..1"),
        (torch.full((1, 3, SIZE, SIZE), float("nan")), "0..1"),
        (None, "given nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(images)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ("lidar", "no geometry lidar: take none, depth_camera, map_anything"),
        ({"model_type": "lidar"}, "no geometry of kind 'lidar'"),
        ({"model_type": "depth_camera", "far": 3.0}, "unexpected keyword argument 'far'"),
        ({"model_type": "depth_camera", "nearest": 4.0, "farthest": 3.0}, "nearest < farthest"),
        ({"model_type": "depth_camera", "grid": [64, 64]}, "fewer than the grid"),
        ({"model_type": "depth_model"}, "no depth model of kind None"),
    ],
)
def test_impossible_geometry_is_named(geometry, message):
    grid = None if isinstance(geometry, dict) and "grid" in geometry else GRID
    with pytest.raises(ValueError, match=message):
        build_geometry(geometry, SIZE, grid)


@pytest.mark.parametrize("name", ["none", "depth_camera"])
def test_description_makes_the_same_again(name):
    description = json.loads(json.dumps(build_geometry(name, SIZE, GRID).description()))
    assert build_geometry(description).description() == description
    with pytest.raises(ValueError, match="lacks image_size and grid"):
        build_geometry(name)


# -- fusion ----------------------------------------------------------------------------------------


def some_geometry(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    depth = 0.3 + torch.rand(batch, SIZE, SIZE, generator=generator)
    depth[:, :8, :8] = float("nan")
    return DepthCamera(SIZE, GRID)(depth=depth, intrinsics=intrinsics().expand(batch, 3, 3))


def some_fusion(gate):
    torch.manual_seed(1)
    fusion = GatedFusion(12)
    torch.nn.init.constant_(fusion.gate, gate)
    return fusion


def test_features_are_waves_of_eight_lengths_and_the_point_itself():
    points = torch.tensor([[0.3, -0.2, 1.5]])
    features = FourierFeatures(8)(points)[0]
    assert features.shape == (51,)
    assert features[:3].tolist() == pytest.approx([0.3, -0.2, 1.5])
    expected = [np.sin(2**k * x) for k in range(8) for x in (0.3, -0.2, 1.5)]
    assert features[3:27].tolist() == pytest.approx(expected, abs=1e-5)
    expected = [np.cos(2**k * x) for k in range(8) for x in (0.3, -0.2, 1.5)]
    assert features[27:].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_closed_gate_leaves_the_tokens_as_they_are(kind):
    tokens = torch.randn(2, *GRID, 12).to(kind)
    assert torch.equal(some_fusion(0.0)(tokens, some_geometry()), tokens)


def test_gradients_reach_the_closed_gate_and_all_of_the_tokens():
    fusion, tokens = some_fusion(0.0), torch.randn(2, *GRID, 12, requires_grad=True)
    fusion(tokens, some_geometry()).square().sum().backward()
    assert (fusion.gate.grad != 0).all()
    torch.testing.assert_close(tokens.grad, 2 * tokens)
    assert all((p.grad == 0).all() for p in fusion.mlp.parameters())  # until the gate opens
    fusion = some_fusion(0.1)
    fusion(tokens, some_geometry()).square().sum().backward()
    assert all((p.grad != 0).any() for p in fusion.parameters())


def test_a_trained_gate_learns_what_only_depth_tells():
    """Tokens that all are the same: which of two planes is nearer is in the geometry alone."""
    torch.manual_seed(0)
    fusion, head = GatedFusion(12), torch.nn.Linear(12, 1)
    distance = torch.rand(64) + 0.3
    depth = distance.view(-1, 1, 1).expand(-1, SIZE, SIZE)
    geometry = DepthCamera(SIZE, GRID)(depth=depth, intrinsics=intrinsics().expand(64, 3, 3))
    tokens = torch.ones(64, *GRID, 12)
    optimiser = torch.optim.Adam([*fusion.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(60):
        loss = (head(fusion(tokens, geometry).mean(dim=(1, 2)))[:, 0] - distance).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1 * distance.var()


def test_what_is_not_valid_tells_only_that_it_is_not():
    """Whatever stands in a point that is not valid, the fused token is the same."""
    fusion, tokens, geometry = some_fusion(0.5), torch.randn(2, *GRID, 12), some_geometry()
    other = torch.where(geometry.valid[..., None], geometry.points, 7.0)
    changed = Geometry(other, geometry.confidence, geometry.valid)
    assert torch.equal(fusion(tokens, changed), fusion(tokens, geometry))
    assert not torch.equal(fusion(tokens, geometry), tokens)


def test_geometry_of_another_grid_is_named():
    with pytest.raises(ValueError, match=r"grid \[2, 8, 8\] does not fit tokens \[2, 4, 4, 12\]"):
        some_fusion(0.0)(torch.zeros(2, 4, 4, 12), some_geometry())


def test_places_stay_exact_under_autocast():
    fusion, tokens = some_fusion(0.5), torch.randn(2, *GRID, 12)
    exact = fusion(tokens, some_geometry())
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion(tokens, some_geometry())
    torch.testing.assert_close(rough, exact)
