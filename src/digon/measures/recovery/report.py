"""How well were the features found? Scores per feature, per latent and as public benchmarks define them.

Per *feature*, one latent at most (the matching of `matching`), a feature without one scores 0:

    f1, precision, recall   mean over features; `f1_weighted` by density; `f1_rare` over the rarest quarter
    latent_f1               the same pairs, mean over latents: duplicates, dead and spurious latents score 0
    mcc                     mean cosine of the pairs, over min(features, latents)
    mcc_features            the same over all features
    mmcs_features           mean over features of the largest cosine with a latent; `mmcs_latents` the other way round
    coverage                share of features whose pair has a cosine of at least .9
    slope                   median of Σ f g / Σ g² over common rows: below 1 where codes shrink
    strength_r2             median of 1 − Σ (g − f)² / Σ (g − mean g)² over a feature's rows, the code taken at face value:
                            below 0 where codes are further off than strengths vary
                            (both over pairs with an F1 of at least one half)
    duplicate … partial     shares of latents with each failure

As *published* for SynthSAEBench: every latent is scored against the feature of largest |cos|, and several may share one.

    public_f1, public_precision, public_recall, public_mcc (|cos|), public_uniqueness

Sixty-four copies of one easy feature have a public F1 of 1 and an f1 of little more than one over the number of features.

Sources: Chanin & Garriga-Alonso 2026 (public definitions). The others are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import ConfigError
from ...records import Measurement
from .. import stats
from .counts import Recovery
from .failures import GOOD, LABELS, Failures, joint, judge
from .matching import CLOSE, match, mmcs

SEEDS = 3
"""Fewest runs that give an interval."""


@dataclass(frozen=True)
class FeatureScores:
    """One row per feature. Precision, recall and F1 are NaN for features that were never active, else 0 if unmatched."""

    latent: Int[Tensor, " g"]
    """The matched latent, or −1."""
    cosine: Float[Tensor, " g"]
    precision: Float[Tensor, " g"]
    recall: Float[Tensor, " g"]
    f1: Float[Tensor, " g"]
    slope: Float[Tensor, " g"]
    """Shrinkage of the codes on common rows; 1 is none. NaN without common rows."""
    strength_r2: Float[Tensor, " g"]
    """Share of the variance of the strength, over the feature's rows, that the latent's code explains; at most 1."""
    density: Float[Tensor, " g"]


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    rows: int
    features: FeatureScores
    failures: Failures
    scores: dict[str, float]
    """By the names above, and the l0 of truth and codes and the number of features never seen."""


def report(recovery: Recovery, density: Float[Tensor, " g"] | None = None) -> Report:
    """Scores and failures of all rows so far. `density` decides what is rare; by default the density in these rows.

    >>> from digon.tensors import Codes, Dictionary
    >>> recovery = Recovery(Dictionary(torch.eye(3), torch.zeros(3)), Dictionary(torch.eye(3)[[0, 0]], torch.zeros(3)))
    >>> rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    >>> recovery.update(Codes(rows, None, 3), Codes(rows[:, [0, 0]], None, 2))
    >>> scores = report(recovery).scores
    >>> scores["public_f1"], round(scores["f1"], 4)  # two copies of one of three features
    (1.0, 0.3333)
    """
    features, failures = _features(recovery), judge(recovery)
    scores = _scores(recovery, features, density) | _public(recovery)
    counts = failures.counts()
    scores |= {label: counts[label] / max(len(recovery.fires), 1) for label in LABELS}
    return Report(recovery.rows, features, failures, scores)


def over_seeds(runs: Sequence[dict[str, float]], level: float = 0.95, *, of: str = "seeds") -> dict[str, Measurement]:
    """Mean of every score over independent runs, with Student's interval; a score that is NaN in some run has none.

    `of` is what the runs are called.

    Raises: ConfigError for fewer than three runs.
    """
    n = len(runs)
    if n < SEEDS:
        raise ConfigError(f"scores of {n} {of}", expected=f"at least {SEEDS}: one training says little")
    found: dict[str, Measurement] = {}
    for name in runs[0]:
        values = torch.tensor([run[name] for run in runs], dtype=torch.float64)
        reach = stats.student(n, level) * float(values.std()) / math.sqrt(n)
        mean = float(values.mean())
        found[name] = Measurement(
            name, mean, mean - reach, mean + reach, n, method=f"mean over {n} {of}, Student's {level:.0%} interval"
        )
    return found


def _features(recovery: Recovery) -> FeatureScores:
    c = recovery.candidates
    latent = c.matching.of_first
    at = latent.clamp(min=0)
    fires = torch.where(latent >= 0, recovery.fires[at], 0).double()
    common = torch.where(latent >= 0, _common(recovery, c.matched)[at], 0)
    active = recovery.active.double()
    f1, precision = 2 * common / (fires + active), torch.where(fires > 0, common / fires, 0)
    unseen = torch.where(active > 0, 0, torch.nan)
    fg, ff, gg = torch.where((latent >= 0)[:, None], recovery.products[at], 0).unbind(1)
    total, squares = recovery.strength.unbind(1)
    spread = squares - total.square() / active
    r2 = torch.where((latent >= 0) & (spread > 0), 1 - (squares - 2 * fg + ff) / spread, torch.nan)
    slope = torch.where(gg > 0, fg / gg, torch.nan)
    density = active / max(recovery.rows, 1)
    recall = common / active
    return FeatureScores(
        latent, c.matching.cosine, precision + unseen, recall + unseen, f1 + unseen, slope, r2, density
    )


def _common(recovery: Recovery, column: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Rows that every latent has in common with one of its candidates; 0 for column −1."""
    each = joint(recovery.patterns).diagonal(dim1=1, dim2=2).double()
    return torch.where(column >= 0, each.gather(1, column.clamp(min=0)[:, None]).squeeze(1), 0)


