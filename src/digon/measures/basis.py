"""Is the neurons' basis special, and can a linear map take the layer apart into independent parts?

Rotation test (privileged basis). Whiten symmetrically (ZCA), so that every axis stays as near its neuron as it can, and
compare S(I) = Σ_j |excess kurtosis of coordinate j| with S(R) over Haar rotations R. Whitened data of independent
sparse neurons has heavy tails along its axes and lighter ones along mixtures; rotated data has no such axes.

Turn test (partial rotations). The same against rotations within blocks of neighboring units: a code that is rotated in
blocks of 4 is special against rotations of all units, and not against those within blocks of 4. And, for pairs of
neighbors, the angle that makes their tails heaviest on one half of the rows, judged on the other half.

Residual dependence (linear independent components). Unmix on some documents; on others add up, over pairs of parts, the
squared correlations of |s|, s² and tanh s, relative to what parts shifted against each other read (1 / (n − 1) a pair).
An unmixing learned from finitely many rows leaves cross-talk even where a perfect one exists; the reference is
therefore the best independent model of the same data (`unmix.held_out`). A large excess over it says that no linear map
made the parts independent, for whatever reason: too many features, correlated features or non-linear ones. A length
that whole rows share (row normalization, elliptical tails) makes energies correlate too: the same is measured on rows
that are brought to one length, against models whose rows are brought to one length.

Sources: privileged basis after Elhage et al. 2023; ICA after Hyvärinen & Oja 2000; turn test and reference are derived
here.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor

from . import stats
from .unmix import Parts, Unmixing, aligned, held_out, same_on_any_threads, shifted, unmix

RANK_TOLERANCE = 1e-6
"""Eigenvalues below this share of the largest are noise of the arithmetic, not variance."""
WIDE = 160
"""Units from which there are fewer rotations and no permutations: they would take minutes otherwise."""
BLOCK_SIZES = (2, 4, 8)
TURNED = math.radians(8)
"""Angle from which a pair of neighbors counts as turned."""
HEAVIER = 1.15
"""So many times as heavy must the tails of a turned pair be."""


@dataclass(frozen=True)
class RotationTest:
    """The basis against random rotations of it."""

    statistic: float
    """Mean |excess kurtosis| along the axes."""
    null: Float[Tensor, " rotations"]
    """The same along rotated axes."""
    z: float
    p: float
    rows: int


@dataclass(frozen=True)
class TurnTest:
    """The basis against rotations of a few neighboring units."""

    sizes: tuple[int, ...]
    """Units that are rotated among each other."""
    z: Float[Tensor, " sizes"]
    """Tails along the axes over those after rotations within such blocks, in their standard deviations."""
    turned: float
    """Share of pairs of neighbors whose tails, on rows not used to find the angle, are clearly heavier once turned."""
    angle: float
    """Their median angle [degrees]. Range: 0 to 45; 0 if there are none."""
    gain: float
    """Tails of all pairs after the turns over before, on rows not used to find the angles."""
    rows: int


LEAST_REFERENCE = 0.3
"""Dependence of an independent model, over that of shifted parts, below which it is an accident: it is about 1."""


@dataclass(frozen=True)
class ResidualDependence:
    """What is left between independent components on documents that the unmixing has not seen."""

    ratio: float
    """Observed dependence over that of parts shifted against each other."""
    reference: float
    """Largest ratio among independent models of the same data, unmixed in the same way."""
    ratio_normed: float
    """The same on rows of one length."""
    reference_normed: float
    p: float
    """Against shifts: small even for the cross-talk of a good unmixing; judge by `excess`."""
    kurtosis: Float[Tensor, " components"]
    """Excess kurtosis of the components."""
    gaussian_share: float
    """Share of components whose tails are not told from a Gaussian's: those are not identified."""
    sub_gaussian_share: float
    """Share of components whose tails are clearly lighter than a Gaussian's, as those of dense codes are."""
    alignment: float
    """Mean over components of the largest share that one standardized unit has in it: 1 = every part is one unit."""
    random_alignment: float
    """The same for random directions."""
    converged: bool
    rows: int
    """Rows of the fit and of the test."""

    @property
    def excess(self) -> float:
        """Ratio over reference; independent features read about 1 or less."""
        return self.ratio / max(self.reference, LEAST_REFERENCE)

    @property
    def excess_normed(self) -> float:
        """The same on rows of one length."""
        return self.ratio_normed / max(self.reference_normed, LEAST_REFERENCE)

    @property
    def kurtosis_quantiles(self) -> tuple[float, float, float, float, float]:
        """Excess kurtosis of the components: 10 %, 25 %, 50 %, 75 % and 90 %."""
        levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).to(self.kurtosis)
        a, b, c, d, e = self.kurtosis.quantile(levels).tolist()
        return a, b, c, d, e


def haar(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """A rotation drawn uniformly. Source: Mezzadri 2007 (signs of R's diagonal fixed)."""
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, device=generator.device))
    return q * r.diagonal().sign()


