"""How far is a toy network from the limits of compressed sensing?

n features of which a share p is active can be told apart from m ≥ c · n p ln(1/p) linear measurements, with some constant
c, and not from fewer of that order; so features per dimension grow like 1/(p ln 1/p). With ℓ1 decoding of non-negative
features the constant is known (Donoho–Tanner; statistical dimension).

1. Toy networks over the density: ‖W‖²_F/m and represented features per dimension, beside 1/(p ln 1/p) and the ℓ1 limit.
2. A check of the ℓ1 limit itself: random directions, linear programs, the number of dimensions at which half of all
   sparse vectors are recovered.

The toy reads each feature with one linear map and a ReLU, a far weaker decoder than ℓ1, but it may be wrong a little
everywhere: moderately sparse features cost it no more dimensions than ℓ1 needs, very sparse ones more.

Source: Elhage et al. 2022, appendix (lower bound of Do Ba et al. 2010). Bounds: `measures/bounds`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog

from .... import rng
from ....measures.bounds import compressed_sensing_dimensions, features_per_dimension_bound, recovery_dimensions
from ....measures.geometry import features_per_dimension, represented
from ....records import Figure, Panel
from ....worlds.features import features
from ....worlds.fit import FitConfig, fit
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, line, points, still

SOURCE = "Elhage et al. 2022, appendix on compressed sensing"
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
REPEATS = 3


@dataclass(frozen=True)
class Packed:
    """Features per dimension of trained networks, [repeats, densities]."""

    n: int
    m: int
    density: np.ndarray
    frobenius: np.ndarray
    """‖W‖²_F / m."""
    count: np.ndarray
    """Features of norm above 0.5, per dimension."""


def pack(n: int, m: int, density: np.ndarray, config: FitConfig) -> Packed:
    """Train networks of equally important features at several densities."""
    column = torch.from_numpy(np.repeat(density, REPEATS))[:, None].expand(-1, n)
    toy = Toy(n, m, len(column), seed=config.seed)
    fit(toy, features(n, column), config)
    W = toy.W.detach()
    both = (features_per_dimension(W), represented(W).sum(-1) / m)
    return Packed(n, m, density, *(v.double().view(-1, REPEATS).T.numpy() for v in both))


def recovered(W: np.ndarray, k: int, draw: np.random.Generator) -> bool:
    """Whether ℓ1 finds a non-negative vector of k active features again from its measurements x W."""
    n = len(W)
    x = np.zeros(n)
    x[draw.choice(n, k, replace=False)] = draw.random(k)
    found = linprog(np.ones(n), A_eq=W.T, b_eq=x @ W, bounds=(0, None), method="highs")
    return found.x is not None and bool(np.abs(found.x - x).max() < 1e-5)


def half_recovered(n: int, k: int, trials: int, seed: int) -> float:
    """Dimensions at which half of all k-sparse vectors are recovered: a line through the success rates near one half."""
    center = recovery_dimensions(n, k, signed=False)
    dims = np.unique(np.round(center * np.linspace(0.7, 1.3, 7)).astype(int))
    rates = []
    for m in dims:
        draw = rng.numpy_stream(seed, "sensing", k, int(m))
        rates.append(np.mean([recovered(draw.standard_normal((n, m)), k, draw) for _ in range(trials)]))
    rate = np.maximum.accumulate(rates)
    return float(np.interp(0.5, rate + 1e-9 * np.arange(len(rate)), dims))


def run(config: StudyConfig, say: Say) -> Outcome:
    """Toys beside bounds, and the bound beside linear programs."""
    smoke, seed = config.smoke, config.seed
    density = np.array(DENSITIES[1::2] if smoke else DENSITIES)
    plan = FitConfig(
        steps=600 if smoke else 6000, batch=256 if smoke else 512, learning_rate=1e-2 if smoke else 5e-3,
        schedule="cosine", seed=rng.derive(seed, "sensing"),
    )  # fmt: skip
    say("training networks over the density")
    sizes = ((40, 8),) if smoke else ((100, 20), (200, 10))
    found = [pack(n, m, density, plan) for n, m in sizes]
    say("linear programs")
    n, ks, trials = 100, (5,) if smoke else (2, 5, 10), 8 if smoke else 40
    edges = {k: [half_recovered(n, k, trials, rng.derive(seed, "edge", r)) for r in range(REPEATS)] for k in ks}
    limit = {k: recovery_dimensions(n, k, signed=False) for k in ks}
    bound = features_per_dimension_bound(density)
    ratio = found[0].frobenius / bound
    last = found[-1]
    text = f"{REPEATS} trainings, n = {found[0].n}, m = {found[0].m}"
    values = {
        "largest_ratio": measured("largest_ratio", ratio.max(1), method=f"largest ‖W‖²/m over 1/(p ln 1/p), over densities; {text}", seed=seed),
        "count_ratio": measured("count_ratio", (last.count / bound).max(1), method=f"largest represented features per dimension over 1/(p ln 1/p); n = {last.n}, m = {last.m}", seed=seed),
        "falls": measured("falls", ratio[:, -1] / ratio[:, 0], method=f"that ratio at the sparsest over that at the densest; {text}", seed=seed),
        "grows": measured("grows", (np.diff(last.frobenius, axis=1) > 0).all(1).astype(float), method=f"‖W‖²/m grows with sparsity at every step; {REPEATS} trainings, n = {last.n}, m = {last.m}", seed=seed),
        "recovery_ratio": measured("recovery_ratio", [float(np.mean([edges[k][r] / limit[k] for k in ks])) for r in range(REPEATS)], method=f"dimensions at which half of the vectors are recovered over the statistical dimension, n = {n}, k = {', '.join(map(str, ks))}", seed=seed),
    }  # fmt: skip
    exact = {"recovery_ratio": 1.0}
    if not smoke:
        k = DENSITIES.index(0.02)
        values["packed_002"] = measured(
            "packed_002", found[0].frobenius[:, k], method=f"‖W‖²/m at density 0.02; {text}", seed=seed
        )
        values["bound_002"] = measured("bound_002", float(bound[k]), method="1/(p ln 1/p) at density 0.02")
    return Outcome(values, exact, (_packing(found), _dimensions(found, n, edges)))


def _packing(found: list[Packed]) -> Figure:
    curve = np.geomspace(found[0].density.min(), 0.5, 40)
    bound = features_per_dimension_bound(curve)
    rows = [
        across(f"‖W‖²/m, n = {f.n}, m = {f.m}", features_per_dimension_bound(f.density), f.frobenius) for f in found
    ]
    rows += [across(f"represented per dimension, n = {f.n}, m = {f.m}", features_per_dimension_bound(f.density), f.count) for f in found]  # fmt: skip
    panel = Panel("features per dimension", "1 / (p ln 1/p)", "features per dimension", (line("equal", bound, bound, "guide"), *rows), x_log=True, y_log=True)  # fmt: skip
    return Figure(
        "E12-packing", "Toys beside the growth that compressed sensing allows", SOURCE,
        "Points rise with the line at first and fall behind as features get sparser.",
        "The bound has an unknown constant, so that only its growth can be compared. At n/m features per dimension the "
        "pool of features is used up.",
        still(panel), columns=1,
    )  # fmt: skip


def _dimensions(found: list[Packed], n: int, edges: dict[int, list[float]]) -> Figure:
    p = np.geomspace(0.01, 0.5, 40)
    l1 = [recovery_dimensions(1000, 1000 * float(v), signed=False) / 1000 for v in p]
    toy = found[0]
    panel = Panel(
        "dimensions per feature", "density", "dimensions per feature",
        (line("p ln 1/p", p, compressed_sensing_dimensions(1.0, p)), line("ℓ1, non-negative", p, l1),
         points("ℓ1, linear programs", [k / n for k, v in edges.items() for _ in v], [e / n for v in edges.values() for e in v]),
         across("toy, m/‖W‖²", toy.density, 1 / toy.frobenius)), x_log=True, y_log=True,
    )  # fmt: skip
    return Figure(
        "E12-dimensions", "What a feature costs", SOURCE,
        "Moderately sparse features cost the toy no more dimensions than ℓ1 needs, because the toy accepts errors; very "
        "sparse ones cost it more.",
        "Toy and ℓ1 answer different questions: least squared error on average, and recovery without error.",
        still(panel), columns=1,
    )  # fmt: skip
