"""Anchors from trained toy networks: polytopes, codes of neurons, chance collisions, memorized examples.

The networks and their readings are those of `studies/toys`; here they are trained again, smaller and from other seeds.

Sticky dimensionalities. A value f is sticky if features gather there: per width, there are more of them within 0.0075 of
f than between 0.0075 and 0.0125 (the middle between the nearest two values, 3/8 and 2/5). The concentration is the part
of the first in the sum of both: 1/2 for an even spread, 2/3 if twice as many are within. Features that are not
represented still take a little of the dimensions, so that trained values lie up to 0.01 below the polytopes'; the wider
share, of represented features within 0.015 at the best density, allows for that.

Sources: Elhage et al. 2022, "Toy Models of Superposition"; Lecomte et al. 2023, "What Causes Polysemanticity?"; Henighan
et al. 2023, "Superposition, Memorization, and Double Descent".
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...measures import geometry, polytopes
from ...worlds.features import features
from ...worlds.fit import FitConfig, fit
from ...worlds.toys import Toy
from ..toys.base import Outcome, Say
from ..toys.followups import incidental, memorization
from ..toys.followups.memorization_examples import M, dimensionality, draw
from ..toys.paper import privileged, uniform
from ..toys.threads import one_thread
from .base import SEEDS, Table, seeds

# ------------------------------------------------------------------------------------------- sticky fractions
FRACTIONS = {
    "half": (1 / 2, polytopes.simplex(2)),
    "two_thirds": (2 / 3, polytopes.simplex(3)),
    "three_quarters": (3 / 4, polytopes.simplex(4)),
    "two_fifths": (2 / 5, polytopes.polygon(5)),
    "three_eighths": (3 / 8, polytopes.antiprism(4)),
}
"""Published dimensionality and the polytope that it belongs to."""
INSIDE, AROUND = 0.0075, 0.0125
SWEEP = np.geomspace(1.0, 0.1, 16).round(3)
"""Densities, evenly spaced on a logarithmic axis as in the paper's figure."""


def concentration(D: Float[Tensor, " k"], value: float) -> float:
    """How much the numbers gather at a value; NaN if none is near. Range: [0, 1]; 1/2 for an even spread."""
    away = (D - value).abs()
    inside = float((away < INSIDE).sum()) / INSIDE
    around = float(((away >= INSIDE) & (away < AROUND)).sum()) / (AROUND - INSIDE)
    return inside / (inside + around) if inside + around else float("nan")


def sticky(seed: int, say: Say) -> Outcome:
    """Dimensionalities of polytopes, and of the features of trained networks over densities."""
    table = Table(seed)
    shapes = [(f, geometry.feature_dimensionality(torch.from_numpy(s.vertices))) for f, s in FRACTIONS.values()]
    worst = max(float((D - fraction).abs().max()) for fraction, D in shapes)
    table.note("polytope_error", worst, "largest distance over the vertices of five polytopes", 0.0)
    say(f"200 features in 20 dimensions at {len(SWEEP)} densities, {SEEDS} seeds")
    recipe = FitConfig(
        steps=6000, batch=512, learning_rate=5e-3, schedule="cosine", seed=rng.derive(seed, "anchor sticky")
    )
    W = uniform.train(200, 20, SWEEP.tolist() * SEEDS, recipe).W.view(SEEDS, len(SWEEP), 200, 20)
    D = geometry.feature_dimensionality(W)
    text = f"features of all densities within {INSIDE} over those and the ones up to {AROUND} away, per width"
    for name, (fraction, _) in FRACTIONS.items():
        table.note(f"gather_{name}", [concentration(D[s][D[s] > 0], fraction) for s in range(SEEDS)], text)
        shares = [max(uniform.share_at(network, fraction) for network in W[s]) for s in range(SEEDS)]
        table.note(f"share_{name}", shares, f"represented features within {uniform.WIDTH}, largest over densities")
    star = geometry.dimensions_per_feature(W)
    for name, density in (("one", 0.85), ("half", 0.35)):
        at = int(np.abs(SWEEP - density).argmin())
        table.note(f"plateau_{name}", star[:, at].tolist(), f"m / ‖W‖² at density {SWEEP[at]}, n = 200, m = 20")
    toy = Toy(20, 5, SEEDS, seed=rng.derive(seed, "anchor dedicated"))
    fit(toy, features(20, 1.0, 0.9 ** torch.arange(20.0)), FitConfig(engine="exact"))
    ranked = geometry.feature_dimensionality(toy.W.detach()).sort(descending=True).values.double()
    text = "20 features of importance 0.9^i in 5 dimensions, density 1"
    table.note("dedicated", ranked[:, :5].mean(1).tolist(), f"{text}: mean dimensionality of the largest five")
    table.note("absent", ranked[:, 5:].amax(1).tolist(), f"{text}: largest dimensionality of the others")
    return table.outcome()


# -------------------------------------------------------------------------------------- codes of ReLU neurons
DENSITIES = (1.0, 0.5, 0.4, 0.3, 0.2, 0.15, 0.12, 0.08, 0.05, 0.03, 0.01)
STARTS = 32


