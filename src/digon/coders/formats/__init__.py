"""Sparse autoencoders on disk, in the layouts of all the tools that people use.

    saelens               folder: cfg.json, sae_weights.safetensors              read and written; what digon itself keeps
    sparsify              folder: cfg.json, sae.safetensors                      read and written (topk)
    gemma_scope           params.npz; params.safetensors                         read
    circuit_tracer        folder: config.yaml, layer_<i>.safetensors; one file   read
    dictionary_learning   folder: config.json, ae.pt                             read, by `load_pt`
    openai                a .pt file                                             read, by `load_pt`

`load` finds the layout by what lies there and folds what tools do differently into plain weights (see `stored`); every
import is compared with the formula of its own format, every export with what is read back. No pickle is ever opened but by
`load_pt`, whose reader builds tensors and plain values and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import CorruptError, ModelError, PathError, did_you_mean
from ..sae import SAE
from . import circuit_tracer, dictionary_learning, gemma_scope, openai, saelens, sparsify
from .reading import PICKLES as PICKLES
from .reading import open_pickle, refusal, refuse_pickles
from .saelens import CONFIG as CONFIG
from .saelens import WEIGHTS as WEIGHTS
from .stored import Rows as Rows
from .stored import Stored, hold
from .stored import reconstruct as reconstruct

FormatName = Literal["saelens", "sparsify"]


@dataclass(frozen=True)
class Format:
    """A layout that can be read."""

    layout: str
    """What lies there."""
    fits: Callable[[Path], bool]
    """Whether a file or folder looks like it."""
    read: Callable[[Path], Stored]


FORMATS: dict[str, Format] = {
    "sparsify": Format("cfg.json with sae.safetensors", sparsify.fits, sparsify.read),
    "saelens": Format("cfg.json with sae_weights.safetensors", saelens.fits, saelens.read),
    "gemma_scope": Format("params.npz", gemma_scope.fits_first, gemma_scope.read_first),
    "gemma_scope_2": Format("params.safetensors", gemma_scope.fits_second, gemma_scope.read_second),
    "circuit_tracer": Format("layer_<i>.safetensors", circuit_tracer.fits, circuit_tracer.read),
}
"""In the order in which they are tried."""
HUB_FILES = (
    "cfg.json",
    "config.json",
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.npz",
    "params.safetensors",
)
"""What is fetched from a folder on the hub: these and no more, as repositories hold thousands of SAEs."""
_WRITERS: dict[FormatName, Callable[[SAE, Path, dict[str, Any]], None]] = {
    "saelens": saelens.write,
    "sparsify": sparsify.write,
}


def save(sae: SAE, path: Path, metadata: dict[str, Any] | None = None, *, layout: FormatName = "saelens") -> None:
    """Write a deployed SAE, read it back and compare what both do.

    Raises: ModelError if the layout has no place for it; StorageError if the disk refuses; CorruptError if what was read
    back does something else.
    """
    _WRITERS[layout](sae, path, metadata or {})
    _compare(sae, load(path), path)


def load(path: Path, *, rows: Rows = "raw") -> SAE:
    """Read an SAE from a folder or file in any layout of `FORMATS`, frozen, on the CPU.

    `rows` says what is done to every row before it is encoded, where a file wants a normalization that depends on the row.
    Raises: PathError if nothing is there; CorruptError if it is damaged; ModelError if ours cannot hold it, wants other
    rows, or is a pickle; NonFiniteError for NaN or infinity.
    """
    for layout in FORMATS.values():
        if path.exists() and layout.fits(path):
            return hold(layout.read(path), path, rows)
    if path.is_file() and path.suffix in PICKLES:
        raise refusal(path)
    refuse_pickles(path)
    near = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else None
    raise PathError(f"no SAE at {path}", expected=" | ".join(layout.layout for layout in FORMATS.values()), hint=near)


def load_pt(path: Path, *, rows: Rows = "raw") -> SAE:
    """Read an SAE from a `.pt` file, or a folder with `ae.pt`: of dictionary_learning or of openai/sparse_autoencoder.

    The file is a pickle; its reader builds tensors and plain values and refuses everything else.
    Raises: PathError, CorruptError, ModelError, NonFiniteError as `load`.
    """
    if path.is_file():
        found = open_pickle(path)
        if openai.fits(found):
            return hold(openai.stored(found, path), path, rows)
        if not dictionary_learning.fits(found):
            names = ", ".join(str(name) for name in list(found)[:6])
            raise ModelError(f"{path} holds no SAE that is known: {names or 'nothing'}", expected="a state dict of one")
    return hold(dictionary_learning.read(path), path, rows)


def read_metadata(path: Path) -> dict[str, Any]:
    """What digon noted when it wrote the SAE; empty for other tools' files. Raises: PathError, CorruptError."""
    if not (path / CONFIG).is_file():
        raise PathError(f"no SAE at {path}", expected=f"a folder with {CONFIG} and {WEIGHTS}")
    return (sparsify if sparsify.fits(path) else saelens).own_metadata(path)


