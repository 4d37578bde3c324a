"""When does a network memorize its examples, and when does it learn the features?

The tied ReLU-output network with m = 2 is trained on a fixed set of T examples (n features, density 1 − S, every example
scaled to length 1), full batch. Few examples become the corners of a regular T-gon; many make it embed five features as
a pentagon; in between, the test loss is worst (double descent).

T orthonormal examples are fitted without error by a regular T-gon (`memorization_examples`), where each has the
dimensionality D_X = ‖h_a‖² / Σ_c (ĥ_a·h_c)² = 2/T. Other polygons, not regular, may fit too.

Source: Henighan et al. 2023, "Superposition, Memorization, and Double Descent" (n = 10,000, S = 0.999, 50,000 steps; here
1,000, 0.99 and fewer steps unless `full`).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....records import Figure, Frame, Panel
from ....worlds.loops import rate
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, line, points, series, still
from .memorization_examples import Examples, M, dimensionality, draw, draw_disjoint, loss, memorizer, radius

SOURCE = "Henighan et al. 2023, Superposition, Memorization, and Double Descent"

PRODUCTS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""T (1 − S): examples in which a feature is active."""
LEARNED = 0.2
"""Dimensionality from which a feature counts as learned: half of a pentagon's."""


@dataclass(frozen=True)
class Memory:
    """A network trained on fixed examples."""

    examples: Examples
    W: Float[Tensor, "n 2"]
    b: Float[Tensor, " n"]
    train: float
    """Mean loss over the examples, summed over features."""
    test: float
    """The same over fresh examples."""

    def hidden(self) -> Float[Tensor, "T 2"]:
        """Where the examples lie."""
        return (self.W[self.examples.index] * self.examples.value[..., None]).sum(1)


@dataclass(frozen=True)
class Plan:
    """Sizes of the study."""

    n: int
    density: float
    counts: tuple[int, ...]
    """Numbers of examples T."""
    many: int
    """A number of examples from which the features must be learned."""
    steps: int
    peak: float
    few_steps: int
    """Steps for `many` examples."""
    seeds: int


SMOKE = Plan(200, 0.05, (3, 6, 30, 60, 120, 400), 1500, 2500, 5e-3, 1500, 3)
PAPER = Plan(
    1000, 0.01, (3, 5, 8, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000), 20_000, 6000, 3e-3, 2500, 8
)
FULL = Plan(
    10_000, 0.001, (3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500, 700, 1000, 2000, 5000, 10_000, 30_000), 100_000, 50_000,
    1e-3, 50_000, 8,
)  # fmt: skip


def memorize(examples: Examples, test: Examples, plan: Plan, steps: int, weight_decay: float, seed: int) -> Memory:
    """Full-batch AdamW from one random start, with warm-up and cosine decay."""
    from .memorization_kernel import gradient, train

    std = (2 / (examples.n + M)) ** 0.5
    start = std * torch.randn(M, examples.n, generator=rng.stream(seed, "memorize"))
    p = np.concatenate([start.numpy(), np.zeros((1, examples.n), np.float32)])
    rates = np.array([rate(step, steps, plan.peak, 0.05) for step in range(steps)])
    train(p, *_arrays(examples), rates, weight_decay)
    u, v, b = p
    # A perfect fit is a difference of equal numbers: rounding may leave it below zero.
    fitted, fresh = (max(float(gradient(u, v, b, *_arrays(some), *np.zeros_like(p))), 0.0) for some in (examples, test))
    return Memory(examples, torch.from_numpy(p[:2].T.copy()), torch.from_numpy(p[2]), fitted, fresh)


