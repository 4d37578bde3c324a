"""Phase diagrams: what does the last of n features become, over its relative importance and the density?

All features have importance 1 but the last, which has importance r. Three ways to one diagram:

    fixed weights    the least of a few hand-picked losses (unit vectors, fixed biases), as in the paper's theory panel
    exact            the minimum over free norms and biases, from starts in every known arrangement, on the closed form
    trained          the best of several networks from random starts

A diagram is [densities, importances]. The last feature is ignored (norm under 0.5), dedicated (interference under
0.25) or in superposition.

Also here, for other studies: descents of the exact loss from given networks (`settle`) and from random ones (`search`).

Source: Elhage et al. 2022, "Superposition as a phase change".
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...records import Grid, Panel, Series
from ...worlds import fit_exact
from ...worlds.features import Features
from ...worlds.fit import FitConfig, fit
from ...worlds.toys import Toy

IGNORED, DEDICATED, SUPERPOSED = 0, 1, 2
RANDOM = 12
"""Random starts beside the arrangements that are known for three features."""
TWO = ((1.0, 0.0), (0.93, 0.37), (1.0, -0.3), (1.0, -0.8), (0.9, -0.9), (-0.3, 1.0), (-0.8, 1.0), (0.0, 1.0))
"""Starts for two features on a line: ignored, same sign, weak and strong antipodal, and the same with roles swapped."""


@dataclass(frozen=True)
class Diagram:
    """Networks on a grid of densities (rows) and relative importances (columns)."""

    density: np.ndarray
    importance: np.ndarray
    loss: np.ndarray
    norm: np.ndarray
    """Norm of the last feature."""
    interference: np.ndarray
    """Squared overlap of the last feature's direction with the other features; 0 where it is not represented."""

    @property
    def phase(self) -> np.ndarray:
        """0 ignored, 1 dedicated, 2 in superposition."""
        return phases(self.norm, self.interference)

    def panels(self, title: str, lines: tuple[Series, ...] = ()) -> tuple[Panel, Panel]:
        """The two channels of the paper's two-dimensional color scale, side by side."""
        channels = (("norm", self.norm), ("interference", self.interference))
        return tuple(  # type: ignore[return-value]
            Panel(
                f"{title}: {name} of the last feature",
                "relative importance",
                "density",
                series=lines,
                grid=Grid(short(self.importance), short(self.density), tuple(short(row) for row in values)),
                x_log=True,
                y_log=True,
                color_label=name,
                color_range=(0.0, 1.0),
            )
            for name, values in channels
        )


def axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Densities 1 to 0.01 and relative importances 0.1 to 10, evenly in the logarithm."""
    return np.logspace(0, -2, size), np.logspace(-1, 1, size)


def short(values: np.ndarray) -> tuple[float, ...]:
    """Four digits are enough for a picture."""
    return tuple(float(f"{v:.4g}") for v in values)


def phases(norm: np.ndarray, interference: np.ndarray) -> np.ndarray:
    """Phase of the last feature from its norm and interference."""
    return np.where(norm < 0.5, IGNORED, np.where(interference < 0.25, DEDICATED, SUPERPOSED))


def last_feature(W: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Norm and interference of the last feature of every network [i n m]."""
    norm = W[:, -1].norm(dim=-1)
    overlap = (W[:, :-1] @ W[:, -1, :, None])[..., 0].square().sum(-1)
    interference = torch.where(norm > 0.05, overlap / norm.square().clamp(min=1e-12), 0.0)
    return norm.detach().numpy(), interference.detach().numpy()


def fixed_weights(density: np.ndarray, importance: np.ndarray, n: int) -> Diagram:
    """The paper's theory: unit vectors, bias 0 in superposition and density / 2 when ignored."""
    p, r = np.meshgrid(density, importance, indexing="ij")
    v = p / 3 - p**2 / 4
    losses = [r * v, v, (1 + r) * p**2 / 6]
    norms, overlaps = [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]
    if n == 3:
        losses, norms, overlaps = [*losses, p**2 / 3], [*norms, 1.0], [*overlaps, 0.0]
    best = np.argmin(losses, 0)
    return Diagram(density, importance, np.min(losses, 0), np.array(norms)[best], np.array(overlaps)[best])


def fixed_edge(importance: np.ndarray, n: int) -> np.ndarray:
    """Density under which superposition wins in the fixed-weight theory."""
    r = importance
    high = 4 / (5 + 2 * r) if n == 2 else np.full_like(r, 4 / 7)
    return np.where(r <= 1, 4 * r / (2 + 5 * r), high)


def exact(density: np.ndarray, importance: np.ndarray, n: int) -> Diagram:
    """The minimum of the closed-form loss over all weights and biases, for n = 2 (m = 1) or n = 3 (m = 2)."""
    p, r = (torch.as_tensor(v.ravel()) for v in np.meshgrid(density, importance, indexing="ij"))
    W, _, loss = exact_two(p, r) if n == 2 else exact_three(p, r)
    return _diagram(density, importance, W, loss)


