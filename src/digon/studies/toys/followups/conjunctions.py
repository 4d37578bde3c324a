"""Can one layer hold the AND of every pair of its inputs at once? Universal AND in superposition.

    neuron k    a_k = ReLU(Σ_{i ∈ S_k} x_i − 1),   every input is in S_k with probability p = √(K/d)
    read-off    r_ij = mean of a_k over the N ≈ K neurons with i and j in S_k,   x binary with l ones

A neuron that reads i and j also reads e ~ Bin(·, p) of the other active inputs, so with e exact expectations follow:

    both on   E r − 1 = (l − 2) p,     one on   E r = (l − 1) p,     none on   E r = l p − 1 + (1 − p)^l

All errors fall as p ∝ d^-½ at fixed K. Beside it:

1. Random directions. With normal weights, c/d Σ_k w_ki w_kj φ(w_k · x) is 1 for pairs that are on and 0 otherwise on
   average (Stein's lemma, c = 1/E φ''); its variance is computed for φ = square and φ = ReLU. No sparse structure is
   needed, and the error falls as d^-½ again.
2. Inputs in superposition. Neurons see Φᵀ Φ x with m random unit directions in d dimensions. Each neuron gets noise of
   variance p m l / d. The mean over N neurons cancels most of it where they are linear, and a part ∝ its standard
   deviation remains at the kink, so m may grow as d^{3/2}.
3. Rounding, r → 2r − ½ clipped to [0, 1], removes errors below ¼, as a circuit of many layers needs.

Source: Hänni, Mendel, Vaintrob and Chan 2024, "Mathematical Models of Computation in Superposition" (arXiv
2408.05451). Part 1 and the variances in 1 and 2 are ours.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binom
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ....records import Figure, Frame, Measurement, Panel
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, line, log_slope, series, still

SOURCE = "Hänni et al. 2024, Mathematical Models of Computation in Superposition"
SHIFT = 0.1
"""Mean rise of the read-off of half-active pairs at which inputs in superposition count as too many."""
Unit = Literal["square", "relu"]


# --------------------------------------------------------------------------------------------------- inputs and pairs
def inputs(m: int, ones: int, rows: int, g: torch.Generator) -> Float[Tensor, "rows m"]:
    """Binary rows with `ones` ones each."""
    at = torch.rand(rows, m, generator=g).topk(ones, dim=1).indices
    return torch.zeros(rows, m).scatter_(1, at, 1.0)


def all_pairs(m: int) -> Int[Tensor, "pairs two"]:
    """Pairs i < j."""
    return torch.triu_indices(m, m, 1).T


def active(x: Float[Tensor, "rows m"], pairs: Int[Tensor, "pairs two"]) -> Float[Tensor, "rows pairs"]:
    """How many of a pair's inputs are on: 0, 1 or 2."""
    return x[:, pairs[:, 0]] + x[:, pairs[:, 1]]


# --------------------------------------------------------------------------------------------------- sparse neurons
def connections(d: int, m: int, shared: float, g: torch.Generator) -> Float[Tensor, "d m"]:
    """Which inputs each neuron reads; `shared` is the expected number of neurons per pair.

    Raises: ConfigError if a pair cannot share that many neurons.
    """
    if not 0 < shared <= d:
        raise ConfigError(f"{shared:g} shared neurons of {d}", expected="more than 0, at most all")
    return (torch.rand(d, m, generator=g) < (shared / d) ** 0.5).float()


def read_off(
    W: Float[Tensor, "d m"], z: Float[Tensor, "rows m"], pairs: Int[Tensor, "pairs two"]
) -> Float[Tensor, "rows pairs"]:
    """Mean activation over the neurons of each pair, NaN where a pair has none; z is what the neurons see as input."""
    a = (z @ W.T - 1).relu()
    both = W[:, pairs[:, 0]] * W[:, pairs[:, 1]]
    return (a @ both) / both.sum(0)


