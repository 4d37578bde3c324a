"""P11. Moved around a plane of its activations, does the network's output move smoothly, or snap from corner to corner?"""

import torch

from ... import rng
from ...measures.continuity import Walk, planes, walk
from ...records import Cause, Check, Measurement, Verdict
from ..evidence import Evidence, not_applicable

MOST_PLANES = 32
MOVED = 0.1
"""Spread of the output around a plane, relative to that over data, below which the network does not read the plane."""
EVEN, SNAPS = 0.6, 0.3
"""Evenness from which the output moves smoothly, and up to which it snaps."""
SMOOTH = 0.9
"""Share of the output in its first harmonics, that a smooth reader has."""
READS_RADIUS = 0.15
"""Change with the radius, from which the reader may be linear: a linear one reads 0.22."""
_ID, _TITLE, _CLAIM = "P11", "continuity by intervention", "between directions of one plane the output moves smoothly"


def continuity(evidence: Evidence) -> Check:
    """P11. Around a plane in which rows surround the origin, the output moves evenly, and with the angle alone."""
    network = evidence.network
    if network is None:
        reason = (
            f"What the network makes of the activations is not known (access {evidence.access}). With the network (access "
            "C) this check could settle whether points of a plane are corners or a curve."
        )
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    whole = evidence.rays
    values = evidence.activations.values
    if whole is None:
        return not_applicable(_ID, _TITLE, _CLAIM, f"{len(values)} rows of {evidence.activations.d} units are too few.")
    generator = rng.stream(evidence.seed, "P11")
    rows = torch.randperm(len(values), generator=generator)[:20_000].to(values.device)
    some = values[rows].float()
    found = planes(some - whole.origin, torch.cat([whole.directions, whole.loose]))[:MOST_PLANES]
    if not found:
        reason = "In no plane of two directions do rows surround the origin: there is nothing to walk around."
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    walks = [walk(network, some, plane, whole.origin) for plane in found]
    read = [w for w in walks if w.moved > MOVED]
    if not read:
        sentence = f"In none of {len(found)} planes does the output move: the network does not read them."
        return Check(_ID, _TITLE, _CLAIM, "silent", sentence)
    evenness = torch.tensor([w.evenness for w in read], dtype=torch.float64)
    middle = float(evenness.median())
    statistic = Measurement(
        "evenness", middle, float(evenness.quantile(0.25)), float(evenness.quantile(0.75)), n=len(read),
        method="evenness of the output's steps around planes: median and quartiles", seed=evidence.seed,
        source="after Engels et al. 2024", null=1.0,
    )  # fmt: skip
    verdict, sentence, gone = _read(read, middle)
    return Check(_ID, _TITLE, _CLAIM, verdict, sentence, statistic, EVEN, gone)


def _read(walks: list[Walk], evenness: float) -> tuple[Verdict, str, tuple[Cause, ...]]:
    """Verdict, sentence and excluded causes."""
    middle = lambda values: float(torch.tensor(values).median())  # noqa: E731
    harmonics, radius = middle([w.harmonics for w in walks]), middle([w.radius for w in walks])
    numbers = (
        f"Around {len(walks)} planes the output moves with evenness {evenness:.2f} (1: evenly), {100 * harmonics:.0f} % of it "
        f"in three harmonics, and changes {radius:.2f} times as much with the radius"
    )
    if evenness < SNAPS:
        return "against", f"{numbers}: it snaps from corner to corner.", ("manifold",)
    if evenness > EVEN and harmonics > SMOOTH and radius < READS_RADIUS:
        words = f"{numbers}: the network reads the angle, at points between the data too."
        return "for", words, ("none", "monosemantic", "rotated", "superposition", "lookup")
    if evenness > EVEN and radius >= READS_RADIUS:
        return "silent", f"{numbers}: a linear reader moves smoothly whatever the features are.", ()
    return "silent", f"{numbers}: between a smooth reader and one that snaps.", ()
