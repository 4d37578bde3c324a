"""One toy network from flags: train several starts, show the best."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ...errors import ConfigError
from ...measures import geometry
from ...measures.polytopes import Polytope, polytopes
from ...records import Figure, Frame
from ...store import weights
from ...store.runs import Run
from ...worlds.features import Features, FeatureSet, features
from ...worlds.fit import Fit, FitConfig, fit
from ...worlds.toys import Toy
from .base import Outcome, Say, measured
from .portrait import portrait
from .reproduce import write_outcome
from .settings import ToyConfig

STUDY = "toy"


def run_toy(config: ToyConfig, out: Path, say: Say) -> dict[str, Any]:
    """Train, measure, keep; returns what the command prints at its end.

    Raises: ConfigError if the settings make no sense; PathError if `out` holds a run with other settings.
    """
    law = law_of(config)
    network = Toy(
        config.n, config.m, config.starts, hidden=config.hidden, output=config.output, tied=not config.untied,
        target=config.target, seed=config.seed,
    )  # fmt: skip
    run = Run.create(out, config)
    with run.stage(STUDY, "1") as needed:
        if needed:
            found = _train(network, law, config, say)
            weights.write_tensors(run.path / "network.safetensors", _tensors(found))
            write_outcome(run, STUDY, _outcome(found, config))
    run.write_json("facts", {"kind": "toys", "title": f"{config.n} features in {config.m} dimensions", "toy": True})
    W = weights.read_tensors(run.path / "network.safetensors")["W"]
    return {"sentences": sentences(W, run, config), "figures": [STUDY], "run": str(run.path)}


def law_of(config: ToyConfig) -> Features:
    """The features of these settings.

    Raises: ConfigError.
    """
    sets: tuple[FeatureSet, ...] = ()
    if config.sets != "none":
        if not 1 < config.set_size <= config.n:
            raise ConfigError(f"sets of {config.set_size} among {config.n} features", expected=f"2 to {config.n}")
        starts = range(0, config.n - config.set_size + 1, config.set_size)
        sets = tuple(FeatureSet(members=tuple(range(i, i + config.set_size)), kind=config.sets) for i in starts)
    if not config.decay >= 0:
        raise ConfigError(f"setting 'decay': {config.decay}", expected="at least 0; 1 = all features equally important")
    importance = [config.decay**i for i in range(config.n)]
    return features(config.n, config.density, importance, values=config.values, sets=sets)


def _train(network: Toy, law: Features, config: ToyConfig, say: Say) -> Fit:
    engine = "exact" if config.exact else "sampled"
    say(f"train {config.starts} networks of {config.n} features in {config.m} dimensions ({engine})")
    settings = FitConfig(
        engine=engine, steps=config.steps, batch=config.batch, learning_rate=config.learning_rate, seed=config.seed,
        device=config.device,
    )  # fmt: skip
    return fit(network, law, settings, progress=_tenths(say))


def _tenths(say: Say):
    def progress(step: int, steps: int) -> None:
        if step * 10 // steps > (step - 1) * 10 // steps:
            say(f"{step:,} of {steps:,} steps")

    return progress


def _tensors(found: Fit) -> dict[str, torch.Tensor]:
    toy, best = found.toy, found.best
    return {name: getattr(toy, name)[best].detach().cpu().contiguous().clone() for name in ("W", "V", "b")}


def _outcome(found: Fit, config: ToyConfig) -> Outcome:
    W = found.toy.W[found.best].detach()
    note = lambda name, value, method: measured(name, value, method=method, seed=config.seed)  # noqa: E731
    values = [
        note("best_loss", float(found.loss.min()), f"best of {config.starts} starts"),
        note("features_per_dimension", float(geometry.features_per_dimension(W)), "‖W‖² / m"),
        note("represented", float(geometry.represented(W).sum()), "features with norm above 1/2"),
        note("superposed", float(geometry.superposed(W)), "more represented features than directions"),
        note("at_best", _share_at_best(found), "share of starts within 0.1 % of the best loss"),
    ]
    figure = Figure(
        STUDY,
        f"{config.n} features in {config.m} dimensions, density {config.density:g}",
        "",
        see="Features of one polytope share their dimensions: equal dimensionality, equal interference.",
        caution="The best of a few starts: a better minimum may exist, and other starts may end elsewhere.",
        frames=(Frame("", portrait(W)),),
        columns=2,
    )
    return Outcome({v.name: v for v in values}, figures=(figure,))


def _share_at_best(found: Fit) -> float:
    loss = found.loss
    return float((loss <= loss.min() * 1.001 + 1e-12).double().mean())


def sentences(W: torch.Tensor, run: Run, config: ToyConfig) -> list[str]:
    """What came out, in words."""
    from .reproduce import read_outcome

    values = read_outcome(run, STUDY).values
    kept, shapes = int(values["represented"].value), polytopes(W)
    superposed = "more than there are dimensions: superposition" if values["superposed"].value else "no superposition"
    return [
        f"{kept} of {config.n} features are represented in {config.m} dimensions, {superposed}.",
        f"Loss {values['best_loss'].value:.6g}; {values['at_best'].value:.0%} of {config.starts} starts reached it.",
        f"Geometry: {_shapes(shapes)}." if shapes else "No feature is represented: all are ignored.",
    ]


def _shapes(shapes: list[Polytope]) -> str:
    counts = Counter(shape.name for shape in shapes)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