def codes_of(by: dict[float, Tensor]) -> dict[str, float]:
    """Which of the published codes the networks [n m] of the densities use."""
    counts = {density: privileged.regime(W) for density, W in by.items()}
    dense, middle = [d for d in by if d >= 0.5], [d for d in by if 0.2 <= d <= 0.4]
    found = {
        "mono_dense": float(np.mean([counts[d] == (5, 5) for d in dense])),
        "three_in_two": float(np.mean([privileged.three_in_two(by[d]) for d in middle])),
        "pairs_03": float(privileged.pairs(by[0.03])[1]),
        "pairs_01": float(privileged.pairs(by[0.01])[1]),
        "trade": float(all(a[1] <= b[1] and a[0] >= b[0] for a, b in pairwise(counts.values()))),
    }
    for name, density in (("15", 0.15), ("12", 0.12), ("08", 0.08), ("05", 0.05)):
        found |= {f"mono_{name}": float(counts[density][0]), f"features_{name}": float(counts[density][1])}
    return found


def neurons(seed: int, say: Say) -> Outcome:
    """The network of lowest loss at every density, beside the published codes settled in their own minima."""
    table, runs = Table(seed), list[list[privileged.Best]]()
    for number, s in enumerate(seeds(seed, "neurons"), 1):
        say(f"{STARTS} networks at each of {len(DENSITIES)} densities, seed {number} of {SEEDS}")
        recipe = FitConfig(steps=5000, batch=512, learning_rate=1e-2, schedule="cosine", seed=s)
        runs.append(privileged.best_networks(DENSITIES, STARTS, recipe))
    say("settling the published codes")
    known = privileged.known(list(DENSITIES), 2**14)
    best = [min(at, key=lambda b: b.loss) for at in zip(*runs, strict=True)]
    winners = [privileged.settled(b, b.density) for b in best]
    lowest = [min(at, key=lambda b: b.loss) for at in zip(winners, *known.values(), strict=True)]
    exact, value = (codes_of({b.density: b.W for b in some}) for some in (lowest, best))
    per_seed = [codes_of({b.density: b.W for b in some}) for some in runs]
    text = f"lowest loss of {SEEDS * STARTS} networks per density (interval: range over {SEEDS} seeds)"
    for name in value:
        rows = [value[name], *(row[name] for row in per_seed)]
        table.note_best(name, rows, 0, text, exact[name])
    return table.outcome()


# ------------------------------------------------------------------------------------------ chance collisions
FEATURES, INSTANCES, TOGETHER = 64, 12, 4
"""`TOGETHER` networks are trained at once: what a core's cache holds."""


def _ratio(m: int, seed: int) -> float:
    first = incidental.start(FEATURES, m, INSTANCES, seed)
    W = torch.cat([incidental.sparsify(some, 6000) for some in first.split(TOGETHER)])
    return float(incidental.polysemantic(W).mean()) * 4 * m / FEATURES**2


def collisions(seed: int, say: Say) -> Outcome:
    """Neurons with two features after training under L1, over n²/(4m)."""
    table, repeats = Table(seed), seeds(seed, "collisions")
    for m in (256, 512):
        say(f"{FEATURES} features in {m} neurons, {SEEDS} times {INSTANCES} networks")
        with one_thread(), ThreadPoolExecutor(privileged.THREADS) as pool:
            ratios = list(pool.map(lambda s, m=m: _ratio(m, s), repeats))
        text = f"neurons with two features over n²/(4m), n = {FEATURES}, m = {m}, {INSTANCES} networks a seed"
        table.note(f"collisions_{m}", ratios, text, incidental.expected_collisions(FEATURES, m) * 4 * m / FEATURES**2)
    return table.outcome()


# ---------------------------------------------------------------------------------------- examples or features
FEW = (5, 6, 8)
PLAN = memorization.PAPER


def memory(seed: int, say: Say) -> Outcome:
    """Dimensionality of few examples, and the features that many examples teach."""
    table, repeats = Table(seed), seeds(seed, "memory")
    say(f"{', '.join(map(str, FEW))} examples")
    shares = list[list[float]]()
    for s in repeats:
        found = memorization.memorizers(PLAN, FEW, 4, 15_000, s % 2**31)
        shares.append([float(dimensionality(m.hidden()).mean()) * t / M for m, t in zip(found, FEW, strict=True)])
    text = "mean over examples, smallest of four networks that fit them; 1,000 features, density 0.01"
    for k, t in enumerate(FEW):
        table.note(f"example_share_{t}", [row[k] for row in shares], f"D of {t} examples over m/T; {text}")
    say(f"{PLAN.many:,} examples")
    test = draw(PLAN.n, PLAN.density, 2000, rng.stream(seed, "anchor memory"))
    first = repeats[0] % 2**31
    many = memorization.sweep(PLAN, (PLAN.many,), range(first, first + SEEDS), 0.01, test)[0]
    text = f"{PLAN.many:,} examples, {SEEDS} seeds"
    live = [m.W.norm(dim=1) > 0.5 for m in many]
    table.note("learned", [float(some.sum()) for some in live], f"features of norm above 0.5; {text}")
    table.note("angle", [float(abs(memorization.angular_gaps(m.W) - 72).max()) for m in many], f"degrees; {text}")
    part = [float(dimensionality(m.W)[some].mean()) for m, some in zip(many, live, strict=True)]
    table.note("feature_share", part, f"mean dimensionality of these features; {text}")
    return table.outcome()
