"""What does the loss look like from above? All of it, for two features in one dimension without bias.

    x' = ReLU(x W Wᵀ),  W = (w₁, w₂),  importances (1, r)

The loss is an exact function of the two weights, so it can be drawn. For equal importances both candidates are closed
forms (g = w²):

    confused      w₁ = w₂ = 1/√2          loss p/3 − p²/4: the two features are told apart not at all
    antipodal     w₁ = −w₂, g = (8 − 5p)/(8 − 6p)
                  loss 2 [p(1 − p)(1 − g)²/3 + p² (1/3 − g/4 + g²/12)]

1. Surfaces over (w₁, w₂) by density and importance, and where their minima are, from a descent out of every corner.
2. The density at which confused and antipodal cost the same: a jump, because the two are far apart.
3. How the best weights move as the importance falls: without a jump where no feature turns around.
4. Which share of starting points ends in the best minimum.

Source: comment by T. McGrath in Elhage et al. 2022 (exact loss surfaces); the closed forms are derived here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from .... import rng
from ....records import Figure, Frame, Panel
from ....worlds.closed import small_loss
from ....worlds.descent import minimize
from ....worlds.features import features
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import grid, line, points, still

SOURCE = "Elhage et al. 2022, comment by T. McGrath"
DENSITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.3, 0.1)
IMPORTANCES = (0.3, 0.7, 1.0)
REACH = 1.5
TABLE = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def confused_loss(p: float) -> float:
    """Loss of w₁ = w₂ = 1/√2 without bias, importances 1. Range: (0, 1/9]."""
    return p / 3 - p**2 / 4


def antipodal_square(p: float) -> float:
    """Squared length of the best antipodal pair without bias. Range: [1, 1.5]."""
    return (8 - 5 * p) / (8 - 6 * p)


def antipodal_loss(p: float) -> float:
    """Loss of the best antipodal pair without bias, importances 1."""
    g = antipodal_square(p)
    return 2 * (p * (1 - p) * (1 - g) ** 2 / 3 + p**2 * (1 / 3 - g / 4 + g**2 / 12))


def jump() -> float:
    """Density at which confused and antipodal cost the same."""
    return float(brentq(lambda p: confused_loss(p) - antipodal_loss(p), 0.4, 0.7, xtol=1e-13))  # type: ignore[arg-type]


def surface(
    w: Float[Tensor, "i 2"], p: float | Float[Tensor, " i"], r: float | Float[Tensor, " i"], bias: float = 0.0
) -> Float[Tensor, " i"]:
    """Exact loss of weights w₁, w₂ at density p and relative importance r of the second feature."""
    ones = torch.ones(len(w), 2, dtype=torch.float64)
    density = ones * torch.as_tensor(p, dtype=torch.float64).reshape(-1, 1)
    importance = torch.stack([ones[:, 0], ones[:, 1] * torch.as_tensor(r, dtype=torch.float64)], 1)
    return small_loss(w[..., None], bias * ones, density, importance)


def mesh(size: int) -> tuple[np.ndarray, Float[Tensor, "i 2"]]:
    """Axis and all points of the square of weights."""
    axis = np.linspace(-REACH, REACH, size)
    first, second = np.meshgrid(axis, axis)
    return axis, torch.from_numpy(np.stack([first.ravel(), second.ravel()], 1))


@dataclass(frozen=True)
class Minima:
    """Where descents from all over the square end."""

    w: Float[Tensor, "s 2"]
    loss: Float[Tensor, " s"]

    @property
    def best(self) -> Float[Tensor, " 2"]:
        """The best weights, with w₁ ≥ 0 and, of equal importance, |w₁| ≥ |w₂|."""
        w = self.w[self.loss.argmin()]
        return w * (1.0 if w[0] >= 0 else -1.0)

    @property
    def share(self) -> float:
        """Share of starts that end as low as the best."""
        return float((self.loss <= self.loss.min() * (1 + 1e-6)).double().mean())

    def distinct(self) -> Float[Tensor, "k 2"]:
        """Different minima."""
        return torch.unique((self.w * 1e3).round() / 1e3, dim=0)


def minima(p: float, r: float, seed: int, starts: int = 60) -> Minima:
    """Local minima from random starts on the square, by descent."""
    w = REACH * (2 * torch.rand(starts, 2, generator=rng.stream(seed, "surface"), dtype=torch.float64) - 1)
    found, loss = minimize(lambda x, _: surface(x, p, r), w, iterations=100)
    return Minima(found, loss)


def path(p: np.ndarray, r: np.ndarray) -> Float[Tensor, "i 2"]:
    """Best weights along a line of densities and importances, w₁ ≥ 0."""
    starts = torch.tensor([[0.7, 0.7], [1.0, -1.0], [1.0, 0.05], [1.0, -0.3]], dtype=torch.float64)
    count, tries = len(p), len(starts)
    density, importance = (torch.from_numpy(np.repeat(v, tries)) for v in (p, r))
    found, loss = minimize(
        lambda x, which: surface(x, density[which], importance[which]), starts.repeat(count, 1), iterations=100
    )
    won = found.view(count, tries, 2)[torch.arange(count), loss.view(count, tries).argmin(1)]
    return won * torch.where(won[:, :1] >= 0, 1.0, -1.0)


def sampled(w: Float[Tensor, "i 2"], p: float, r: float, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Monte Carlo loss of several weights and its standard error."""
    x = features(2, p).sample(rows, rng.stream(seed, "surface rows", round(1000 * p)))[0].double()
    hidden = x @ w.T
    weight = torch.tensor([1.0, r], dtype=torch.float64)
    error = (weight * (x[:, None] - (hidden[..., None] * w).relu()).square()).sum(-1)
    return error.mean(0), error.std(0) / rows**0.5