def expected_reads(ones: int, p: float) -> tuple[float, float, float]:
    """Expected read-off of pairs with none, one and both inputs on."""
    return ones * p - 1 + (1 - p) ** ones, (ones - 1) * p, 1 + (ones - 2) * p


def off_mean(m: int, ones: int, p: float) -> float:
    """Expected read-off over all pairs that are not on."""
    none, one, _ = expected_reads(ones, p)
    counts = math.comb(m - ones, 2), ones * (m - ones)
    return (counts[0] * none + counts[1] * one) / sum(counts)


def inverse_shared(d: int, p: float) -> float:
    """E[1/N] over pairs with at least one neuron, N ~ Bin(d, p²)."""
    n = np.arange(1, d + 1)
    weight = binom.pmf(n, d, p * p)
    return float((weight / n).sum() / weight.sum())


def on_rms(d: int, ones: int, p: float) -> float:
    """Root mean square error of pairs that are on."""
    mean = (ones - 2) * p
    return math.sqrt(mean**2 + mean * (1 - p) * inverse_shared(d, p))


def rounded_read(r: Tensor) -> Tensor:
    """Errors below ¼ removed: 2r − ½ clipped to [0, 1], which is two ReLUs."""
    return (2 * r - 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Reads:
    """Read-offs of all pairs that have neurons, and which of them are on."""

    r: Float[Tensor, " all"]
    on: Bool[Tensor, " all"]

    @property
    def on_error(self) -> float:
        """Mean read-off minus 1 of pairs that are on."""
        return float(self.r[self.on].mean()) - 1

    @property
    def off_error(self) -> float:
        """Mean read-off of pairs that are not."""
        return float(self.r[~self.on].mean())

    @property
    def rms(self) -> float:
        """Root mean square error of pairs that are on and of those that are not, in equal parts."""
        error = (self.r - self.on.float()).square()
        return float((error[self.on].mean() / 2 + error[~self.on].mean() / 2).sqrt())

    @property
    def accuracy(self) -> float:
        """Share of pairs on the right side of ½."""
        return float(((self.r > 0.5) == self.on).double().mean())


def universal(d: int, m: int, shared: float, ones: int, rows: int, g: torch.Generator) -> Reads:
    """All pairs of m inputs for random rows."""
    W, x, pairs = connections(d, m, shared, g), inputs(m, ones, rows, g), all_pairs(m)
    r = read_off(W, x, pairs)
    known = r.isfinite()
    return Reads(r[known], active(x, pairs)[known] == 2)


# --------------------------------------------------------------------------------------------------- random directions
def random_reads(d: int, m: int, ones: int, rows: int, unit: Unit, g: torch.Generator) -> Reads:
    """The same with normal weights and read-off c/d Σ_k w_ki w_kj φ(w_k · x)."""
    W, x, pairs = torch.randn(d, m, generator=g), inputs(m, ones, rows, g), all_pairs(m)
    s = x @ W.T
    a = s.square() / 2 if unit == "square" else math.sqrt(2 * math.pi * ones) * s.relu()
    r = (a @ (W[:, pairs[:, 0]] * W[:, pairs[:, 1]])) / d
    return Reads(r.flatten(), (active(x, pairs) == 2).flatten())


def random_variance(d: int, ones: int, on: int, unit: Unit) -> float:
    """Variance of that read-off for pairs with 0, 1 or 2 inputs on.

    From E[w_i² w_j² g(s)] = E[g] + on·E[g''] + [on = 2]·E[g''''] with g = φ².
    """
    if unit == "square":
        second = (3 * ones**2 + 12 * ones * on + 24 * (on == 2)) / 4
    else:
        second = 2 * math.pi * ones * (ones / 2 + on)
    return (second - (on == 2)) / d


def random_rms(d: int, m: int, ones: int, unit: Unit) -> float:
    """Expected `Reads.rms` of random directions."""
    counts = math.comb(m - ones, 2), ones * (m - ones)
    off = sum(c * random_variance(d, ones, on, unit) for on, c in enumerate(counts)) / sum(counts)
    return math.sqrt((off + random_variance(d, ones, 2, unit)) / 2)


# --------------------------------------------------------------------------------------------------- superposed inputs
@dataclass(frozen=True)
class Crowd:
    """What inputs in superposition change."""

    shift: float
    """Mean rise of the read-off of pairs with one input on."""
    noise: float
    """Root mean square change of the read-off of pairs that are on."""


def crowded(d: int, m: int, shared: float, ones: int, rows: int, g: torch.Generator) -> Crowd:
    """Read-offs from Φᵀ Φ x with m random unit directions in d dimensions, minus those from x."""
    W, x = connections(d, m, shared, g), inputs(m, ones, rows, g)
    phi = torch.nn.functional.normalize(torch.randn(m, d, generator=g), dim=1)
    seen = (x @ phi) @ phi.T
    on = x.topk(2, dim=1).indices
    off = torch.randint(m, (rows, 1), generator=g)
    half = torch.cat([on[:, :1], torch.where(x.gather(1, off) > 0, (off + 1) % m, off)], 1)
    change = (seen @ W.T - 1).relu() - (x @ W.T - 1).relu()
    means = []
    for pair in (on, half):
        both = W.T[pair[:, 0]] * W.T[pair[:, 1]]
        means.append((change * both).sum(1) / both.sum(1))
    still_off = x.gather(1, half[:, 1:])[:, 0] == 0
    return Crowd(float(means[1][still_off].nanmean()), float(means[0].square().nanmean().sqrt()))


def neuron_noise(d: int, m: int, shared: float, ones: int) -> float:
    """Standard deviation of what interference adds to one neuron's sum."""
    return math.sqrt((shared / d) ** 0.5 * m * ones / d)


def cancelled_noise(d: int, m: int, shared: float, ones: int) -> float:
    """Expected `Crowd.noise` while neurons are linear.

    The pair's own interference (2), what all N neurons see of the other inputs (p²), and the rest, averaged over N.
    """
    p = (shared / d) ** 0.5
    return math.sqrt(ones / d * (2 + m * (p * p + p * (1 - p) * inverse_shared(d, p))))


def crowding_limit(d: int, shared: float, ones: int) -> float:
    """m at which the read-off of half-active pairs has risen by SHIFT: the kink turns noise σ into σ/√(2π)."""
    p = (shared / d) ** 0.5
    sigma = SHIFT * math.sqrt(2 * math.pi) / (1 - p) ** (ones - 1)
    return sigma**2 * d / (ones * p)


# --------------------------------------------------------------------------------------------------- the study
def run(config: StudyConfig, say: Say) -> Outcome:
    """Errors of sparse and of random layers over d, with inputs in superposition, and after rounding."""
    values, exact = dict[str, Measurement](), dict[str, float]()
    say("conjunctions: sparse neurons and random directions")
    scaling = _scaling(config, values, exact)
    say("conjunctions: d = 4096, rounding")
    histogram = _threshold(config, values, exact)
    say("conjunctions: inputs in superposition")
    crowd = _crowding(config, values, exact)
    return Outcome(values, exact, (scaling, histogram, crowd))


def _scaling(config: StudyConfig, values: dict[str, Measurement], exact: dict[str, float]) -> Figure:
    widths = (256, 512, 1024) if config.smoke else (256, 512, 1024, 2048, 4096)
    m, shared, ones, rows = (50 if config.smoke else 100), 16.0, 3, (60 if config.smoke else 100)
    table = np.zeros((5, 3, len(widths)))
    for s in range(3):
        for k, d in enumerate(widths):
            g = rng.stream(config.seed + s, "conjunctions", d)
            reads = universal(d, m, shared, ones, rows, g)
            random = [random_reads(d, m, ones, rows, unit, g).rms for unit in ("square", "relu")]
            table[:, s, k] = [reads.on_error, reads.off_error, reads.rms, *random]
    p = [(shared / d) ** 0.5 for d in widths]
    method = f"m = {m}, K = {shared:g}, l = {ones}, d = {widths[0]} … {widths[-1]}, three seeds, all pairs"
    theory = {
        "on": np.array(p), "off": np.array([off_mean(m, ones, q) for q in p]),
        "square": np.array([random_rms(d, m, ones, "square") for d in widths]),
        "relu": np.array([random_rms(d, m, ones, "relu") for d in widths]),
    }  # fmt: skip
    for name, row in (("on", 0), ("off", 1), ("square", 3), ("relu", 4)):
        ratio, slope = f"{name}_over_theory", f"{name}_slope"
        values[ratio] = measured(ratio, (table[row] / theory[name]).mean(1), method=method, seed=config.seed)
        values[slope] = measured(
            slope, [log_slope(np.array(widths, float), r) for r in table[row]], method=method, seed=config.seed
        )
        exact[ratio], exact[slope] = 1.0, log_slope(np.array(widths, float), theory[name])
    values["off_over_p"] = measured("off_over_p", (table[1] / p).max(1), method=f"{method}, largest", seed=config.seed)
    exact["off_over_p"] = float((theory["off"] / p).max())
    x = np.array(widths, float)
    names = ("on", "off", "square", "relu")
    labels = ("sparse: mean error, on", "sparse: mean error, off", "random, square: RMS", "random, ReLU: RMS")
    shown = [across(label, x, table[row]) for label, row in zip(labels, (0, 1, 3, 4), strict=True)]
    shown += [line(f"theory, {label}", x, theory[n]) for n, label in zip(names, labels, strict=True)]
    return Figure(
        "F7-scaling", "Error of all pairwise ANDs over the number of neurons", SOURCE,
        "Every error falls as one over the root of d, for sparse neurons and for random directions alike.",
        "K is fixed; the theorem lets it grow with log d, which at these sizes would be every neuron reading every input.",
        still(Panel(f"m = {m} inputs, {ones} on", "neurons d", "error", tuple(shown), x_log=True, y_log=True)), columns=1,
    )  # fmt: skip


def _threshold(config: StudyConfig, values: dict[str, Measurement], exact: dict[str, float]) -> Figure:
    d, m, shared = (2048, 40, 32.0) if config.smoke else (4096, 100, 32.0)
    p, frames = (shared / d) ** 0.5, list[Frame]()
    for ones in (2, 3, 4):
        reads = [
            universal(d, m, shared, ones, 60 if config.smoke else 100, rng.stream(config.seed + s, "threshold", ones))
            for s in range(3)
        ]
        method = f"d = {d}, m = {m}, K = {shared:g}, l = {ones}, three seeds, all pairs"
        noted = {"accuracy": [r.accuracy for r in reads], "on_error": [r.on_error for r in reads]}
        if ones == 3:
            after = [Reads(rounded_read(r.r), r.on) for r in reads]
            noted["rounding_gain"] = [b.rms / a.rms for b, a in zip(reads, after, strict=True)]
            noted["on_rms_over_theory"] = [
                float((r.r[r.on] - 1).square().mean().sqrt()) / on_rms(d, ones, p) for r in reads
            ]
            exact["on_rms_over_theory"] = 1.0
        for name, samples in noted.items():
            key = f"{name}_l{ones}" if name in ("accuracy", "on_error") else name
            values[key] = measured(key, samples, method=method, seed=config.seed)
        exact[f"on_error_l{ones}"] = (ones - 2) * p
        frames.append(Frame(f"l = {ones}", (_histogram(reads[0], ones, p),)))
    return Figure(
        "F7-reads", "What the read-offs are", SOURCE,
        "Pairs that are on read at least 1, the others mostly 0; a threshold at one half separates them.",
        "Single unlucky pairs of inputs share few neurons and read far off; their share, not their size, is small.",
        tuple(frames), "inputs that are on", columns=1,
    )  # fmt: skip


def _histogram(reads: Reads, ones: int, p: float) -> Panel:
    edges = np.linspace(-0.05, 2.05, 43)
    middle, drawn = (edges[1:] + edges[:-1]) / 2, []
    for label, mask in (("on", reads.on), ("not on", ~reads.on)):
        share = np.histogram(reads.r[mask].numpy(), edges)[0] / max(int(mask.sum()), 1)
        drawn.append(line(label, middle, np.where(share > 0, share, np.nan), "measured"))
    none, one, both = expected_reads(ones, p)
    marks = series("points", "expected: none, one, both on", [none, one, both], [1e-3] * 3, role="theory")
    return Panel(f"read-offs with {ones} inputs on", "read-off", "share of pairs", (*drawn, marks), y_log=True)


def _crowding(config: StudyConfig, values: dict[str, Measurement], exact: dict[str, float]) -> Figure:
    widths = (128, 256, 512) if config.smoke else (256, 512, 1024, 2048)
    shared, ones, rows = 8.0, 2, (200 if config.smoke else 400)
    factors = np.array([0.4, 0.7, 1.0, 1.5, 2.2])
    found, noise, panels = np.zeros((3, len(widths))), [], list[Panel]()
    for k, d in enumerate(widths):
        limit = crowding_limit(d, shared, ones)
        sizes = [max(int(f * limit), 2 * ones) for f in factors]
        runs = [[crowded(d, m, shared, ones, rows, rng.stream(config.seed + s, "crowd", d, m)) for m in sizes]
                for s in range(3)]  # fmt: skip
        shift = np.array([[c.shift for c in r] for r in runs])
        for s in range(3):
            found[s, k] = math.exp(np.interp(SHIFT, np.maximum.accumulate(shift[s]), np.log(sizes)))
        noise.append([r[2].noise / cancelled_noise(d, sizes[2], shared, ones) for r in runs])
        sigma = [neuron_noise(d, m, shared, ones) for m in sizes]
        theory = np.array(sigma) * (1 - (shared / d) ** 0.5) ** (ones - 1) / math.sqrt(2 * math.pi)
        panels.append(Panel(f"d = {d}", "inputs m", "rise of half-active pairs",
                            (across("measured", sizes, shift), line("σ at the kink", sizes, theory)), x_log=True))  # fmt: skip
    limits = [crowding_limit(d, shared, ones) for d in widths]
    method = (
        f"K = {shared:g}, l = {ones}, d = {widths[0]} … {widths[-1]}, read-off of half-active pairs rises by {SHIFT}"
    )
    slopes = [log_slope(np.array(widths, float), row) for row in found]
    values["input_slope"] = measured("input_slope", slopes, method=method, seed=config.seed)
    exact["input_slope"] = log_slope(np.array(widths, float), limits)
    values["noise_over_theory"] = measured("noise_over_theory", np.mean(noise, 0), method="pairs that are on")
    exact["noise_over_theory"] = 1.0
    x = np.array(widths, float)
    panels.insert(0, Panel("inputs that fit", "neurons and dimensions d", "m", (across("measured", x, found),
        line("σ at the kink", x, limits), line("d^1.5", x, limits[0] * (x / x[0]) ** 1.5, "published")),
        x_log=True, y_log=True))  # fmt: skip
    return Figure(
        "F7-superposed", "Inputs in superposition", SOURCE,
        "Interference lifts the read-off of half-active pairs; the number of inputs at which it does so grows faster than "
        "d, about as its power 3/2.",
        "Directions are random; learned ones may interfere less.", still(*panels), columns=2,
    )  # fmt: skip