def exact_two(p: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best weights [i 2 1], biases [i 2] and loss of two features in one dimension."""
    W = torch.tensor(TWO, dtype=torch.float64)
    return best_of(W[None, ..., None].expand(len(p), -1, -1, -1), p, r)


def exact_three(p: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best weights [i 3 2], biases [i 3] and loss of three features in two dimensions.

    Starts: one feature dedicated beside the best pair (two choices), the triangle, and random ones for what lies between.
    """
    ones = torch.ones_like(p)
    beside_first, beside_last = exact_two(p, r)[0][..., 0], exact_two(p, ones)[0][..., 0]
    starts = torch.zeros(len(p), 3, 3, 2, dtype=torch.float64)
    starts[:, 0, 0, 0], starts[:, 0, 1:, 1] = 1.0, beside_first
    starts[:, 1, 2, 0], starts[:, 1, :2, 1] = 1.0, beside_last
    angle = torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64) * torch.pi / 3
    starts[:, 2] = torch.stack([angle.cos(), angle.sin()], -1)
    others = random_starts(RANDOM, 3, 2, 0)[0].expand(len(p), -1, -1, -1)
    return best_of(torch.cat([starts, others], 1), p, r)


def best_of(starts: Tensor, p: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Descend from every start [i s n m] and keep the best of each of the i problems."""
    problems, tries, n, m = starts.shape
    bias = (p / 4)[:, None, None].expand(-1, tries, n)
    x = torch.cat([starts.flatten(2), bias], -1).flatten(0, 1) + _tilt(n * m + n)
    x, loss = descend(x, p.repeat_interleave(tries), r.repeat_interleave(tries), n, m)
    loss = loss.view(problems, tries)
    best = x.view(problems, tries, -1)[torch.arange(problems), loss.argmin(1)]
    return best[:, : n * m].view(problems, n, m), best[:, n * m :], loss.min(1).values


def _tilt(width: int) -> Tensor:
    """A little asymmetry, the same for all, that lets a start leave a saddle point."""
    return 0.01 * torch.randn(width, generator=rng.stream(0, "tilt"), dtype=torch.float64)


def descend(x: Tensor, p: Tensor, r: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """Minimize the closed-form loss; every row of x holds weights and then biases."""
    density = p[:, None].expand(-1, n)
    importance = torch.ones_like(density).index_copy(1, torch.tensor([n - 1]), r[:, None])

    W, b = x[:, : n * m].reshape(-1, n, m), x[:, n * m :]
    found = fit_exact.settle(W, b, Features(density.contiguous(), importance))
    return torch.cat([found.W.flatten(1), found.b], 1), found.loss


def _diagram(density: np.ndarray, importance: np.ndarray, W: Tensor, loss: Tensor) -> Diagram:
    shape = (len(density), len(importance))
    norm, overlap = (v.reshape(shape) for v in last_feature(W))
    return Diagram(density, importance, loss.detach().numpy().reshape(shape), norm, overlap)


@dataclass(frozen=True)
class Settled:
    """Networks at local minima of the exact loss."""

    W: Float[Tensor, "i n m"]
    b: Float[Tensor, "i n"]
    loss: Float[Tensor, " i"]


def settle(W: Float[Tensor, "i n m"], b: Float[Tensor, "i n"], law: Features, iterations: int = 10_000) -> Settled:
    """Descend the exact loss from given weights and biases to the nearest minimum; the law may differ by instance."""
    found = fit_exact.settle(W, b, law, steps=iterations)
    return Settled(found.W, found.b, found.loss)


def random_starts(count: int, n: int, m: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weights [count n m] of the usual size and biases 0."""
    draw = rng.stream(seed, "starts", n, m)
    scale = (2 / (n + m)) ** 0.5
    W = scale * torch.randn(count, n, m, generator=draw, dtype=torch.float64)
    return W, torch.zeros(count, n, dtype=torch.float64)


def search(law: Features, m: int, starts: int, seed: int) -> Settled:
    """Minima of the exact loss from `starts` random starts for every instance of the law [i, n], in their order."""
    wide = (v.double().expand(law.density.shape) for v in (law.density, law.importance))
    density, importance = (v.repeat_interleave(starts, 0) for v in wide)
    toy = Toy(law.n, m, len(density), seed=seed)
    loss = fit(toy, Features(density, importance, law.values, law.sets), FitConfig(engine="exact", seed=seed)).loss
    return Settled(toy.W.detach().double(), toy.b.detach().double(), loss.double())


def best(found: Settled, starts: int) -> Settled:
    """The best of every `starts` neighbors."""
    losses = found.loss.view(-1, starts)
    winner = losses.argmin(1) + starts * torch.arange(len(losses))
    return Settled(found.W[winner], found.b[winner], found.loss[winner])
