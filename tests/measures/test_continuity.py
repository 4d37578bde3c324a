import math

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.continuity import Plane, planes, walk
from digon.worlds import causes

FRAME = torch.eye(6, dtype=torch.float64)[:2]
PLANE = Plane(FRAME, 1.0, 100)


def data(seed):
    return torch.randn(500, 6, generator=rng.stream(seed, "data"), dtype=torch.float64)


def angle_reader(h):
    return torch.nn.functional.normalize(h[:, :2], dim=1)


def nearest_corner(h, corners=6):
    turn = 2 * math.pi * torch.arange(corners, dtype=h.dtype) / corners
    ring = torch.stack([turn.cos(), turn.sin()])
    return torch.nn.functional.one_hot((h[:, :2] @ ring).argmax(1), corners).to(h.dtype)


@pytest.mark.parametrize("seed", range(3))
def test_three_readers(seed):
    origin = torch.zeros(6, dtype=torch.float64)
    smooth = walk(angle_reader, data(seed), PLANE, origin)
    assert smooth.evenness == pytest.approx(1, abs=1e-6)
    assert smooth.harmonics == pytest.approx(1, abs=1e-6)
    assert smooth.radius == pytest.approx(0, abs=1e-6)
    snap = walk(nearest_corner, data(seed), PLANE, origin)
    assert snap.evenness == pytest.approx(6 / 180, rel=1e-6)  # six equal jumps in 180 steps
    linear = walk(lambda h: h[:, :3], data(seed), PLANE, origin)
    assert linear.evenness == pytest.approx(1, abs=1e-6)
    assert linear.radius == pytest.approx((0.2 + 0.25) / 2, rel=1e-6)
    blind = walk(lambda h: h[:, 4:], data(seed), PLANE, origin)
    assert blind.moved == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("corners", [3, 6])
def test_planes_of_polygons_and_none_of_two_features(seed, corners):
    world = causes.polygon(6000, 8, seed, corners)
    found = planes(world.activations.values, world.truth.atoms)
    assert len(found) == 4
    frames = world.truth.atoms.view(4, corners, 8).double()
    for plane in found:
        inside = ((frames @ plane.basis.T).square().sum(2) > 0.99).all(1)
        assert int(inside.sum()) == 1
        assert plane.radius == pytest.approx(1, abs=0.05)
    assert planes(causes.rotated(6000, 8, seed).activations.values, causes.rotated(6000, 8, seed).truth.atoms) == []


def test_a_broken_network_is_refused():
    with pytest.raises(ConfigError):
        walk(lambda h: h[:5], data(0), PLANE, torch.zeros(6, dtype=torch.float64))
    with pytest.raises(ConfigError):
        walk(lambda h: h * math.nan, data(0), PLANE, torch.zeros(6, dtype=torch.float64))