def run(config: StudyConfig, say: Say) -> Outcome:
    """Surfaces, minima, jump, paths."""
    smoke, seed = config.smoke, config.seed
    say("closed forms against sampling")
    z = _against_sampling(20_000 if smoke else 1_000_000, 20 if smoke else 30, seed)
    say("minima")
    starts = 24 if smoke else 200
    found = {p: minima(p, 1.0, seed, starts) for p in TABLE}
    theory = {p: min(confused_loss(p), antipodal_loss(p)) for p in TABLE}
    gap = max(abs(float(found[p].loss.min()) - theory[p]) for p in TABLE)
    fine = np.linspace(0.5, 0.6, 41 if smoke else 201)
    along = path(fine, np.ones_like(fine)).numpy()
    first = int((along[:, 1] > 0).argmax())
    leap = float(np.abs(np.diff(along, axis=0)).max())
    importance = np.geomspace(1, 0.1, 61 if smoke else 241)
    calm = path(np.full_like(importance, 0.9), importance).numpy()[1:]
    shares = [[minima(0.57, 1.0, rng.derive(seed, "basin", k), starts).share for k in range(3)],
              [minima(0.3, 1.0, rng.derive(seed, "basin", k), starts).share for k in range(3)]]  # fmt: skip
    two = minima(0.55, 1.0, seed, starts)
    signs = {bool(w[0] * w[1] > 0) for w in two.distinct()}
    values = {
        "sampling_z": measured("sampling_z", z, method="largest distance to sampled losses in standard errors, over random weights", seed=seed),
        "minima_gap": measured("minima_gap", gap, method="largest difference of descended minima to the closed forms, six densities"),
        "jump_density": measured("jump_density", float((fine[first - 1] + fine[first]) / 2), method="density at which the best of several descents changes sign of w₂"),
        "jump_size": measured("jump_size", leap, method="largest move of the best weights between neighboring densities"),
        "calm_move": measured("calm_move", float(np.abs(np.diff(calm, axis=0)).max()), method="largest move of the best weights between neighboring importances, density 0.9"),
        "two_kinds": measured("two_kinds", float(len(signs) == 2), method="confused and antipodal minima exist together at density 0.55"),
        "confused_weight": measured("confused_weight", float(found[0.8].best.abs().mean()), method="mean |weight| of the best minimum at density 0.8"),
        "basin_share_057": measured("basin_share_057", shares[0], method=f"share of {starts} starts on the square that reach the best minimum, density 0.57", seed=seed),
        "basin_share_030": measured("basin_share_030", shares[1], method=f"share of {starts} starts on the square that reach the best minimum, density 0.3", seed=seed),
    }  # fmt: skip
    exact = {"minima_gap": 0.0, "jump_density": jump(), "confused_weight": 0.5**0.5, "jump_size": 0.5**0.5 + antipodal_square(jump()) ** 0.5}  # fmt: skip
    figures = (_surfaces(9 if smoke else 41, DENSITIES[::4] if smoke else DENSITIES, seed), _branches(found))
    return Outcome(values, exact, figures)