def zca_whiten(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Center, scale every unit, and whiten symmetrically within the rank of the data.

    Units that never vary stay zero. Without a rank loss the covariance of the result is the identity.
    """
    x = (values - values.mean(0)).double()
    deviation = x.std(0)
    x = x / torch.where(deviation > 0, deviation, math.inf)
    eigenvalues, axes = torch.linalg.eigh(x.T @ x / len(x))
    kept = eigenvalues > RANK_TOLERANCE * eigenvalues[-1]
    scale = torch.where(kept, eigenvalues.clamp_min(1e-300).rsqrt(), 0.0)
    return (x @ (axes * scale) @ axes.T).to(values.dtype)


def token_kurtosis(values: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Kurtosis over the standardized units of each row; isotropic Gaussian rows read 3(d − 1)/(d + 1).

    Source: Elhage et al. 2023, "Privileged Bases in the Transformer Residual Stream".
    """
    deviation = values.std(0)
    x = (values - values.mean(0)) / torch.where(deviation > 0, deviation, math.inf)
    x = x - x.mean(1, keepdim=True)
    return x.pow(4).mean(1) / x.square().mean(1).square()


def rotation_test(
    values: Float[Tensor, "n d"], generator: torch.Generator, rotations: int | None = None, max_rows: int | None = None
) -> RotationTest:
    """Are the axes of the data special? Source: see the module.

    Range: p from 1/(rotations + 1); z near 0 for rotated data. Rows beyond `max_rows` (8,192; 16 per unit of wide data)
    are thinned evenly; 39 rotations, 19 of wide data.
    """
    white = _white_sample(values, max_rows)
    d = white.shape[1]
    statistic = _tails(white).mean()
    count = (39 if d <= WIDE else 19) if rotations is None else rotations
    null = torch.stack([_tails(white @ haar(d, generator).to(white)).mean() for _ in range(count)])
    z = float((statistic - null.mean()) / null.std().clamp_min(1e-12))
    p = float(stats.permutation_p(statistic.double(), null.double()))  # 1/20 in single precision is above 0.05
    return RotationTest(float(statistic), null, z, p, len(white))


def turn_test(
    values: Float[Tensor, "n d"], generator: torch.Generator, rotations: int = 19, max_rows: int | None = None
) -> TurnTest | None:
    """Are the axes special among rotations of few neighbors? None for fewer than two units that vary."""
    white = _white_sample(values, max_rows)
    n, d = white.shape
    if d < 2:
        return None
    sizes = tuple(b for b in BLOCK_SIZES if b <= d)
    here, z = float(_tails(white).mean()), []
    for size in sizes:
        null = torch.stack([_tails(_turned_blocks(white, size, generator)).mean() for _ in range(rotations)])
        z.append((here - float(null.mean())) / float(null.std().clamp_min(1e-12)))
    x, y = white[:, : d - d % 2 : 2], white[:, 1::2]
    angles = torch.linspace(-math.pi / 4, math.pi / 4, 31, dtype=torch.float64)[1:].to(white.device)
    best = angles[_pair_tails(x[::2], y[::2], angles).argmax(0)]
    still = torch.zeros(1, dtype=torch.float64, device=white.device)
    before, after = _pair_tails(x[1::2], y[1::2], still)[0], _pair_tails(x[1::2], y[1::2], best[None])[0]
    certain = after > 6 * math.sqrt(24 / len(x[1::2]))
    turned = (best.abs() > TURNED) & (after > HEAVIER * before) & certain
    angle = math.degrees(float(best[turned].abs().median())) if bool(turned.any()) else 0.0
    gain = float(after.sum() / before.sum().clamp_min(1e-12))
    return TurnTest(sizes, torch.tensor(z), float(turned.double().mean()), angle, gain, n)


def _white_sample(values: Float[Tensor, "n d"], max_rows: int | None) -> Float[Tensor, "m a"]:
    """White coordinates near the units that vary, of evenly thinned rows."""
    most = max(8192, 16 * values.shape[1]) if max_rows is None else max_rows
    thin = values[torch.linspace(0, len(values) - 1, min(len(values), most)).long().to(values.device)].float()
    return zca_whiten(thin[:, thin.amax(0) > thin.amin(0)])


def _tails(white: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    square = white.square()
    return (square.square().mean(0) / square.mean(0).square().clamp_min(1e-30) - 3).abs()


def _turned_blocks(white: Float[Tensor, "n d"], size: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Neighbors rotated among each other; a rest of fewer than `size` units stays."""
    n, d = white.shape
    whole = d - d % size
    turns = torch.stack([haar(size, generator) for _ in range(whole // size)]).to(white)
    blocks = torch.einsum("nbi,bij->nbj", white[:, :whole].view(n, -1, size), turns)
    return torch.cat([blocks.reshape(n, whole), white[:, whole:]], 1)


def _pair_tails(x: Float[Tensor, "n p"], y: Float[Tensor, "n p"], angles: Float[Tensor, "*a"]) -> Float[Tensor, "a p"]:
    """|Excess kurtosis| of two coordinates together after a turn, from their fourth moments. `angles`: [a] or [a p]."""
    powers = [(x**k * y ** (4 - k)).mean(0, dtype=torch.float64) for k in range(5)]
    xx, xy, yy = (v.mean(0, dtype=torch.float64) for v in (x * x, x * y, y * y))
    turn = angles if angles.ndim == 2 else angles[:, None]
    total = torch.zeros(len(turn), x.shape[1], dtype=torch.float64, device=x.device)
    for c, s in ((turn.cos(), -turn.sin()), (turn.sin(), turn.cos())):
        fourth = sum(math.comb(4, k) * c**k * s ** (4 - k) * powers[k] for k in range(5))
        second = c * c * xx + 2 * c * s * xy + s * s * yy
        total = total + (fourth / second.square().clamp_min(1e-30) - 3).abs()
    return total


def residual_dependence(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"] | None,
    seed: int,
    permutations: int = 99,
    max_rows: int | None = None,
    models: int | None = None,
) -> ResidualDependence:
    """Are the best linear components independent on unseen documents? Source: see the module.

    Rows are thinned evenly, so that neighbors in a document do not pass for independent draws. Raises: as `unmix`.
    """
    generator = torch.Generator().manual_seed(seed)
    unmixing = unmix(values, documents, generator, max_rows=max_rows)
    return dependence_of(unmixing, held_out(values, unmixing, generator, models), generator, permutations)


def dependence_of(
    unmixing: Unmixing, parts: Parts, generator: torch.Generator, permutations: int = 99
) -> ResidualDependence:
    """The same from an unmixing that exists already. Beyond 160 parts, p comes from the normal law."""
    with same_on_any_threads(len(unmixing)):
        return _dependence(unmixing, parts, generator, permutations)


def _dependence(unmixing: Unmixing, parts: Parts, generator: torch.Generator, permutations: int) -> ResidualDependence:
    s = parts.values
    n, r = s.shape
    excess = s.square().square().mean(0) / s.square().mean(0).square().clamp_min(1e-30) - 3
    noise = 3 * math.sqrt(24 / n)
    normed = [_ratio(_one_length(x)) for x in (s, *parts.models)]
    ratio, references = _ratio(s), [_ratio(model) for model in parts.models]
    random = aligned(torch.randn(1000, int((unmixing.deviation > 0).sum()), generator=generator))
    return ResidualDependence(
        ratio, max(references, default=1.0), normed[0], max(normed[1:], default=1.0),
        _p(s, ratio, generator, permutations if r <= WIDE else 0), excess, float((excess.abs() < noise).double().mean()),
        float((excess < -noise).double().mean()), unmixing.alignment, random, unmixing.converged,
        int(unmixing.fit.sum()) + n,
    )  # fmt: skip


def _p(parts: Float[Tensor, "n r"], ratio: float, generator: torch.Generator, permutations: int) -> float:
    n, r = parts.shape
    if permutations == 0:  # as if |s|, s² and tanh s were the same: the widest that the null can be
        return float(norm.sf((ratio - 1) * math.sqrt(max(1, r * (r - 1)) / 4)))
    views = _views(parts)
    null = torch.tensor([_squared_correlations(shifted(views, generator)) for _ in range(permutations)])
    expected = 3 * r * (r - 1) / 2 / (n - 1)
    return float(stats.permutation_p(torch.tensor(ratio), null / max(expected, 1e-30)))


def _one_length(parts: Float[Tensor, "n r"]) -> Float[Tensor, "n r"]:
    return torch.nn.functional.normalize(parts, dim=1) * math.sqrt(parts.shape[1])


def _ratio(parts: Float[Tensor, "n r"]) -> float:
    """Squared correlations of |s|, s² and tanh s over pairs of parts, over their mean under permutation."""
    n, r = parts.shape
    if r < 2:
        return 1.0
    return sum(_squared_correlations(_standard(parts, view)) for view in range(3)) / (3 * r * (r - 1) / 2 / (n - 1))


def _views(parts: Float[Tensor, "n r"]) -> Float[Tensor, "3 n r"]:
    return torch.stack([_standard(parts, view) for view in range(3)])


def _standard(parts: Float[Tensor, "n r"], view: int) -> Float[Tensor, "n r"]:
    """|s|, s² or tanh s, of mean 0 and length 1."""
    g = (torch.abs, torch.square, torch.tanh)[view](parts)
    g.sub_(g.mean(0))
    return g.div_(g.norm(dim=0).clamp_min(1e-30))


def _squared_correlations(g: Float[Tensor, "*v n r"]) -> float:
    """Sum over pairs of columns."""
    correlations = g.mT @ g
    own = correlations.diagonal(dim1=-2, dim2=-1)
    return float(correlations.square().sum(dtype=torch.float64) - own.square().sum(dtype=torch.float64)) / 2
