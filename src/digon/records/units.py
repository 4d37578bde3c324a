"""What is known of units: where they fire, what they are said to mean, how well that predicts them."""

import math
from typing import Literal

from pydantic.dataclasses import dataclass

from .base import STRICT, Measurement, Number
from .diagnosis import Check

Stratum = Literal["top", "quantile", "random", "near miss"]


@dataclass(frozen=True, config=STRICT)
class Excerpt:
    """A stretch of one document with the activation of one unit on every token."""

    document: str
    """Document identifier: the hash of its text."""
    start: int
    """Position of the first token in the document."""
    tokens: tuple[str, ...]
    activations: tuple[Number, ...]
    stratum: Stratum
    split: str = ""
    simulated: dict[str, tuple[Number, ...]] | None = None
    """Explainer name → simulated activation of every token."""
    weight: Number = math.nan
    """One over the probability that this excerpt of the corpus was chosen; NaN where that is not known."""
    token_ids: tuple[int, ...] = ()
    level: int | None = None
    """Stratum `quantile`: which of the card's `levels` it was drawn at, or in whose band."""


@dataclass(frozen=True, config=STRICT)
class Score:
    """How well simulated activations correlate with real ones on documents the explanation has not seen."""

    top_and_random: Measurement
    random_only: Measurement
    baseline: Measurement
    """The top-and-random score of other units' explanations on this unit."""
    flags: tuple[str, ...] = ()
    population: Measurement | None = None
    """The same over all tokens of unseen documents; where only the scored excerpts are simulated, estimated from these."""
    permuted: Measurement | None = None
    """Top-and-random of the same simulated values put on other excerpts: what chance reaches."""
    ablation: Measurement | None = None
    """How much of what the network does with the unit survives when simulated values stand in for it."""
    choices: tuple[Measurement, ...] = ()
    """Detection, fuzzing, intruder and neighbors; the null of each is what a constant answer reaches."""
    simulated_share: Number = 1.0
    """Share of the scored tokens for which there was a simulated value."""
    further: tuple[Measurement, ...] = ()
    """The same simulation by other definitions: explained variance after calibration, scores of other protocols."""


@dataclass(frozen=True, config=STRICT)
class Simulation:
    """What an explanation predicts on one stretch of text, as distributions, beside what the unit does there."""

    tokens: tuple[str, ...]
    values: tuple[Number, ...]
    """Expected value of the distribution of every token."""
    scale: Literal["activation", "0 to 10"]
    """Whether values are in the unit's own scale, or relative to an arbitrary maximum."""
    real: tuple[Number, ...] = ()
    distributions: tuple[tuple[tuple[Number, Number], ...], ...] = ()
    """Pairs of value and probability for every token; what is left to 1 was not seen."""
    scores: tuple[Measurement, ...] = ()
    """On this stretch alone."""
    uncalibrated: "Simulation | None" = None
    """The same before calibration."""


@dataclass(frozen=True, config=STRICT)
class Provenance:
    """Which language model said it, and what that took."""

    model: str
    """Name that the server gave."""
    address: str
    """Server, without any key."""
    prompt: str
    """Digest of the prompt."""
    calls: int
    """Answers that it rests on."""
    method: str = ""
    """How values were simulated: the first way of the chain that the server allows."""


@dataclass(frozen=True, config=STRICT)
class Arc:
    """One step of an automaton: from a state, on one of these tokens, to a state nearer the match.

    Read from the last token backward, as matching does.
    """

    start: int
    end: int
    label: str
    """Tokens, or "any"."""
    value: Number = math.nan
    """Activation, if the match may end here."""


@dataclass(frozen=True, config=STRICT)
class Explanation:
    """What an explainer says of a unit, at what cost in bits, and how well it predicts."""

    explainer: str
    text: str
    bits: Number
    """Description length of the explanation."""
    score: Score | None = None
    automaton: tuple[Arc, ...] = ()
    """What is drawn, for explainers that match patterns."""
    provenance: Provenance | None = None
    simulations: tuple[Simulation, ...] = ()
    """Kept where distributions matter; plain simulated values are in the excerpts of the card."""


@dataclass(frozen=True, config=STRICT)
class Coverage:
    """How much of a unit the first 1, 2, … explanations predict together, on documents that they have not seen."""

    names: tuple[str, ...]
    """Explanations in the order in which they were added."""
    explained: tuple[Number, ...]
    """Squared correlation after each. Range: [0, 1]."""
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    effective: Measurement
    """Effective number of explanations: one over the sum of squared shares of the gain."""
    entropy: Measurement | None = None
    """The same by the exponential of the shares' entropy, which counts small shares more."""


@dataclass(frozen=True, config=STRICT)
class Sense:
    """One of the kinds of context that a unit responds to."""

    text: str
    share: Number
    """Share in what the unit's explanations explain together. Range: [0, 1]."""
    documents: tuple[str, ...] = ()
    """Documents of the exemplars that belong to it."""
    named_by: str = ""
    """The language model that says so, shares included; empty for what was told apart by what the unit does."""


@dataclass(frozen=True, config=STRICT)
class Promotion:
    """A token whose logit the unit raises, or lowers if negative, per unit of activation."""

    token: str
    logit: Number


@dataclass(frozen=True, config=STRICT)
class Histogram:
    """Counts of activation values between consecutive edges (`len(edges) == len(counts) + 1`)."""

    edges: tuple[Number, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, config=STRICT)
class Neighbor:
    """A unit that points the same way, with its cosine."""

    unit: str
    cosine: Number


@dataclass(frozen=True, config=STRICT)
class UnitCard:
    """Everything that is known about one unit."""

    unit: str
    """Address, such as `minilm/layers.3.mlp.act#412`."""
    site: str
    index: int
    kind: Literal["neuron", "latent", "direction"]
    measurements: tuple[Measurement, ...]
    histogram: Histogram | None = None
    exemplars: tuple[Excerpt, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    checks: tuple[Check, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    sign: Literal[1, -1] = 1
    """−1: the card is about how far the unit falls, not how far it rises."""
    coverage: Coverage | None = None
    senses: tuple[Sense, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    """Tokens that the unit writes, strongest first."""
    corpus: str = ""
    """Digest of the texts that the unit was read on."""
    levels: tuple[Number, ...] = ()
    """Quantiles at which excerpts were drawn, or activations between which bands of excerpts lie."""
