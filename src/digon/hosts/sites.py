"""Where in a network? Names for its places that are the same across architectures, and addresses of single units.

    embed                   input of the first block: token plus position embeddings
    layers.{i}.resid        output of block i
    layers.{i}.mlp.act      neurons: input of the MLP's down projection
    layers.{i}.mlp.out      what the MLP hands to the residual stream, before its addition
    layers.{i}.attn.heads   concatenated heads: input of attention's output projection
    layers.{i}.attn.out     what attention hands to the residual stream, before its addition
    <module path>           output of any other submodule, under its dotted path

The first six are found by structure: a list of blocks, and in the blocks a down and an output projection under one of
the names that model families use. TransformerLens hook names and module paths are accepted as aliases.
"""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ..errors import SiteError, did_you_mean

Side = Literal["input", "output"]
Kind = Literal["embed", "resid", "mlp.act", "mlp.out", "attn.heads", "attn.out", "module"]

_BLOCK_LISTS = ("layers", "h", "encoder.layer", "transformer.layer", "blocks")
"""How the list of blocks is called: LLaMA, NeoX, TinyLM | GPT-2 | BERT | DistilBERT | others."""
_DOWN = ("mlp.down", "mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "output.dense", "ffn.lin2", "fc2")
"""TinyLM | LLaMA, Qwen, Mistral, Gemma | GPT-2 | NeoX | Phi | BERT | DistilBERT | OPT."""
_ATTENTION_OUT = (
    "attn.out",
    "self_attn.o_proj",
    "attn.c_proj",
    "attn.attention.out_proj",
    "attn.out_proj",
    "attention.dense",
    "self_attn.dense",
    "attention.output.dense",
    "attention.out_lin",
    "self_attn.out_proj",
)
"""TinyLM | LLaMA, Qwen, Mistral, Gemma | GPT-2 | GPT-Neo | GPT-J | NeoX | Phi | BERT | DistilBERT | OPT."""
_HOOKS: dict[Kind, str] = {
    "resid": "hook_resid_post",
    "mlp.act": "mlp.hook_post",
    "mlp.out": "hook_mlp_out",
    "attn.heads": "attn.hook_z",
    "attn.out": "hook_attn_out",
}
"""TransformerLens' names within `blocks.{i}`."""


@dataclass(frozen=True)
class Site:
    """One place in a network: the first tensor that goes into, or comes out of, one of its modules."""

    name: str
    """Name, such as `layers.3.mlp.act`."""
    module: str
    """Dotted path of the module; empty for the network itself."""
    side: Side
    """Whether the site is what goes into the module or what comes out."""
    width: int | None
    """Number of units; None while only a forward pass can tell."""
    kind: Kind = "module"
    """What the site holds."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Unit:
    """The address of one unit: model, site, index.

    >>> Unit.parse("minilm/layers.3.mlp.act#412")
    Unit(model='minilm', site='layers.3.mlp.act', index=412)
    """

    model: str
    site: str
    index: int

    def __str__(self) -> str:
        return f"{self.model}/{self.site}#{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Read an address. Raises: SiteError if it is not one."""
        found = re.fullmatch(r"(.+)/([^/#]+)#([0-9]+)", text)
        if not found:
            raise SiteError(f"{text!r} is no address of a unit", expected="model/site#index, as minilm/embed#7")
        return cls(found[1], found[2], int(found[3]))


def discover(model: nn.Module) -> list[Site]:
    """All sites of a network: the named ones first, then the outputs of all other submodules."""
    named = _named_sites(model)
    taken = {site.module for site in named if site.side == "output"}
    others = [
        Site(path, path, "output", _units(module, "output"))
        for path, module in model.named_modules()
        if path and path not in taken and not isinstance(module, nn.ModuleList | nn.ModuleDict)
    ]
    return [*named, *others]


def match(sites: Sequence[Site], pattern: str) -> list[Site]:
    """The sites that fit any of the comma-separated globs, in network order.

    A glob is tried on the named sites first, then on their aliases, then on the other submodules.
    Raises: SiteError that suggests near names if one of the globs fits nothing.
    """
    wanted = [glob.strip() for glob in pattern.split(",") if glob.strip()]
    if not wanted:
        raise SiteError("no site was asked for", expected="a glob, such as layers.*.mlp.act")
    aliases = _aliases(sites)
    found: set[Site] = set()
    for glob in wanted:
        chosen = _fitting(sites, aliases, glob)
        if not chosen:
            known = [site.name for site in sites]
            shown = [site.name for site in sites if site.kind != "module"] or known
            raise SiteError(
                f"no site fits {glob!r}",
                expected="a glob over " + ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in shown)),
                hint=did_you_mean(glob, [*known, *(name for names in aliases.values() for name in names)]),
            )
        found.update(chosen)
    return [site for site in sites if site in found]


