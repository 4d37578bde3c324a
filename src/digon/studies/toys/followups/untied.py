"""What does a toy network gain when encoder and decoder may differ?

    tied      x' = ReLU(W Wᵀ x + b)          untied    x' = ReLU(W Vᵀ x + b)

Rows of V embed the features, rows of W read them. The expected loss needs no sampling: every set of active features is
visited with its exact probability, and within a set the values run over a Sobol sequence,

    L = Σ_K  p^|K| (1 − p)^(n − |K|) · mean over points of Σ_j I_j (x_j − x'_j)².

Every network is the best of many starts of batched BFGS on that loss; untied starts include the tied optimum, so that
untying can only help, and ranked features. The gain is not one of lengths (W_i = s_i V_i gains next to nothing) but of
*rank*. Let V_i shrink and W_i grow from feature to feature: then feature i cannot disturb the outputs of those before
it, and shuts out those behind it, which costs nothing while features come alone. Two dimensions hold any number of
ranked features one at a time (`ranked`), so the untied loss falls as p², the tied one as p. The best ranks are
infinitely far apart; minimization stops where more distance no longer pays.

Source: a public replication of Elhage et al. 2022 that reports about 40 % less error at n=5, m=2, sparsity 0.9; the
decomposition is ours.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import qmc
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ....records import Figure, Frame, Measurement, Panel
from ....worlds.descent import minimize
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import grid, line, log_slope, points, series
from ..threads import one_thread

N, M = 5, 2
SPARSITY = 0.9
DENSITIES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.01, 0.003, 0.001)
SOURCE = "public replication of Elhage et al. 2022 with untied weights"
Kind = Literal["tied", "scaled", "untied"]
LARGEST = 6
"""Features beyond which the enumeration is too slow here."""


@dataclass(frozen=True)
class Rule:
    """Points and weights that stand for the whole distribution of n features."""

    x: Float[Tensor, "points n"]
    weight: Float[Tensor, " points"]


def rule(n: int, density: float, points: int) -> Rule:
    """`points` Sobol values for every set of active features; the empty set is one point.

    Raises: ConfigError for too many features or a density outside (0, 1].
    """
    if n > LARGEST:
        raise ConfigError(f"{n} features have 2^{n} sets of active ones", expected=f"at most {LARGEST} features")
    if not 0 < density <= 1:
        raise ConfigError(f"density {density:g}", expected="0 < density ≤ 1")
    rows, weights = [torch.zeros(1, n, dtype=torch.float64)], [torch.tensor([(1 - density) ** n], dtype=torch.float64)]
    for pattern in range(1, 2**n):
        active = [i for i in range(n) if pattern >> i & 1]
        k = len(active)
        drawn = torch.zeros(points, n, dtype=torch.float64)
        drawn[:, active] = _values(k, points)
        rows.append(drawn)
        weights.append(torch.full((points,), density**k * (1 - density) ** (n - k) / points, dtype=torch.float64))
    return Rule(torch.cat(rows), torch.cat(weights))


def _values(k: int, points: int) -> Float[Tensor, "points k"]:
    """Values of k active features: the middles of equal cells for one, a centered Sobol sequence for more."""
    if k == 1:
        return ((torch.arange(points, dtype=torch.float64) + 0.5) / points)[:, None]
    return torch.from_numpy(qmc.Sobol(k, scramble=False).random(points)) + 0.5 / points


@dataclass(frozen=True)
class Pair:
    """Embedding and reading directions of one network."""

    V: Float[Tensor, "n m"]
    W: Float[Tensor, "n m"]
    b: Float[Tensor, " n"]


def split(flat: Float[Tensor, "a d"], kind: Kind, n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """V, W and b from rows of parameters."""
    V = flat[:, : n * m].reshape(-1, n, m)
    rest = flat[:, n * m :]
    if kind == "tied":
        return V, V, rest
    if kind == "scaled":
        return V, rest[:, :n, None] * V, rest[:, n:]
    return V, rest[:, : n * m].reshape(-1, n, m), rest[:, n * m :]


def losses(
    V: Float[Tensor, "a n m"], W: Float[Tensor, "a n m"], b: Float[Tensor, "a n"],
    on: Rule, importance: Float[Tensor, " n"],
) -> Float[Tensor, " a"]:  # fmt: skip
    """Expected loss, summed over features."""
    out = torch.baddbmm(b[:, None], on.x.expand(len(V), -1, -1) @ V, W.mT).relu()
    return ((out - on.x).square() @ importance) @ on.weight


def best(
    kind: Kind, density: float, importance: Float[Tensor, " n"], starts: int, seed: int, points: int = 64,
    also: Float[Tensor, "s d"] | None = None,
) -> tuple[float, Pair, Float[Tensor, "1 d"]]:  # fmt: skip
    """Lowest loss over starts, its network, and its parameters; the loss is taken again on a 16 times finer rule."""
    n, coarse = len(importance), rule(len(importance), density, points)
    g = rng.stream(seed, "untied", round(1e6 * density))
    V = torch.randn(starts, n, M, generator=g, dtype=torch.float64) * (2 / (n + M)) ** 0.5
    extra = {"tied": V[:, :, :0].flatten(1), "scaled": torch.ones(starts, n, dtype=torch.float64)}
    free = V + 0.3 * torch.randn(V.shape, generator=g, dtype=torch.float64)
    begin = torch.cat([V.flatten(1), extra.get(kind, free.flatten(1)), V.new_zeros(starts, n)], 1)
    if also is not None:
        begin = torch.cat([begin, also])
    flat, value = minimize(
        lambda x, _: losses(*split(x, kind, n, M), coarse, importance), begin, iterations=250, tolerance=1e-9
    )
    winner = int(value.argmin())
    found = flat[winner : winner + 1]
    V1, W1, b1 = split(found, kind, n, M)
    return float(losses(V1, W1, b1, rule(n, density, 16 * points), importance)), Pair(V1[0], W1[0], b1[0]), found


def widened(flat: Float[Tensor, "s d"], kind: Kind, n: int) -> Float[Tensor, "s d2"]:
    """A tied network's parameters as those of a scaled or untied one that computes the same."""
    V, b = flat[:, : n * M], flat[:, n * M :]
    return torch.cat([V, V.new_ones(len(V), n) if kind == "scaled" else V, b], 1)


