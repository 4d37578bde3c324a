"""Can the same task be learned with neurons that mean one thing, at no cost in loss?

N sparse features f (uniform values) are projected to m dimensions, x = P f with fixed unit directions. A network with
one hidden layer of k ReLU neurons has to recover them:

    f' = L2 · ReLU(L1 x + b),   b starts at 0 or at a negative offset

A neuron is monosemantic if more than 0.999 of its response to all features, each presented alone at value 1, comes from
one feature. A negative start makes every neuron deaf to all but the features that it is best aligned with, so training
ends in another minimum. Over the first half of training, biases are also pushed down, by 0.03 × learning rate a step (our
reading of the paper's "bias decay"), except where learning rates are compared, as in the paper.

Source: Jermyn, Schiefer and Hubinger 2022, "Engineering Monosemanticity in Toy Models" (N = 512, m = 64, k = 1024,
LAMB, 2^17 steps of 2^13 samples; here Adam, and a quarter of the sizes unless `full`). How the first layer starts is not
stated in what we read: here weights N(0, 1), so that an offset of −1 leaves neurons alive.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .... import rng
from ....records import Figure, Panel, Series
from ....worlds.loops import minimize
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, series, still
from ..threads import one_thread

SOURCE = "Jermyn et al. 2022, Engineering Monosemanticity in Toy Models"
DRIFT = 0.03
"""How far biases are pushed down per step and learning rate, over the first half of training."""
SHARE = 0.999
"""Part of a monosemantic neuron's response that its feature explains."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the study."""

    n: int
    m: int
    widths: tuple[int, ...]
    """Hidden neurons k; the middle one is used where k is not varied."""
    density: float
    steps: int
    """Of the comparison of offsets."""
    fewer_steps: int
    """Where widths and learning rates vary."""
    batch: int
    offsets: tuple[float, ...]
    rates: tuple[float, ...]
    seeds: int
    rate: float = 0.003

    @property
    def width(self) -> int:
        """Hidden neurons where they are not varied."""
        return self.widths[len(self.widths) // 2]


SMOKE = Plan(32, 12, (32, 64, 128), 1 / 16, 200, 60, 128, (0.0, -1.0), (0.003, 0.01), 3, 0.01)
PAPER = Plan(128, 32, (128, 256, 512), 1 / 64, 5000, 2500, 256, (0.0, -1.0, -2.0), (0.003, 0.01, 0.03), 3, 0.01)
FULL = Plan(512, 64, (512, 1024, 2048), 1 / 64, 2**17, 2**17, 2**13, (0.0, -1.0, -2.0), (0.001, 0.003, 0.01), 3)


@dataclass(frozen=True)
class Decoders:
    """Trained networks, one per seed."""

    response: Float[Tensor, "i n k"]
    """Activation of every neuron when a feature is presented alone at value 1."""
    loss: Float[Tensor, " i"]
    """On fresh samples, summed over features."""

    @property
    def alive(self) -> Bool[Tensor, "i k"]:
        """Neurons that respond to some feature."""
        return self.response.sum(1) > 0

    @property
    def monosemantic(self) -> Bool[Tensor, "i k"]:
        """Neurons that respond to one feature."""
        return focus(self.response) > SHARE

    @property
    def share(self) -> np.ndarray:
        """Part of the live neurons that is monosemantic, per seed."""
        return ((self.monosemantic & self.alive).sum(1) / self.alive.sum(1).clamp(min=1)).double().numpy()


def focus(response: Float[Tensor, "i n k"]) -> Float[Tensor, "i k"]:
    """Part of a neuron's response that its best feature explains; 0 for silent neurons.

    Range: 1/n (the same for all features) to 1 (one feature).
    """
    return response.amax(1) / response.sum(1).clamp(min=1e-12)


def projection(n: int, m: int, instances: int, generator: torch.Generator) -> Float[Tensor, "i n m"]:
    """Random directions of n features: an orthonormal frame of columns, then rows of length 1."""
    frame = torch.linalg.qr(torch.randn(instances, n, m, generator=generator)).Q
    return torch.nn.functional.normalize(frame, dim=-1)


def train(plan: Plan, width: int, offset: float, peak: float, steps: int, drift: float, seed: int) -> Decoders:
    """Networks for `plan.seeds` seeds side by side, on the same samples."""
    count, n, m = plan.seeds, plan.n, plan.m
    start = rng.stream(seed, "monosemantic")
    P = projection(n, m, count, start)
    first = torch.randn(count, m, width, generator=start)
    second = torch.randn(count, width, n, generator=start) / width
    b = torch.full((count, 1, width), offset)
    data = rng.stream(seed, "monosemantic data")

    def draw(rows: int) -> Float[Tensor, "rows n"]:
        values = torch.rand(rows, n, generator=data)
        return values * (torch.rand(rows, n, generator=data) < plan.density)

    def loss(f: Float[Tensor, "rows n"]) -> Float[Tensor, " i"]:
        hidden = torch.relu(torch.baddbmm(b, f @ P, first))
        return (hidden @ second - f).square().sum(2).mean(1)

    def push(step: int, now: float) -> None:
        if step < steps / 2:
            b.sub_(drift * now)

    with one_thread():
        minimize((first, b, second), lambda _: loss(draw(plan.batch)), steps=steps, peak=peak, warmup=0.02, after=push)
    with torch.no_grad():
        fresh = torch.stack([loss(draw(2000)) for _ in range(10)]).mean(0)
        response = torch.relu(torch.baddbmm(b, P, first))
    return Decoders(response, fresh)


def silence(plan: Plan) -> float:
    """Loss of predicting the mean."""
    return plan.n * (plan.density / 3 - plan.density**2 / 4)


def run(config: StudyConfig, say: Say) -> Outcome:
    """Vary the offset of the bias, the width and the learning rate."""
    plan, seed = SMOKE if config.smoke else FULL if config.full else PAPER, config.seed
    say("monosemantic: offsets of the bias")
    by_offset = {o: train(plan, plan.width, o, plan.rate, plan.steps, DRIFT, seed) for o in plan.offsets}
    say("monosemantic: widths")
    by_width = {k: train(plan, k, -1.0, plan.rate, plan.fewer_steps, DRIFT, seed) for k in plan.widths}
    say("monosemantic: learning rates")
    by_rate = {r: train(plan, plan.width, 0.0, r, plan.fewer_steps, 0.0, seed) for r in plan.rates}
    zero, low = by_offset[0.0], by_offset[-1.0]
    grows = np.diff([d.share for d in by_width.values()], axis=0).min(0) > 0
    method = f"N = {plan.n}, m = {plan.m}, k = {plan.width}, {plan.steps} steps, {plan.seeds} seeds"
    rows = {
        "share_low": low.share,
        "share_zero": zero.share,
        "share_ratio": float(low.share.mean() / max(float(zero.share.mean()), 1 / plan.width)),
        "loss_ratio": (low.loss / zero.loss).double().numpy(),
        "loss_ratio_naive": (low.loss / silence(plan)).double().numpy(),
        "grows_with_width": grows.astype(float),
        "rate_gain": list(by_rate.values())[-1].share - next(iter(by_rate.values())).share,
    }
    values = {name: measured(name, samples, method=method, seed=seed) for name, samples in rows.items()}
    figures = (
        _curves("offset", "bias at the start", by_offset, plan), _curves("width", "hidden neurons k", by_width, plan),
        _curves("rate", "learning rate", by_rate, plan), _responses(zero, low),
    )  # fmt: skip
    return Outcome(values, {}, figures)


def _curves(name: str, label: str, found: dict[float, Decoders] | dict[int, Decoders], plan: Plan) -> Figure:
    axis = list(found)
    shares = np.stack([d.share for d in found.values()], 1)
    losses = np.stack([(d.loss / silence(plan)).double().numpy() for d in found.values()], 1)
    log = name != "offset"
    return Figure(
        f"F5-{name}", f"Monosemantic neurons by {label}", f"{SOURCE}, fraction of monosemantic neurons",
        "The share of monosemantic neurons changes far more than the loss does.",
        "Sizes and numbers of steps are reduced, and the optimizer is another one than in the paper.",
        still(
            Panel("monosemantic share of live neurons", label, "share", (across("seeds", axis, shares),), x_log=log),
            Panel("loss over that of a silent network", label, "ratio", (across("seeds", axis, losses),), x_log=log),
        ), columns=2,
    )  # fmt: skip


def _responses(zero: Decoders, low: Decoders) -> Figure:
    edges = np.linspace(0, 1, 21)

    def shares(name: str, found: Decoders) -> Series:
        counts, _ = np.histogram(focus(found.response)[found.alive].numpy(), edges)
        return series("line", name, (edges[1:] + edges[:-1]) / 2, counts / max(counts.sum(), 1))

    panels = tuple(
        Panel(title, "part of the response to the best feature", "share of live neurons", (shares(title, found),))
        for title, found in (("bias starts at 0", zero), ("bias starts at −1", low))
    )
    return Figure(
        "F5-neurons", "One feature per neuron, or many", f"{SOURCE}, histograms of neurons",
        "From zero, the best feature explains a small part of most neurons; from −1, more neurons respond to one only.",
        "Features are presented alone at value 1; together they may drive a neuron that none of them drives alone.",
        still(*panels), columns=2,
    )  # fmt: skip
