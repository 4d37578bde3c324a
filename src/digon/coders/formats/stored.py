"""An SAE as a tool stored it, in one vocabulary, and what it takes to hold it as ours.

With the options that tools differ in,

    h = s·x − [centered] b_dec,   z = h W_encᵀ + b_enc,   f = codes of z,   x̂ = (f W_dec + b_dec) / s + W_skip x,

where topk may compare z·‖W_dec‖ instead of z. Ours knows none of these options, so they are folded into the weights:

    scale s        W_enc ← s W_enc, W_dec ← W_dec / s, b_dec ← b_dec / s
    not centered   every bias of the encoder gets the share of b_dec that ours subtracts
    by norm        W_enc and b_enc are multiplied by ‖W_dec‖, atoms divided by it

Our transcoders subtract nothing of what they read, so it is the centered ones that get the share of b_dec.

Whatever was read is checked in the end: `reconstruct` follows the formula above with the weights as they were stored, and
the folded SAE has to do the same. Without options weights are taken over bit by bit.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError, CorruptError, ModelError, NonFiniteError
from ..sae import SAE, Nested, SAEConfig, Target
from ..sae.config import ActivationName

Rows = Literal["raw", "layer_norm", "constant_norm_rescale"]
"""What was done to every row by itself before the encoder sees it: nothing, or a normalization that cannot be folded."""
ROWS: tuple[Rows, ...] = ("raw", "layer_norm", "constant_norm_rescale")
PER_LATENT: dict[str, tuple[str, ...]] = {
    "jumprelu": ("threshold",),
    "batchtopk": ("threshold",),
    "gated": ("r_mag", "b_mag"),
}
PROBES = 16
PIECE = 4096
"""Latents that are looked at together."""
LONGEST = 1e6
"""Largest norm of a probe, where a latent reads next to nothing."""
TOLERANCE = 1e-3
"""Largest relative difference between the formula of a file and the SAE read from it, in the median row.

