"""Expected loss of one small toy network, whatever its hidden layer, without sampling noise, and its local minimum.

Every set of active features is visited with its exact probability; within a set, the values run over a Sobol sequence:

    L = Σ_K  p^|K| (1 − p)^(n − |K|) · mean over Sobol points of the loss with exactly the features K active

The mean over points is the only approximation; with 1024 of them it is good to about 1e-4. `polish` descends on fewer
points, spread over the sets in proportion to their probability, and reports the loss on all of them. Of more than 14
features, `split_loss` visits only the sets of none and one, and samples the others under the condition that two or more
are active: for sparse features that leaves almost nothing to chance.
Source: own; enumeration of activation sets as in the 1-sparse and 2-sparse terms of Elhage et al. 2022.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import qmc
from torch import Tensor

from ...errors import ConfigError
from ...worlds.features import Features
from ...worlds.toys import ACTIVATIONS, Toy

LARGEST = 14
"""Features beyond which 2ⁿ sets are too many."""
SINGLE = 128
"""Values of a feature that is active alone."""
ROWS = 2**14
"""Rows computed at once: what a core's cache holds."""


@torch.no_grad()
def pattern_loss(toy: Toy, law: Features, instance: int, points: int = 1024) -> float:
    """Expected loss of one instance, summed over features.

    Raises: ConfigError for more than 14 features, or a law whose values or sets it does not know.
    """
    density, importance = _one_law(toy, law, instance)
    sets, share = _sets(density)
    values = _values(law, points)
    total = torch.zeros((), dtype=torch.float64)
    size = max(ROWS // points, 1)
    weights = _weights(toy, instance)
    for some, part in zip(sets.split(size), share.split(size), strict=True):
        if part.sum() < 1e-14:
            continue
        x = (some[:, None] * values).flatten(0, 1)
        error = (importance * (_output(toy, weights, x) - toy.target(x[None])[0]).square()).sum(1)
        total += part @ error.view(len(some), points).mean(1)
    return float(total)


def polish(toy: Toy, law: Features, instance: int, rows: int = 2**14, iterations: int = 200) -> float:
    """Move one instance, in place, to the local minimum of its expected loss; returns that loss.

    L-BFGS on about `rows` fixed rows: every set of active features gets a share of them in proportion to its
    probability, four at least.
    Raises: ConfigError as `pattern_loss`.
    """
    density, importance = _one_law(toy, law, instance)
    x, weight = _spread(law, density, rows)
    target, parts = toy.target(x[None])[0], _weights(toy, instance)
    shapes = [p.shape for p in parts]

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.from_numpy(theta).requires_grad_()
        pieces = [piece.view(s) for piece, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        loss = weight @ (_output(toy, pieces, x) - target).square() @ importance
        loss.backward()
        assert flat.grad is not None
        return float(loss.detach()), flat.grad.numpy()

    start = torch.cat([p.flatten() for p in parts]).numpy()
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 20})
    theta = torch.from_numpy(found.x).split([s.numel() for s in shapes])
    with torch.no_grad():
        for p, piece in zip((toy.W, toy.b) if toy.tied else (toy.W, toy.b, toy.V), theta, strict=True):
            p[instance] = piece.view(p.shape[1:]).to(p.dtype)
    return pattern_loss(toy, law, instance, 256)


