"""The settings of an audit. Free of torch, so that the command line can show them at once."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg


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
