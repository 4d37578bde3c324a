import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from digon import rng
from digon.errors import ConfigError
from digon.worlds import population
from digon.worlds.closed import linear_loss, small_loss
from digon.worlds.contour import transform, transform_slope
from digon.worlds.features import Features, FeatureSet, features
from digon.worlds.population import check_exact, expected_loss
from digon.worlds.toys import Toy, loss

ENGINES = ("torch", "numba")


def network(n, m, seed=0, instances=1, scale=0.6):
    g = rng.stream(seed, "network", n)
    W = scale * torch.randn(instances, n, m, generator=g, dtype=torch.float64)
    b = 0.2 * torch.randn(instances, n, generator=g, dtype=torch.float64) - 0.1
    return W, b


def spline_loss(a, b, j, p, symmetric, step=4e-3):
    """Loss of one output without any transform: E[ReLU(t + a·x)²] as a spline in t, one feature after another."""
    reach = abs(b) + np.abs(a).sum() + 1
    t = step * np.arange(-np.ceil(2 * reach / step), np.ceil(2 * reach / step) + 1)
    low = 1.0 if symmetric else 0.0
    value, slope = np.maximum(t, 0) ** 2, 2 * np.maximum(t, 0)
    inside = np.abs(t) <= reach
    for i in range(len(a)):
        if i == j or a[i] == 0:
            continue
        spline = CubicHermiteSpline(t, value, slope)
        whole = spline.antiderivative()
        left, right, width = t[inside] - low * a[i], t[inside] + a[i], (1 + low) * a[i]
        value[inside] = (1 - p[i]) * value[inside] + p[i] * (whole(right) - whole(left)) / width
        slope[inside] = (1 - p[i]) * slope[inside] + p[i] * (spline(right) - spline(left)) / width
    spline = CubicHermiteSpline(t, value, slope)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    pieces = np.linspace(-low, 1, 401)
    x = (pieces[:-1, None] + np.diff(pieces)[:, None] * (nodes + 1) / 2).ravel()
    w = (np.diff(pieces)[:, None] * weights / 2).ravel() / (1 + low)
    z = b + a[j] * x
    return (1 - p[j]) * spline(b) + p[j] * (w * (x**2 - x * spline(z, 1) + spline(z))).sum()


def oracle(W, b, law, outputs):
    gram, p = (W @ W.mT)[0].numpy(), law.density.numpy()
    each = [spline_loss(gram[j], b[0, j].item(), j, p, law.values == "symmetric") for j in outputs]
    return float((law.importance.numpy()[outputs] * each).sum())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_matches_closed_form(n, engine):
    W, b = network(n, 2, instances=6)
    g = rng.stream(1, "law")
    law = features(n, 0.02 + 0.98 * torch.rand(6, n, generator=g), torch.rand(6, n, generator=g))
    exact = small_loss(W, b, law.density, law.importance, engine="torch")
    torch.testing.assert_close(expected_loss(W, b, law, engine=engine), exact, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("n", "m", "density", "rtol", "values", "engine"),
    [
        (20, 5, 1.0, 1e-7, "uniform", "torch"),
        (20, 5, 0.1, 1e-7, "symmetric", "torch"),
        (20, 5, 1.0, 1e-7, "symmetric", "numba"),
        (20, 5, 0.1, 1e-7, "uniform", "numba"),
        (80, 20, 0.01, 1e-5, "uniform", "numba"),
    ],
)
def test_matches_splines(n, m, density, rtol, values, engine):
    outputs = [0, 3, n - 1]
    importance = torch.zeros(n, dtype=torch.float64)
    importance[outputs] = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    law = features(n, density, importance, values=values)
    W, b = network(n, m, scale=m**-0.5)
    got = expected_loss(W, b, law, engine=engine)
    assert got.item() == pytest.approx(oracle(W, b, law, outputs), rel=rtol)


@pytest.mark.parametrize("density", [1.0, 0.3, 0.1, 0.01])
@pytest.mark.parametrize(("n", "m"), [(2, 1), (5, 2), (20, 5), (80, 20)])
def test_within_three_standard_errors_of_samples(n, m, density):
    toy = Toy(n, m, 1, seed=n)
    with torch.no_grad():
        toy.b.copy_(0.1 * torch.randn(1, n, generator=rng.stream(n, "b")) - 0.05)
    law = features(n, density, 0.9 ** torch.arange(n))
    g, rows = rng.stream(5, "samples", n), 1000 if n == 80 else 4000
    parts = [loss(toy(x), x, law.importance).item() for x in (law.sample(rows, g) for _ in range(25))]
    exact = expected_loss(toy.W.detach(), toy.b.detach(), law).item()
    assert abs(np.mean(parts) - exact) < 3 * np.std(parts, ddof=1) / 5 + 1e-7


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("values", ["uniform", "symmetric"])
@pytest.mark.parametrize("sets", [(), (FeatureSet((0, 1), "correlated"), FeatureSet((2, 3, 4), "anticorrelated"))])
def test_gradient_matches_differences(engine, values, sets):
    n, m, h = 6, 2, 1e-5
    law = features(n, 0.3, torch.linspace(0.5, 1.5, n), values=values, sets=sets)
    W, b = network(n, m)
    W.requires_grad_()
    b.requires_grad_()

    def value(dW=0.0, db=0.0):
        return expected_loss(W.detach() + dW, b.detach() + db, law, nodes=512, engine=engine).item()

    expected_loss(W, b, law, nodes=512, engine=engine).sum().backward()
    for j, k in ((0, 0), (3, 1)):
        one = torch.zeros_like(W)
        one[0, j, k] = h
        assert W.grad[0, j, k].item() == pytest.approx((value(one) - value(-one)) / (2 * h), abs=1e-6)
    bias = torch.zeros_like(b)
    bias[0, 2] = h
    assert b.grad[0, 2].item() == pytest.approx((value(0, bias) - value(0, -bias)) / (2 * h), abs=1e-6)


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("values", ["uniform", "symmetric"])
def test_engines_agree(output, untied, values):
    n, m = 7, 3
    g = rng.stream(2, "law")
    density = 0.05 + 0.4 * torch.rand(3, n, generator=g)
    density[:, 1] = density[:, 0]
    sets = (FeatureSet((0, 1), "correlated"), FeatureSet((5, 6), "anticorrelated"))
    law = features(n, density, torch.rand(3, n, generator=g), values=values, sets=sets)
    found = []
    for engine in ENGINES:
        W, b = network(n, m, instances=3)
        V = network(n, m, seed=9, instances=3)[0] if untied else None
        parts = [p.requires_grad_() for p in (W, b, V) if p is not None]
        got = expected_loss(W, b, law, V=V, output=output, engine=engine)
        (got * torch.tensor([1.0, 2.0, -1.0])).sum().backward()
        found.append((got.detach(), *(p.grad for p in parts)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-8, atol=0)
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["correlated", "anticorrelated"])
def test_sets_match_samples(kind, engine):
    toy = Toy(5, 2, 1, seed=3)
    law = features(5, 0.2, torch.linspace(1, 2, 5), sets=(FeatureSet((0, 2, 4), kind),))
    g = rng.stream(6, "samples")
    parts = [loss(toy(x), x, law.importance).item() for x in (law.sample(5000, g) for _ in range(25))]
    exact = expected_loss(toy.W.detach(), toy.b.detach(), law, engine=engine).item()
    assert abs(np.mean(parts) - exact) < 3 * np.std(parts, ddof=1) / 5


