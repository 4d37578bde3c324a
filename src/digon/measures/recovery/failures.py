"""What is wrong with a latent, if anything? One label for each, with the numbers behind it.

Its *own* feature is the candidate with the largest cosine × F1. A feature is *tied* to a latent if, corrected for chance,
either half of the latent's rows have the feature or the latent has half of the feature's rows. Labels, the first that holds:

    dead       active in no row
    dense      active in more than a tenth of the rows and more than twice as often as its own feature
    spurious   tied to no feature; or less than half of its rows have its own feature and nothing below explains the rest
    duplicate  on half or more of its rows with its own feature, the latent matched with that feature is active too
    absorbed   its atom carries a quarter or more of another feature, present on its rows, whose own latent is silent there:
               it has swallowed its parent. Or the other side: a latent that loses a fifth of its feature's rows this way
    merged     a fifth or more of its rows have a second feature without its own; or its atom carries a quarter or more of a
               tied feature whose own latent is active too (hedged)
    split      it has its feature on part of the rows, and other latents nearest to the same feature have more of the rest
    partial    it has less than half of its feature's F1, and nothing above explains why
    fine       none of these

Labels need enough rows: a latent that was active ten times has ten rows of evidence.

Sources: feature absorption, Chanin et al. 2024; hedging, Chanin et al. 2025; splitting, Bricken et al. 2023. The thresholds are
ours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..sparsity import DENSE
from .counts import COLUMNS, Recovery

LABELS = ("fine", "dead", "dense", "spurious", "duplicate", "absorbed", "merged", "split", "partial")
TIED = 0.5
"""Least chance-corrected share that ties a feature to a latent."""
CARRIED = 0.25
"""Least weight of a second feature in an atom, relative to its own feature's."""
TOGETHER = 0.5
"""Least share of common rows at which two latents are copies, or an absorbed feature's own latent counts as awake."""
LOST = 0.2
"""Least share of rows that is lost, swallowed or foreign."""
GOOD = 0.5
"""Least F1 of a latent that is fine."""


@dataclass(frozen=True)
class Failures:
    """One row per latent; −1 for no feature or latent, NaN for no number."""

    label: Int[Tensor, " k"]
    """Place in `LABELS`."""
    own: Int[Tensor, " k"]
    """Its own feature."""
    second: Int[Tensor, " k"]
    """The other feature that its atom carries or that it is active for."""
    other: Int[Tensor, " k"]
    """The other latent: matched with the own feature, or swallowing it, or the silent one of a swallowed feature."""
    cosine: Float[Tensor, " k"]
    """With the own feature."""
    weight: Float[Tensor, " k"]
    """Weight of the second feature in the atom, relative to the own feature's."""
    precision: Float[Tensor, " k"]
    """Share of its rows that have the own feature."""
    recall: Float[Tensor, " k"]
    """Share of the own feature's rows that it has."""
    f1: Float[Tensor, " k"]
    together: Float[Tensor, " k"]
    """Share of its rows with the own feature on which the matched latent is active too."""
    silent: Float[Tensor, " k"]
    """Share of its rows with the second feature on which that feature's matched latent is silent."""
    lost: Float[Tensor, " k"]
    """Share of the own feature's rows that latents which swallow it take while this one is silent."""
    foreign: Float[Tensor, " k"]
    """Largest share of its rows that have one other feature without its own."""
    reached: Float[Tensor, " k"]
    """Share of the own feature's rows that have any latent nearest to it."""
    density: Float[Tensor, " k"]

    def counts(self) -> dict[str, int]:
        """How many latents have each label."""
        return dict(zip(LABELS, torch.bincount(self.label, minlength=len(LABELS)).tolist(), strict=True))

    def explain(self, latent: int) -> str:
        """The label of one latent with its evidence."""
        at = lambda name: getattr(self, name)[latent].item()  # noqa: E731
        own, second, other, f1 = f"feature {at('own')}", f"feature {at('second')}", f"latent {at('other')}", at("f1")
        known = f"cosine {at('cosine'):.2f} and F1 {f1:.2f} with {own}"
        label = LABELS[at("label")]
        swallows = f"carries {at('weight'):.2f} of {second}, whose latent is silent on {at('silent'):.0%} of these rows"
        loses = f"{other} swallows {own}: {at('lost'):.0%} of its rows are lost"
        hedges = f"carries {at('weight'):.2f} of {second}; {at('foreign'):.0%} of its rows have it without {own}"
        return (
            f"{label}: "
            + {
                "fine": known,
                "dead": "active in no row",
                "dense": f"active in {at('density'):.0%} of the rows; {known}",
                "spurious": f"{at('precision'):.0%} of its rows have {own}; {known}",
                "duplicate": f"{at('together'):.0%} of its rows with {own} have {other} too; {known}",
                "absorbed": f"{loses if at('lost') >= LOST else swallows}; {known}",
                "merged": f"{hedges}; {known}",
                "split": f"has {at('recall'):.0%} of {own}'s rows, all its latents {at('reached'):.0%}; {known}",
                "partial": f"has {at('recall'):.0%} of {own}'s rows; {known}",
            }[label]
        )