def inhibition(pair: Pair) -> float:
    """How strongly one feature pushes down another's output at most: log₁₀ of −min of V Wᵀ off the diagonal."""
    G = pair.V @ pair.W.mT
    return math.log10(max(-float((G - torch.diag(G.diagonal())).min()), 1e-12))


def ranked(n: int, factor: float) -> Pair:
    """n features in two dimensions, each of which shuts out all later ones but its successor, without biases.

    V_i turns by π/n from feature to feature and shrinks by `factor`; W_i is orthogonal to V_{i−1} and grows by it. Then
    W_i · V_i = 1, W_j · V_i ≤ 0 for j > i, and W_j · V_i ≤ factor^{j − i} / sin(π/n) for j < i: alone, every feature
    passes. Source: own.
    """
    rank = torch.arange(n, dtype=torch.float64)
    turn, size = math.pi / n, factor**-rank
    V = torch.stack([(rank * turn).cos(), (rank * turn).sin()], 1) * size[:, None]
    before = (rank - 1) * turn
    W = torch.stack([-before.sin(), before.cos()], 1) / (math.sin(turn) * size)[:, None]
    W[0] = V[0]
    return Pair(V, W, torch.zeros(n, dtype=torch.float64))


def single_loss(pair: Pair) -> float:
    """Loss of one feature at a time without biases, as a share of doing nothing. Range: ≥ 0."""
    G = pair.V @ pair.W.mT
    return float((G.relu() - torch.eye(len(G), dtype=G.dtype)).square().sum(1).mean())


def balanced(V: Float[Tensor, "n m"], W: Float[Tensor, "n m"]) -> tuple[Tensor, Tensor]:
    """V and W of the same product V Wᵀ with VᵀV = WᵀW, the shortest pair there is.

    Only the product counts: V A and W A⁻ᵀ compute the same for every invertible A.
    """
    U, s, Z = torch.linalg.svd(V @ W.mT, full_matrices=False)
    m = V.shape[1]
    root = s[:m].sqrt()
    return U[:, :m] * root, Z[:m].mT * root


def run(config: StudyConfig, say: Say) -> Outcome:
    """Loss of tied, scaled and untied networks at sparsity 0.9 and over densities, and their geometry."""
    with one_thread():
        return _run(config, say)


