"""The toy laboratory: coordinates, hulls, and losses that are known."""

import math

import numpy as np
import pytest
import torch

from digon.measures.geometry import gram
from digon.measures.polytopes import antiprism
from digon.studies.toys import laboratory
from digon.studies.toys.base import StudyConfig


@pytest.fixture(scope="module")
def outcome():
    return laboratory.run(StudyConfig(size="smoke"), lambda _: None)


def test_turning_changes_no_inner_product():
    W = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    new = laboratory.turned(W)
    np.testing.assert_allclose(gram(new), gram(W), atol=1e-5)
    first = (W.norm(dim=-1) > 0.5).nonzero()[0, 0]
    np.testing.assert_allclose(new[first], [float(W[first].norm()), 0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("vertices", "edges"),
    [
        (np.concatenate([np.eye(3), -np.eye(3)]), 12),
        (antiprism(4).vertices, 16),
        (np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float), 12),
        (np.eye(3), 0),
    ],
)
def test_edges_of_solids(vertices, edges):
    assert len(laboratory.hull_edges(vertices)) == 2 * edges


def test_known_losses(outcome):
    values = {name: found.value for name, found in outcome.values.items()}
    assert values["laboratory_pentagon"] == pytest.approx(0.021403, rel=0.002)
    assert values["laboratory_digons"] == pytest.approx(0.059883, rel=0.002)
    assert values["laboratory_never_together"] < 1e-5


def test_every_frame_has_a_place_under_the_controls(outcome):
    for figure in outcome.figures:
        parts = len(figure.control.split("|"))
        labels = [frame.label for frame in figure.frames]
        assert len(set(labels)) == len(labels)
        assert all(len(label.split(" | ")) == parts for label in labels)
        assert len({len(frame.panels) for frame in figure.frames}) == 1
        assert figure.see
        assert figure.caution


def test_the_pentagon_is_drawn(outcome):
    """Directions of the frame at density 0.1 are 72 degrees apart, the first along the first axis."""
    frame = next(f for f in outcome.figures[0].frames if f.label == "0.1 | 1 | 5, 2 | independent")
    assert frame.panels[0].title.startswith("pentagon")
    arrows = frame.panels[0].series[1]
    angles = np.sort(np.arctan2(arrows.y, arrows.x) % (2 * math.pi))
    np.testing.assert_allclose(np.diff(angles), math.radians(72), atol=0.01)
    assert abs(arrows.y[0]) < 1e-3 < arrows.x[0]


def test_solids_are_three_dimensional(outcome):
    octahedron = next(f for f in outcome.figures[1].frames if f.label == "0.1 | 1 | 6")
    assert octahedron.panels[0].title.startswith("octahedron")
    assert len(octahedron.panels[0].series[1].z) == 24
