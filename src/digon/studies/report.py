"""From the stages' files to the tables, sentences and facts that the page and the command line show.

Sentences carry their numbers and intervals; none says "superposition" unless the verdict of the checks does.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from .. import __version__
from ..coders.base import Totals
from ..hosts import tinylm, tinylm_train
from ..hosts.corpus import Corpus
from ..hosts.load import Host
from ..measures import sparsity, stats
from ..records import Diagnosis, Measurement, UnitCard
from ..store.runs import Run
from ..store.shards import ActivationStore
from .commands import command
from .settings import AuditConfig
from .sources import Source

FALSE_POSITIVES = 0.05
"""Level of the false discovery rate at which units are called polysemantic."""


def share(name: str, hits: int, n: int, method: str, null: float = float("nan")) -> Measurement:
    """A share of units with its Wilson interval."""
    if n == 0:
        return Measurement(name, float("nan"), n=0, method=method)
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Measurement(name, hits / n, float(interval.low), float(interval.high), n, method=method, null=null)


def over_units(
    name: str,
    values: np.ndarray,
    of: Callable[[np.ndarray], np.ndarray],
    draw: np.random.Generator,
    method: str,
    draws: int = 400,
    **more: Any,
) -> Measurement:
    """A statistic of units (along the last axis) with a bootstrap interval over units, from two on; `more` goes into the record.

    Units without the number are left out and counted; `method` is what the statistic is called.
    """
    known = values[np.isfinite(values)]
    method = f"{method} over units, bootstrap over units; {len(values) - len(known)} without the number"
    if not len(known):
        return Measurement(name, math.nan, n=0, method=method)
    low, high = stats.sample_interval(known, of, draw, draws) if len(known) > 1 else (math.nan, math.nan)
    return Measurement(name, float(of(known)), float(low), float(high), len(known), method=method, **more)


def median(name: str, values: np.ndarray, seed: int, source: str = "") -> Measurement:
    """Median over units."""
    of, draw = lambda v: np.median(v, axis=-1), np.random.default_rng(seed)
    return over_units(name, values, of, draw, method="median", seed=seed, source=source)


def dictionary_measurements(totals: Totals, seed: int) -> list[Measurement]:
    """What an autoencoder does on all harvested rows, by its deployed encoder."""
    method = "all harvested rows, deployed encoder"
    dense = float(sparsity.dense(totals.density).double().mean())
    numbers = {"fvu": totals.fvu, "l0": totals.l0, "dead_share": totals.dead_share, "dense_share": dense}
    return [Measurement(k, v, n=totals.rows, method=method, seed=seed) for k, v in numbers.items()]


def write(
    run: Run, config: AuditConfig, host: Host, corpus: Corpus, store: ActivationStore, units: list[Source]
) -> None:
    """Write units.parquet, measurements.parquet, diagnoses.json, overview.json and facts.json."""
    tables = {source.site: run.read_table(f"survey/{source.site}") for source in units}
    cards = {source.site: run.read_json(f"cards/{source.site}", list[UnitCard]) for source in units}
    neurons = [source.site for source in units if source.kind == "neuron"]
    diagnoses = [run.read_json(f"diagnosis/{site}", Diagnosis) for site in neurons]
    _write_units(run, host.name, units, tables, cards)
    measured = {source.site: _site_measurements(tables[source.site], config.seed) for source in units}
    for source in units:
        extra = f"survey/{source.site}.measurements"
        measured[source.site] += run.read_json(extra, list[Measurement])
    write_measurements(run, measured)
    run.write_json("diagnoses", diagnoses)
    sentences = [*_sentences(units, measured, diagnoses, cards, config.seed), *_training(Path(config.model))]
    run.write_json("overview", {"sentences": sentences})
    run.write_json("facts", _facts(config, host, corpus, store, neurons, run))


def summary(run: Run) -> dict[str, Any]:
    """What a command prints when it ends."""
    overview = run.read_json("overview", dict[str, Any])
    return {"sentences": [entry["text"] for entry in overview["sentences"]], "run": str(run.path)}


def _write_units(
    run: Run,
    model: str,
    units: list[Source],
    tables: dict[str, dict[str, np.ndarray]],
    cards: dict[str, list[UnitCard]],
) -> None:
    parts: list[dict[str, np.ndarray]] = []
    for source in units:
        n, site = source.width, source.site
        best, carded = np.full(n, np.nan), np.zeros(n, bool)
        for card in cards[site]:
            carded[card.index] = True
            scores = [e.score.top_and_random.value for e in card.explanations if e.score is not None]
            best[card.index] = np.nanmax(scores) if np.isfinite(scores).any() else np.nan
        names = {
            "unit": np.array([f"{model}/{site}#{i}" for i in range(n)], dtype=object),
            "site": np.full(n, site, dtype=object),
            "index": np.arange(n),
            "kind": np.full(n, source.kind, dtype=object),
        }
        parts.append({**names, **tables[site], "rho": best, "has_card": carded})
    run.write_table("units", {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def write_measurements(run: Run, measured: dict[str, list[Measurement]]) -> None:
    """Write `measurements.parquet`: a row per site and number."""
    rows = [{"site": site, **asdict(m)} for site, found in measured.items() for m in found]
    columns = {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}
    for name in ("value", "low", "high", "null", "p"):
        columns[name] = columns[name].astype(float)
    columns["n"] = columns["n"].astype(np.int64)
    columns["seed"] = np.array([-1 if seed is None else seed for seed in columns["seed"]], dtype=np.int64)
    run.write_table("measurements", columns)


def polysemantic_share(table: dict[str, np.ndarray]) -> Measurement:
    """Share of the tested units whose exemplars fall into groups."""
    tested = np.isfinite(table["cluster_p"])
    flagged = int(table["polysemantic"].astype(bool)[tested].sum())
    method = "exemplar clusters at a false discovery rate of 5 %, Wilson interval over units"
    return share("polysemantic_share", flagged, int(tested.sum()), method, FALSE_POSITIVES)


def _site_measurements(table: dict[str, np.ndarray], seed: int) -> list[Measurement]:
    never = int((table["density"] == 0).sum())
    return [
        polysemantic_share(table),
        median("eta2_median", table["eta2"], seed, "correlation ratio; ceiling of any context-free explanation"),
        median("density_median", table["density"], seed),
        median("kurtosis_median", table["kurtosis"], seed),
        share(
            "never_active_share", never, len(table["density"]), "units active on no token, Wilson interval over units"
        ),
    ]


def _sentences(
    units: list[Source],
    measured: dict[str, list[Measurement]],
    diagnoses: list[Diagnosis],
    cards: dict[str, list[UnitCard]],
    seed: int,
) -> list[dict[str, str]]:
    found = [(source, {m.name: m for m in measured[source.site]}) for source in units]
    sentences: list[dict[str, str]] = []
    for source, by_name in found:
        if source.kind == "neuron":
            sentences.append({"about": "polysemanticity", "text": _polysemanticity(source, by_name)})
    # Sites of which the same is to be said share one sentence.
    for sentence in dict.fromkeys(d.sentence for d in diagnoses):
        sites = ", ".join(d.site for d in diagnoses if d.sentence == sentence)
        sentences.append({"about": "cause", "text": f"{sites}: {sentence}"})
    for source, by_name in found:
        if source.kind == "latent":
            sentences.append({"about": "dictionary", "text": _dictionary(source, by_name)})
    for source, _ in found:
        sentences += [{"about": "explanation", "text": t} for t in _explanations(source.site, cards[source.site], seed)]
    return sentences


def _training(model: Path) -> list[dict[str, str]]:
    """How well a tinylm predicts text that it was not trained on, beside what counting tokens reaches."""
    if not (model / tinylm.RECORD).is_file():
        return []
    found = {m.name: m for m in tinylm_train.report(model)}
    text = (
        f"On held-out documents the network needs {found['tinylm_bits_per_byte']}; counting tokens needs "
        f"{found['unigram_bits_per_byte']}, counting pairs {found['bigram_bits_per_byte']}."
    )
    return [{"about": "model", "text": text}]


def _percent(m: Measurement) -> str:
    if not np.isfinite(m.low):
        return f"{100 * m.value:.0f} %"
    return f"{100 * m.value:.0f} % [{100 * m.low:.0f}, {100 * m.high:.0f}]"


def _polysemanticity(source: Source, m: dict[str, Measurement]) -> str:
    tested = m["polysemantic_share"]
    if tested.n == 0:
        return f"{source.site}: no unit has enough exemplars in different documents to be tested."
    return (
        f"{source.site}: {_percent(tested)} of {tested.n} tested units respond to contexts that fall into separate "
        f"groups (at most {100 * FALSE_POSITIVES:.0f} % of these calls expected false); the median unit's context-free "
        f"ceiling η² is {m['eta2_median']}."
    )


def _dictionary(source: Source, m: dict[str, Measurement]) -> str:
    return (
        f"{source.site}: a sparse autoencoder with {source.width} latents, {m['l0'].value:.0f} active per token, leaves "
        f"{100 * m['fvu'].value:.0f} % of the variance unexplained; {100 * m['dead_share'].value:.0f} % of its latents "
        f"are dead, {100 * m['dense_share'].value:.0f} % fire on more than a tenth of the tokens."
    )


def _explanations(site: str, cards: list[UnitCard], seed: int) -> list[str]:
    lines: list[str] = []
    names = sorted({e.explainer for card in cards for e in card.explanations})
    for name in names:
        scores = [e.score for card in cards for e in card.explanations if e.explainer == name and e.score is not None]
        rho = median("rho", np.array([s.top_and_random.value for s in scores]), seed)
        other = median("baseline", np.array([s.baseline.value for s in scores]), seed)
        lines.append(
            f"{site}: over {rho.n} units with a card, the {name} explanation predicts with median score ρ = {rho} on top and random "
            f"excerpts of unseen documents; another unit's explanation reaches {other}."
        )
    return lines


def _facts(
    config: AuditConfig, host: Host, corpus: Corpus, store: ActivationStore, sites: list[str], run: Run
) -> dict[str, Any]:
    parameters = sum(p.numel() for p in host.model.parameters())
    packages = ("torch", "numpy", "scikit-learn", "transformers", "duckdb")
    return {
        "title": f"{host.name}: how polysemantic, and why?",
        "model": {"name": host.name, "kind": type(host.model).__name__, "parameters": parameters, "path": config.model}
        | {"fingerprint": host.fingerprint},
        "data": {"path": config.data or "Python's own source and documentation", "tokens": len(store)}
        | {"documents with tokens": len(store.document_ids), "fingerprint": corpus.fingerprint}
        | asdict(corpus.report),
        "seed": config.seed,
        "sites": sites,
        "versions": {"digon": __version__, "python": platform.python_version(), "machine": platform.machine()}
        | {name: _version(name) for name in packages},
        "commands": [command("audit", config, out=run.path), f"digon page {run.path}"],
        "seconds": {name: stage["seconds"] for name, stage in run.stages().items()},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
