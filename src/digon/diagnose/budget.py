"""Which cause makes each unit polysemantic, in shares that sum to one?

The variance of unit j splits over atoms: q_ij = (w_ij)^2 Var(c_i), and what the dictionary leaves over. An atom belongs to
a cause by the block that it stands in: alone in a dimension of its own it is rotated, or monosemantic if that dimension
is a unit's; one of more atoms than their block has dimensions it is in superposition. What is left over is undecided.

Source: variance shares of a mixture; blocks as in `measures.leverage`.
"""

from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures.leverage import AtomBlock
from ..records import BlockVerdict, Label
from .evidence import Evidence

ALONG = 0.9
"""Largest share of a standardized unit in an atom that is this unit's own."""
ALWAYS = 0.8
"""Share of an atom's rows that another one shares, from which the two are one curve."""
LISTED, UNITS = 12, 8
CARRIES = 0.02
"""Share of the variance of a block's first unit from which another one carries it too."""


def budget_of(
    evidence: Evidence, causes: tuple[Label, ...], curved: bool
) -> tuple[dict[str, tuple[float, ...]], tuple[BlockVerdict, ...]]:
    """Cause → share of every unit's variance, and the blocks that it comes from.

    `causes`: the set of the verdict; `curved`: whether blocks of parts are curves.
    """
    d = evidence.activations.d
    found, codes = evidence.sparse, evidence.codes
    if found is None or codes is None or causes in (("none",), ("undecided",)):
        name = causes[0] if causes == ("none",) else "undecided"
        return {name: (1.0,) * d}, ()
    labels = _labels(evidence, causes, curved)
    power = (found.directions * found.sizes[:, None]).square() * codes.var(0)[:, None]
    rest = _unexplained(evidence, codes)
    total = (power.sum(0) + rest).clamp(min=1e-30)
    shares: dict[Label, Tensor] = {}
    for i, label in enumerate(labels):
        shares[label] = shares.get(label, torch.zeros(d).to(power)) + power[i] / total
    shares["undecided"] = shares.get("undecided", torch.zeros(d).to(power)) + rest / total
    budget: dict[str, tuple[float, ...]] = {label: tuple(share.tolist()) for label, share in shares.items()}
    return budget, _blocks(evidence, labels, power, float(rest.sum() / total.sum()))


def _labels(evidence: Evidence, causes: tuple[Label, ...], curved: bool) -> list[Label]:
    """The cause of every atom."""
    found, codes = evidence.sparse, evidence.codes
    assert found is not None, "checked by the caller"
    assert codes is not None, "checked by the caller"
    if len(causes) == 1 and causes[0] in ("lookup", "magnitude", "relational"):
        return [causes[0]] * len(found)
    size = evidence.activations.values.std(0).clamp(min=1e-30)
    along = torch.nn.functional.normalize(found.directions / size, dim=1).abs().amax(1) > ALONG
    on = (codes != 0).float()
    with_another = ((on.T @ on).fill_diagonal_(0).amax(0) / on.sum(0).clamp(min=1)) > ALWAYS
    labels: list[Label] = ["monosemantic" if a else "rotated" for a in along.tolist()]
    for block in evidence.atom_blocks:
        for i in block.members:
            if len(block.members) > block.rank:
                labels[i] = "superposition" if "superposition" in causes or "lookup" not in causes else "lookup"
    for i in with_another.nonzero()[:, 0].tolist() if curved else []:
        labels[i] = "manifold"
    # what the verdict has excluded for the whole is not claimed for a part
    allowed = set(causes) if "mixed" not in causes and "undecided" not in causes else None
    return labels if allowed is None else [label if label in allowed else _instead(label, allowed) for label in labels]


def _instead(label: str, allowed: set[Label]) -> Label:
    if len(allowed) == 1:
        return next(iter(allowed))
    if label == "monosemantic" and "rotated" in allowed:
        return "rotated"
    return "undecided"


def _unexplained(evidence: Evidence, codes: Float[Tensor, "m n"]) -> Float[Tensor, " d"]:
    """Variance of every unit that the dictionary leaves over."""
    found = evidence.sparse
    assert found is not None, "checked by the caller"
    x = evidence.coded_rows
    left = x - found.origin - codes @ (found.directions * found.sizes[:, None])
    return left.var(0)


def _blocks(evidence: Evidence, labels: list[Label], power: Tensor, rest: float) -> tuple[BlockVerdict, ...]:
    """Atoms with a dimension of their own by label, and every block in superposition; the largest first."""
    whole = float(power.sum()) / max(1e-9, 1 - rest)
    groups: list[tuple[Label, list[int], int]] = []
    single: dict[Label, list[int]] = {}
    for block in evidence.atom_blocks:
        if len(block.members) > block.rank:
            groups.append((_majority(labels, block), list(block.members), block.rank))
        else:
            for i in block.members:
                single.setdefault(labels[i], []).append(i)
    for label, members in single.items():
        groups.append((label, members, len(members)))
    verdicts = [_verdict(label, members, rank, power, whole) for label, members, rank in groups]
    return tuple(sorted(verdicts, key=lambda v: -v.share)[:LISTED])


def _majority(labels: list[Label], block: AtomBlock) -> Label:
    votes: Counter[Label] = Counter(labels[i] for i in block.members)
    return votes.most_common(1)[0][0]


def _verdict(label: Label, members: list[int], rank: int, power: Tensor, whole: float) -> BlockVerdict:
    part = power[members].sum(0)
    share = float(part.sum()) / max(whole, 1e-30)
    order = part.argsort(descending=True)[:UNITS]
    units = tuple(order[part[order] > CARRIES * part.max()].tolist())
    n = len(members)
    words = f"{n} atoms in {rank} dimensions" if n != rank else f"{n} atoms, each with a dimension of its own"
    sentence = f"{label}: {words}, {100 * share:.0f} % of the variance."
    return BlockVerdict(label, n, rank, min(1.0, share), units, sentence)