def _against_sampling(rows: int, count: int, seed: int) -> float:
    w = REACH * (2 * torch.rand(count, 2, generator=rng.stream(seed, "points"), dtype=torch.float64) - 1)
    worst = 0.0
    for p in (1.0, 0.5, 0.1):
        for piece in w.split(10):
            mean, error = sampled(piece, p, 0.7, rows, seed)
            worst = max(worst, float(((mean - surface(piece, p, 0.7)).abs() / error.clamp(min=1e-12)).max()))
    return worst


def _surfaces(size: int, densities: tuple[float, ...], seed: int) -> Figure:
    axis, w = mesh(size)
    frames = []
    for p in densities:
        panels = []
        for r in IMPORTANCES:
            loss = surface(w, p, r) / ((1 + r) * p / 3)  # 1 where nothing is represented
            low = minima(p, r, seed, 24)
            heat = grid(axis.round(3), axis.round(3), loss.clamp(max=1.5).view(size, size).numpy().round(3))
            dots = points("minima", low.distinct()[:, 0], low.distinct()[:, 1], color=())
            star = points("best", [low.best[0], -low.best[0]], [low.best[1], -low.best[1]], role="theory")
            panels.append(Panel(f"importance of feature 2: {r:g}", "w₁", "w₂", (dots, star), heat, square=True, color_label="loss over that of W = 0", color_range=(0.0, 1.5)))  # fmt: skip
        frames.append(Frame(f"{p:g}", tuple(panels)))
    return Figure(
        "C2-surfaces", "The whole loss of two features in one dimension", SOURCE,
        "Dense and equally important: two minima on the diagonal w₁ = w₂, the features are confused. Sparser: two more on "
        "the other diagonal, the digon; below a density of 0.58 these are the lower ones.",
        "There is no bias here; with one, the dense minimum keeps one feature or mixes both, and the change is elsewhere.",
        tuple(frames), "density",
    )  # fmt: skip


def _branches(found: dict[float, Minima]) -> Figure:
    p = np.linspace(0.3, 1.0, 71)
    dots = points("descended", list(found), [float(m.loss.min()) for m in found.values()])
    losses = (
        line("confused", p, [confused_loss(v) for v in p]), line("antipodal", p, [antipodal_loss(v) for v in p]), dots,
        line("jump", [jump()] * 2, [0.03, 0.2], "guide"),
    )  # fmt: skip
    weights = (
        line("confused: w₂", p, np.full_like(p, 0.5**0.5)),
        line("antipodal: w₂", p, [-(antipodal_square(v) ** 0.5) for v in p]),
        points("descended", list(found), [float(m.best[1]) for m in found.values()]),
    )
    return Figure(
        "C2-jump", "Two candidates, one jump", SOURCE,
        "The two losses cross between densities of 0.5 and 0.6. The weights of the two are far apart, so the best network "
        "changes at once.",
        "Both curves are local minima on some range only; a curve is drawn where it is no minimum, too.",
        still(Panel("loss", "density", "loss", losses), Panel("weight of the second feature", "density", "w₂", weights)), columns=2,
    )  # fmt: skip
