"""Why are the units of a site polysemantic? The study behind `digon diagnose`, and behind the audit's verdicts.

1. Read the target: activations, and with --ids, --labels what is known about the inputs.
2. Preflight: is the data fit for a verdict at all?
3. The numbered checks and the verdict, with the seconds of each on the error stream.
4. With --full, the activations of a whole layer: if the target is a linear function of them, a projection or a choice of
   units, the whole decides. A projection makes superposition out of features that had a dimension each.
5. Records in a run folder: diagnoses.json, facts.json.
"""

import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from .. import __version__, rng
from .. import config as configs
from ..diagnose import Evidence, diagnose
from ..errors import ConfigError
from ..measures import clusters
from ..records import Diagnosis, Measurement, to_json
from ..store.runs import Run
from ..store.shards import ActivationStore
from ..tensors import Activations
from . import annotations, report
from .commands import command
from .settings import DiagnoseConfig
from .sources import Neurons
from .targets import Target, Wanted, read_target

Say = Callable[[str], None]
MAX_ROWS = 60_000
"""Rows of an audited site that the checks look at, spread evenly over the harvest; and rows in which senses are sought."""
QUICK = ("P01", "P02", "P03", "P16")
"""Checks of an audit, which looks at many sites."""
MAX_SENSES = 512
"""Units whose senses are sought, spread evenly."""
LINEAR = 0.999
"""Explained share of the worst unit's variance, on rows that were not fitted, that makes one site a function of another."""
REGRESSED = 20_000
"""Rows that are looked at for it."""


def judge(evidence: Evidence, site: str, say: Say | None = None, ids: Collection[str] | None = None) -> Diagnosis:
    """The verdict on one site: the only place from which it is called. `say` is told the seconds of every step."""
    clock = _Clock(say or (lambda line: None))
    verdict = diagnose(evidence, site, clock, ids=ids)
    clock.stop()
    return verdict


class _Clock:
    """Takes what is about to run, and says how long it took when the next one begins."""

    def __init__(self, say: Say) -> None:
        self._say, self._running, self._started = say, "preflight", time.perf_counter()

    def __call__(self, line: str) -> None:
        self.stop()
        self._running, self._started = line.rstrip("."), time.perf_counter()

    def stop(self) -> None:
        """Say what the last step took."""
        self._say(f"{self._running}: {time.perf_counter() - self._started:.1f} s")