@pytest.mark.parametrize("engine", ENGINES)
def test_anticorrelated_opposites_lose_nothing(engine):
    W = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    law = features(4, 0.3, sets=(FeatureSet((0, 1), "anticorrelated"), FeatureSet((2, 3), "anticorrelated")))
    assert expected_loss(W, torch.zeros(1, 4), law, engine=engine).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_linear_output_keeps_the_most_important(engine):
    importance = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    W = torch.eye(3, 2, dtype=torch.float64)[None]
    b = torch.tensor([[0.0, 0.0, 0.15]], dtype=torch.float64)
    got = expected_loss(W, b, features(3, 0.3, importance), output="linear", engine=engine)
    torch.testing.assert_close(got, linear_loss(torch.tensor(0.3, dtype=torch.float64), importance, 2)[None])


@pytest.mark.parametrize("engine", ENGINES)
def test_rotation_and_permutation_change_nothing(engine):
    law = features(8, torch.linspace(0.1, 0.8, 8), torch.linspace(1, 2, 8))
    W, b = network(8, 3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng.stream(0, "turn"), dtype=torch.float64)).Q
    order = torch.randperm(8, generator=rng.stream(0, "order"))
    shuffled = features(8, law.density[order], law.importance[order])
    want = expected_loss(W, b, law, engine=engine)
    torch.testing.assert_close(expected_loss(W @ turn, b, law, engine=engine), want, rtol=1e-8, atol=0)
    got = expected_loss(W[:, order], b[:, order], shuffled, engine=engine)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=0)


@pytest.mark.parametrize("values", ["uniform", "symmetric"])
def test_transforms_agree_with_quadrature_on_both_sides_of_the_series(values):
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x, weights = torch.tensor(nodes), torch.tensor(weights) / 2
    x = (x + 1) / 2 if values == "uniform" else x
    w = torch.tensor([0.0, 0.01 + 0.02j, 0.499j, 0.501j, 3 + 5j, -3 - 20j], dtype=torch.complex128)
    grown = (w[:, None] * x).exp()
    torch.testing.assert_close(transform(w, values), (weights * grown).sum(-1), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(transform_slope(w, values), (weights * x * grown).sum(-1), rtol=1e-12, atol=1e-13)


def test_bad_input_is_refused(monkeypatch):
    W, b = network(3, 2)
    for law, words in (
        (features(4, 0.5), "4 features"),
        (features(3, torch.full((2, 3), 0.5)), "2, 3"),
        (features(3, 0.5, values="lognormal"), "lognormal"),
        (features(3, 0.5, sets=(FeatureSet((0, 1), "copula"),)), "copula"),
    ):
        with pytest.raises(ConfigError, match=words):
            expected_loss(W, b, law)
    with pytest.raises(ConfigError, match="not finite"):
        expected_loss(W * torch.nan, b, features(3, 0.5))
    with pytest.raises(ConfigError, match="nodes"):
        expected_loss(W, b, features(3, 0.5), nodes=0)
    monkeypatch.setattr(population, "has_numba", lambda: False)
    assert expected_loss(W, b, features(3, 0.5)).isfinite().all()
    with pytest.raises(ConfigError, match="numba"):
        expected_loss(W, b, features(3, 0.5), engine="numba")
    with pytest.raises(ConfigError, match="no exact loss"):
        check_exact(W, b, features(3, 0.5), "gelu")
    for density in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="density"):
            features(3, density)
    with pytest.raises(ConfigError, match="importance"):
        features(3, 0.5, -1.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_too_many_features_are_refused_before_any_work(engine):
    n = 1_000_000
    small = torch.zeros(1).expand(1, n, 1)
    law = Features(torch.full((1,), 0.5).expand(n), torch.ones(1).expand(n))
    with pytest.raises(ConfigError, match="GiB"):
        expected_loss(small, torch.zeros(1).expand(1, n), law, engine=engine)
