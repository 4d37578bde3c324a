"""The settings of verbs, which are their flags. Free of torch, so that the command line can show them at once."""

from dataclasses import dataclass
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
    """Only these, such as 64:128: one head of `layers.0.attn.heads`, or of a module of queries or keys."""
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


@dataclass(frozen=True)
class BenchmarkConfig:
    """How much to run, and what becomes of it.

    Raises: ConfigError if the numbers make no sense.
    """

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
        if self.workers < 0 or (self.per_family is not None and self.per_family < 1):
            raise ConfigError(
                f"{self.workers} workers, {self.per_family} cells per family",
                expected="0 workers or more, 1 cell or more",
            )