def _arrays(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    return examples.index.numpy().astype(np.int32), examples.value.numpy()


def sweep(plan: Plan, counts: tuple[int, ...], seeds: range, weight_decay: float, test: Examples) -> list[list[Memory]]:
    """Networks [count][seed] on data sets of their own, on as many threads as torch may use."""

    def one(job: tuple[int, int]) -> Memory:
        count, seed = job
        examples = draw(plan.n, plan.density, count, rng.stream(seed, "memorization", count))
        steps = plan.few_steps if count == plan.many else plan.steps
        return memorize(examples, test, plan, steps, weight_decay, seed)

    jobs = [(count, seed) for count in sorted(counts, reverse=True) for seed in seeds]  # the longest first
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = dict(zip(jobs, pool.map(one, jobs), strict=True))
    return [[found[count, seed] for seed in seeds] for count in counts]


def onset_sweep(plan: Plan, seeds: range, test: Examples) -> dict[float, np.ndarray]:
    """For densities around the plan's, the largest dimensionality of a feature [seeds, PRODUCTS]."""
    out: dict[float, np.ndarray] = {}
    for density in (plan.density / 2, plan.density, 2 * plan.density):
        counts = tuple(max(round(product / density), 3) for product in PRODUCTS)
        rows = sweep(replace(plan, density=density, steps=plan.few_steps), counts, seeds, 0.01, test)
        out[density] = np.array([[float(dimensionality(m.W).max()) for m in row] for row in rows]).T
    return out


def onset(largest: np.ndarray) -> float:
    """T (1 − S) at which the largest dimensionality [PRODUCTS] first passes `LEARNED`; NaN if it does not."""
    for i in range(1, len(largest)):
        if largest[i - 1] < LEARNED <= largest[i]:
            part = (LEARNED - largest[i - 1]) / (largest[i] - largest[i - 1])
            return float(PRODUCTS[i - 1] * (PRODUCTS[i] / PRODUCTS[i - 1]) ** part)
    return float("nan")


def memorizers(plan: Plan, counts: tuple[int, ...], starts: int, steps: int, seed: int) -> list[Memory]:
    """For each number of disjoint examples, of the starts that fit them the one with the smallest weights."""

    def one(job: tuple[Examples, int]) -> Memory:
        return memorize(job[0], job[0], replace(plan, peak=5e-3), steps, 0.01, job[1])

    sets = [draw_disjoint(plan.n, plan.density, count, rng.stream(seed, "disjoint", count)) for count in counts]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = [list(pool.map(one, [(some, start) for start in range(seed, seed + starts)])) for some in sets]
    return [min(tries, key=lambda m: (m.train > 1e-3, float(m.W.norm()))) for tries in found]


def angular_gaps(W: Float[Tensor, "n 2"]) -> np.ndarray:
    """Angles in degrees between neighboring features of norm above 0.5."""
    large = W[W.norm(dim=1) > 0.5].numpy()
    angle = np.sort(np.degrees(np.arctan2(large[:, 1], large[:, 0])))
    return np.diff(np.append(angle, angle[:1] + 360))


def run(config: StudyConfig, say: Say) -> Outcome:
    """Sweep the number of examples, with little and with much weight decay."""
    smoke, seed = config.smoke, config.seed
    plan = SMOKE if smoke else FULL if config.full else PAPER
    seeds = range(seed, seed + plan.seeds)
    test = draw(plan.n, plan.density, 2000 if smoke else 10_000, rng.stream(seed, "memorization test"))
    few = (3, 5, 6) if smoke else (3, 4, 5, 6, 8, 10)
    say("memorization: few examples")
    memories = memorizers(plan, few, 2 if smoke else 4, 4000 if smoke else 20_000, seed)
    say("memorization: sweep of the number of examples")
    light = sweep(plan, plan.counts, seeds, 0.01, test)
    many = sweep(plan, (plan.many,), range(seed, seed + 3), 0.01, test)[0]
    say("memorization: the same with weight decay 1")
    heavy_counts = plan.counts[:: 1 if smoke else 3]
    heavy = sweep(plan, heavy_counts, range(seed, seed + 3), 1.0, test)
    say("memorization: other densities")
    largest = onset_sweep(plan, range(seed, seed + 3), test)
    onsets = np.array([onset(row.mean(0)) for row in largest.values()])
    values = _few(memories, few, seed) | _bump(light, many, plan, seed) | _learned(many, seed)
    decayed = np.array([[m.test for m in row] for row in heavy])
    values["decay_bump"] = measured(
        "decay_bump", decayed.max(0) / decayed[0], method="largest test loss over that with three examples", seed=seed
    )
    values["onset_spread"] = measured(
        "onset_spread",
        float(onsets.max() / onsets.min()),
        method="largest over smallest onset, three densities",
        seed=seed,
    )
    counts = (*plan.counts, plan.many)
    rows = [*[row[:3] for row in light], many]
    figures = (
        _loss_figure(plan, light, many, heavy_counts, decayed), _dimension_figure(counts, rows), _norm_figure(counts, rows),
        _onset_figure(largest),
        _film([*memories, *[row[0] for row in rows if len(row[0].examples.index) > max(few)]]),
    )  # fmt: skip
    x = draw_disjoint(plan.n, plan.density, few[-1], rng.stream(seed, "exact")).dense().double()
    return Outcome(values, {"memorized_loss": float(loss(*memorizer(x), x))}, figures)


def _few(memories: list[Memory], counts: tuple[int, ...], seed: int) -> dict:
    shape = [abs(dimensionality(m.hidden()) * t / M - 1).max().item() for m, t in zip(memories, counts, strict=True)]
    length = [abs(m.hidden().norm(dim=1) / radius(t) - 1).max().item() for m, t in zip(memories, counts, strict=True)]
    several = [i for i, t in enumerate(counts) if t >= 5]
    start = "disjoint examples, smallest network that fits, worst number of examples"
    return {
        "memorized_loss": measured("memorized_loss", max(m.train for m in memories), method=start, seed=seed),
        "dimensionality_gap": measured("dimensionality_gap", max(shape[i] for i in several), method=start, seed=seed),
        "radius_gap": measured("radius_gap", max(length[i] for i in several), method=start, seed=seed),
    }


def _bump(light: list[list[Memory]], many: list[Memory], plan: Plan, seed: int) -> dict:
    from scipy.stats import ttest_rel

    test = np.array([[m.test for m in row] for row in light])
    last = float(np.mean([m.test for m in many]))
    top = int(test[1:].mean(1).argmax()) + 1
    ends = np.maximum(test[0], last)
    probability = float(np.asarray(ttest_rel(test[top], ends, alternative="greater").pvalue))
    norm = np.array([[float(m.W.norm()) for m in row] for row in light]).mean(1)
    inside = float(0 < int(norm.argmax()) < len(norm) - 1)
    return {
        "bump": measured(
            "bump", test[top] / ends, method=f"test loss at T = {plan.counts[top]} over the ends", seed=seed
        ),
        "bump_p": measured("bump_p", probability, method=f"paired t test over {plan.seeds} seeds", seed=seed),
        "norm_peak": measured("norm_peak", inside, method="is the largest weight norm inside the range?", seed=seed),
    }


def _learned(many: list[Memory], seed: int) -> dict:
    count = len(many[0].examples.index)
    gaps = [float(abs(angular_gaps(m.W) - 72).max()) for m in many]
    features = [float((m.W.norm(dim=1) > 0.5).sum()) for m in many]
    norms, best = ([float(f(m)) for m in many] for f in (lambda m: m.W.norm(), lambda m: dimensionality(m.W).max()))
    method = f"{count} examples, {len(many)} seeds"
    found = {
        "pentagon_features": features,
        "pentagon_gap": gaps,
        "pentagon_norm": norms,
        "pentagon_dimensionality": best,
    }
    return {name: measured(name, samples, method=method, seed=seed) for name, samples in found.items()}


def _loss_figure(
    plan: Plan, light: list[list[Memory]], many: list[Memory], heavy_counts: tuple[int, ...], decayed: np.ndarray
) -> Figure:
    counts = (*plan.counts, plan.many)
    test, train = ([[getattr(m, kind) for m in row[:3]] for row in (*light, many)] for kind in ("test", "train"))
    zero = line("predicting zero", [counts[0], counts[-1]], [1, 1])
    panels = (
        Panel(
            "test loss", "number of examples T", "loss per example",
            (across("trained", counts, np.array(test).T), across("weight decay 1", heavy_counts, decayed.T), zero),
            x_log=True, y_log=True,
        ),
        Panel(
            "train loss", "number of examples T", "loss per example",
            (across("trained", counts, np.array(train).T), zero), x_log=True,
        ),
    )  # fmt: skip
    return Figure(
        "F3-loss", "Double descent in the number of examples", f"{SOURCE}, test loss over data set size",
        "The train loss leaves zero once the examples no longer fit on a circle; the test loss rises and then falls to "
        "the loss of a network that knows five features.",
        "Where the bump lies, and how high it is, depends on the length of training and the learning rate.",
        still(*panels), columns=2,
    )  # fmt: skip


def _dimension_figure(counts: tuple[int, ...], rows: list[list[Memory]]) -> Figure:
    dots: list[list[float]] = [[], [], [], []]
    for count, row in zip(counts, rows, strict=True):
        for k, d in ((0, dimensionality(row[0].W)), (2, dimensionality(row[0].hidden()))):
            top = d.sort(descending=True).values[:40].tolist()
            dots[k] += [count] * len(top)
            dots[k + 1] += top
    axis = np.geomspace(counts[0], counts[-1], 60)
    per_example = line("m/T", axis, M / axis)
    fifths = line("2/5", [counts[0], counts[-1]], [0.4, 0.4], role="guide")
    panels = (
        Panel("features", "number of examples T", "dimensionality", (points("features", dots[0], dots[1]), fifths), x_log=True),
        Panel("examples", "number of examples T", "dimensionality", (points("examples", dots[2], dots[3]), per_example), x_log=True),
    )  # fmt: skip
    return Figure(
        "F3-dimensionality", "Examples have dimensions, then features have", f"{SOURCE}, dimensionality of features and data",
        "Examples lie on m/T while they are few; features reach almost 2/5 when they are many.",
        "The forty largest of one seed each.", still(*panels), columns=2,
    )  # fmt: skip


def _norm_figure(counts: tuple[int, ...], rows: list[list[Memory]]) -> Figure:
    W, b = (np.array([[float(getattr(m, k).norm()) for m in row] for row in rows]).T for k in ("W", "b"))
    few = range(3, 31)
    exact = line("regular T-gon", few, [t**0.5 * radius(t) for t in few])
    five = line("√5", [counts[0], counts[-1]], [5**0.5] * 2, role="guide")
    panels = (
        Panel("weights", "number of examples T", "‖W‖", (across("trained", counts, W), exact, five), x_log=True, y_log=True),
        Panel("biases", "number of examples T", "‖b‖", (across("trained", counts, b),), x_log=True, y_log=True),
    )  # fmt: skip
    return Figure(
        "F3-norms", "Memorizing takes large weights", f"{SOURCE}, norms over data set size",
        "Norms grow with the polygon, peak where memorizing fails, and fall to those of a pentagon of features.",
        "Polygons of up to about fifteen examples share features by chance, so their norms need not follow the line.",
        still(*panels), columns=2,
    )  # fmt: skip


def _onset_figure(largest: dict[float, np.ndarray]) -> Figure:
    products = np.array(PRODUCTS)
    plain = tuple(across(f"density {p:g}", products / p, rows) for p, rows in largest.items())
    scaled = tuple(across(f"density {p:g}", products, rows) for p, rows in largest.items())
    label = "largest dimensionality of a feature"
    panels = (
        Panel("by examples", "number of examples T", label, plain, x_log=True),
        Panel("by active examples", "T (1 − S)", label, scaled, x_log=True),
    )
    return Figure(
        "F3-onset", "What sets the scale?", f"{SOURCE}, comment by Jermyn on the scale of the transition",
        "Curves of different densities fall together once the examples in which a feature is active are counted.",
        "Three densities within a factor of four, and a short training.", still(*panels), columns=2,
    )  # fmt: skip


def _film(memories: list[Memory]) -> Figure:
    frames = []
    for m in memories:
        W = m.W[m.W.norm(dim=1).argsort(descending=True)[:100]].numpy()
        h = m.hidden()[:200].numpy()
        panels = (
            Panel("features W_i", "", "", (series("arrows", "features", W[:, 0], W[:, 1]),), square=True),
            Panel("examples h_a", "", "", (series("points", "examples", h[:, 0], h[:, 1]),), square=True),
        )
        frames.append(Frame(f"{len(m.examples.index)}", panels))
    return Figure(
        "F3-vectors", "What is embedded?", f"{SOURCE}, vectors of features and data",
        "Few examples: they form a regular polygon and the features are scattered. Many: five features form a pentagon.",
        "Up to ten examples were drawn without common features; at most 100 features and 200 examples are drawn.",
        tuple(frames), "number of examples T", 2,
    )  # fmt: skip
