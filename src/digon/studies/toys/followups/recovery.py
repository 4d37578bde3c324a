"""Which sparse codes does ℓ1 decoding find again? The phase diagram of compressed sensing, theory beside experiment.

k of n features are active and seen through d = δn random measurements: x = c A. Basis pursuit, the c of least Σ|cᵢ| with
c A = x, gives all of c back with probability near 1 if ρ = k/d is below a curve ρ(δ), and near 0 above it:

    signed codes         weak threshold of the cross-polytope       ρ(½) = 0.386
    non-negative codes   weak threshold of the simplex              ρ(½) = 0.558

1. Success over a grid of δ and ρ, from fresh Gaussian dictionaries, supports, signs and sizes.
2. In every column, the ρ at which half of the codes are found: the middle of a logistic curve, with the interval in which
   its profile likelihood is within 95 % of the best.
3. The decoder of all this is ours, an interior point method for many rows at once: another solver (HiGHS) must find the
   same codes on rows near the edge.

How many codes are found does not depend on their sizes, so neither do the curves. Sources: Donoho & Tanner 2005, 2009; the
curves are in `measures/bounds`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .... import rng
from ....coders.pursuit.equality import basis_pursuit, linear_program
from ....measures.bounds import donoho_tanner
from ....records import Figure, Panel
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import grid, line, series, still

SOURCE = "Donoho & Tanner 2009, Observed universality of phase transitions in high-dimensional geometry"
KINDS = {"signed": False, "nonnegative": True}
"""Kind → whether codes are non-negative."""
SEEDS = 3
FOUND = 1e-4
"""Largest error of a code that was found again; active codes are 0.5 to 1.5."""
CONFIDENCE = 1.92
"""Half of the 95 % quantile of χ² with one degree of freedom."""


@dataclass(frozen=True)
class Sizes:
    """How large the experiment is."""

    n: int
    trials: int
    """Codes per cell and seed."""
    deltas: tuple[float, ...]
    rhos: int
    """Sparsities of every column, evenly over (0, 1)."""
    checked: int
    """Codes per kind that the other solver finds too."""


SMOKE = Sizes(60, 8, (0.25, 0.5, 0.75), 12, 8)
PAPER = Sizes(200, 20, tuple(np.arange(1, 10) / 10), 19, 40)
FULL = Sizes(400, 20, tuple(np.arange(1, 10) / 10), 39, 40)


@dataclass(frozen=True)
class Diagram:
    """Codes that were found, for one kind."""

    deltas: np.ndarray
    rhos: np.ndarray
    """k/d of every cell [deltas, rhos]."""
    wins: np.ndarray
    """Codes found [seeds, deltas, rhos]."""
    trials: int

    def middles(self) -> np.ndarray:
        """ρ at which half is found, with its interval, from all seeds [deltas, 3]."""
        total = self.wins.sum(0)
        return np.array([half_point(r, w, SEEDS * self.trials) for r, w in zip(self.rhos, total, strict=True)])

    def by_seed(self) -> np.ndarray:
        """The same for every seed by itself, without intervals [seeds, deltas]."""
        return np.array(
            [[half_point(r, w, self.trials)[0] for r, w in zip(self.rhos, wins, strict=True)] for wins in self.wins]
        )


def half_point(x: np.ndarray, wins: np.ndarray, trials: int) -> tuple[float, float, float]:
    """Where a falling logistic curve through shares of successes is at one half, and its 95 % interval.

    Maximum of the likelihood over middles and widths on a fine grid; the interval is that of the profile likelihood.
    """
    middle = np.linspace(0, 1, 501)[:, None, None]
    width = np.geomspace(2e-3, 0.2, 24)[:, None]
    z = (x - middle) / width
    # log of 1/(1 + e^z) and of its complement, without overflow
    likelihood = -(wins * np.logaddexp(0, z) + (trials - wins) * np.logaddexp(0, -z)).sum(-1)
    profile = likelihood.max(1)
    inside = middle[profile >= profile.max() - CONFIDENCE, 0, 0]
    return float(middle[profile.argmax(), 0, 0]), float(inside.min()), float(inside.max())


def draw(n: int, d: int, k: int, positive: bool, rows: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """A Gaussian dictionary [n, d] and codes [rows, n] with k active features each."""
    atoms = torch.randn(n, d, generator=g, dtype=torch.float64)
    where = torch.rand(rows, n, generator=g).argsort(1)[:, :k]
    values = 0.5 + torch.rand(rows, k, generator=g, dtype=torch.float64)
    if not positive:
        values *= 2 * torch.randint(0, 2, (rows, k), generator=g) - 1
    return atoms, torch.zeros(rows, n, dtype=torch.float64).scatter_(1, where, values)


def found(codes: Tensor, atoms: Tensor, positive: bool) -> Tensor:
    """Which codes basis pursuit gives back."""
    solved = basis_pursuit(codes @ atoms, atoms, positive=positive)
    return solved.solved & ((solved.codes.dense() - codes).abs().amax(1) < FOUND)


def diagram(sizes: Sizes, positive: bool, seed: int, say: Say) -> Diagram:
    """Success over the grid; δ and ρ come in steps of 1/n and 1/d."""
    d = np.round(np.array(sizes.deltas) * sizes.n).astype(int)
    k = np.round(np.linspace(0, 1, sizes.rhos + 2)[1:-1] * d[:, None]).clip(1).astype(int)
    wins = np.zeros((SEEDS, *k.shape))
    for s, i in np.ndindex(SEEDS, len(d)):
        if not s:
            say(f"{'non-negative' if positive else 'signed'} codes, {d[i]} dimensions")
        for j in range(k.shape[1]):
            g = rng.stream(seed, "recovery", s, int(d[i]), j, int(positive))
            atoms, codes = draw(sizes.n, int(d[i]), int(k[i, j]), positive, sizes.trials, g)
            wins[s, i, j] = int(found(codes, atoms, positive).sum())
    return Diagram(d / sizes.n, k / d[:, None], wins, sizes.trials)


def agreement(sizes: Sizes, positive: bool, seed: int) -> list[float]:
    """Share of codes near the edge, per seed, at which both solvers agree whether they are found."""
    d = sizes.n // 2
    k = round(float(donoho_tanner(d / sizes.n, signed=not positive)) * d)
    shares: list[float] = []
    for s in range(SEEDS):
        g = rng.stream(seed, "recovery check", s, int(positive))
        atoms, codes = draw(sizes.n, d, k, positive, sizes.checked, g)
        other = linear_program(codes @ atoms, atoms, positive=positive).codes.dense()
        same = found(codes, atoms, positive) == ((other - codes).abs().amax(1) < FOUND)
        shares.append(float(same.double().mean()))
    return shares


def run(config: StudyConfig, say: Say) -> Outcome:
    """Both diagrams, their edges over theory, and the check of the decoder."""
    sizes = SMOKE if config.smoke else FULL if config.full else PAPER
    diagrams = {name: diagram(sizes, positive, config.seed, say) for name, positive in KINDS.items()}
    text = f"n = {sizes.n}, {len(sizes.deltas)} × {sizes.rhos} cells of {sizes.trials} codes, {SEEDS} seeds"
    samples: dict[str, tuple[object, str]] = {}
    for name, positive in KINDS.items():
        theory = donoho_tanner(diagrams[name].deltas, signed=not positive)
        ratio, edge = diagrams[name].by_seed() / theory, diagrams[name].middles()
        half = int(np.argmin(abs(diagrams[name].deltas - 0.5)))
        samples |= {
            f"ratio_{name}": (ratio.mean(1), f"ρ at which half is found over theory, mean over δ; {text}"),
            f"worst_{name}": (float(abs(edge[:, 0] / theory - 1).max()), f"largest relative distance from theory over δ, seeds together; {text}"),
            f"half_{name}": (diagrams[name].by_seed()[:, half], f"ρ at which half is found at δ = 1/2; {text}"),
            f"agreement_{name}": (agreement(sizes, positive, config.seed), f"share of {sizes.checked} codes a seed near the edge on which interior points and HiGHS agree; n = {sizes.n}"),
        }  # fmt: skip
    above = diagrams["nonnegative"].by_seed() > diagrams["signed"].by_seed()
    samples["above"] = (
        above.all(1).astype(float),
        f"is the edge of non-negative codes the higher one at every δ?; {text}",
    )
    values = {k: measured(k, v, method=m, seed=config.seed) for k, (v, m) in samples.items()}  # type: ignore[arg-type]
    exact = {f"ratio_{name}": 1.0 for name in KINDS} | {
        f"half_{name}": float(donoho_tanner(0.5, signed=not positive)) for name, positive in KINDS.items()
    }
    return Outcome(values, exact, (_figure(sizes, diagrams),))


def _figure(sizes: Sizes, diagrams: dict[str, Diagram]) -> Figure:
    fine = np.linspace(0.02, 0.98, 97)
    rho = np.linspace(0, 1, sizes.rhos + 2)[1:-1]
    panels: list[Panel] = []
    for name, positive in KINDS.items():
        one, edge = diagrams[name], diagrams[name].middles().T
        share = np.array([np.interp(rho, r, w) for r, w in zip(one.rhos, one.wins.mean(0) / one.trials, strict=True)])
        shown = (
            line("Donoho–Tanner", fine, donoho_tanner(fine, signed=not positive)),
            series("points", "half is found", one.deltas, edge[0], interval=(edge[1], edge[2])),
        )
        title = "non-negative codes" if positive else "signed codes"
        panels.append(
            Panel(title, "δ = d/n", "ρ = k/d", shown, grid(one.deltas, rho, share.T), color_label="found", color_range=(0.0, 1.0))
        )  # fmt: skip
    return Figure(
        "F17-phases", "Which sparse codes ℓ1 finds again", SOURCE,
        "Below the curve all codes are found, above it none; the points, where half is found, lie on it.",
        f"n = {sizes.n}: the change from all to none has a width that shrinks like 1/√n, and with few dimensions ρ comes in coarse steps.",
        still(*panels), columns=2,
    )  # fmt: skip
