"""The records that leave the library, and their way to JSON and back.

Every number in a report is a `Measurement`: a value with its interval, its sample and its method. Records are frozen
dataclasses; pydantic checks them when they are read. A missing number is NaN here and `null` in JSON.
"""

import math
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .errors import CorruptError


def _null_to_nan(value: object) -> object:
    return math.nan if value is None else value


def _nan_to_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


Number = Annotated[float, BeforeValidator(_null_to_nan), PlainSerializer(_nan_to_null, when_used="json")]
"""A float whose NaN is `null` in JSON."""

_STRICT = ConfigDict(extra="forbid")

Verdict = Literal["for", "against", "silent", "not applicable"]
Cause = Literal[
    "none", "monosemantic", "rotated", "superposition", "manifold", "magnitude", "relational", "lookup", "mixed"
]
Label = Cause | Literal["undecided"]
"""A cause, or that nothing may be said."""
CAUSES: tuple[Cause, ...] = (
    "none", "monosemantic", "rotated", "superposition", "manifold", "magnitude", "relational", "lookup", "mixed",
)  # fmt: skip
Stratum = Literal["top", "quantile", "random", "near miss"]


@dataclass(frozen=True, config=_STRICT)
class Measurement:
    """One number with its uncertainty and its provenance."""

    name: str
    """Identifier of the quantity, as in `docs/terms.md`."""
    value: Number
    low: Number = math.nan
    """Lower end of the interval; NaN where nothing was sampled or no interval exists."""
    high: Number = math.nan
    n: int = 0
    """Size of the sample behind the value."""
    unit: str = ""
    """Unit of the value, empty for pure numbers."""
    method: str = ""
    """How value and interval were obtained."""
    seed: int | None = None
    source: str = ""
    """Paper or derivation behind the method."""
    null: Number = math.nan
    """What the same method reads where there is nothing to find."""
    p: Number = math.nan
    """Share of null draws at least as extreme (with the +1 correction)."""

    def __str__(self) -> str:
        text = f"{self.value:.3g}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            text += f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{text} {self.unit}".rstrip()


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
class Count:
    """How many features: what was seen at least, the best estimate, and the most there can be."""

    lower: Number = math.nan
    point: Number = math.nan
    upper: Number = math.nan
    """`null` in JSON and NaN here: nothing bounds it from above."""


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
class Score:
    """How well simulated activations correlate with real ones on documents the explanation has not seen."""

    top_and_random: Measurement
    random_only: Measurement
    baseline: Measurement
    """The top-and-random score of other units' explanations on this unit."""
    flags: tuple[str, ...] = ()
    population: Measurement | None = None
    """The same over all tokens of unseen documents."""
    permuted: Measurement | None = None
    """Top-and-random of the same simulated values put on other excerpts: what chance reaches."""
    ablation: Measurement | None = None
    """How much of what the network does with the unit survives when simulated values stand in for it."""
    choices: tuple[Measurement, ...] = ()
    """Detection, fuzzing, intruder and neighbors; the null of each is what a constant answer reaches."""
    simulated_share: Number = 1.0
    """Share of the scored tokens for which there was a simulated value."""


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
class Sense:
    """One of the kinds of context that a unit responds to."""

    text: str
    share: Number
    """Share in what the unit's explanations explain together. Range: [0, 1]."""
    documents: tuple[str, ...] = ()
    """Documents of the exemplars that belong to it."""


@dataclass(frozen=True, config=_STRICT)
class Promotion:
    """A token whose logit the unit raises, or lowers if negative, per unit of activation."""

    token: str
    logit: Number


@dataclass(frozen=True, config=_STRICT)
class Histogram:
    """Counts of activation values between consecutive edges (`len(edges) == len(counts) + 1`)."""

    edges: tuple[Number, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, config=_STRICT)
class Neighbor:
    """A unit that points the same way, with its cosine."""

    unit: str
    cosine: Number


@dataclass(frozen=True, config=_STRICT)
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


ClaimKind = Literal["published", "exact", "ours"]
ClaimVerdict = Literal["holds", "differs", "not reached"]