def _scores(recovery: Recovery, features: FeatureScores, density: Float[Tensor, " g"] | None) -> dict[str, float]:
    weight = features.density if density is None else density.to(features.density)
    rare = weight.argsort()[: -(-len(weight) // 4)]
    f1, seen = features.f1, ~features.f1.isnan()
    paired = features.cosine.double()
    mean = lambda values: float(values.nanmean())  # noqa: E731
    rows = max(recovery.rows, 1)
    return {
        "f1": mean(f1),
        "precision": mean(features.precision),
        "recall": mean(features.recall),
        "f1_weighted": float((f1 * weight)[seen].sum() / weight[seen].sum()),
        "f1_rare": mean(f1[rare]),
        "latent_f1": float(f1[features.latent >= 0].nansum()) / len(recovery.fires),
        "mcc": recovery.candidates.matching.mcc,
        "mcc_features": mean(paired),
        "mmcs_features": mmcs(recovery.truth, recovery.learned),
        "mmcs_latents": mmcs(recovery.learned, recovery.truth),
        "coverage": mean((paired >= CLOSE).double()),
        "slope": float(features.slope[f1 >= GOOD].nanmedian()),
        "strength_r2": float(features.strength_r2[f1 >= GOOD].nanmedian()),
        "l0_true": float(recovery.active.sum()) / rows,
        "l0": float(recovery.fires.sum()) / rows,
        "unseen": float((~seen).sum()),
    }


def _public(recovery: Recovery) -> dict[str, float]:
    c = recovery.candidates
    common, fires = _common(recovery, c.public), recovery.fires.double()
    feature = c.feature.gather(1, c.public.clamp(min=0)[:, None]).squeeze(1)
    active = recovery.active[feature].double()
    over = lambda a, b: float(torch.where(b > 0, a / b, 0).mean())  # noqa: E731
    return {
        "public_f1": over(2 * common, fires + active),
        "public_precision": over(common, fires),
        "public_recall": over(common, active),
        "public_mcc": match(recovery.truth, recovery.learned, signed=False).mcc,
        "public_uniqueness": len(feature.unique()) / len(feature),
    }
