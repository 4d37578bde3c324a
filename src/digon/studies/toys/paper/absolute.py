"""Can a hidden layer compute more absolute values than its neurons allow one by one?

    y = ReLU(ReLU(x V) Wᵀ + b),  target |x|,  x ~ U[−1, 1] with probability p, no hidden bias

Without superposition every feature needs two neurons, ReLU(x) and ReLU(−x): m neurons give m/2 features, and the rest
cost their variance. A network computes *in superposition* only if it beats that baseline,

    L_naive = Σ_{i ≥ m/2} I_i (p/3 − p²/4).

1. n=3, m=6: enough neurons, the exact solution.
2. n=100, m=40, importance 0.8^i, seven densities: loss against the baseline, neurons by polysemanticity. The output
   starts leaky and is annealed to a ReLU; without that, units die early and the loss stays far above the baseline.
3. n=6, m=10: the asymmetric motif. One neuron holds a large and a small feature, with the input weights' ratio the
   inverse of the output weights'; an inhibitor neuron pushes the small feature's output down when the large one fires.

Neurons are compared after scaling each to largest input weight 1, which changes nothing that they compute.
Source: Elhage et al. 2022, "Toy Models of Superposition", computation in superposition.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....measures.geometry import interference
from ....records import Figure, Frame, Measurement, Panel, Series
from ....worlds.features import Features, features
from ....worlds.fit import FitConfig, fit
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..quadrature import pattern_loss, split_loss
from .stacks import stack

DENSITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
SMOKE_DENSITIES = (0.3, 0.01)
SOURCE = "Elhage et al. 2022, computation in superposition"
SLIGHT, HIGH = 0.1, 0.5
"""A neuron's second largest scaled weight: below the first it is monosemantic, from the second highly polysemantic."""


@dataclass(frozen=True)
class Motif:
    """A neuron that holds a large and a small feature, and the neurons that undo its harm."""

    neuron: int
    large: int
    small: int
    ratio: float
    """Input weight of the large feature over that of the small one."""
    inhibitors: tuple[int, ...]


