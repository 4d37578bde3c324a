"""Networks that compute something of few numbers: products, exclusive or, sums on a clock.

    product     x y from x and y in [−1, 1]: first-layer reads have two dimensions however many units there are; behind
                the ReLUs lie two curves, one of x + y and one of x − y, since x y = ((x + y)² − (x − y)²) / 4
    parity      gated pairs of bits; behind a bottleneck only whether two bits differ is left of them
    clock       a + b mod p: embeddings are circles of few frequencies, read by squares

Sources: x y by quadratics: Chan 2024, "Superposition is not "just" neuron polysemanticity"; clocks: Nanda et al. 2023,
"Progress measures for grokking via mechanistic interpretability".
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ..base import Truth, World, check_size, world
from .oracle import ADDITIVE, explained, span, unclear
from .training import minimize, weights

FITS = 0.9
"""Least R² of the outputs, or share of right answers, for a network that has learned its task."""
CURVED = 0.01
"""Variance of a curve that its coordinates may leave out."""
HIDES = 0.1
"""Most share of the variance that single bits may explain where only relations are left."""
FREQUENCY = 0.05
"""Least share of an embedding's power for a frequency that counts."""
FOURIER = 0.9
"""Least share of an embedding's power in the frequencies that count."""
STEPS = 1500
BATCH = 256


def product(n_rows: int, d: int, seed: int, *, site: str = "reads") -> World:
    """A ReLU network of d units that multiplies two numbers, seen before (`reads`) or behind (`units`) its ReLUs.

    Before them the cause is rotated: x and y in two dimensions of d. Behind them it is a manifold: two curves.

    Raises: ConfigError for an unknown site; RunError if the network has not learned the task, or not by two curves.
    """
    check_size(n_rows, d)
    if site not in ("reads", "units"):
        raise ConfigError(f"no site {site!r}", expected="reads | units")
    g = rng.stream(seed, "product")
    V, c, u, e = weights(2, d, g), torch.rand(d, generator=g) - 0.5, weights(d, 1, g), torch.zeros(1)

    def draw(rows: int) -> Float[Tensor, "rows 2"]:
        return 2 * torch.rand(rows, 2, generator=g) - 1

    def loss() -> Float[Tensor, ""]:
        x = draw(BATCH)
        return ((x @ V + c).relu() @ u + e - x[:, :1] * x[:, 1:]).square().mean()

    minimize([V, c, u, e], loss, steps=STEPS, peak=2e-2)
    x = draw(n_rows)
    reads = x @ V + c
    fit = explained(x[:, :1] * x[:, 1:], reads.relu() @ u + e)
    if fit < FITS:
        raise unclear("the R² of the products", fit, f"at least {FITS}")
    if site == "reads":
        size = V.norm(dim=1)
        truth = Truth("rotated", 2, len(span(V)), V / size[:, None], x * size)
        return replace(world(reads, truth), network=lambda h: h.relu() @ u + e)
    return replace(_curves(x, V, c), network=lambda h: h @ u + e)


def _curves(x: Float[Tensor, "rows 2"], V: Float[Tensor, "2 d"], c: Float[Tensor, " d"]) -> World:
    """Rectified units as a curve of x + y and a curve of x − y."""
    middle = torch.tensor([[0.5, 0.5], [0.5, -0.5]])
    along = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    start, h = c.relu(), (x @ V + c).relu()
    curves = [((x @ along[i])[:, None] * middle[i] @ V + c).relu() - start for i in range(2)]
    additive = explained(h - start, curves[0] + curves[1])
    if additive < ADDITIVE:
        raise unclear("the share that curves of x + y and x − y explain", additive, f"at least {ADDITIVE}")
    atoms = torch.cat([_axes(curve) for curve in curves])
    features = torch.cat([curve @ _axes(curve).T for curve in curves], 1)
    return world(h, Truth("manifold", 2, len(span(atoms)), atoms, features))


def _axes(curve: Float[Tensor, "rows d"]) -> Float[Tensor, "r d"]:
    """The directions that hold all but `CURVED` of a curve's squared length."""
    _, size, axes = torch.linalg.svd(curve, full_matrices=False)
    share = size.square().cumsum(0) / size.square().sum()
    return axes[: int((share < 1 - CURVED).sum()) + 1]