def diagnose_site(run: Run, source: Neurons, store: ActivationStore, seed: int) -> None:
    """Write `diagnosis/<site>.json`: what the quick checks say; `digon diagnose` asks all of them, one site at a time."""
    rows = torch.arange(0, len(store), max(1, -(-len(store) // MAX_ROWS)))
    share = report.polysemantic_share(run.read_table(f"survey/{source.site}"))
    evidence = Evidence(store.activations(source.site, rows), seed, share)
    run.write_json(f"diagnosis/{source.site}", judge(evidence, source.site, ids=QUICK))


def run_diagnosis(config: DiagnoseConfig, out: Path | None = None, say: Say | None = None) -> dict[str, Any]:
    """Diagnose a target into a run folder; returns what the command prints at its end.

    Raises: any DigonError; a target that cannot be read is refused before any work.
    """
    say = say or _to_stderr
    folder = out or Path("runs") / f"diagnose-{_short(config.target)}-{configs.digest(config)[:6]}"
    target, whole = _read(config, folder)
    run = Run.create(folder, config)
    key = "/".join([__version__, configs.digest(config), target.fingerprint, whole.fingerprint if whole else ""])
    with run.stage("diagnose", key) as needed:
        if needed:
            run.write_json("diagnoses", _diagnoses(config, target, whole, say))
    run.write_json("facts", _facts(config, target, run))
    found = run.read_json("diagnoses", list[Diagnosis])
    return {"run": str(run.path), "diagnosis": found[0]}


def document(found: Diagnosis, *, budget: bool = False) -> dict[str, Any]:
    """A diagnosis as plain values: `causes` first; the budget of every unit only where it is asked for."""
    plain = json.loads(to_json(found))
    first = ["causes", "posterior", "access", "n_features", "rank", "load", "active", "checks", "blocks", "undecided"]
    ordered = {name: plain[name] for name in [*first, "next_experiment"]} | plain
    return ordered if budget else {name: value for name, value in ordered.items() if name != "budget"}


def _read(config: DiagnoseConfig, folder: Path) -> tuple[Target, Target | None]:
    wanted = Wanted(
        config.site, config.key, config.units, config.rows, config.tokens, Path(config.data) if config.data else None,
        config.seed, config.device,
    )  # fmt: skip

    def made() -> Path:
        return Run.create(folder, config).path

    target = read_target(config.target, wanted, made)
    inputs = None if config.ids is None else annotations.read_ids(config.ids, target)
    labels = None if config.labels is None else annotations.read_labels(config.labels, target)
    if config.network and target.network is None:
        raise ConfigError(
            f"no network follows {target.name}", expected="a world that has one, such as world:autoencoder"
        )
    target = dataclasses.replace(
        target, inputs=inputs, labels=labels, network=target.network if config.network else None
    )
    if config.full is None:
        return target, None
    whole = read_target(
        config.full, dataclasses.replace(wanted, site=None, key=None, units=None), lambda: made() / "full"
    )
    if whole.total != target.total:
        raise ConfigError(
            f"{config.full} has {whole.total} rows, {config.target} has {target.total}",
            expected="the same rows in the same order: the whole layer on the inputs of its part",
        )
    return target, whole


def _diagnoses(config: DiagnoseConfig, target: Target, whole: Target | None, say: Say) -> list[Diagnosis]:
    """The verdict; where a whole layer decides, followed by that on the part alone."""
    alone = judge(_evidence(config, target, target), target.name, say)
    if whole is None:
        return [alone]
    part = f"the {target.activations.d} units of {target.name}"
    forth = explained(target.activations, whole.activations)
    numbers = f"explains {_percent(forth)} of each unit's variance" if math.isfinite(forth) else "is too short"
    if not forth > LINEAR:
        note = f"{whole.name} {numbers} on rows not fitted: {part} are no linear function of it, so it is not used."
        return [dataclasses.replace(alone, notes=(*alone.notes, note))]
    if explained(whole.activations, target.activations) > LINEAR:
        note = f"{part} and the {whole.activations.d} of {whole.name} are linear functions of each other: nothing was projected away."
        return [dataclasses.replace(alone, notes=(*alone.notes, note[0].upper() + note[1:]))]
    say(f"{part} are a projection of {whole.activations.d}: the whole decides")
    full = judge(_evidence(config, whole, target), target.name, say)
    notes = _projected(alone, full, target, whole, numbers)
    return [
        dataclasses.replace(full, sentence=f"{full.sentence} {notes[0]}", notes=(notes[1], *full.notes)),
        dataclasses.replace(alone, site=f"{target.name} (the projection alone)"),
    ]


def _projected(alone: Diagnosis, full: Diagnosis, target: Target, whole: Target, numbers: str) -> tuple[str, str]:
    sizes = f"{target.activations.d} units of {whole.activations.d} dimensions"
    first = f"Decided from the whole layer {whole.name}, of which {target.name} is a projection ({sizes})."
    second = f"{whole.name} {numbers}, on rows not fitted; taken alone, {target.name} reads {' | '.join(alone.causes)}."
    if "superposition" in alone.causes and "superposition" not in full.causes:
        first += " Superposition seen in the part is made by the projection."
    elif "superposition" in alone.causes:
        first += " A projection makes superposition by itself: what the part alone shows of it counts for nothing."
    return first, second


def _percent(share: float) -> str:
    return "all" if share > 0.9999 else f"at least {100 * share:.1f} %"


def _evidence(config: DiagnoseConfig, site: Target, about: Target) -> Evidence:
    """Evidence on the activations of one target, with what is known about the rows of another."""
    share = senses(site.activations, config.seed)
    network = site.network if site is about else None
    return Evidence(site.activations, config.seed, share, inputs=about.inputs, labels=about.labels, network=network)


def senses(activations: Activations, seed: int) -> Measurement | None:
    """Share of the units whose exemplars fall into groups; None where there are no documents to speak of."""
    step = max(1, -(-len(activations) // MAX_ROWS))
    units = torch.linspace(0, activations.d - 1, min(activations.d, MAX_SENSES), dtype=torch.float64).long()
    values = activations.values[::step][:, units]
    usable = values.isfinite().all(1)
    if activations.documents is None or activations.d < 2 or int(usable.sum()) < 10 * clusters.PARTS:
        return None
    documents = activations.documents[::step][usable].unique(return_inverse=True)[1]
    values = (values[usable] - values[usable].mean(0)).float()
    found = clusters.exemplar_clusters(values, documents, rng.stream(seed, "senses", activations.site))
    tested = found.p.isfinite()
    method = "exemplar clusters at a false discovery rate of 5 %, Wilson interval over units"
    hits = int(found.polysemantic[tested].sum())
    return report.share("polysemantic_share", hits, int(tested.sum()), method, report.FALSE_POSITIVES)


def explained(part: Activations, whole: Activations) -> float:
    """Share of the variance of the worst unit of `part` that a linear map of `whole` explains on rows not fitted.

    NaN with too few rows. Range: up to 1.
    """
    good = part.values.isfinite().all(1) & whole.values.isfinite().all(1)
    rows = good.nonzero()[:, 0]
    rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), REGRESSED), dtype=torch.float64).long()]
    if len(rows) < 2 * (whole.d + 50):
        return math.nan
    x, y = _standardized(whole.values[rows]), _standardized(part.values[rows])
    fit, test = slice(0, None, 2), slice(1, None, 2)
    gram = x[fit].T @ x[fit] / len(x[fit]) + 1e-9 * torch.eye(x.shape[1], dtype=x.dtype)
    rest = y[test] - x[test] @ torch.linalg.solve(gram, x[fit].T @ y[fit] / len(x[fit]))
    return float((1 - rest.square().sum(0) / (y[test] - y[test].mean(0)).square().sum(0).clamp(min=1e-300)).min())


def _standardized(values: torch.Tensor) -> torch.Tensor:
    x = values.double() - values.double().mean(0)
    scale = x.square().mean(0).sqrt()
    return x[:, scale > 0] / scale[scale > 0]


def _facts(config: DiagnoseConfig, target: Target, run: Run) -> dict[str, Any]:
    rows, d = target.activations.values.shape
    known = {"inputs": target.inputs is not None, "labels": target.labels is not None, "documents": target.documents}
    return {
        "kind": "diagnosis",
        "title": f"{target.name}: why polysemantic?",
        "target": {"name": config.target, "rows": f"{rows} of {target.total}", "units": d}
        | {f"{name} known": "yes" if given else "no" for name, given in known.items()},
        "settings": configs.to_dict(config),
        "versions": {"digon": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "commands": [command("diagnose", config, out=run.path), f"digon page {run.path}"],
        "seconds": {name: stage["seconds"] for name, stage in run.stages().items()},
    }


def _short(target: str) -> str:
    """A folder name for a target."""
    name = target.split("?")[0].rstrip("/").split("/")[-1]
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40].strip("-") or "target"


def _to_stderr(line: str) -> None:
    """Progress: standard output is for the result."""
    print(line, file=sys.stderr, flush=True)