def naive_loss(n: int, m: int, density: float, importance: Float[Tensor, " n"]) -> float:
    """Loss of one neuron per signed feature for the most important m/2 features, the others guessed."""
    return float(importance[m // 2 :].sum()) * (density / 3 - density**2 / 4)


def second_weights(V: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b m"]:
    """Second largest input weight of every neuron, relative to its largest. Range: [0, 1]."""
    top = V.abs().topk(2, dim=-2).values
    return top[..., 1, :] / top[..., 0, :].clamp_min(torch.finfo(V.dtype).tiny)


def neuron_classes(V: Float[Tensor, "i n m"]) -> Float[Tensor, "i three"]:
    """Monosemantic, slightly and highly polysemantic neurons of every network."""
    second = second_weights(V)
    mono, high = second < SLIGHT, second >= HIGH
    return torch.stack([c.sum(-1) for c in (mono, ~mono & ~high, high)], -1).double()


def motifs(V: Float[Tensor, "n m"], W: Float[Tensor, "n m"]) -> list[Motif]:
    """Asymmetric superposition: neurons with two working features whose input weights differ at least twofold."""
    gain, found = V.abs() * W, list[Motif]()
    for k in range(V.shape[1]):
        working = (gain[:, k] > 0.5).nonzero().flatten().tolist()
        if len(working) != 2:
            continue
        large, small = sorted(working, key=lambda i: -abs(float(V[i, k])))
        ratio = abs(float(V[large, k] / V[small, k]))
        if ratio < 2:
            continue
        harm = V[large, k].abs() * W[small, k]
        same = V[large].sign() == V[large, k].sign()
        undo = V[large].abs() * W[small]
        stops = (same & (undo <= -0.5 * harm)).nonzero().flatten().tolist()
        found.append(Motif(k, large, small, ratio, tuple(j for j in stops if j != k)))
    return found


def run(config: StudyConfig, say: Say) -> Outcome:
    """Exact solution, baseline ratios and neuron classes over densities, and the motif with its inhibitors."""
    say("n=3, m=6: enough neurons")
    values, solved = _enough(config)
    say("n=100, m=40: seven densities")
    more, exact, wide = _crowded(config)
    values |= more
    say("n=6, m=10: the motif")
    more, motif = _motif(config)
    values |= more
    return Outcome(values, exact, (solved, *wide, motif))


def _training(config: StudyConfig, steps: int) -> FitConfig:
    return FitConfig(
        steps=steps, batch=256 if config.smoke else 512, learning_rate=1e-2, schedule="cosine", leak=0.1,
        seed=config.seed, device=config.device,
    )  # fmt: skip


def _train(shape: tuple[int, int, int], law: Features, training: FitConfig) -> tuple[Toy, Tensor]:
    n, m, instances = shape
    toy = Toy(n, m, instances, hidden="relu", tied=False, target="absolute", seed=training.seed)
    return toy, fit(toy, law, training).loss


# --------------------------------------------------------------------------------------------------- enough neurons
def _enough(config: StudyConfig) -> tuple[dict[str, Measurement], Figure]:
    starts = 16 if config.smoke else 48
    law = features(3, 0.5, values="symmetric")
    toy, loss = _train((3, 6, starts), law, _training(config, 800 if config.smoke else 4000))
    winner = int(loss.argmin())
    V, W = toy.V[winner].detach(), toy.W[winner].detach()
    strongest = V.abs().argmax(0)
    signed = {(int(i), int(V[i, k].sign())) for k, i in enumerate(strongest.tolist())}
    products = (V.abs() * W).gather(0, strongest[None]).flatten()
    values = {
        "solved_loss": pattern_loss(toy, law, winner),
        "signed_neurons": float(len(signed)),
        "product_error": float((products - 1).abs().max()),
        "solved_second_weight": float(second_weights(V).max()),
    }
    method = f"n=3, m=6, density 0.5, best of {starts} starts"
    figure = Figure(
        "E9-solved", "Three absolute values in six neurons", SOURCE,
        "Every feature owns one neuron for its positive and one for its negative values, with equal output weights.",
        "There are two neurons per feature here, so nothing is in superposition.",
        (Frame("", _both(V, W)),), columns=2,
    )  # fmt: skip
    return {k: measured(k, v, method=method, seed=config.seed) for k, v in values.items()}, figure


# --------------------------------------------------------------------------------------------------- too few neurons
def _crowded(config: StudyConfig) -> tuple[dict[str, Measurement], dict[str, float], tuple[Figure, ...]]:
    densities, starts = (SMOKE_DENSITIES, 2) if config.smoke else (DENSITIES, 6)
    n, m = (20, 8) if config.smoke else (100, 40)
    importance = 0.8 ** torch.arange(n, dtype=torch.float64)
    column = torch.tensor(densities, dtype=torch.float64).repeat_interleave(starts)[:, None]
    law = features(n, column.expand(-1, n), importance, values="symmetric")
    training = _training(config, 1000 if config.smoke else 10_000)
    toy, _ = _train((n, m, len(column)), law, training)
    naive = torch.tensor([naive_loss(n, m, float(p), importance) for p in column])
    ratio = split_loss(toy, law, rng.stream(config.seed, "absolute")) / naive
    classes, V = neuron_classes(toy.V.detach()), toy.V.detach()
    values, best = dict[str, Measurement](), list[int]()
    for k, density in enumerate(densities):
        mine, at = slice(k * starts, (k + 1) * starts), tag(density)
        best.append(k * starts + int(ratio[mine].argmin()))
        found: dict[str, float | list[float]] = {f"ratio_{at}": ratio[mine].tolist()}
        found[f"best_ratio_{at}"] = float(ratio[mine].min())
        for c, kind in enumerate(("mono", "slight", "high")):
            found[f"{kind}_{at}"] = classes[mine, c].tolist()
        gaps = _importance_gap(V[mine])
        if gaps and density < 0.1:
            found[f"importance_gap_{at}"] = gaps
        method = f"n={n}, m={m}, {starts} starts, leaky start"
        values |= {name: measured(name, v, method=method, seed=config.seed) for name, v in found.items()}
    means = [values[f"mono_{tag(d)}"].value for d in densities]
    falling = float(all(b <= a + 0.5 for a, b in pairwise(means)))
    values["mono_falls"] = measured("mono_falls", falling, method="mean count never rises by more than half a neuron")
    values["stuck_ratio"] = _without_leak(config, law, training, n, m)
    pick = [(densities[k], V[i], toy.W[i].detach(), float(ratio[i])) for k, i in enumerate(best)]
    return values, {}, (_stacks(pick), _counts(densities, values))


def tag(density: float) -> str:
    """Density as part of a quantity's name."""
    return f"p{density:g}".replace("0.", "0_")


def _importance_gap(V: Float[Tensor, "i n m"]) -> list[float]:
    """Mean index of the main feature of highly polysemantic neurons minus that of monosemantic ones, per network."""
    second, main = second_weights(V), V.abs().argmax(-2).double()
    gaps = [float(f[s >= HIGH].mean() - f[s < SLIGHT].mean()) for s, f in zip(second, main, strict=True)]
    return [g for g in gaps if g == g]


def _without_leak(config: StudyConfig, law: Features, training: FitConfig, n: int, m: int) -> Measurement:
    """Loss over the baseline at density 0.01 when the output is a ReLU from the start and the rate is the usual one."""
    seeds = 2 if config.smoke else 3
    plain = features(n, 0.01, law.importance, values="symmetric")
    toy, _ = _train((n, m, seeds), plain, replace(training, leak=0.0, learning_rate=3e-3))
    loss = split_loss(toy, plain, rng.stream(config.seed, "stuck"))
    ratios = loss / naive_loss(n, m, 0.01, law.importance)
    return measured(
        "stuck_ratio", ratios.tolist(), method="density 0.01, no leak, learning rate 3e-3", seed=config.seed
    )


# --------------------------------------------------------------------------------------------------- the motif
def _motif(config: StudyConfig) -> tuple[dict[str, Measurement], Figure]:
    starts = 12 if config.smoke else 48
    laws = (features(6, 0.3, values="symmetric"), features(6, 0.1, 0.8 ** torch.arange(6.0), values="symmetric"))
    training = _training(config, 800 if config.smoke else 8000)
    values, panels = dict[str, Measurement](), list[Panel]()
    for law, suffix in zip(laws, ("", "_decaying"), strict=True):
        toy, loss = _train((6, 10, starts), law, training)
        found = [motifs(V, W) for V, W in zip(toy.V.detach(), toy.W.detach(), strict=True)]
        full = [[m for m in each if m.inhibitors and 2.5 <= m.ratio <= 6] for each in found]
        winner = int(loss.argmin())
        share = [float(bool(each)) for each in full]
        density = float(law.density.flatten()[0])
        naive = naive_loss(6, 10, density, law.importance.double())
        method = f"n=6, m=10, density {density:g}, {starts} starts"
        numbers: dict[str, float | list[float]] = {
            "motif_share": share,
            "motif_count": float(len(full[winner])),
            "motif_ratio": [m.ratio for m in full[winner]] or float("nan"),
            "motif_loss": pattern_loss(toy, law, winner),
            "motif_loss_over_naive": pattern_loss(toy, law, winner) / naive,
        }
        values |= {k + suffix: measured(k + suffix, v, method=method, seed=config.seed) for k, v in numbers.items()}
        if not suffix:
            V, W = toy.V[winner].detach(), toy.W[winner].detach()
            panels = [*_both(V, W, full[winner])]
    figure = Figure(
        "E9-motif", "The asymmetric motif: two features in one neuron, and an inhibitor", SOURCE,
        "A neuron with two features reads one strongly and writes it weakly, and the other the other way round. Another "
        "neuron, fired by the strongly read feature, writes a negative weight onto the other one's output.",
        "The best network of the starts; other starts find other arrangements of almost the same loss.",
        (Frame("", tuple(panels)),), columns=2,
    )  # fmt: skip
    return values, figure


# --------------------------------------------------------------------------------------------------- figures
def scaled(V: Float[Tensor, "n m"], W: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Input weights scaled to 1 at most in every neuron, output weights inversely: the same function."""
    largest = V.abs().amax(0).clamp_min(1e-9)
    return V / largest, W * largest


def _both(V: Tensor, W: Tensor, found: Sequence[Motif] = ()) -> tuple[Panel, Panel]:
    """Input and output weights, stacked, colored by feature; neurons sorted by their main feature."""
    order = (V.abs().argmax(0) * 2 + (V.gather(0, V.abs().argmax(0)[None])[0] < 0)).argsort()
    place = {int(k): i for i, k in enumerate(order)}
    index, last = torch.arange(float(len(V))), len(V) - 1.0
    inputs, outputs = (a[:, order] for a in scaled(V, W))
    motif = ", ".join(str(place[m.neuron]) for m in found)
    stops = ", ".join(str(place[j]) for m in found for j in m.inhibitors)
    return (
        stack(inputs, f"input weights; motif in {motif}" if motif else "input weights", index, "feature", (0.0, last)),
        stack(outputs, f"output weights; stopped by {stops}" if stops else "output weights", index, "feature", (0.0, last)),
    )  # fmt: skip


def _stacks(picked: list[tuple[float, Tensor, Tensor, float]]) -> Figure:
    frames = list[Frame]()
    for density, V, W, ratio in picked:
        order = (V.abs().argmax(0).double() + second_weights(V) / 2).argsort()
        classes = [int(c) for c in neuron_classes(V[None])[0]]
        inputs = scaled(V[:, order], W[:, order])[0]
        crowd, index = interference(inputs).clamp(max=1), torch.arange(float(len(V)))
        panels = (
            stack(inputs.abs(), f"loss {ratio:.2f} × baseline", crowd, "interference"),
            stack(inputs.abs(), f"{classes[0]} mono, {classes[1]} slightly, {classes[2]} highly", index, "feature", (0.0, len(V) - 1.0)),
        )  # fmt: skip
        frames.append(Frame(f"{density:g}", panels))
    return Figure(
        "E9-stacks", "Input weights of every neuron, from dense to sparse features", SOURCE,
        "Dense: one band per bar. Sparser: small second features appear, then neurons of unimportant features carry "
        "many features of similar size, then all neurons do.",
        "Polysemantic neurons alone do not show computation in superposition: look at the loss over the baseline.",
        tuple(frames), control="density", columns=2,
    )  # fmt: skip


def _counts(densities: tuple[float, ...], values: dict[str, Measurement]) -> Figure:
    x = tuple(1 / d for d in densities)

    def line(kind: str, label: str) -> Series:
        m = [values[f"{kind}_{tag(d)}"] for d in densities]
        get = lambda name: tuple(round(getattr(v, name), 4) for v in m)  # noqa: E731
        return Series("line", label, x, get("value"), low=get("low"), high=get("high"))

    kinds = (("mono", "monosemantic"), ("slight", "slightly polysemantic"), ("high", "highly polysemantic"))
    counts = Panel("Neurons", "1 / density", "neurons", tuple(line(*k) for k in kinds), x_log=True)
    guide = Series("line", "baseline without superposition", (x[0], x[-1]), (1.0, 1.0), role="theory")
    ratio = (line("ratio", "mean of the starts"), line("best_ratio", "best start"), guide)
    losses = Panel("Loss over the baseline", "1 / density", "loss / naive loss", ratio, x_log=True, y_log=True)
    return Figure(
        "E9-counts", "Polysemantic neurons and the gain they bring", SOURCE,
        "As features get sparser, monosemantic neurons give way to polysemantic ones and the loss falls below what one "
        "neuron per signed feature could reach.",
        "At density 1 the networks waste neurons on duplicates and stay above the baseline: an optimization failure.",
        (Frame("", (counts, losses)),), columns=2,
    )  # fmt: skip
