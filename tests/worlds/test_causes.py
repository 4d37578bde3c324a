"""Worlds of a known cause are what their truth says."""

import math

import pytest
import torch

from digon.errors import ConfigError
from digon.measures.basis import haar
from digon.worlds import causes
from digon.worlds.causes import dictionaries, nuisances

ROWS = 4000
LINEAR = {
    "monosemantic": lambda s: causes.monosemantic(ROWS, 8, s),
    "copies": lambda s: causes.monosemantic(ROWS, 8, s, copies=3),
    "rotated": lambda s: causes.rotated(ROWS, 8, s),
    "block": lambda s: causes.rotated(ROWS, 9, s, basis="block"),
    "partial": lambda s: causes.rotated(ROWS, 9, s, basis="partial"),
    "oblique": lambda s: causes.rotated(ROWS, 8, s, basis="oblique", n=6),
    "pairs": lambda s: causes.rotated(ROWS, 8, s, dependence="pairs"),
    "hierarchy": lambda s: causes.rotated(ROWS, 9, s, dependence="hierarchy"),
    "superposition": lambda s: causes.superposition(ROWS, 8, s),
    "optimal": lambda s: causes.superposition(ROWS, 8, s, 1.5, dictionary="optimal", zipf=1.0),
    "pentagon": lambda s: causes.superposition(ROWS, 9, s, dictionary="pentagon", values="half-normal"),
    "shaped": lambda s: causes.superposition(ROWS, 8, s, dictionary="shaped"),
    "circle": lambda s: causes.manifold(ROWS, 8, s),
    "torus": lambda s: causes.manifold(ROWS, 9, s, "torus"),
    "sphere": lambda s: causes.manifold(ROWS, 8, s, "sphere", count=5),
    "polygon": lambda s: causes.polygon(ROWS, 8, s),
    "magnitude": lambda s: causes.magnitude(ROWS, 8, s),
    "xor": lambda s: causes.relational(ROWS, 8, s),
    "gated": lambda s: causes.relational(ROWS, 8, s, "gated"),
    "random codes": lambda s: causes.lookup(ROWS, 8, s),
    "hash": lambda s: causes.lookup(ROWS, 8, s, "hash"),
    "index": lambda s: causes.lookup(ROWS, 8, s, "index"),
    "product code": lambda s: causes.lookup(ROWS, 8, s, "product"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_rows_are_coefficients_times_atoms(name):
    made = LINEAR[name](0)
    truth = made.truth
    torch.testing.assert_close(made.activations.values, truth.features @ truth.atoms, atol=1e-5, rtol=1e-5)
    assert int(torch.linalg.matrix_rank(truth.atoms, rtol=1e-4)) == truth.rank
    assert truth.features.shape == (ROWS, len(truth.atoms))
    again, other = LINEAR[name](0), LINEAR[name](1)
    assert torch.equal(made.activations.values, again.activations.values)
    assert not torch.equal(made.activations.values, other.activations.values)


def test_the_claim_of_superposition_is_a_claim_on_rank():
    for name, make in LINEAR.items():
        truth = make(0).truth
        if truth.cause == "superposition":
            assert truth.n_features > truth.rank, name
        if truth.cause in ("monosemantic", "rotated"):
            assert truth.n_features == truth.rank, name


@pytest.mark.parametrize("name", ["monosemantic", "rotated", "superposition"])
def test_density_and_values(name):
    f = LINEAR[name](0).truth.features
    assert (f > 0).float().mean() == pytest.approx(0.05, abs=0.01)
    assert f[f > 0].mean() == pytest.approx(0.5, abs=0.03)


def test_laws():
    f = causes.rotated(20_000, 8, 0, active=2.0, zipf=1.0).truth.features
    active = (f != 0).double().mean(0)
    assert active.sum() == pytest.approx(2.0, abs=0.05)
    assert active[0] / active[3] == pytest.approx(4.0, rel=0.1)
    pairs = causes.rotated(5000, 8, 0, dependence="pairs").truth.features != 0
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    family = causes.rotated(5000, 8, 0, dependence="hierarchy", active=1.0).truth.features != 0
    assert not (family[:, 1] & ~family[:, 0]).any()
    assert family.double().mean(0).sum() == pytest.approx(1.0, abs=0.06)
    signed = causes.superposition(5000, 8, 0, values="symmetric").truth.features
    assert abs(float(signed[signed != 0].mean())) < 0.05


def test_nothing_has_the_tails_it_should():
    def kurtosis(kind):
        h = causes.null(100_000, 4, 0, kind).activations.values.double()
        return float((h**4).mean(0).div((h**2).mean(0) ** 2).mean())

    assert kurtosis("isotropic") == pytest.approx(3, abs=0.05)
    assert kurtosis("power law") == pytest.approx(3, abs=0.05)
    assert kurtosis("elliptical") > 5
    assert causes.null(100, 8, 0).truth.n_features == 0


def test_dictionaries():
    g = torch.Generator().manual_seed(0)
    worst = lambda w: float((w @ w.T - torch.eye(len(w))).abs().max())  # noqa: E731
    assert worst(dictionaries.optimal(12, 8, g)) < worst(dictionaries.random(12, 8, g)) - 0.1
    welch = math.sqrt((12 - 8) / (8 * 11))
    assert worst(dictionaries.optimal(12, 8, g)) > welch
    pentagons = dictionaries.dictionary("pentagon", 0, 5, g)
    assert pentagons.shape == (11, 5)  # two pentagons and an axis
    cosines = {round(c, 3) + 0.0 for c in (pentagons @ pentagons.T).abs().flatten().tolist()}
    assert cosines == {0.0, 0.309, 0.809, 1.0}
    assert dictionaries.dictionary("digon", 0, 4, g).shape == (8, 4)


def test_shaped_features_lie_near_their_companions():
    def likeness(dictionary, dependence):
        truth = causes.superposition(20_000, 8, 0, dictionary=dictionary, density=0.2, dependence=dependence).truth
        together = torch.corrcoef((truth.features != 0).double().T)
        cosines = (truth.atoms @ truth.atoms.T).double()
        off = ~torch.eye(len(cosines), dtype=torch.bool)
        return float(torch.corrcoef(torch.stack([together[off], cosines[off]]))[0, 1])

    assert likeness("shaped", "none") > 0.3
    assert abs(likeness("random", "none")) < 0.15


def test_a_circle_has_a_radius_and_no_favorite_angle():
    f = causes.manifold(20_000, 2, 0, density=0.5).truth.features
    on = f[f.norm(dim=1) > 0]
    assert on.norm(dim=1).mean() == pytest.approx(1.0, abs=0.01)
    assert on.mean(0).norm() < 0.03
    assert causes.manifold(10, 8, 0, count=6).truth.rank == 8


def test_corners_exclude_each_other():
    f = causes.polygon(5000, 4, 0, 5).truth.features.view(5000, 2, 5)
    assert f.sum(2).max() == 1
    assert (f.sum(2) > 0).double().mean() == pytest.approx(0.1, abs=0.02)


def test_a_magnitude_code_can_be_peeled():
    made = causes.magnitude(500, 16, 0, decay=0.3)
    largest = made.truth.features.argmax(1)
    assert (largest == made.labels[:, 0]).all()


def test_relations_hide_their_variables():
    for kind in ("xor", "product"):
        made = causes.relational(20_000, 8, 0, kind)
        correlation = torch.corrcoef(torch.cat([made.truth.features.double(), made.labels.double()], 1).T)[:4, 4:]
        assert correlation.abs().max() < 0.03, kind


def test_a_table_has_one_code_per_input():
    made = causes.lookup(3000, 8, 0, "random", points=20)
    tokens, values = made.activations.tokens, made.activations.values
    assert tokens.max() < 20
    for token in (0, 7):
        rows = values[tokens == token]
        assert torch.equal(rows, rows[:1].expand_as(rows))
    assert made.truth.alike == {"superposition", "lookup"}


def test_mixtures_keep_their_parts():
    parts = [causes.rotated(ROWS, 4, 0), causes.manifold(ROWS, 4, 1)]
    made = causes.mixed(parts, 2)
    truth = made.truth
    torch.testing.assert_close(made.activations.values, truth.features @ truth.atoms, atol=1e-5, rtol=1e-5)
    for block, part in zip(truth.blocks, parts, strict=True):
        assert block.cause == part.truth.cause
        torch.testing.assert_close(
            made.activations.values @ block.basis.T, part.activations.values, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", nuisances.NUISANCES)
def test_nuisances_change_what_they_say_and_nothing_else(name):
    made = causes.rotated(ROWS, 8, 0)
    seen = causes.observed(made, [name], 3)
    h, x = made.activations.values, seen.activations.values
    assert seen.truth is made.truth
    assert x.shape == h.shape
    assert x.isfinite().all()
    assert torch.equal(x, causes.observed(made, [name], 3).activations.values)
    checks = {
        "relu": lambda: torch.equal(x, h.relu()),
        "gelu": lambda: x.min() > -0.2,
        "row_normalization": lambda: x.mean(1).abs().max() < 1e-4 and x.std(1).max() < 1.1,
        "gains": lambda: (torch.corrcoef(torch.cat([h, x], 1).T)[:8, 8:].diagonal() > 0.999).all(),
        "eight_bits": lambda: len(x[:, 0].unique()) <= 256 and (x - h).abs().max() < 0.02,
        "outliers": lambda: ((x / h).nanmedian(0).values > 19).sum() == 1,
        "noise": lambda: (
            ((x - h).square().mean() / (h - h.mean(0)).square().mean()).item() == pytest.approx(0.1, rel=0.05)
        ),
    }
    assert checks[name]()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: causes.null(10, 4, 0, "pink"),
        lambda: causes.monosemantic(10, 4, 0, copies=4),
        lambda: causes.rotated(10, 4, 0, n=5),
        lambda: causes.rotated(10, 4, 0, basis="shear"),
        lambda: causes.rotated(10, 4, 0, density=0.0),
        lambda: causes.superposition(10, 4, 0, load=1.0),
        lambda: causes.superposition(10, 4, 0, dictionary="cube"),
        lambda: causes.superposition(10, 1, 0, dictionary="pentagon"),
        lambda: causes.manifold(10, 1, 0),
        lambda: causes.polygon(10, 4, 0, corners=2),
        lambda: causes.magnitude(10, 4, 0, decay=1.0),
        lambda: causes.relational(10, 4, 0, "and"),
        lambda: causes.lookup(10, 4, 0, points=1),
        lambda: causes.lookup(0, 4, 0),
        lambda: causes.mixed([causes.null(10, 4, 0)], 0),
        lambda: causes.observed(causes.null(10, 4, 0), ["blur"], 0),
    ],
)
def test_worlds_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_rotations_are_rotations():
    q = haar(6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(q @ q.T, torch.eye(6), atol=1e-5, rtol=0)
