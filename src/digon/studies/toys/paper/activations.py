"""Does superposition depend on the ReLU? The phase diagram of two features in one dimension for other networks.

    x' = f(w (w·x) + b)        f = ReLU, leaky ReLU, GELU, softplus, square, SoLU
    hidden value               as it is, dropped with probability q (and scaled by 1/(1 − q)), or with Gaussian noise

The expected loss is a sum over which features are active and an integral over their values: Gauss–Legendre nodes on
[0, 1], and for the hidden value two branches (dropout) or Gauss–Hermite nodes (noise). No samples. At every density and
relative importance the loss is descended in three groups of starts: near an antipodal pair, near the more important
feature alone, the others random. The best start of a group counts.

Area: share of the diagram (logarithmic axes) in which the last feature is in superposition.

Sources: comment by K. Sachan in Elhage et al. 2022 (phase diagrams differ by activation); N. Nanda, "200 Concrete Open
Problems in Mechanistic Interpretability", 4.1 and following (GELU, dropout).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....measures import stats
from ....records import Figure, Frame, Measurement, Panel
from ....worlds.descent import minimize
from ....worlds.toys import ACTIVATIONS
from ..base import Outcome, Say, StudyConfig, measured
from ..diagram import SUPERPOSED, Diagram, axes, exact, last_feature
from ..sketch import series, still

SOURCE = "Elhage et al. 2022, comment by K. Sachan"
GROUPS = 3
"""Groups of random starts: each gives a diagram of its own."""
NODES = 10


@dataclass(frozen=True)
class Setting:
    """A network with two inputs and one hidden dimension."""

    name: str
    output: str = "relu"
    dropout: float = 0.0
    noise: float = 0.0
    """Standard deviation of what is added to the hidden value."""

    def hidden(self) -> tuple[Tensor, Tensor, Tensor]:
        """Factors, summands and weights [k] of the hidden value."""
        if self.dropout:
            q = self.dropout
            factor, chance = (torch.tensor(v, dtype=torch.float64) for v in ((0.0, 1 / (1 - q)), (q, 1 - q)))
            return factor, torch.zeros_like(factor), chance
        if self.noise:
            nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(5))
            return torch.ones_like(nodes), self.noise * nodes, weights / weights.sum()
        one = torch.ones(1, dtype=torch.float64)
        return one, 0 * one, one


SETTINGS = (
    Setting("ReLU"), Setting("leaky ReLU", "leaky"), Setting("GELU", "gelu"), Setting("softplus", "softplus"),
    Setting("square", "square"), Setting("SoLU", "solu"), Setting("dropout 0.1", dropout=0.1), Setting("dropout 0.3", dropout=0.3),
    Setting("noise 0.1", noise=0.1), Setting("noise 0.3", noise=0.3),
)  # fmt: skip
SMOKE = (0, 1, 2, 7)


@cache
def quadrature(nodes: int = NODES) -> tuple[Float[Tensor, "q 2"], Float[Tensor, "q 3"]]:
    """Values of the two features, and the weight of each point given that none, one, or both are active."""
    t, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(nodes))
    t, w = (t + 1) / 2, w / 2
    zero = torch.zeros_like(t)
    x = torch.cat([torch.zeros(1, 2, dtype=t.dtype), torch.stack([t, zero], 1), torch.stack([zero, t], 1), torch.cartesian_prod(t, t)])  # fmt: skip
    weight = torch.zeros(len(x), 3, dtype=t.dtype)
    weight[0, 0], weight[1 : 2 * nodes + 1, 1], weight[2 * nodes + 1 :, 2] = 1.0, w.repeat(2), torch.outer(w, w).ravel()
    return x, weight


def two_loss(
    w: Float[Tensor, "i 2"],
    b: Float[Tensor, "i 2"],
    p: Float[Tensor, " i"],
    r: Float[Tensor, " i"],
    setting: Setting,
    nodes: int = NODES,
) -> Float[Tensor, " i"]:
    """Expected loss of weights and biases at density p and relative importance r of the second feature.

    Exact for smooth activations up to rounding; about 1e-4, relatively, for activations with a kink.
    """
    x, parts = quadrature(nodes)
    weight = torch.stack([(1 - p).square(), p * (1 - p), p.square()], 1) @ parts.T  # [i q]
    factor, summand, chance = setting.hidden()
    hidden = (w @ x.T)[..., None] * factor + summand  # [i q k]
    output = ACTIVATIONS[setting.output](hidden[..., None] * w[:, None, None] + b[:, None, None])
    importance = torch.stack([torch.ones_like(r), r], 1)[:, None, None]
    error = (importance * (x[:, None] - output).square()).sum(-1) @ chance
    return (weight * error).sum(-1)


def diagrams(setting: Setting, size: int, starts: int, seed: int) -> list[Diagram]:
    """A diagram for every group of starts, and last the best of all groups."""
    density, importance = axes(size)
    p, r = (torch.from_numpy(v.ravel()) for v in np.meshgrid(density, importance, indexing="ij"))
    tries = GROUPS * starts
    draw = rng.stream(seed, "activations", setting.name)
    w = 1.2 * (2 * torch.rand(len(p), GROUPS, starts, 2, generator=draw, dtype=torch.float64) - 1)
    known = torch.stack([torch.tensor([[0.95, -0.95]]).expand(len(p), 2), _alone(r)], 1)[:, None]
    w[:, :, :2] = known[:, :, :starts] + 0.1 * w[:, :, :2]
    b = 0.1 * torch.randn(w.shape, generator=draw, dtype=torch.float64)
    start = torch.cat([w, b], -1).flatten(0, 2)
    wide_p, wide_r = p.repeat_interleave(tries), r.repeat_interleave(tries)
    found, loss = minimize(
        lambda v, at: two_loss(v[:, :2], v[:, 2:], wide_p[at], wide_r[at], setting),
        start,
        iterations=60,
        tolerance=1e-8,
    )
    W, loss = found[:, :2].view(len(p), GROUPS, starts, 2), loss.view(len(p), GROUPS, starts)
    out = []
    for group in (*range(GROUPS), slice(None)):
        w = W[:, group].reshape(len(p), -1, 2)
        least, at = loss[:, group].reshape(len(p), -1).min(1)
        norm, overlap = last_feature(w[torch.arange(len(p)), at][..., None])
        shape = (size, size)
        out.append(Diagram(density, importance, least.numpy().reshape(shape), norm.reshape(shape), overlap.reshape(shape)))  # fmt: skip
    return out


def _alone(r: Tensor) -> Tensor:
    """Weights [i 2] that represent the more important feature."""
    first = (r <= 1).double()
    return torch.stack([0.1 + 0.9 * first, 1 - 0.9 * first], 1)


def area(diagram: Diagram) -> float:
    """Share of pixels in which the last feature is in superposition."""
    return float((diagram.phase == SUPERPOSED).mean())


def columns(diagram: Diagram) -> np.ndarray:
    """Share of every column of the diagram (one importance) that is in superposition."""
    return (diagram.phase == SUPERPOSED).mean(0)


def over_columns(name: str, shares: np.ndarray, seed: int, method: str) -> Measurement:
    """The mean over columns with a bootstrap interval (pixels of one column are not independent)."""
    draw = rng.numpy_stream(seed, "bootstrap", name)
    low, high = stats.sample_interval(shares, lambda v: v.mean(1), draw, 2000)
    return Measurement(name, float(shares.mean()), float(low), float(high), shares.size, "", method, seed)


def run(config: StudyConfig, say: Say) -> Outcome:
    """One diagram per setting."""
    size, starts = (7, 3) if config.smoke else (17, 4)
    settings = [SETTINGS[i] for i in SMOKE] if config.smoke else list(SETTINGS)
    found: dict[str, list[Diagram]] = {}
    for setting in settings:
        say(f"diagram of {setting.name}")
        found[setting.name] = diagrams(setting, size, starts, config.seed)
    text = f"share of {size} × {size} pixels, best of {GROUPS * starts} starts; bootstrap over columns"
    values, exact_values = {}, {}
    for name, group in found.items():
        key = "area_" + name.lower().replace(" ", "_").replace(".", "")
        values[key] = over_columns(key, columns(group[-1]), config.seed, text)
    theory = exact(*axes(size), 2)
    exact_values["area_relu"] = area(theory)
    values["relu_excess"] = measured(
        "relu_excess",
        float((found["ReLU"][-1].loss / theory.loss - 1).max()),
        method="largest relative excess over the closed form, ReLU",
    )
    names = ("ReLU", "leaky ReLU", "GELU")
    areas = np.array([[area(d) for d in found[name][:GROUPS]] for name in names])
    order = np.argsort(areas, 0)
    values["order_stable"] = measured(
        "order_stable",
        float((order == order[:, :1]).all()),
        method=f"same order of the areas of {', '.join(names)} in {GROUPS} groups of starts",
        seed=config.seed,
    )
    most = max(found, key=lambda n: abs(area(found[n][-1]) - area(found["ReLU"][-1])))
    values["largest_change"] = measured("largest_change", abs(area(found[most][-1]) - area(found["ReLU"][-1])), method=f"largest difference of an area from that of the ReLU ({most})", seed=config.seed)  # fmt: skip
    changes = [abs(area(found[s.name][-1]) - area(found["ReLU"][-1])) for s in settings if s.output != "relu"]
    values["largest_activation_change"] = measured(
        "largest_activation_change", max(changes), method="the same, among activations", seed=config.seed
    )
    for name, setting in (("dropout_change", "dropout 0.3"), ("noise_change", "noise 0.3")):
        if setting in found:
            change = columns(found[setting][-1]) - columns(found["ReLU"][-1])
            values[name] = over_columns(name, change, config.seed, f"area with {setting} minus area without; {text}")
    figures = (_phases(found, theory), _areas(values))
    return Outcome(values, exact_values, figures)


def _phases(found: dict[str, list[Diagram]], theory: Diagram) -> Figure:
    frames = []
    for name, group in {"ReLU, closed form": [theory], **found}.items():
        frames.append(Frame(name, group[-1].panels(name)))
    return Figure(
        "C1-phases", "Phase diagrams of other networks", SOURCE,
        "A feature that is neither ignored nor alone shows a norm near 1 and an interference near 1. How far up this "
        "region reaches changes with the output's activation, less with dropout or noise.",
        "Norms of different activations are not comparable: a square needs other weights than a ReLU.",
        tuple(frames), "network", 2,
    )  # fmt: skip


def _areas(values: dict[str, Measurement]) -> Figure:
    rows = [(name, v) for name, v in values.items() if name.startswith("area_")]
    low, high = ([getattr(v, end) for _, v in rows] for end in ("low", "high"))
    bars = series("bars", "area", range(1, len(rows) + 1), [v.value for _, v in rows], interval=(low, high))
    names = ", ".join(f"{i} {name.removeprefix('area_').replace('_', ' ')}" for i, (name, _) in enumerate(rows, 1))
    return Figure(
        "C1-areas", "How much of the diagram is superposition", SOURCE,
        f"Bars: {names}.", "The area depends on the range of the axes; only differences mean something.",
        still(Panel("area of superposition", "network", "share", (bars,))), columns=1,
    )  # fmt: skip
