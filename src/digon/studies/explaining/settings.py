"""The settings of `digon explain`, which are its flags. Free of torch, so that the command line can show them at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ...errors import ConfigError

Judge = Literal["simulation", "detection", "fuzzing", "intruder", "neighbors"]


@dataclass(frozen=True)
class ExplainConfig:
    """What to explain, and by which explainers that need no language model."""

    target: Positional[str]
    """A run folder, a folder of harvested shards, or a network, of which --site is harvested first."""
    site: Annotated[str, arg(aliases=("--sites",))] = "*"
    """Glob over sites; of a network at least one has to be named."""
    units: str = "sample:50"
    """Of every site: 'all', numbers and ranges such as 3,17,40:50, 'sample:50' at random, or 'top:20' by a column."""
    by: str = "density"
    """Column for 'top': density, mean, kurtosis, eta2; of an audited site cluster_z and senses, too."""
    latents: Path | None = None
    """Folder of a sparse autoencoder: its latents are explained, on the activations of --site."""
    directions: Path | None = None
    """Folder or .safetensors file with directions [k, d]: these are explained, on the activations of --site."""
    rungs: tuple[str, ...] = ()
    """Which explainers; none named: all."""
    coverage: bool = True
    """Also take explanations apart into kinds of context, and count how many a unit needs."""
    ablation: bool = False
    """Also put simulated values into the network and measure what changes. Not for words, which are simulated on some
    texts only."""
    host: str | None = None
    """The network that was harvested; none: the one that the run names. Without it tokens are shown as numbers."""
    data: str | None = None
    """Text for a network; none: Python's own source and documentation."""
    tokens: int = 200_000
    """How many tokens to harvest from a network."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Where networks run: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if two kinds of units are asked for."""
        if self.latents is not None and self.directions is not None:
            raise ConfigError("--latents together with --directions", expected="one of them")


@dataclass(frozen=True)
class WordsConfig:
    """Which language model to ask, and for what. Without --llm or --local none is asked."""

    llm: str | None = None
    """Address of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str | None = None
    """Name of the language model on that server."""
    explainer_model: str | None = None
    """Another one that explains."""
    simulator_model: str | None = None
    """Another one that simulates and judges."""
    local: str | None = None
    """A folder with a language model in the format of transformers, which explains and simulates in this process; asked in
    its own chat template where it has one."""
    best_of: int = 1
    """Descriptions per unit, of which the one that simulates best on the select split is kept."""
    revise: bool = False
    """Let the model write texts for its description, show it what the unit does there, and ask for a better one."""
    meanings: int = 0
    """Also ask for up to so many separate meanings, with shares."""
    scorers: tuple[Judge, ...] = ("simulation",)
    """How descriptions are judged on unseen documents."""
    others: int = 1
    """Descriptions of so many other units are simulated on each unit, as a baseline; they cost as much as its own."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if the settings make no sense."""
        if self.llm is not None and self.local is not None:
            raise ConfigError("--llm together with --local", expected="one of them")
        named = self.model is not None or (self.explainer_model is not None and self.simulator_model is not None)
        if self.llm is not None and not named:
            raise ConfigError("--llm without the name of a model", expected="--model NAME")
        if self.llm is None and (self.model or self.explainer_model or self.simulator_model):
            raise ConfigError("a model without the address of its server", expected="--llm BASE_URL")
        if self.best_of < 1 or self.meanings < 0 or self.others < 0:
            raise ConfigError(
                f"best of {self.best_of}, {self.meanings} meanings, {self.others} others",
                expected="1 description or more, the rest from 0",
            )

    @property
    def simulates(self) -> bool:
        """Whether units are simulated from their descriptions."""
        return "simulation" in self.scorers or self.best_of > 1 or self.revise

    @property
    def asked(self) -> bool:
        """Whether any language model is."""
        return self.llm is not None or self.local is not None


@dataclass(frozen=True)
class Spending:
    """How much, how fast, and where from: what changes no answer and may differ when a run goes on."""

    workers: int | None = None
    """Processes that explain without a language model, one thread each; 0: this one with its threads; none: as many as
    there are cores, for more than two hundred units."""
    key_env: str | None = None
    """Environment variable with the key; none: OPENAI_API_KEY for api.openai.com, DIGON_API_KEY for others. A key is
    never given on the command line."""
    budget_usd: float | None = None
    """Most dollars; needs prices."""
    budget_tokens: int | None = None
    """Most tokens, read and written."""
    budget_calls: int | None = None
    """Most calls."""
    usd_read: float = 0.0
    """Dollars per million tokens read."""
    usd_written: float = 0.0
    """Dollars per million tokens written."""
    concurrency: int = 64
    """Most calls at once."""
    per_minute: float | None = None
    """Most calls per minute."""
    timeout: float = 120.0
    """Seconds that a call may take until its answer is whole, however the bytes trickle; three such losses end it. Models
    that think for long, or run on a processor, want more."""
    journal: Path | None = None
    """Where calls and answers are kept, so that none is paid twice; none: in the run. Several runs may share one."""

    def __post_init__(self) -> None:
        """Raises: ConfigError if no call could ever be made, or none ever end; for fewer than no processes."""
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"{self.workers} processes", expected="--workers from 0")
        if self.concurrency < 1 or not self.timeout > 0 or (self.per_minute is not None and not self.per_minute > 0):
            raise ConfigError(
                f"{self.concurrency} calls at once, {self.per_minute} per minute, {self.timeout:g} s each",
                expected="1 or more at once, a rate and a time above 0",
            )


@dataclass(frozen=True)
class ExchangeConfig:
    """Which units to take from one format to another."""

    source: Positional[str]
    """With --to a run; without it a folder of another tool, whose format is recognized by what lies in it."""
    to: Literal["openai", "neuronpedia", "delphi"] | None = None
    """Write the run's units as neuron-explainer (openai), Neuronpedia's bulk files, or delphi's explanations."""
    site: Annotated[str, arg(aliases=("--sites",))] = "*"
    """Glob over sites; neuron-explainer knows one per layer."""
    units: str | None = None
    """Of every site of another tool: 'all', numbers and ranges such as 3,17,40:50, or 'sample:50' at random; none: all,
    and of delphi's activations the latents that it explained, else 'sample:50'."""
    model: str | None = None
    """Name of the network; none: the one that is written there, else 'network'."""
    host: str | None = None
    """The network whose tokenizer tells the tokens of delphi's activations; without it they are shown as numbers."""
    seed: int = 0
    """Seed of choices among units and of splits."""


@dataclass(frozen=True)
class ExplainRun:
    """What decides the result of a run: its config.toml."""

    explain: ExplainConfig
    words: WordsConfig = field(default_factory=WordsConfig)