@torch.no_grad()
def split_loss(toy: Toy, law: Features, generator: torch.Generator, *, rows: int = 2**14) -> Float[Tensor, " i"]:
    """Expected loss of every instance: none and one active by enumeration, the rest on `rows` conditional samples.

    Error: P(two or more active) times that of a plain mean over `rows`.
    Raises: ConfigError unless all features of an instance have one density and independent, known values.
    """
    n, singles = law.n, []
    if law.values not in ("uniform", "symmetric") or law.sets:
        raise ConfigError("only independent features with uniform or symmetric values are enumerated")
    density = law.density.double().expand(len(toy.b), n)
    if (density != density[:, :1]).any():
        raise ConfigError("features of different densities", expected="one density for all features of an instance")
    importance = law.importance.double().expand(len(toy.b), n)
    point = (torch.arange(SINGLE, dtype=torch.float64) + 0.5) / SINGLE
    point = 2 * point - 1 if law.values == "symmetric" else point
    none = torch.zeros(1, n, dtype=torch.float64)
    one = (torch.eye(n, dtype=torch.float64)[:, None] * point[:, None]).flatten(0, 1)
    for i, p in enumerate(density[:, 0].tolist()):
        weights = _weights(toy, i)
        counts = torch.distributions.Binomial(n, torch.tensor(p, dtype=torch.float64))
        share = counts.log_prob(torch.arange(n + 1, dtype=torch.float64)).nan_to_num(-torch.inf).exp()
        total = torch.zeros((), dtype=torch.float64)
        several = _several(law, share, rows, generator)
        for x, part in ((none, share[0]), (one, share[1]), (several, share[2:].sum())):
            error = (_output(toy, weights, x) - toy.target(x[None])[0]).square() @ importance[i]
            total += part * error.mean()
        singles.append(total)
    return torch.stack(singles)


def _several(law: Features, share: Tensor, rows: int, generator: torch.Generator) -> Float[Tensor, "rows n"]:
    """Rows with two or more active features, distributed as in the law under that condition."""
    n = law.n
    if share[2:].sum() <= 0:
        return torch.zeros(1, n, dtype=torch.float64)
    count = 2 + torch.multinomial(share[2:], rows, replacement=True, generator=generator)
    rank = torch.rand(rows, n, generator=generator).argsort(1).argsort(1)
    values = torch.rand(rows, n, generator=generator, dtype=torch.float64)
    return (rank < count[:, None]) * (2 * values - 1 if law.values == "symmetric" else values)


def _one_law(toy: Toy, law: Features, instance: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    n = law.n
    if n > LARGEST:
        raise ConfigError(f"{n} features have 2^{n} sets of active ones", expected=f"at most {LARGEST} features")
    if law.values not in ("uniform", "symmetric") or law.sets:
        raise ConfigError("only independent features with uniform or symmetric values are enumerated")
    count = toy.W.shape[0]
    density, importance = (v.double().expand(count, n)[instance] for v in (law.density, law.importance))
    return density, importance


def _sets(density: Float[Tensor, " n"]) -> tuple[Float[Tensor, "sets n"], Float[Tensor, " sets"]]:
    """All sets of active features and their probabilities."""
    n = len(density)
    active = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
    return active.double(), torch.where(active == 1, density, 1 - density).prod(1)


def _values(law: Features, points: int) -> Float[Tensor, "points n"]:
    values = torch.from_numpy(qmc.Sobol(law.n, rng=0).random(points))
    return 2 * values - 1 if law.values == "symmetric" else values


def _spread(law: Features, density: Tensor, rows: int) -> tuple[Float[Tensor, "rows n"], Float[Tensor, " rows"]]:
    sets, share = _sets(density)
    kept = share > 1e-9
    sets, share = sets[kept], share[kept]
    # Prefixes of a Sobol sequence are even only for powers of two.
    counts = 2 ** (rows * share).clamp(4, 1024).log2().floor().long()
    values, row = _values(law, int(counts.max())), torch.arange(len(sets)).repeat_interleave(counts)
    place = torch.cat([torch.arange(int(c)) for c in counts])
    return sets[row] * values[place], (share / counts)[row]


def _weights(toy: Toy, instance: int) -> list[Tensor]:
    """W, b and, if it is a tensor of its own, V of one instance, in float64."""
    parts = (toy.W, toy.b) if toy.tied else (toy.W, toy.b, toy.V)
    return [t[instance].detach().double() for t in parts]


def _output(toy: Toy, weights: list[Tensor], x: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    W, b, *rest = weights
    V = rest[0] if rest else W
    return ACTIVATIONS[toy.output](ACTIVATIONS[toy.hidden](x @ V) @ W.T + b)
