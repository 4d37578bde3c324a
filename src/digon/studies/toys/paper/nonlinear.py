"""Can one number carry two dense ones? Nonlinear compression, and what it costs a ReLU network.

Two independent x, y ~ U[0, 1] are packed into t = (⌊Zx⌋ + y) / Z and unpacked as x̂ = (⌊Zt⌋ + ½) / Z, ŷ = Zt − ⌊Zt⌋.
A ReLU network cannot jump, so at every integer 1 … Z − 1 the floor climbs along a ramp of width ε. Four readings are
possible, and all are computed: the ramp is centered on the jump or ends there, and ε is measured in x or in u = Zx.
(In x, encoder and decoder both get ramps of width Zε in u.)

    MSE(x) + MSE(y)    summed over both numbers; keeping one of them, or their average, costs 1/12

Everything is piecewise polynomial, so Gauss–Legendre nodes between the breaks integrate it exactly; sampling checks it.
Last, autoencoders with one hidden number are trained: do they find a nonlinear code by themselves?

Source: Elhage et al. 2022, appendix on nonlinear compression; open question on nonlinear representations.
"""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch

from .... import rng
from ....errors import ConfigError
from ....records import Figure, Frame, Measurement, Panel
from ....worlds.loops import minimize
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import line, points
from ..threads import one_thread

LINEAR = 1 / 12
"""What the best linear code costs."""
EPSILONS = (0.0, 0.01, 0.02, 0.05, 0.1)
PUBLISHED_Z, PUBLISHED_EPSILON = 3, 0.1


@dataclass(frozen=True)
class Staircase:
    """⌊u⌋ on [0, Z] with every jump replaced by a ramp of width `width` in u."""

    steps: int
    """Z."""
    width: float
    centered: bool = True
    """Whether the ramp has its middle, rather than its end, at the jump."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.width < 1:
            raise ConfigError(f"{self.steps} steps with ramps of width {self.width:g}", expected="a width in [0, 1)")

    @property
    def breaks(self) -> np.ndarray:
        """Where ramps begin and end, sorted."""
        at = np.arange(1, self.steps, dtype=float)
        begin = at - self.width * (0.5 if self.centered else 1.0)
        return np.unique(np.concatenate([begin, begin + self.width]))

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """Values at u; each ramp is a difference of two ReLUs."""
        at = np.arange(1, self.steps, dtype=float)
        begin = at - self.width * (0.5 if self.centered else 1.0)
        over = np.asarray(u, float)[..., None] - begin
        if self.width == 0:
            return (over >= 0).sum(-1).astype(float)
        return ((over.clip(0) - (over - self.width).clip(0)) / self.width).sum(-1)


def staircase(z: int, epsilon: float, *, centered: bool, in_x: bool) -> Staircase:
    """The smoothed floor in one of the four readings.

    Raises: ConfigError where ramps would overlap.
    """
    return Staircase(z, epsilon * z if in_x else epsilon, centered)


def errors(x: np.ndarray, y: np.ndarray, f: Staircase) -> tuple[np.ndarray, np.ndarray]:
    """Decoding errors of x and y."""
    u = f(f.steps * x) + y
    floor = f(u)
    return (floor + 0.5) / f.steps - x, u - floor - y


def exact(f: Staircase) -> float:
    """MSE of x plus MSE of y, integrated piece by piece.

    Range: ≥ 1/(12 Z²), which is reached without ramps. The encoder gives c, a plateau 0 … Z − 1 or a point of a ramp;
    for fixed c the decoder sees values uniform on [c, c + 1].
    """
    nodes, weights = np.polynomial.legendre.leggauss(6)
    cuts = _cuts(f)
    half = np.diff(cuts)[:, None] / 2
    u = ((cuts[1:] + cuts[:-1]) / 2)[:, None] + half * nodes
    return float((half * weights * _over_y(f, u)).sum() / f.steps)


def _cuts(f: Staircase) -> np.ndarray:
    """Where the error changes its form as u grows: ends of the encoder's ramps, and where c or c + 1 meets the decoder's."""
    b = f.breaks
    cuts = [0.0, *b, float(f.steps)]
    for k, low in enumerate(b[::2] if f.width else ()):  # this ramp climbs from k to k + 1
        inside = np.unique(np.concatenate([b - k, b - k - 1]))
        cuts += [low + f.width * c for c in inside[(inside > 0) & (inside < 1)]]
    return np.unique(cuts)


def _over_y(f: Staircase, u: np.ndarray) -> np.ndarray:
    """Expected squared error over y for every x = u / Z."""
    c = f(u)[..., None]
    nodes, weights = np.polynomial.legendre.leggauss(4)
    ends = np.sort(np.clip(f.breaks - c, 0.0, 1.0), -1)
    ends = np.concatenate([np.zeros_like(c), ends, np.ones_like(c)], -1)[..., None]
    half = np.diff(ends, axis=-2) / 2
    floor = f(c[..., None] + (ends[..., 1:, :] + ends[..., :-1, :]) / 2 + half * nodes)
    squares = ((floor + 0.5 - u[..., None, None]) / f.steps) ** 2 + (c[..., None] - floor) ** 2
    return (half * weights * squares).sum((-1, -2))


def as_network(f: Staircase) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights [in, out] and biases of a ReLU network 2 → hidden → 1 → hidden → 2 that computes the scheme.

    Each hidden layer has two ReLUs per ramp and one that passes a number on, y or the hidden number: 4 Z − 2 in all.

    Raises: ConfigError without ramps: no ReLU network jumps.
    """
    if not f.width:
        raise ConfigError("a staircase without ramps as a ReLU network", expected="a width above 0")
    z, rows = f.steps, 2 * (f.steps - 1) + 1
    slopes = np.tile([1.0, -1.0], z - 1) / f.width
    # x and y, or the hidden number, to ReLU(Z x − where a ramp begins or ends), and what is passed on
    into = np.zeros((2, rows))
    into[0, :-1], into[1, -1] = z, 1.0
    again = np.full((1, rows), float(z))
    again[0, -1] = 1.0
    shift = np.append(-f.breaks, 0.0)
    pack = np.append(slopes, 1.0)[:, None] / z
    unpack = np.stack([np.append(slopes / z, 0.0), np.append(-slopes, float(z))], 1)
    return [(into, shift), (pack, np.zeros(1)), (again, shift), (unpack, np.array([0.5 / z, 0.0]))]


