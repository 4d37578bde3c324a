"""What does a unit respond to, in which shares? The pieces of its coverage curve, in words, with documents that show them.

"responds to: A; B; C, shares 50/30/20 %": A, B and C are in kinds of context that the text around tells apart (`kinds`), the
shares those in what all pieces explain together on unseen documents (`coverage`). Pieces that gain little are left out.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import records
from .coverage import Covered
from .exemplars import Excerpts
from .pieces import Piece, describe

LEAST = 0.02
"""Share below which a sense is not told."""
SHOWN = 5
"""Documents that show a sense."""


def senses(
    covered: Covered, values: Float[Tensor, " n"], excerpts: Excerpts, token_text: Callable[[int], str]
) -> tuple[records.Sense, ...]:
    """Senses of a unit, the largest share first; none if nothing explains it."""
    order = covered.shares.argsort(descending=True).tolist()
    return tuple(
        records.Sense(
            describe(covered.pieces[i], token_text),
            round(float(covered.shares[i]), 4),
            tuple(str(excerpts.document_ids[d]) for d in _shown(covered.pieces[i], values, excerpts).tolist()),
        )
        for i in order
        if float(covered.shares[i]) >= LEAST
    )


def summary(found: tuple[records.Sense, ...]) -> str:
    """All senses in a sentence.

    >>> summary((records.Sense("A", 0.6), records.Sense("B", 0.4)))
    'responds to: A; B, shares 60/40 %'
    """
    if not found:
        return "responds to nothing that its explanations know"
    shares = "/".join(f"{100 * sense.share:.0f}" for sense in found)
    return f"responds to: {'; '.join(sense.text for sense in found)}" + (f", shares {shares} %" if found[1:] else "")


def _shown(piece: Piece, values: Float[Tensor, " n"], excerpts: Excerpts) -> Int[Tensor, " m"]:
    """Documents in which the piece speaks and the unit deviates most, the same way."""
    sign = 1.0 if float(piece.values.sum()) >= 0 else -1.0
    speaks = piece.values * sign > 0
    loud = torch.where(speaks, values.double() * sign, -torch.inf)
    peak = torch.segment_reduce(loud, "max", lengths=excerpts.lengths)
    best = peak.argsort(descending=True, stable=True)
    return excerpts.documents[excerpts.distinct(best[peak[best].isfinite()], SHOWN)]