def _run(config: StudyConfig, say: Say) -> Outcome:
    seeds, starts = (3, 2) if config.smoke else (3, 24)
    values, figures = dict[str, Measurement](), list[Figure]()
    for name, importance in _importances().items():
        say(f"untied: sparsity {SPARSITY}, {name} importance")
        runs = [_compare(1 - SPARSITY, importance, starts, config.seed + s) for s in range(seeds)]
        tag = "" if name == "equal" else f"_{name}"
        method = f"n=5, m=2, density 0.1, {name} importance, best of {starts} starts"
        for key in ("ratio", "scaled_ratio", "inhibition", "tied_inhibition"):
            samples = [r[key] for r in runs]
            values[key + tag] = measured(key + tag, samples, method=method, seed=config.seed)
    densities = (1.0, 0.1, 0.01) if config.smoke else DENSITIES
    say("untied: over densities")
    table = [_compare(p, _importances()["equal"], max(starts // 2, 2), config.seed) for p in densities]
    ratios = np.array([row["ratio"] for row in table])
    values["worst_ratio"] = measured("worst_ratio", float(ratios.max()), method="largest loss ratio over densities")
    values["dense_ratio"] = measured("dense_ratio", float(ratios[0]), method="density 1")
    values["sparse_ratio"] = measured("sparse_ratio", float(ratios[densities.index(0.01)]), method="density 0.01")
    values["ranked_single"] = measured(
        "ranked_single", single_loss(ranked(12, 1000.0)), method="12 ranked features in 2-D"
    )
    sparse = [k for k, p in enumerate(densities) if p <= 0.003]
    if len(sparse) > 1:
        slopes = [
            log_slope([densities[k] for k in sparse], [table[k][kind] for k in sparse]) for kind in ("untied", "tied")
        ]
        values["exponent_gap"] = measured("exponent_gap", slopes[0] - slopes[1], method="densities 0.003 and 0.001")
    figures += [_curve(densities, table), _geometry(densities, table)]
    return Outcome(values, {"exponent_gap": 1.0}, tuple(figures))


def _importances() -> dict[str, Float[Tensor, " n"]]:
    return {
        "equal": torch.ones(N, dtype=torch.float64),
        "decaying": 0.9 ** torch.arange(N, dtype=torch.float64),
    }


def _ranked_starts(n: int) -> Float[Tensor, "s d"]:
    """Ranked features as starts."""
    pairs = [ranked(n, factor) for factor in (3.0, 10.0, 100.0, 1000.0)]
    return torch.stack([torch.cat([p.V.flatten(), p.W.flatten(), p.b]) for p in pairs])


def _compare(density: float, importance: Float[Tensor, " n"], starts: int, seed: int) -> dict:
    n = len(importance)
    tied, one, flat = best("tied", density, importance, starts, seed)
    scaled = best("scaled", density, importance, starts, seed, also=widened(flat, "scaled", n))[0]
    free, two, _ = best(
        "untied", density, importance, starts, seed, also=torch.cat([widened(flat, "untied", n), _ranked_starts(n)])
    )
    return {
        "tied": tied, "scaled": scaled, "untied": free, "ratio": free / tied, "scaled_ratio": scaled / tied,
        "inhibition": inhibition(two), "tied_inhibition": inhibition(one), "pairs": (one, two),
    }  # fmt: skip


def _curve(densities: tuple[float, ...], table: list[dict]) -> Figure:
    x = 1 / np.array(densities)
    base = np.array([N * (p / 3 - p**2 / 4) for p in densities])
    shown = [line(kind, x, np.array([row[kind] for row in table]) / base) for kind in ("tied", "scaled", "untied")]
    ratio = [line("untied / tied", x, [row["ratio"] for row in table]),
             line("scaled / tied", x, [row["scaled_ratio"] for row in table]),
             points("reported at sparsity 0.9", [1 / (1 - SPARSITY)], [0.6], "published")]  # fmt: skip
    return Figure(
        "F16-loss", "Tied and untied networks, n=5, m=2", SOURCE,
        "Untying hardly matters for dense features and matters a lot for sparse ones.",
        "Losses are the best of several starts on the expected loss; training on samples may end higher.",
        (Frame("", (Panel("loss / variance of features", "1 / density", "loss", tuple(shown), x_log=True, y_log=True),
                    Panel("what untying leaves of it", "1 / density", "ratio", tuple(ratio), x_log=True, y_log=True))),),
        columns=2,
    )  # fmt: skip


def _geometry(densities: tuple[float, ...], table: list[dict]) -> Figure:
    frames, at = [], np.arange(N) + 1.0
    for density, row in zip(densities, table, strict=True):
        panels = []
        for title, pair in zip(("tied", "untied"), row["pairs"], strict=True):
            V, W = balanced(pair.V, pair.W)
            order = V.norm(dim=1).argsort(descending=True)
            G = (pair.V @ pair.W.mT)[order][:, order]
            unit = [
                torch.nn.functional.normalize(D, dim=1) * D.norm(dim=1, keepdim=True).clamp(0.3, 1.5) for D in (V, W)
            ]
            arrows = [series("arrows", f"{label}, lengths clipped", D[:, 0], D[:, 1])
                      for label, D in zip(("embeds", "reads"), unit[: 1 if title == "tied" else 2], strict=False)]  # fmt: skip
            panels.append(Panel(f"{title}: directions", "", "", tuple(arrows), square=True))
            signed = G.sign() * G.abs().log1p()
            panels.append(Panel(f"{title}: from feature to output", "output, by rank", "feature, by rank",
                                grid=grid(at, at, signed, diverging=True), square=True, color_label="± log(1 + |G|)"))  # fmt: skip
        frames.append(Frame(f"{density:g}", tuple(panels)))
    return Figure(
        "F16-directions", "Polygon against ranks", SOURCE,
        "Tied features sit on a polygon and disturb each other both ways. Untied ones are ranked: strong inhibition in one "
        "direction, almost nothing in the other.",
        "Untied directions are known up to an invertible map; the pair with equal second moments on both sides is drawn.",
        tuple(frames), "density", columns=2,
    )  # fmt: skip