def _fitting(sites: Sequence[Site], aliases: dict[Site, list[str]], glob: str) -> list[Site]:
    fits = lambda name: fnmatch.fnmatchcase(name, glob)  # noqa: E731
    named = [site for site in sites if site.kind != "module"]
    return (
        [site for site in named if fits(site.name)]
        or [site for site in sites if any(map(fits, aliases[site]))]
        or [site for site in sites if fits(site.name)]
    )


def _aliases(sites: Iterable[Site]) -> dict[Site, list[str]]:
    # The residual stream before a block is the one after the block below it.
    sites = list(sites)
    depth = sum(site.kind == "resid" for site in sites)
    found: dict[Site, list[str]] = {}
    for site in sites:
        names = [site.module] if site.side == "output" else []
        layer = int(site.name.split(".")[1]) if site.kind in _HOOKS else -1
        if site.kind in _HOOKS:
            names.append(f"blocks.{layer}.{_HOOKS[site.kind]}")
        if site.kind in ("embed", "resid") and layer + 1 < depth:
            names.append(f"blocks.{layer + 1}.hook_resid_pre")
        found[site] = names
    return found


def _named_sites(model: nn.Module) -> list[Site]:
    lists = [path for path, module in model.named_modules() if _is_block_list(path, module)]
    if len(lists) != 1:  # none, or several stacks: names would be ambiguous
        return []
    modules = dict(model.named_modules())
    found: list[Site] = []
    for i in range(len(modules[lists[0]])):  # type: ignore[arg-type]
        block = f"{lists[0]}.{i}"
        down = _first(modules, block, _DOWN)
        out = _first(modules, block, _ATTENTION_OUT)
        width = _units(modules[down], "output") if down else _units(modules[out], "output") if out else None
        if i == 0:
            found.append(Site("embed", block, "input", width, "embed"))
        if out:
            found.append(Site(f"layers.{i}.attn.heads", out, "input", _units(modules[out], "input"), "attn.heads"))
            found.append(Site(f"layers.{i}.attn.out", out, "output", _units(modules[out], "output"), "attn.out"))
        if down:
            found.append(Site(f"layers.{i}.mlp.act", down, "input", _units(modules[down], "input"), "mlp.act"))
            found.append(Site(f"layers.{i}.mlp.out", down, "output", _units(modules[down], "output"), "mlp.out"))
        found.append(Site(f"layers.{i}.resid", block, "output", width, "resid"))
    return found


def _is_block_list(path: str, module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList) or not len(module):
        return False
    if not any(path == name or path.endswith(f".{name}") for name in _BLOCK_LISTS):
        return False
    inside = dict(module[0].named_modules())
    return any(name in inside for name in (*_DOWN, *_ATTENTION_OUT))


def _first(modules: dict[str, nn.Module], block: str, names: Iterable[str]) -> str | None:
    return next((f"{block}.{name}" for name in names if f"{block}.{name}" in modules), None)


def _units(module: nn.Module, side: Side) -> int | None:
    """What a module says of its own width; GPT-2's Conv1D is a linear map with a transposed weight."""
    if isinstance(module, nn.Linear):
        return module.in_features if side == "input" else module.out_features
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor):
        return weight.shape[0 if side == "input" else 1]
    return None
