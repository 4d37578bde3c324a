"""What is going on at a site, and what if it were something else? Reading and editing activations with plain hooks.

    with capture(model, sites) as seen:                 seen[site name] -> tensor of the last forward pass
        model(x)
    with edited(model, {site: ablate([3, 7])}):         every forward pass inside sees the edited activations
        model(x)

Hooks live exactly as long as the `with` block, whatever happens inside. A capture that is opened inside an edit sees
the edited values. An edit is a function from the tensor at a site to a tensor of equal shape; `then` chains edits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import ConfigError, SiteError, did_you_mean
from .sites import Site


@dataclass(frozen=True)
class Edit:
    """A change of the activations at one site."""

    change: Callable[[Tensor], Tensor]

    def __call__(self, values: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """The changed activations, in the type and on the device of the original ones."""
        changed = self.change(values)
        assert changed.shape == values.shape, f"the edit made {tuple(changed.shape)} of {tuple(values.shape)}"
        return changed.to(values)

    def then(self, other: "Edit") -> "Edit":
        """This edit, followed by another one."""
        return Edit(lambda values: other(self(values)))


def replace(fn: Callable[[Tensor], Tensor]) -> Edit:
    """Put `fn(activations)` in the place of the activations."""
    return Edit(fn)


def ablate(
    units: Sequence[int] | Int[Tensor, " k"],
    mode: Literal["zero", "mean"] = "zero",
    mean: Float[Tensor, " d"] | None = None,
) -> Edit:
    """Hold some units at zero, or at their mean (`mean` has one value per unit of the site).

    Raises: ConfigError if the mean is missing; SiteError if the site has no such unit.
    """
    if mode == "mean" and mean is None:
        raise ConfigError("ablation to the mean needs the mean", expected="one value per unit of the site")
    index = torch.as_tensor(units, dtype=torch.long)

    def change(values: Tensor) -> Tensor:
        d = values.shape[-1]
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < d:
            raise SiteError(f"cannot ablate units {index.tolist()}", expected=f"units from 0 to {d - 1}")
        changed, here = values.clone(), index.to(values.device)
        changed[..., here] = 0.0 if mode == "zero" or mean is None else mean.to(values)[here]
        return changed

    return Edit(change)


def steer(direction: Float[Tensor, " d"], strength: float = 1.0) -> Edit:
    """Add strength · direction to every row."""
    return Edit(lambda values: values + strength * direction.to(values))


@contextmanager
def capture(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that every forward pass fills anew: site name → activations, detached.

    They are views of what flows through the network, not copies, unless one of its modules works in place.
    Raises: SiteError if the model has no such module.
    """
    seen: dict[str, Tensor] = {}
    in_place = any(getattr(module, "inplace", False) for module in model.modules())

    def keep(site: Site) -> Callable[[Tensor], None]:
        def hook(values: Tensor) -> None:
            seen[site.name] = values.detach().clone() if in_place else values.detach()

        return hook

    with ExitStack() as stack:
        handle = model.register_forward_pre_hook(lambda *_: seen.clear())
        stack.callback(handle.remove)
        for site in sites:
            stack.enter_context(_hooked(model, site, keep(site)))
        yield seen


class Enough(Exception):
    """Raised by a watcher to end the forward pass: whatever comes after is not wanted."""


@contextmanager
def watched(model: nn.Module, watchers: Mapping[Site, Callable[[Tensor], None]]) -> Iterator[None]:
    """Show every forward pass inside the block to one watcher per site, while it runs.

    Unlike `capture`, nothing is kept alive. Raises: SiteError if the model has no such module.
    """
    with ExitStack() as stack:
        for site, watcher in watchers.items():
            stack.enter_context(_hooked(model, site, watcher))
        yield


@contextmanager
def edited(model: nn.Module, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Run every forward pass inside the block with the given edit at each site.

    Raises: SiteError if the model has no such module.
    """
    with ExitStack() as stack:
        for site, edit in edits.items():
            stack.enter_context(_hooked(model, site, edit))
        yield


@contextmanager
def _hooked(model: nn.Module, site: Site, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Call `act` on the tensor at a site; what it returns, if anything, takes the tensor's place."""
    module = _module(model, site)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return _with_first(args, act), kwargs
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        changed = act(kwargs[name])
        return args, kwargs if changed is None else {**kwargs, name: changed}

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return act(output)
        assert isinstance(output, tuple | list), f"{site.module} returns a {type(output).__name__}, not a tensor"
        return type(output)(_with_first(tuple(output), act))

    if site.side == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _with_first(values: tuple[Any, ...], act: Callable[[Tensor], Tensor | None]) -> tuple[Any, ...]:
    changed = act(values[0])
    return values if changed is None else (changed, *values[1:])


def _module(model: nn.Module, site: Site) -> nn.Module:
    modules = dict(model.named_modules())
    if site.module not in modules:
        raise SiteError(f"the model has no module {site.module!r}", hint=did_you_mean(site.module, modules))
    return modules[site.module]
