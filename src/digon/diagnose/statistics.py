"""The numbers behind a verdict: one vector per site, from what every check measured.

The names are grouped by where they come from. A number that this access or this size does not allow is NaN. Numbers
that need more than activations carry the level in front: `A+:reuse`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..measures.dimension import participation_ratio
from ..records import Check, Verdict
from .checks import DECIDING, run_checks
from .checks.atoms import lines_of
from .evidence import LOOK, Evidence, thin

MATCH = 0.95
"""Cosine from which two estimators found the same atom."""
AXIS = 0.9
EXPECTED = 10.0
"""Rows on which two atoms would be active together by chance, from which it is told that they never are."""
NEVER, ALWAYS = 0.1, 0.8
FEWEST = 30


ACCESS = {"P09": "B", "P11": "C", "P12": "A+", "P13": "A+", "P14": "C", "P19": "D"}
"""Level of access that a check takes, where it is more than activations."""
ANSWERS: dict[Verdict, float] = {"for": 1.0, "against": -1.0, "silent": 0.0, "not applicable": math.nan}


COUNTS = ("P04", "P05")
"""Checks whose statistic is a number of features, and not comparable between sites of different size."""


def statistics(evidence: Evidence, checks: Sequence[Check] | None = None) -> dict[str, float]:
    """All numbers of one site, the answers of its checks among them; without `checks`, those that decide are run."""
    found: dict[str, float] = {}
    checks = run_checks(evidence, DECIDING) if checks is None else checks
    for part in PARTS:
        found |= part(evidence)
    for check in checks:
        if check.id in DECIDING:
            name = f"{ACCESS[check.id]}:{check.id}" if check.id in ACCESS else check.id
            found[name] = ANSWERS[check.verdict]
            if check.id not in COUNTS:
                found[f"{name} statistic"] = check.statistic.value if check.statistic is not None else math.nan
    return found


def _shape(evidence: Evidence) -> dict[str, float]:
    """What the cloud looks like, whatever is in it."""
    x = thin(evidence.activations.values, LOOK).double()
    d = x.shape[1]
    covariance = torch.cov(x.T).reshape(d, d)
    spread = torch.linalg.eigvalsh(covariance).clamp(min=0)
    rank = int((spread > 1e-9 * spread[-1]).sum())
    size = x.std(0).clamp(min=1e-300)
    z = (x - x.mean(0)) / size
    kurtosis = z.pow(4).mean(0) - 3
    low = x.amin(0)
    at_low = ((x - low) <= 1e-6 * (x.amax(0) - low)).double().mean()
    distinct = len((z / 1e-4).round().unique(dim=0)) / len(z)
    white = z @ _inverse_root(z)
    length = white.square().sum(1)
    # scale mixtures: the length varies more than the parts do by themselves
    excess = float((length.var() / length.mean().square()) * rank / 2)
    row_sum = (z * size).sum(1).std() / (size.square().sum().sqrt() + 1e-300)
    return {
        "rank_share": rank / d,
        "participation": float(participation_ratio(covariance, len(x))) / d,
        "unit_kurtosis": math.log10(1 + max(0.0, float(kurtosis.median()))),
        "unit_kurtosis_most": math.log10(1 + max(0.0, float(kurtosis.amax()))),
        "unit_skewness": float(z.pow(3).mean(0).median().clamp(-10, 10)),
        "at_minimum": float(at_low),
        "below": float(((x.mean(0) - low) / size).median().clamp(max=20)),
        "distinct_rows": math.log10(distinct),
        "length_excess": math.log10(max(excess, 1e-3)),
        "rows_sum_to_nothing": float(row_sum < 1e-3),
    }


def _rays(evidence: Evidence) -> dict[str, float]:
    found, names = evidence.rays, ("rays", "ray_lines", "ray_cover", "loose", "loose_tightness")
    if found is None:
        return dict.fromkeys(names, math.nan)
    r = evidence.dimensions
    loose = float(found.loose_tightness.median()) if len(found.loose) else math.nan
    lines = lines_of(found.directions, evidence.rectified)
    return dict(zip(names, (len(found.directions) / r, lines / r, found.covered, len(found.loose) / r, loose), strict=True))  # fmt: skip


def _sparse(evidence: Evidence) -> dict[str, float]:
    found = evidence.sparse
    names = (
        "atoms", "gain", "relative_gain", "complete_gain", "active", "complete_active", "fvu", "complete_fvu", "explained",
        "complete_explained", "two_sided", "axis_atoms", "rays_matched", "superposed", "largest_block", "uses_spread",
    )  # fmt: skip
    if found is None:
        return dict.fromkeys(names, math.nan)
    r = evidence.dimensions
    saved = max(found.empty_bits - found.bits, 1e-9)
    blocks = evidence.atom_blocks
    superposed = sum(len(b.members) for b in blocks if len(b.members) > b.rank)
    largest = max((b.load for b in blocks), default=0.0)
    more = float(len(found) > r)  # one that centering every row took away counts as a dimension
    uses = found.uses.clamp(min=1e-6).log10()
    values = (
        len(found) / r, found.gain * more, (found.complete_bits - found.bits) / saved * more,
        (found.empty_bits - found.complete_bits) / r, found.active / r, found.complete_active / r,
        found.fvu, found.complete_fvu, found.explained, found.complete_explained,
        float(found.two_sided.mean()) if len(found) else math.nan,
        _on_axes(evidence) if len(found) else math.nan,
        _matched(evidence), superposed / max(1, len(found)), largest, float(uses.std()) if len(found) > 1 else math.nan,
    )  # fmt: skip
    return dict(zip(names, values, strict=True))


def _company(evidence: Evidence) -> dict[str, float]:
    """Which atoms are never, or always, active together, and how their coefficients are spread."""
    names = ("exclusive", "together", "coefficient_spread", "coefficient_levels")
    codes = evidence.codes
    if codes is None:
        return dict.fromkeys(names, math.nan)
    on = (codes != 0).float()
    both, p = on.T @ on / len(on), on.mean(0)
    expected = torch.outer(p, p)
    off = ~torch.eye(len(p), dtype=torch.bool, device=p.device)
    told = off & (expected * len(on) >= EXPECTED)
    never = told & (both < NEVER * expected)
    share = both / p.clamp(min=1e-9)[:, None]
    size = codes.abs()
    first, second = size.sum(0), size.square().sum(0)
    spread = (second * on.sum(0) / first.square().clamp(min=1e-12) - 1).clamp(min=0).sqrt()
    return {
        "exclusive": float(never.any(1).float().sum() / told.any(1).float().sum().clamp(min=1)) if bool(told.any()) else math.nan,
        "together": float((share.masked_fill(~off, 0).amax(1) > ALWAYS).float().mean()) if len(p) > 1 else 0.0,
        "coefficient_spread": float(spread.median()),
        "coefficient_levels": _levels(codes),
    }  # fmt: skip


def _levels(codes: Tensor) -> float:
    """Median over atoms of the share of coefficients that differ: 1 for a continuum, near 0 for a few levels."""
    shares: list[float] = []
    for i in range(min(codes.shape[1], 32)):
        used = codes[:, i][codes[:, i] != 0]
        if len(used) >= FEWEST:
            grid = used.abs().median() / 50
            shares.append(len((used / grid).round().unique()) / min(len(used), 100))
    return sorted(shares)[len(shares) // 2] if shares else math.nan


def _parts(evidence: Evidence) -> dict[str, float]:
    """How independent the parts of the best unmixing are."""
    names = (
        "dependence", "dependence_normed", "gaussian", "sub_gaussian", "part_kurtosis_low", "part_kurtosis", "alignment",
        "energy_dependence", "dependent_blocks", "giant_block", "spherical",
    )  # fmt: skip
    found = evidence.dependence
    if found is None:
        return dict.fromkeys(names, math.nan)
    tails = [math.copysign(math.log1p(abs(k)), k) for k in found.kurtosis]
    values = (
        math.log(max(found.excess, 1e-3)), math.log(max(found.excess_normed, 1e-3)), found.gaussian_share,
        found.sub_gaussian_share, tails[0], tails[2], found.alignment / max(found.random_alignment, 1e-9),
        math.log(max(found.energy_excess, 1e-3)), found.blocks / max(1, found.parts), found.giant_share,
        float(found.spherical),
    )  # fmt: skip
    return dict(zip(names, values, strict=True))


def _matched(evidence: Evidence) -> float:
    """Share of the rays that the sparse dictionary found as well."""
    found, other = evidence.sparse, evidence.rays
    if found is None or other is None or not len(found) or not len(other.directions):
        return math.nan
    return float(((other.directions @ found.directions.T).abs().amax(1) > MATCH).double().mean())


def _on_axes(evidence: Evidence) -> float:
    """Share of the atoms that lie along one unit, all units at the same size."""
    assert evidence.sparse is not None, "checked by the caller"
    size = evidence.activations.values.std(0).clamp(min=1e-30)
    atoms = torch.nn.functional.normalize(evidence.sparse.directions / size, dim=1)
    return float((atoms.abs().amax(1) > AXIS).double().mean())


def _inverse_root(z: Tensor) -> Tensor:
    spread, axes = torch.linalg.eigh(z.T @ z / len(z))
    kept = spread > 1e-9 * spread[-1]
    return axes[:, kept] * spread[kept].rsqrt()


PARTS: tuple[Callable[[Evidence], dict[str, float]], ...] = (_shape, _rays, _sparse, _company, _parts)
