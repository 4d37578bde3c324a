"""Published anchors: the quick ones are measured, the readings of the others are held against closed forms."""

import math

import numpy as np
import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.bounds import read_dimensions
from digon.studies import anchors
from digon.studies.anchors import circles, limits, networks, readings
from digon.studies.anchors.base import Table
from digon.studies.toys.paper.privileged_codes import codes


def quiet(_: str) -> None:
    pass


def test_every_anchor_has_expectations_and_ids_are_unique():
    expected = anchors.expectations()
    assert list(expected) == list(anchors.MODULES)
    assert len(expected) == 9
    assert all(expected.values())
    ids = [row.id for rows in expected.values() for row in rows]
    assert len(ids) == len(set(ids))


def test_an_unknown_anchor_is_named_with_the_nearest_one():
    with pytest.raises(ConfigError, match="kurtosis"):
        anchors.run(0, quiet, ["kurtoses"])


def test_kurtosis_of_rotated_rows_is_that_of_gaussians():
    claims, seconds = anchors.run(0, quiet, ["kurtosis"])
    assert list(seconds) == ["kurtosis"]
    by = {claim.id: claim for claim in claims}
    assert by["A6.3"].verdict == "holds"
    assert by["A6.3"].measured == pytest.approx(3 * 63 / 65, abs=0.05)
    assert by["A6.5"].measured > 10, "sparse units before the rotation"
    text = anchors.section(claims, seconds)
    assert text.count("\n| A6.") == len(claims)
    assert "Seconds: kurtosis" in text


def test_effective_features_of_noise_are_two_and_of_rotated_features_one():
    read = {
        name: float(
            readings.autoencoders(readings.data(name, 1), rng.stream(1, "psi"), widths=(4,), repeats=1).data[0, 0]
        )
        for name in ("noise", "rotated")
    }
    assert read["noise"] == pytest.approx(2, abs=0.05)
    assert read["rotated"] == pytest.approx(1, abs=0.05)


def test_read_formulas_give_the_published_table():
    for (n, k), first, finite in zip(limits.SIZES, (100, 265, 662), (44, 144, 403), strict=True):
        assert read_dimensions(n, k) == pytest.approx(first, abs=0.5)
        assert limits.finite_size(n, k) == pytest.approx(finite, abs=0.5)


def test_the_law_of_scores_is_that_of_gaussian_dictionaries():
    n, k, d = 128, 4, 50
    law = np.mean([limits.Scores.draw(n, k, seed).success(float(d)) for seed in range(3)])
    real = np.array([limits.read_rate(n, k, d, seed) for seed in range(6)])
    trials = 6 * limits.DICTIONARIES * limits.SUPPORTS
    assert abs(real.mean() - law) < 4 * math.sqrt(law * (1 - law) / trials) + 0.02


def test_more_dimensions_read_better_and_none_read_nothing():
    law = limits.Scores.draw(64, 2, 0)
    rates = [law.success(d) for d in (1.0, 8.0, 32.0, 128.0, 1024.0)]
    assert rates == sorted(rates)
    assert rates[0] < 0.05
    assert rates[-1] > 0.99
    assert law.margin(1024.0) > 0 > law.margin(2.0)


def test_crossing_finds_a_root():
    assert limits.crossing(lambda x: x * x - 50, 0.0, 100.0) == pytest.approx(50**0.5, abs=0.05)


def test_concentration_of_even_spread_peak_and_gap():
    even = torch.linspace(0.4, 0.6, 20_001)
    assert networks.concentration(even, 0.5) == pytest.approx(0.5, abs=0.01)
    assert networks.concentration(torch.full((5,), 0.5), 0.5) == 1
    assert networks.concentration(torch.tensor([0.51, 0.49]), 0.5) == 0
    assert math.isnan(networks.concentration(even, 0.9))


def test_published_codes_are_read_as_such():
    library = codes()
    by = {1.0: "five alone", 0.5: "five alone", 0.4: "three in two", 0.3: "three in two", 0.2: "three in two"}
    by |= {0.15: "five in three", 0.12: "six in four", 0.08: "eight in five", 0.05: "eight in five"}
    by |= {0.03: "pairs", 0.01: "pairs"}
    found = networks.codes_of({density: library[name] for density, name in by.items()})
    assert found["mono_dense"] == found["three_in_two"] == found["trade"] == 1
    assert (found["mono_15"], found["features_15"]) == (2, 7)
    assert (found["mono_12"], found["features_12"]) == (1, 7)
    assert (found["mono_08"], found["features_08"]) == (0, 8)
    assert found["pairs_03"] == found["pairs_01"] == 10


def test_mixture_of_a_spot_and_of_a_gaussian():
    g = torch.Generator().manual_seed(0)
    half = torch.randn(4000, 2, generator=g)
    half[:2000] = 0  # half of the points in one spot: every strip through it holds them
    assert circles.mixture(half) == pytest.approx(0.5, abs=0.06)
    # the best strip of a Gaussian is the central one: P(|z| < 0.1) = 0.08
    assert circles.mixture(torch.randn(20_000, 2, generator=g)) == pytest.approx(0.0797, abs=0.012)


def test_a_circle_scores_above_other_clouds():
    g = torch.Generator().manual_seed(1)
    ring = circles.score(circles.circle(12, g), g)
    others = [circles.score(circles.other(kind, g), g) for kind in circles.KINDS for _ in range(3)]
    assert ring > max(others)


def test_a_table_of_the_best_network_has_the_range_of_all():
    table = Table(0)
    table.note_best("x", [3.0, 1.0, 4.0], 1, "best of three", 2.0)
    found = table.outcome()
    assert (found.values["x"].value, found.values["x"].low, found.values["x"].high) == (1, 1, 4)
    assert found.exact == {"x": 2.0}