Rounding gives 1e-6; a row in which it moves a latent across a threshold may differ by more, a wrong weight differs in all.
"""


@dataclass(frozen=True)
class Stored:
    """An SAE as a tool stored it. Tensors have our names: features are rows, biases are vectors."""

    activation: ActivationName
    tensors: dict[str, Tensor]
    """W_enc [k d_in], W_dec [k d_out], b_enc [k], b_dec [d_out]; threshold, r_mag, b_mag [k]; W_skip [d_out d_in]."""
    l0: int | None = None
    """Active latents per row, if the file says."""
    centered: bool = True
    """Whether the encoder reads x − b_dec."""
    scale: float = 1.0
    """The encoder reads `scale` times x, and what is decoded is divided by it."""
    by_norm: bool = False
    """Whether topk compares z·‖W_dec‖."""
    rows: Rows = "raw"
    """What the rows have gone through before."""
    transcoder: bool = False
    """Whether it writes another site than it reads."""
    config: SAEConfig | None = None
    """All settings, in files that digon wrote."""
    nested: tuple[int, ...] = ()
    """Sizes of prefixes that reconstruct by themselves."""


def hold(stored: Stored, origin: Path, rows: Rows = "raw") -> SAE:
    """Our SAE that does what the stored one does, frozen, on the CPU. `rows`: what it will be given.

    Raises: ModelError if ours cannot; CorruptError if shapes do not fit or the result does something else;
    NonFiniteError for NaN or infinity.
    """
    _check_rows(stored.rows, rows, origin)
    _check_tensors(stored, origin)
    try:
        sae = SAE(_config(stored, origin))
    except ConfigError as error:
        raise CorruptError(f"{origin} does not hold one whole SAE: {error.problem}", expected=error.expected) from None
    plain = _folded(stored)
    for name, tensor in sae.state_dict().items():
        tensor.copy_(plain[name] if name != "b_in" else torch.zeros_like(tensor))
    sae = sae.requires_grad_(False).eval()
    if not sae.config.refinements:  # only digon writes those, with a checksum, and no file's formula knows them
        _check_same(stored, sae, origin)
    return sae


def reconstruct(stored: Stored, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
    """What the formula of the file says, with its weights as they were stored."""
    w = {name: tensor.float() for name, tensor in stored.tensors.items()}
    h = stored.scale * x - (w["b_dec"] if stored.centered else 0)
    product = h @ w["W_enc"].T
    z = product + w["b_enc"]
    if stored.activation == "gated":
        codes = (product * w["r_mag"].exp() + w["b_mag"]).relu() * (z > 0)
    elif stored.activation == "topk":
        assert stored.l0 is not None
        norms = w["W_dec"].norm(dim=1) if stored.by_norm else torch.ones(z.shape[1])
        chosen = (z * norms).topk(stored.l0, dim=1).indices
        codes = torch.zeros_like(z).scatter(1, chosen, z.relu().gather(1, chosen))
    else:
        codes = z.relu() * (z > w.get("threshold", torch.zeros(())))
    skipped = x @ w["W_skip"].T if "W_skip" in w else 0
    return (codes @ w["W_dec"] + w["b_dec"]) / stored.scale + skipped


def _check_rows(wanted: Rows, given: Rows, origin: Path) -> None:
    if given not in ROWS:
        raise ConfigError(f"rows = {given!r}", expected=" | ".join(ROWS))
    if wanted != given:
        what = {"raw": "takes raw rows", "layer_norm": "normalizes every row to mean 0 and deviation 1"}
        raise ModelError(
            f"{origin} {what.get(wanted, 'scales every row to norm √d')}, which cannot be folded into its weights",
            expected=f"rows={wanted!r}, not {given!r}",
            hint="normalize the rows yourself (`formats.normalize_rows`) and say so when you load"
            if wanted != "raw"
            else "do not normalize them, or only together with the weights",
        )


def _check_tensors(stored: Stored, origin: Path) -> None:
    """Raises: CorruptError if shapes do not fit together; NonFiniteError for NaN or infinity."""
    tensors = stored.tensors
    for name in ("W_enc", "W_dec"):
        if tensors[name].ndim != 2 or not tensors[name].numel():
            raise _misfit(origin, name, tensors[name], "a matrix")
    width, d_in = tensors["W_enc"].shape
    d_out = tensors["W_dec"].shape[1] if stored.transcoder else d_in
    shapes: dict[str, tuple[int, ...]] = {"W_dec": (width, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    if stored.config is not None:
        shapes["site_scale"] = (len(stored.config.sites),)
    for name, tensor in tensors.items():
        wanted = shapes.get(name, (width,)) if name != "W_enc" else (width, d_in)
        if tuple(tensor.shape) != wanted:
            raise _misfit(origin, name, tensor, f"{list(wanted)}, as W_enc is {[width, d_in]}")
        bad = sum(int((~part.isfinite()).sum()) for part in tensor.split(PIECE))
        if bad:
            raise NonFiniteError(
                f"{name} in {origin} has {bad} values that are NaN or infinite", expected="finite weights"
            )
    if stored.l0 is not None and not 1 <= stored.l0 <= width:
        raise CorruptError(f"{origin} says that {stored.l0} of {width} latents are active", expected=f"1 to {width}")


def _misfit(origin: Path, name: str, tensor: Tensor, expected: str) -> CorruptError:
    return CorruptError(
        f"{origin} does not hold one whole SAE: {name} is {list(tensor.shape)}", expected=f"{name}: {expected}"
    )


def _config(stored: Stored, origin: Path) -> SAEConfig:
    width, d_in = stored.tensors["W_enc"].shape
    if stored.config is None:
        nested = Nested(stored.nested) if stored.nested else None
        target = None
        if stored.transcoder:
            target = Target(stored.tensors["W_dec"].shape[1], "W_skip" in stored.tensors)
        return SAEConfig(d_in, width, stored.l0, stored.activation, nested=nested, target=target)
    if (stored.config.width, stored.config.d_in) != (width, d_in):
        raise CorruptError(
            f"{origin} does not hold one whole SAE: its settings say {stored.config.width} latents on "
            f"{stored.config.d_in} units, its weights {width} on {d_in}",
            expected="settings and weights of one SAE",
        )
    return stored.config


def _folded(stored: Stored) -> dict[str, Tensor]:
    """Weights for the formula without options."""
    plain = {name: tensor.float() for name, tensor in stored.tensors.items()}
    if stored.centered == stored.transcoder:
        parts = plain["W_enc"].split(PIECE)
        shift = torch.cat([part.double() @ plain["b_dec"].double() for part in parts])
        shift = -shift if stored.transcoder else shift
        plain["b_enc"] = (plain["b_enc"].double() + shift).float()
        if "b_mag" in plain:
            plain["b_mag"] = (plain["b_mag"].double() + plain["r_mag"].double().exp() * shift).float()
    if stored.by_norm:
        norms = plain["W_dec"].norm(dim=1)
        plain |= {"W_enc": plain["W_enc"] * norms[:, None], "b_enc": plain["b_enc"] * norms}
        plain["W_dec"] = plain["W_dec"] / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]
    if stored.scale != 1.0:
        plain["W_enc"] = plain["W_enc"] * stored.scale
        plain |= {name: plain[name] / stored.scale for name in ("W_dec", "b_dec")}
    return plain


def _probes(sae: SAE) -> Tensor:
    """Rows that are sure to activate something: some along the directions that latents read, some at random."""
    chosen = torch.linspace(0, sae.config.width - 1, PROBES).long()
    reads, gate = sae.W_enc[chosen], sae.b_enc[chosen]
    threshold = getattr(sae, "threshold", torch.zeros(sae.config.width))[chosen]
    lift = (2 * (threshold - gate).abs() + 1) / reads.square().sum(1).clamp_min(torch.finfo(reads.dtype).tiny)
    along = lift[:, None] * reads
    along = along * (LONGEST / along.norm(dim=1, keepdim=True)).clamp_max(1)
    noise = torch.randn(along.shape, generator=rng.stream(0, "probes")) * along.std()
    return torch.cat([along, noise]) + sae.origin


def _check_same(stored: Stored, sae: SAE, origin: Path) -> None:
    """Raises: CorruptError if the SAE does not do what the formula of the file says."""
    x = _probes(sae)
    ours, theirs = sae.write(x, sae.encode(x)), reconstruct(stored, x)
    size = torch.maximum((theirs - sae.b_dec).norm(dim=1), TOLERANCE * theirs.norm(dim=1))
    size = size.clamp_min(torch.finfo(theirs.dtype).tiny)
    gap = float(((ours - theirs).norm(dim=1) / size).median())
    if not gap <= TOLERANCE:
        raise CorruptError(
            f"{origin} was read but does something else than its own formula says: relative difference {gap:.2g}",
            expected=f"at most {TOLERANCE}",
            hint="please report it, with the file",
        )