def judge(recovery: Recovery) -> Failures:
    """Label every latent."""
    ties = Ties.of(recovery)
    c, pick = recovery.candidates, ties.pick
    own = torch.where(ties.alive, pick(c.feature, ties.own), -1)
    keeper = torch.where(own >= 0, c.matching.of_first[own.clamp(min=0)], -1)
    mine = torch.arange(len(own), device=own.device)
    second_partner = pick(ties.partner, ties.second)
    has_second = ties.weight >= CARRIED
    silent = torch.where(has_second, 1 - pick(ties.covered, ties.second), torch.nan)
    always = pick(ties.latent_tie, ties.second) >= TIED
    swallows = ties.alive & has_second & always & (silent >= TOGETHER) & (second_partner != mine)
    lost, thief = _lost(recovery, ties, swallows, own, keeper)
    precision, recall, f1 = (pick(v, ties.own) for v in (ties.precision, ties.recall, ties.f1))
    together = torch.where((keeper >= 0) & (keeper != mine), pick(ties.covered, ties.own), torch.nan)
    reached = recovery.reached[own.clamp(min=0)] / recovery.active[own.clamp(min=0)].clamp(min=1)
    density = ties.density
    own_density = ties.feature_density.gather(1, ties.own[:, None]).squeeze(1)
    tests = {
        "dead": ~ties.alive,
        "dense": (density > DENSE) & (density > 2 * own_density),
        "spurious": ~ties.tied.any(1),
        "duplicate": (together >= TOGETHER) & (precision >= TIED),
        "absorbed": swallows | (lost >= LOST),
        "merged": (ties.foreign >= LOST) | has_second,
        "split": (precision >= TIED) & (reached - recall >= LOST),
        "partial": (f1 < GOOD) & (precision >= TIED),
    }
    label = torch.zeros_like(own)
    label[f1 < GOOD] = LABELS.index("spurious")
    for name, holds in reversed(tests.items()):
        label[holds] = LABELS.index(name)
    told = has_second | (ties.foreign >= LOST)
    which = torch.where(has_second, ties.second, ties.stranger)
    second = torch.where(told & ties.alive, pick(c.feature, which), -1)
    other = torch.where(lost >= LOST, thief, torch.where(swallows, second_partner, keeper))
    other = torch.where(other == mine, -1, other)
    values = (
        pick(c.cosine, ties.own),
        ties.weight,
        precision,
        recall,
        f1,
        together,
        silent,
        lost,
        ties.foreign,
        reached,
    )
    return Failures(label, own, second, other, *values, density)


