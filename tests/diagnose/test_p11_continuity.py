import pytest
import torch

from digon.diagnose import Evidence
from digon.diagnose.checks.continuity import continuity
from digon.worlds import causes


def angle_reader(frames):
    """Cosine and sine of the angle in every plane, whatever the radius; nothing where nothing is active."""

    def read(h):
        at = torch.einsum("nd,pkd->npk", h, frames)
        return (torch.nn.functional.normalize(at, dim=2) * (at.norm(dim=2, keepdim=True) > 0.3)).flatten(1)

    return read


def nearest_corner(atoms, planes):
    """Which corner of every plane is nearest, if it is active."""

    def read(h):
        near = (h @ atoms.T).view(len(h), planes, -1)
        hard = torch.nn.functional.one_hot(near.argmax(2), near.shape[2]).float()
        return (hard * (near.amax(2, keepdim=True) > 0.3)).flatten(1)

    return read


def frames_of(atoms, planes):
    """Orthonormal bases of the planes of a polygon's corners, or of a circle's coordinates."""
    return torch.stack([torch.linalg.svd(part, full_matrices=False).Vh[:2] for part in atoms.chunk(planes)])


def check_of(world, network, seed):
    return continuity(Evidence(world.activations, seed, network=network))


@pytest.mark.parametrize("seed", range(3))
def test_the_same_corners_are_features_or_points_of_a_curve(seed):
    world = causes.polygon(6000, 8, seed)
    snaps = check_of(world, nearest_corner(world.truth.atoms, 4), seed)
    assert snaps.verdict == "against"
    assert snaps.excludes == ("manifold",)
    moves = check_of(world, angle_reader(frames_of(world.truth.atoms, 4)), seed)
    assert moves.verdict == "for"
    assert "superposition" in moves.excludes
    assert "manifold" not in moves.excludes


@pytest.mark.parametrize("seed", range(3))
def test_circles(seed):
    world = causes.manifold(6000, 8, seed)
    moves = check_of(world, angle_reader(frames_of(world.truth.atoms, 4)), seed)
    assert moves.verdict == "for"


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_reader_says_nothing(seed):
    world = causes.polygon(6000, 8, seed)
    check = check_of(world, lambda h: h @ world.truth.atoms.T, seed)
    assert check.verdict == "silent"
    assert check.excludes == ()


def test_not_applicable():
    world = causes.rotated(3000, 8, 0)
    assert "access C" in continuity(Evidence(world.activations)).sentence
    assert check_of(world, lambda h: h, 0).verdict == "not applicable"
    assert "does not read" in check_of(causes.polygon(6000, 8, 0), lambda h: 0 * h[:, :2] + 1, 0).sentence
