"""Four small toys on features that are not a bag of independent directions.

    manifold       neighboring features of a circle are active together, x_φ = μ cos((φ − θ)/l) within a quarter period:
                   do their embeddings form a circle?
    heads          skip trigrams "a … b → c" for one attention layer: how many heads does any table f(a, b) need?
                   logits(a, b) = direct(b) + Σ_h [α_h(a, b) V_h(a) + (1 − α_h(a, b)) R_h]
    counting       dictionaries of several sizes for the same data: is the description (bits of the codes and of what they
                   leave) shortest at the true number of features?
    composition    sixteen items as sixteen features, or as four shapes and four colors: does a probe for the shape, fitted
                   on twelve items, know the other four?

Source: Transformer Circuits updates of January, May and July 2023 (feature counting, feature manifolds, attention-head
superposition), and Olah 2023, "Distributed Representations: Composition & Superposition". They state no sizes; all
sizes here are ours.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .... import rng
from ....records import Figure, Frame, Panel
from ....worlds.loops import minimize
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, line, points, series, still
from ..threads import one_thread

SOURCE = "Transformer Circuits updates 2023"
CIRCLE = 48
"""Features on the circle."""
REACH = 0.5
"""Length l: a value θ activates features up to l π/2 away."""
DIMENSIONS = (2, 3, 4, 6)
HEADS = (1, 2, 3)
SOURCES, DESTINATIONS, OUTPUTS = 24, 24, 24
"""Tokens a, b and c of the skip trigrams."""
BINS = 100
SIDE = 4
"""Shapes, and colors."""


def manifold_rows(rows: int, generator: torch.Generator) -> Float[Tensor, "rows n"]:
    """x_φ = μ cos(d/l) where the distance d of φ to a random angle θ is at most l π/2, μ ~ U[0, 1]; else 0."""
    theta = 2 * math.pi * torch.rand(rows, 1, generator=generator)
    gap = (2 * math.pi * torch.arange(CIRCLE) / CIRCLE - theta).abs()
    gap = torch.minimum(gap, 2 * math.pi - gap)
    return torch.rand(rows, 1, generator=generator) * torch.where(gap <= REACH * math.pi / 2, (gap / REACH).cos(), 0.0)


def train_manifold(m: int, seeds: int, steps: int, seed: int) -> Float[Tensor, "i n m"]:
    """ReLU-output autoencoders of the circle's features."""
    start = rng.stream(seed, "updates manifold", m)
    W = (2 / (CIRCLE + m)) ** 0.5 * torch.randn(seeds, CIRCLE, m, generator=start)
    b = torch.zeros(seeds, 1, CIRCLE)
    data = rng.stream(seed, "updates manifold rows", m)

    def loss(_: int) -> Float[Tensor, " i"]:
        x = manifold_rows(256, data)
        return (torch.relu(torch.baddbmm(b, x @ W, W.mT)) - x).square().sum(2).mean(1)

    minimize((W, b), loss, steps=steps, peak=0.01)
    return W