def through(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """Outputs of the network for rows (x, y)."""
    for number, (weights, bias) in enumerate(layers):
        x = x @ weights + bias
        x = x if number % 2 else x.clip(0)
    return x


def sampled(f: Staircase, rows: int, seed: int) -> tuple[float, float]:
    """The same by Monte Carlo, with its standard error."""
    x, y = rng.numpy_stream(seed, "nonlinear").random((2, rows))
    squares = sum(e**2 for e in errors(x, y, f))
    return float(np.mean(squares)), float(np.std(squares) / rows**0.5)


def learned(seed: int, instances: int, steps: int, width: int = 64) -> np.ndarray:
    """Squared error (summed) of trained autoencoders 2 → width → width → 1 → width → width → 2, one per instance."""
    g = rng.stream(seed, "nonlinear learned")
    sizes = (2, width, width, 1, width, width, 2)
    shapes = list(pairwise(sizes))
    W = [torch.randn(instances, a, b, generator=g) * (2 / a) ** 0.5 for a, b in shapes]
    c = [0.1 * torch.randn(instances, 1, b, generator=g) for _, b in shapes]

    def network(x: torch.Tensor) -> torch.Tensor:
        for layer, (w, bias) in enumerate(zip(W, c, strict=True)):
            x = torch.baddbmm(bias, x, w)
            x = x if layer in (2, 5) else x.relu()
        return x

    def loss(rows: int) -> torch.Tensor:
        x = torch.rand(instances, rows, 2, generator=g)
        return (network(x) - x).square().sum(-1).mean(-1)

    minimize([*W, *c], lambda _: loss(256), steps=steps, peak=3e-3)
    return loss(20_000).double().numpy()


READINGS = {
    f"{'centered' if centered else 'one_sided'}_{'x' if in_x else 'u'}": (centered, in_x)
    for centered, in_x in product((True, False), (False, True))
}


def top(in_x: bool) -> int:
    """One more than the largest Z that is looked at: in x, ramps of width 0.1 would overlap from Z = 10 on."""
    return 10 if in_x else 21


def run(config: StudyConfig, say: Say) -> Outcome:
    """Errors of the packing scheme in all readings, exact and sampled, and of trained autoencoders."""
    say("nonlinear compression: exact errors in four readings of ε")
    values: dict[str, Measurement] = {}
    exact_values: dict[str, float] = {}

    def note(name: str, samples: float | np.ndarray, method: str, expected: float | None = None) -> None:
        values[name] = measured(name, samples, method=method, seed=config.seed)
        if expected is not None:
            exact_values[name] = expected

    rows, scores = 100_000 if config.smoke else 1_000_000, []
    sharp = Staircase(PUBLISHED_Z, 0.0)
    runs = [sampled(sharp, rows, config.seed + s)[0] for s in range(3)]
    note("sharp_error", np.array(runs), f"{rows:,} samples, three seeds", exact(sharp))
    for name, (centered, in_x) in READINGS.items():
        f = staircase(PUBLISHED_Z, PUBLISHED_EPSILON, centered=centered, in_x=in_x)
        drawn = np.array([sampled(f, rows, config.seed + s) for s in range(3)])
        scores.append(abs(drawn[0, 0] - exact(f)) / drawn[0, 1])
        note(f"gain_{name}", LINEAR / drawn[:, 0], "linear error / error, Z = 3, ε = 0.1", LINEAR / exact(f))
        curve = [exact(staircase(z, PUBLISHED_EPSILON, centered=centered, in_x=in_x)) for z in range(2, top(in_x))]
        note(f"best_z_{name}", float(np.argmin(curve) + 2), f"Z of least exact error, ε = 0.1, Z < {top(in_x)}")
    note("monte_carlo_z", max(scores), "largest distance of samples to the exact value, in standard errors")
    layers = as_network(staircase(PUBLISHED_Z, PUBLISHED_EPSILON, centered=True, in_x=False))
    note(
        "relus",
        float(sum(len(bias) for _, bias in layers[::2])),
        "hidden neurons of a network built for Z = 3, ε = 0.1",
    )
    x = rng.numpy_stream(config.seed, "nonlinear network").random((rows, 2))
    built = float(((through(layers, x) - x) ** 2).sum(1).mean())
    note("network_gain", LINEAR / built, "linear error / error of that network", exact_values["gain_centered_u"])
    say("nonlinear compression: training autoencoders with one hidden number")
    with one_thread():
        trained = learned(config.seed, 3 if config.smoke else 5, 300 if config.smoke else 5000)
    note("learned_gain", LINEAR / trained, "linear error / error of trained autoencoders, 256 new rows a step")
    return Outcome(values, exact_values, (_curves(), _code()))


def _curves() -> Figure:
    frames = []
    for name, (centered, in_x) in READINGS.items():
        z = np.arange(2, top(in_x))
        series = [line("linear", z, np.full(len(z), LINEAR), "guide")]
        for epsilon in EPSILONS:
            curve = [exact(staircase(int(k), epsilon, centered=centered, in_x=in_x)) for k in z]
            series.append(line(f"ε = {epsilon:g}", z, curve))
            drawn = [sampled(staircase(int(k), epsilon, centered=centered, in_x=in_x), 20_000, 0)[0] for k in z[::3]]
            series.append(points(f"sampled, ε = {epsilon:g}", z[::3], drawn))
        panel = Panel(name.replace("_", " ").replace(" x", ", ε in x").replace(" u", ", ε in Zx"),
                      "Z", "MSE(x) + MSE(y)", tuple(series), y_log=True)  # fmt: skip
        frames.append(Frame(panel.title, (panel,)))
    return Figure(
        "E11-error", "Nonlinear compression against linear", "Elhage et al. 2022, appendix on nonlinear compression",
        "With steep ramps the error falls as 1/Z². With wide ramps there is a best Z, and in one reading of ε the "
        "scheme loses to keeping one number.",
        "The error says nothing of how hard the code is to learn, nor of noise on the hidden number.",
        tuple(frames), "reading of ε", columns=1,
    )  # fmt: skip


def _code() -> Figure:
    f, x = staircase(3, 0.1, centered=True, in_x=False), np.linspace(0, 1, 181)
    code = tuple(line(f"y = {y:g}", x, (f(3 * x) + y) / 3) for y in (0.1, 0.5, 0.9))
    t = np.linspace(0, 1, 361)
    decode = (line("x̂", t, (f(3 * t) + 0.5) / 3), line("ŷ", t, 3 * t - f(3 * t)))
    return Figure(
        "E11-code", "The code for Z = 3, ε = 0.1", "Elhage et al. 2022, appendix on nonlinear compression",
        "Coarse steps of the hidden number carry x, the position inside a step carries y.",
        "Along a ramp the two numbers are mixed and both are decoded badly.",
        (Frame("", (Panel("encoder", "x", "hidden number", code), Panel("decoder", "hidden number", "output", decode))),),
        columns=2,
    )  # fmt: skip