@dataclass(frozen=True)
class Ties:
    """What patterns say about every latent and each of its candidates."""

    precision: Float[Tensor, "k c"]
    recall: Float[Tensor, "k c"]
    f1: Float[Tensor, "k c"]
    latent_tie: Float[Tensor, "k c"]
    """Chance-corrected precision."""
    tied: Bool[Tensor, "k c"]
    covered: Float[Tensor, "k c"]
    """Share of the common rows on which the candidate's matched latent is active."""
    partner: Int[Tensor, "k c"]
    """The candidate's matched latent."""
    density: Float[Tensor, " k"]
    feature_density: Float[Tensor, "k c"]
    own: Int[Tensor, " k"]
    """Column of the own feature."""
    second: Int[Tensor, " k"]
    """Column of the tied feature that the atom carries most of, the own one left out."""
    weight: Float[Tensor, " k"]
    stranger: Int[Tensor, " k"]
    """Column of the feature that most of its rows have without the own one."""
    foreign: Float[Tensor, " k"]

    @property
    def alive(self) -> Bool[Tensor, " k"]:
        """Latents that are active in some row."""
        return self.density > 0

    @staticmethod
    def pick(values: Tensor, column: Int[Tensor, " k"]) -> Tensor:
        """One column per latent."""
        return values.gather(1, column[:, None]).squeeze(1)

    @classmethod
    def of(cls, recovery: Recovery) -> "Ties":
        """From the counts."""
        c, rows = recovery.candidates, max(recovery.rows, 1)
        used = c.feature >= 0
        both = joint(recovery.patterns)
        fires, active = recovery.fires[:, None].double(), recovery.active[c.feature.clamp(min=0)].double()
        common = both.diagonal(dim1=1, dim2=2).double() * used
        precision, recall = common / fires.clamp(min=1), common / active.clamp(min=1)
        f1 = 2 * common / (fires + active).clamp(min=1)
        density, feature_density = fires / rows, active / rows
        latent_tie = (precision - feature_density) / (1 - feature_density).clamp(min=1e-9)
        feature_tie = (recall - density) / (1 - density).clamp(min=1e-9)
        tied = used & ((latent_tie >= TIED) | (feature_tie >= TIED)) & (common > 0)
        own = torch.where(used, c.cosine.clamp(min=0) * (f1 + 1e-9), -1).argmax(1)
        weight = torch.where(tied, _weights(c.cosine, c.gram, own), -1).scatter(1, own[:, None], -1)
        alone = common - both.gather(1, own[:, None, None].expand(-1, COLUMNS, 1)).squeeze(2)
        foreign = alone / fires.clamp(min=1) * (feature_tie >= LOST) * used
        foreign = foreign.scatter(1, own[:, None], 0)
        covered = recovery.covered / common.clamp(min=1)
        partner = torch.where(used, c.matching.of_first[c.feature.clamp(min=0)], -1)
        strongest, least = weight.max(1), torch.zeros((), dtype=weight.dtype, device=weight.device)
        most = foreign.max(1)
        return cls(
            precision, recall, f1, latent_tie, tied, covered, partner, density.squeeze(1), feature_density, own,
            strongest.indices, torch.maximum(strongest.values, least).double(), most.indices, most.values,
        )  # fmt: skip


def joint(patterns: Int[Tensor, "k p"]) -> Int[Tensor, "k c c"]:
    """Rows on which a latent and two of its candidates are active; on the diagonal those with one."""
    bits = (
        torch.arange(2**COLUMNS, device=patterns.device)[:, None] >> torch.arange(COLUMNS, device=patterns.device)
    ) & 1
    pairs = (bits[:, :, None] * bits[:, None, :]).flatten(1)
    return (patterns.double() @ pairs.double()).round().long().view(-1, COLUMNS, COLUMNS)


def _weights(
    cosine: Float[Tensor, "k c"], gram: Float[Tensor, "k c c"], own: Int[Tensor, " k"]
) -> Float[Tensor, "k c"]:
    """Weight of a candidate over the own feature's, of the two that fit the atom best together."""
    first = cosine.gather(1, own[:, None])
    between = gram.gather(1, own[:, None, None].expand(-1, 1, COLUMNS)).squeeze(1)
    return (cosine - first * between) / (first - cosine * between).clamp(min=1e-6)


def _lost(
    recovery: Recovery, ties: Ties, swallows: Bool[Tensor, " k"], own: Int[Tensor, " k"], keeper: Int[Tensor, " k"]
) -> tuple[Float[Tensor, " k"], Int[Tensor, " k"]]:
    """Share of its feature's rows that a matched latent loses to latents that swallow the feature, and the greediest of them."""
    g, k = len(recovery.active), len(own)
    by = swallows.nonzero().squeeze(1)
    column = ties.second[by]
    feature = recovery.candidates.feature[by, column]
    common = ties.precision[by, column] * recovery.fires[by]
    rows = common * (1 - ties.covered[by, column])
    taken = torch.zeros(g, dtype=rows.dtype, device=rows.device).index_add_(0, feature, rows)
    most = torch.zeros_like(taken).scatter_reduce_(0, feature, rows, "amax")
    greediest = torch.full((g,), -1, device=own.device)
    top = rows >= most[feature]
    greediest[feature[top]] = by[top]
    at = own.clamp(min=0)
    matched = (own >= 0) & (keeper == torch.arange(k, device=own.device))
    share = torch.where(matched, taken[at] / recovery.active[at].clamp(min=1), 0)
    return share, torch.where(matched, greediest[at], -1)