def parity(n_rows: int, d: int, seed: int, *, count: int | None = None, density: float = 0.3) -> World:
    """Do the two bits of each of `count` pairs (default d / 2) differ? Seen at a linear bottleneck of d units.

    Pairs are switched on with probability `density`; labels are the bits. From activations alone it is a rotated code.

    Raises: ConfigError without pairs; RunError if the task is not learned, or bits are left at the bottleneck.
    """
    check_size(n_rows, d)
    k = d // 2 if count is None else count
    if k < 1:
        raise ConfigError(f"{k} pairs of bits at {d} units", expected="at least one pair")
    g = rng.stream(seed, "parity")
    wide = 8 * k
    V, c, down, out = weights(2 * k, wide, g), torch.zeros(wide), weights(wide, d, g, 0.1), weights(d, k, g, 0.5)

    def draw(rows: int) -> tuple[Int[Tensor, "rows k2"], Float[Tensor, "rows k2"], Float[Tensor, "rows k"]]:
        bits = torch.randint(2, (rows, 2 * k), generator=g)
        gate = (torch.rand(rows, k, generator=g) < density).float()
        signs = (2.0 * bits - 1) * torch.cat([gate, gate], 1)
        return bits, signs, gate * (bits[:, :k] ^ bits[:, k:])

    def loss() -> Float[Tensor, ""]:
        _, x, y = draw(BATCH)
        return ((x @ V + c).relu() @ down @ out - y).square().sum(1).mean()

    minimize([V, c, down, out], loss, steps=STEPS, peak=1e-2, weight_decay=0.3)
    bits, x, y = draw(n_rows)
    h = (x @ V + c).relu() @ down
    fit = explained(y, h @ out)
    if fit < FITS:
        raise unclear("the R² of the answers", fit, f"at least {FITS}")
    truth = _relations(h, x, y)
    return replace(world(h, truth, labels=bits), network=lambda a: a @ out)


def _relations(h: Float[Tensor, "rows d"], x: Float[Tensor, "rows k2"], y: Float[Tensor, "rows k"]) -> Truth:
    """Directions of the relations y by least squares; the signs x may not be there."""
    centered = y - y.mean(0)
    directions = torch.linalg.lstsq(centered, h - h.mean(0)).solution
    related = explained(h - h.mean(0), centered @ directions)
    single = explained(h - h.mean(0), x @ torch.linalg.lstsq(x, h - h.mean(0)).solution)
    if single > HIDES or related < ADDITIVE:
        raise unclear("the share that single bits explain", single, f"at most {HIDES}; relations {ADDITIVE}")
    size = directions.norm(dim=1)
    rank = len(span(directions / size[:, None]))
    other = "superposition" if y.shape[1] > rank else "rotated"
    return Truth("relational", x.shape[1], rank, directions / size[:, None], y * size, frozenset({other, "relational"}))


def clock(n_rows: int, d: int, seed: int, *, p: int = 23) -> World:
    """a + b mod p from the squares of d units, seen before the squares; a and b are closed curves of few frequencies.

    Training starts near d / 8 of the frequencies; the Fourier transform says which ones are left. Labels are a and b.

    Raises: ConfigError for a clock of fewer than five hours; RunError if the embeddings are not of few frequencies.
    """
    check_size(n_rows, d)
    if p < 5:
        raise ConfigError(f"a clock of {p} hours", expected="at least 5")
    g = rng.stream(seed, "clock")
    few = torch.randperm((p - 1) // 2, generator=g)[: max(1, min(d // 8, (p - 1) // 4))] + 1
    waves = _waves(p, few)
    A, B = (waves @ torch.randn(waves.shape[1], d, generator=g) / d**0.5 for _ in range(2))
    A, B = (E + 0.01 * torch.randn(p, d, generator=g) for E in (A, B))
    out = weights(d, p, g)
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).T
    hour = (a + b) % p
    minimize(
        [A, B, out], lambda: torch.nn.functional.cross_entropy((A[a] + B[b]).square() @ out, hour),
        steps=STEPS, peak=1e-2, weight_decay=0.5,
    )  # fmt: skip
    right = float((((A[a] + B[b]).square() @ out).argmax(1) == hour).float().mean())
    if right < FITS:
        raise unclear("the share of right hours", right, f"at least {FITS}")
    a, b = torch.randint(p, (2, n_rows), generator=g)
    atoms, features = zip(*(_circles(E, x) for E, x in ((A, a), (B, b))), strict=True)
    directions = torch.cat(atoms)
    truth = Truth(
        "manifold", 2, len(span(directions)), directions, torch.cat(features, 1),
        frozenset({"manifold", "superposition", "lookup"}),
    )  # fmt: skip
    made = world(A[a] + B[b], truth, inputs=a * p + b, labels=torch.stack([a, b], 1))
    return replace(made, network=lambda h: h.square() @ out)


def _circles(E: Float[Tensor, "p d"], x: Int[Tensor, " rows"]) -> tuple[Float[Tensor, "k d"], Float[Tensor, "rows k"]]:
    """Directions of the waves that an embedding consists of, and the waves at x."""
    p = len(E)
    power = torch.fft.rfft(E - E.mean(0), dim=0).abs().square().sum(1)
    used = (power > FREQUENCY * power.sum()).nonzero()[:, 0]
    share = float(power[used].sum() / power.sum())
    if share < FOURIER or len(used) > (p - 1) // 4:
        raise unclear(f"the power in {len(used)} frequencies", share, f"{FOURIER} in at most {(p - 1) // 4}")
    waves = _waves(p, used)
    directions = 2 / p * waves.T @ E
    size = directions.norm(dim=1)
    return directions / size[:, None], waves[x] * size


def _waves(p: int, frequencies: Int[Tensor, " k"]) -> Float[Tensor, "p k2"]:
    """Cosines and sines of these frequencies at the p hours."""
    angle = 2 * math.pi * torch.arange(p)[:, None] * frequencies / p
    return torch.cat([angle.cos(), angle.sin()], 1)