def normalize_rows(
    x: Float[Tensor, "n d"], rows: Rows
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Rows as an SAE with `rows` wants them, and the shift and scale that undo it: x̂ = scale · decoded + shift.

    layer_norm subtracts the mean and divides by the deviation (n − 1 in its denominator) plus 1e-5; constant_norm_rescale
    gives every row the norm √d.

    >>> normalize_rows(torch.tensor([[3.0, 4.0]]), "constant_norm_rescale")[2]
    tensor([[3.5355]])
    """
    zero = torch.zeros_like(x[:, :1])
    if rows == "layer_norm":
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return (x - mean) / (deviation + 1e-5), mean, deviation
    if rows == "constant_norm_rescale":
        scale = (x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5).clamp_min(torch.finfo(x.dtype).tiny)
        return x / scale, zero, scale
    return x, zero, torch.ones_like(zero)


def pretrained(source: str | Path, folder: str = "") -> SAE:
    """Read an SAE from the disk, or from a repository of the hub if nothing on the disk is called so.

    `folder` is the place in it, where it holds several. Raises: PathError, ModelError, CorruptError, NonFiniteError.
    """
    from ...hosts import hub  # brings what hosts need along, which files on the disk do not

    path = Path(source).expanduser()
    if path.exists() or not hub.may_be_meant(source) or "/" not in str(source):
        return load(path / folder)
    names = (*HUB_FILES, "") if folder else HUB_FILES
    try:
        found = hub.download(str(source), tuple(f"{folder}/{name}".strip("/") for name in names)) / folder
    except ModelError as error:
        raise ModelError(
            f"nothing here is called {str(source)!r}, and {error.problem}",
            expected="a folder with an SAE, or a repository of the hub (and a connection to it)",
            hint=error.hint,
        ) from None
    if not any(found.exists() and layout.fits(found) for layout in FORMATS.values()):
        raise PathError(
            f"the repository {source} holds no SAE that can be read{f' in {folder}' if folder else ''}",
            expected=" | ".join(layout.layout for layout in FORMATS.values()),
            hint="name its place in the repository: from_pretrained(repository, folder=...)",
        )
    return load(found)


def _compare(written: SAE, read: SAE, path: Path) -> None:
    written = written.scaled(1.0).to("cpu")  # folds what files do not hold
    x = torch.randn(64, written.config.d_in, generator=rng.stream(0, "round trip")) + written.origin
    with torch.no_grad():
        ours, theirs = (sae.write(x, sae.encode(x)) for sae in (written, read))
    if not torch.equal(ours, theirs):
        gap = float((ours - theirs).abs().max())
        raise CorruptError(f"{path} was written but does something else when read: largest difference {gap:.2g}")


SAE.writer = staticmethod(save)
SAE.reader = staticmethod(pretrained)