def plane(W: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n 2"], float]:
    """Features in the plane of the first two principal components, and the share of the variance that it holds."""
    centered = W - W.mean(0)
    U, S, _ = torch.linalg.svd(centered, full_matrices=False)
    return U[:, :2] * S[:2], float(S[:2].square().sum() / S.square().sum())


def circular_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """|correlation| of two sets of angles: sines of all differences between pairs, in the form of moments.

    Range: 0 to 1. Rotating or reflecting either set changes nothing. Source: Fisher and Lee 1983.
    """
    x, y = torch.exp(1j * a.double()), torch.exp(1j * b.double())
    together = (x * y.conj()).mean().abs() ** 2 - (x * y).mean().abs() ** 2
    alone = (1 - (x * x).mean().abs() ** 2) * (1 - (y * y).mean().abs() ** 2)
    return float((together / alone.clamp(min=1e-12).sqrt()).abs())


def train_heads(heads: int, seeds: int, steps: int, seed: int) -> Float[Tensor, " i"]:
    """Cross-entropy, in nats, of one attention layer on random tables f(a, b); their entropy is 0."""
    start = rng.stream(seed, "updates heads", heads)
    table = torch.randint(OUTPUTS, (seeds, SOURCES, DESTINATIONS), generator=rng.stream(seed, "updates table"))

    def some(*shape: int) -> Tensor:
        return 0.5 * torch.randn(seeds, *shape, generator=start)

    scores, direct = some(heads, SOURCES, DESTINATIONS), some(DESTINATIONS, OUTPUTS)
    values, rest = some(heads, SOURCES, OUTPUTS), some(heads, OUTPUTS)

    def loss(_: int) -> Float[Tensor, " i"]:
        return head_losses(scores, values, rest, direct, table)

    minimize((scores, direct, values, rest), loss, steps=steps, peak=0.1)
    with torch.no_grad():
        return loss(0)


def head_losses(
    scores: Float[Tensor, "i h a b"], values: Float[Tensor, "i h a c"], rest: Float[Tensor, "i h c"],
    direct: Float[Tensor, "i b c"], table: Int[Tensor, "i a b"],
) -> Float[Tensor, " i"]:  # fmt: skip
    """Mean cross-entropy over all pairs (a, b)."""
    attention = torch.sigmoid(scores)
    # What attention to a adds over attention to the first token; the latter is the same for all a.
    moved = torch.einsum("ihab,ihac->iabc", attention, values - rest[:, :, None])
    logits = moved + rest.sum(1)[:, None, None] + direct[:, None]
    picked = logits.log_softmax(-1).gather(-1, table[..., None])
    return -picked.mean((1, 2, 3))


@dataclass(frozen=True)
class Description:
    """Bits per example that a dictionary takes."""

    codes: float
    residual: float

    @property
    def total(self) -> float:
        """All bits."""
        return self.codes + self.residual


def counting_data(truth: int, rows: int, d: int, seed: int) -> Float[Tensor, "rows d"]:
    """Sparse nonnegative combinations of random directions, two active features on average."""
    draw = rng.stream(seed, "updates counting", truth)
    directions = torch.nn.functional.normalize(torch.randn(truth, d, generator=draw), dim=1)
    active = torch.rand(rows, truth, generator=draw) < 2 / truth
    return (active * (0.2 + 0.8 * torch.rand(rows, truth, generator=draw))) @ directions


def sparse_codes(
    x: Float[Tensor, "rows d"],
    D: Float[Tensor, "k d"],
    penalty: float,
    start: Float[Tensor, "rows k"] | None,
    steps: int,
) -> Float[Tensor, "rows k"]:
    """Nonnegative codes c that minimize ½ |x − c D|² + penalty Σ c, by accelerated projected gradient descent.

    With a start, only codes that are positive there may be positive.
    """
    G, xD = D @ D.mT, x @ D.mT - penalty
    size = 1 / float(torch.linalg.matrix_norm(G, 2))
    allowed = torch.ones_like(xD) if start is None else (start > 0).to(xD)
    c = ahead = torch.zeros_like(xD) if start is None else start
    momentum = 1.0
    for _ in range(steps):
        new = allowed * (ahead - size * (ahead @ G - xD)).clamp(min=0)
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / grown * (new - c)
        c, momentum = new, grown
    return c


def factorize(x: Float[Tensor, "rows d"], k: int, rounds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Codes and dictionary of k directions of length 1: sparse codes and least squares in turn."""
    draw = rng.stream(seed, "updates dictionary", k)
    D = torch.nn.functional.normalize(x[torch.randperm(len(x), generator=draw)[:k]] + 1e-3, dim=1)
    for _ in range(rounds):
        c = sparse_codes(x, D, 0.05, None, 30)
        G = c.mT @ c
        solved = torch.linalg.solve(G + 1e-3 * G.diagonal().mean() * torch.eye(k), c.mT @ x)
        idle = G.diagonal() < 1e-6  # directions that nothing uses start again at an example
        fresh = x[torch.randint(len(x), (k,), generator=draw)]
        D = torch.nn.functional.normalize(torch.where(idle[:, None], fresh, solved), dim=1)
    # The penalty shrinks codes: once it has chosen which are positive, they are fitted without it.
    return sparse_codes(x, D, 0.0, sparse_codes(x, D, 0.05, None, 100), 100), D


def describe(x: Float[Tensor, "rows d"], codes: Float[Tensor, "rows k"], D: Float[Tensor, "k d"]) -> Description:
    """Entropies, column by column, of codes and residuals in bins of a hundredth of the largest code."""
    width = float(codes.max()) / BINS

    def bits(columns: Tensor) -> float:
        total = 0.0
        for column in (columns / width).round().long().mT:
            share = column.unique(return_counts=True)[1].double() / len(column)
            total -= float((share * share.log2()).sum())
        return total

    return Description(bits(codes), bits(x - codes @ D))


def items(compositional: bool) -> Float[Tensor, "16 n"]:
    """The sixteen items: one feature each, or one of four shapes and one of four colors."""
    eye = torch.eye(SIDE)
    if not compositional:
        return torch.eye(SIDE**2)
    return torch.cat([eye.repeat_interleave(SIDE, 0), eye.repeat(SIDE, 1)], 1)


def probe_accuracy(compositional: bool, m: int, seeds: int, steps: int, seed: int) -> np.ndarray:
    """Share of the four held-out items, per seed, whose shape a linear probe on the hidden layer tells."""
    x = items(compositional)
    n = x.shape[1]
    start = rng.stream(seed, "updates composition", m, int(compositional))
    W = (2 / (n + m)) ** 0.5 * torch.randn(seeds, n, m, generator=start)
    b = torch.zeros(seeds, 1, n)
    minimize((W, b), lambda _: (torch.relu(x @ W @ W.mT + b) - x).square().sum(2).mean(1), steps=steps, peak=0.02)
    shape = torch.arange(SIDE**2) // SIDE
    held = shape == torch.arange(SIDE**2) % SIDE  # one item of every shape and every color
    hidden = torch.cat([x @ W, torch.ones(seeds, SIDE**2, 1)], 2)
    known, label = hidden[:, ~held], torch.nn.functional.one_hot(shape[~held], SIDE).float()
    ridge = 1e-3 * torch.eye(m + 1)
    probe = torch.linalg.solve(known.mT @ known + ridge, known.mT @ label)
    return ((hidden[:, held] @ probe).argmax(2) == shape[held]).double().mean(1).numpy()


def run(config: StudyConfig, say: Say) -> Outcome:
    """All four toys."""
    with one_thread():
        return _run(config, say)


def _run(config: StudyConfig, say: Say) -> Outcome:
    smoke, seed = config.smoke, config.seed
    steps, seeds = (80, 3) if smoke else (2500, 4)
    say("updates: features of a circle")
    circles = {m: train_manifold(m, seeds, steps, seed) for m in DIMENSIONS}
    found = {m: [plane(W) for W in Ws] for m, Ws in circles.items()}
    angle = 2 * math.pi * torch.arange(CIRCLE) / CIRCLE
    turns = [circular_correlation(torch.atan2(P[:, 1], P[:, 0]), angle) for P, _ in found[2]]
    say("updates: skip trigrams")
    entropy = {h: train_heads(h, seeds, 60 if smoke else 2500, seed).double().numpy() for h in HEADS}
    say("updates: counting features")
    truths = (40,) if smoke else (40, 56, 64)
    counts = {t: _count(t, 500 if smoke else 2000, 5 if smoke else 50, seed) for t in truths}
    error = [abs(_best(row) - t) / t for t, row in counts.items()]
    say("updates: composition")
    sizes = (2, 8) if smoke else tuple(range(2, 9))
    probes = {
        kind: np.stack([probe_accuracy(kind, m, 8, 100 if smoke else 1500, seed) for m in sizes])
        for kind in (False, True)
    }
    rows = {
        "circle_angle": turns,
        "circle_plane": [share for _, share in found[3]],
        "two_heads": entropy[2],
        "one_head": entropy[1],
        "count_error": error,
        "held_out_composed": probes[True][-1],
        "held_out_items": probes[False][-1],
    }
    method = "trained on fresh samples or full tables, several seeds"
    values = {name: measured(name, samples, method=method, seed=seed) for name, samples in rows.items()}
    figures = (
        _circle_figure(found), _head_figure(entropy), _count_figure(counts), _probe_figure(sizes, probes),
    )  # fmt: skip
    return Outcome(values, {}, figures)


def _count(truth: int, rows: int, rounds: int, seed: int) -> dict[int, Description]:
    x = counting_data(truth, rows, 32, seed)
    sizes = sorted({round(truth * s) for s in (0.5, 0.65, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75)})
    return {k: describe(x, *factorize(x, k, rounds, seed)) for k in sizes}


def _best(found: dict[int, Description]) -> int:
    return min(found, key=lambda k: found[k].total)


def _circle_figure(found: dict[int, list[tuple[Tensor, float]]]) -> Figure:
    frames = []
    for m, planes in found.items():
        P, share = planes[0]
        dots = points("features", P[:, 0], P[:, 1], color=360 * np.arange(CIRCLE) / CIRCLE)
        title = f"{100 * share:.0f} % of the variance"
        panel = Panel(
            title, "first component", "second component", (dots,), square=True, color_label="angle of the feature"
        )
        frames.append(Frame(f"{m}", (panel,)))
    return Figure(
        "F4-circle", "Features that lie on a circle", f"{SOURCE}, feature manifolds",
        "In two dimensions the features form one circle in their natural order.",
        "With more dimensions the curve winds through all of them, and a plane shows only a part of it.",
        tuple(frames), "hidden dimensions m",
    )  # fmt: skip


def _head_figure(entropy: dict[int, np.ndarray]) -> Figure:
    samples = np.stack(list(entropy.values()), 1)
    chance = line("chance", [HEADS[0], HEADS[-1]], [math.log(OUTPUTS)] * 2)
    goal = line("0.01 nats", [HEADS[0], HEADS[-1]], [0.01, 0.01], role="guide")
    return Figure(
        "F4-heads", "Two heads store any table of skip trigrams", f"{SOURCE}, attention-head superposition",
        "One head leaves a clear error; two fit the random table, though each reads only one source token.",
        "Attention from every b to every a is free here; in a network it has to fit into the head's dimensions.",
        still(Panel(f"{SOURCES} × {DESTINATIONS} → {OUTPUTS}", "heads", "cross-entropy in nats",
                    (across("trained", HEADS, samples), chance, goal), y_log=True)),
    )  # fmt: skip


def _count_figure(counts: dict[int, dict[int, Description]]) -> Figure:
    panels = []
    for truth, found in counts.items():
        sizes = list(found)
        totals, codes = [d.total for d in found.values()], [d.codes for d in found.values()]
        curves = (
            series("line", "total", sizes, totals), series("line", "codes", sizes, codes),
            line("truth", [truth, truth], [0, max(totals)]),
        )  # fmt: skip
        panels.append(Panel(f"{truth} features in 32 dimensions", "size of the dictionary", "bits per example", curves))
    return Figure(
        "F4-counting", "Counting features by description length", f"{SOURCE}, feature counting",
        "The description shortens steeply up to the true number of features and lengthens slowly beyond it.",
        "Data without noise, and a penalty chosen in advance; noise would blur the corner.", still(*panels),
    )  # fmt: skip


def _probe_figure(sizes: tuple[int, ...], probes: dict[bool, np.ndarray]) -> Figure:
    curves = tuple(
        across(name, sizes, probes[kind].T) for kind, name in ((True, "shapes and colors"), (False, "sixteen items"))
    )
    chance = line("chance", [sizes[0], sizes[-1]], [1 / SIDE] * 2, role="guide")
    return Figure(
        "F4-composition", "Composition generalizes, superposed items do not", "Olah 2023, Composition and superposition",
        "With enough dimensions the probe knows the shape of unseen combinations only if shapes are features.",
        "Both networks reconstruct; that one of them generalizes comes from its inputs, not from training.",
        still(Panel("shape of held-out items", "hidden dimensions m", "accuracy of a linear probe", (*curves, chance))),
    )  # fmt: skip