@dataclass(frozen=True, config=_STRICT)
class Claim:
    """One statement of the literature, or of ours, beside what was calculated and what was measured."""

    id: str
    """Study and number, such as `E4.2`."""
    statement: str
    source: str
    """Paper and section."""
    kind: ClaimKind
    """Where the expected value comes from: the paper, an exact calculation, or our own earlier measurement."""
    published: Number
    exact: Number
    measured: Number
    low: Number
    high: Number
    tolerance: Number
    verdict: ClaimVerdict
    compare: Literal["equal", "at least", "at most"] = "equal"
    """How the measured value relates to the stated one if the claim holds."""

    @property
    def stated_text(self) -> str:
        """What the claim says, with ≥ or ≤ where it is a bound."""
        sign = {"equal": "", "at least": "≥ ", "at most": "≤ "}[self.compare]
        return "–" if math.isnan(self.published) else sign + _short(self.published)

    @property
    def exact_text(self) -> str:
        """What calculation gives; a dash where it gives nothing."""
        return _short(self.exact)

    @property
    def measured_text(self) -> str:
        """What was measured, with its interval."""
        text = _short(self.measured)
        return text if math.isnan(self.low) else f"{text} [{_short(self.low)}, {_short(self.high)}]"


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


@dataclass(frozen=True, config=_STRICT)
class Series:
    """Numbers that are drawn together in a panel."""

    kind: Literal["line", "points", "bars", "arrows", "edges"]
    """`arrows` start at the origin; `edges` are pairs of points, (0, 1), (2, 3) and so on."""
    name: str
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    z: tuple[Number, ...] = ()
    """Third coordinate; given, the panel is three-dimensional."""
    color: tuple[Number, ...] = ()
    """One number per point, on the panel's color scale; empty: one color for the series."""
    low: tuple[Number, ...] = ()
    """Ends of the interval of every y."""
    high: tuple[Number, ...] = ()
    role: Literal["measured", "theory", "published", "guide"] = "measured"


@dataclass(frozen=True, config=_STRICT)
class Grid:
    """A matrix that is drawn as colors: values[row][column] at (x[column], y[row])."""

    x: tuple[Number, ...]
    y: tuple[Number, ...]
    values: tuple[tuple[Number, ...], ...]
    diverging: bool = False
    """True: zero is in the middle of the color scale."""


@dataclass(frozen=True, config=_STRICT)
class Panel:
    """One coordinate system."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = ()
    grid: Grid | None = None
    x_log: bool = False
    y_log: bool = False
    square: bool = False
    """True: one unit is equally long on all axes."""
    color_label: str = ""
    color_range: tuple[Number, Number] | None = None


@dataclass(frozen=True, config=_STRICT)
class Frame:
    """One position of a figure's control: a density, a step, a correlation."""

    label: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, config=_STRICT)
class Figure:
    """What a study shows, free of any drawing library."""

    id: str
    """Study and name, such as `E4-branches`: a file name."""
    title: str
    source: str
    """Figure of a paper that it corresponds to; empty if there is none."""
    see: str
    """What you should see."""
    caution: str
    """What this does not show."""
    frames: tuple[Frame, ...]
    """One frame for a still picture, several for a control or an animation."""
    control: str = ""
    """What distinguishes the frames."""
    columns: int = 3


def to_json(record: Any, *, indent: int | None = None) -> str:
    """Strict JSON of a record or a list of records.

    >>> to_json(Measurement(name="l0", value=3.5))[:40]
    '{"name":"l0","value":3.5,"low":null,"hig'
    """
    kind = record.__class__
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter.dump_json(record, indent=indent).decode()


def from_json(kind: Any, text: str | bytes) -> Any:
    """Read a record of type `kind`, such as `Measurement` or `list[UnitCard]`.

    Raises: CorruptError if the text is not such a record.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter.validate_json(text)
    except ValidationError as error:
        raise CorruptError(
            f"this is not a {getattr(kind, '__name__', kind)}: {error.errors()[0]['msg']}",
            expected="JSON as written by digon",
            hint="delete the file and run the command again; it redoes only what is missing",
        ) from None
