"""Why units are polysemantic: checks, causes, counts."""

import math
from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

from .base import STRICT, Measurement, Number

Verdict = Literal["for", "against", "silent", "not applicable"]
Cause = Literal[
    "none", "monosemantic", "rotated", "superposition", "manifold", "magnitude", "relational", "lookup", "mixed"
]
Label = Cause | Literal["undecided"]
"""A cause, or that nothing may be said."""
CAUSES: tuple[Cause, ...] = (
    "none", "monosemantic", "rotated", "superposition", "manifold", "magnitude", "relational", "lookup", "mixed",
)  # fmt: skip


@dataclass(frozen=True, config=STRICT)
class Check:
    """One numbered test of one claim about a site: does the data speak for it, against it, or not at all?"""

    id: str
    """Stable number, such as `P02`."""
    title: str
    claim: str
    """The claim that `for` and `against` refer to."""
    verdict: Verdict
    sentence: str
    """What was seen, in one sentence with its numbers."""
    statistic: Measurement | None = None
    threshold: Number = math.nan
    excludes: tuple[Cause, ...] = ()
    """Causes that this outcome speaks against."""


@dataclass(frozen=True, config=STRICT)
class Count:
    """How many features: what was seen at least, the best estimate, and the most there can be."""

    lower: Number = math.nan
    point: Number = math.nan
    upper: Number = math.nan
    """`null` in JSON and NaN here: nothing bounds it from above."""


@dataclass(frozen=True, config=STRICT)
class BlockVerdict:
    """A part of the activation space that stands by itself, with a label of its own."""

    cause: Label
    n_features: int
    rank: int
    """Dimensions that it spans."""
    share: Number
    """Share of the variance in it. Range: 0 to 1."""
    units: tuple[int, ...]
    """The units that carry most of it, the first one most."""
    sentence: str


@dataclass(frozen=True, config=STRICT)
class Diagnosis:
    """Why the units of one site are polysemantic: a *set* of causes that the evidence leaves standing."""

    site: str
    causes: tuple[Label, ...]
    """The set; `undecided` alone where nothing may be said at all."""
    sentence: str
    access: str
    """What the checks were given: A = activations; A+ = and the identity of the inputs; B = and labels; C = and the
    network; D = and training."""
    posterior: dict[Cause, Number] = field(default_factory=dict)
    """Probability of every cause, given that it is one of the benchmark's; empty where none was calculated."""
    n_features: Count = Count()
    rank: Number = math.nan
    """Dimensions that the activations span."""
    load: Number = math.nan
    """Features per dimension."""
    active: Number = math.nan
    """Mean number of active features per row."""
    checks: tuple[Check, ...] = ()
    blocks: tuple[BlockVerdict, ...] = ()
    undecided: tuple[str, ...] = ()
    """What this access cannot tell apart, one sentence each."""
    next_experiment: str = ""
    """The experiment that would split what is left; empty when nothing is left to split."""
    counts: tuple[Measurement, ...] = ()
    """Number of features by method, each with its interval."""
    measurements: tuple[Measurement, ...] = ()
    """Density law, geometry, dimensions and what else was measured."""
    budget: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    """Cause → its share of every unit's variance. The shares of a unit sum to 1; NaN for a unit that never varies."""
    notes: tuple[str, ...] = ()
    """What was found wrong with the data before the checks, and what was done about it."""

    @property
    def decided(self) -> bool:
        """Whether exactly one cause is left."""
        return len(self.causes) == 1 and self.causes[0] != "undecided"
