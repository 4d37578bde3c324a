"""What checks are given about one site, and the answer of a check that was given too little."""

from dataclasses import dataclass

from ..records import Check, Measurement
from ..tensors import Activations


@dataclass(frozen=True)
class Evidence:
    """What the checks are given about one site."""

    activations: Activations
    seed: int
    polysemantic: Measurement | None = None
    """Share of units flagged by `measures.clusters`, with its interval; `null` is the level of false calls."""
    access: str = "A"
    """A: activations; A+: and which input each row is; B: labels; C: the network; D: retraining."""


def not_applicable(id: str, title: str, claim: str, reason: str) -> Check:
    """A check that cannot answer here, and why."""
    return Check(id, title, claim, "not applicable", reason)
