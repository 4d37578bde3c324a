"""What a run of `digon explain` found, over its units: index, numbers by site, rate–distortion curve, bill, sentences.

Rate and distortion: with at most so many bits per unit, how much of the variance of the units is predicted on unseen
documents? Every unit takes the explanation that does best on the select split among those it can afford; the curve is the
mean of max(ρ, 0)² over units, ρ over all tokens of the test split, with a bootstrap over units. Units whose ρ no
explanation has, as they never vary there, are left out and counted.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ... import __version__, rng
from ...measures import stats
from ...records import Explanation, Measurement, Series, UnitCard
from ...store.runs import Run
from .. import report
from ..commands import command
from . import chance
from .bill import Heard
from .desk import key_of
from .desk import told as told_first
from .work import Chunk, Work, counted

Chosen = dict[str, dict[str, float | None]]
DRAWS = 400
CHOICES = ("detection", "fuzzing", "intruder", "neighbors")
"""Scores for which a judge chooses among texts."""
BUDGETS = tuple(float(round(2 ** (power / 2))) for power in range(4, 41))
"""Bits at which the curve is drawn: 4 to 2^20, two per doubling."""


def write(work: Work, chunks: Sequence[Chunk], heard: Heard | None, notes: Sequence[str]) -> None:
    """Write units.parquet, explanations.parquet, measurements.parquet, curves.json, overview.json and facts.json."""
    run, seed = work.run, work.settings.explain.seed
    sites = list(dict.fromkeys(chunk.source.site for chunk in chunks))
    cards: dict[str, list[UnitCard]] = {site: [] for site in sites}
    chosen: dict[str, Chosen] = {site: {} for site in sites}
    for chunk in chunks:
        cards[chunk.source.site] += run.read_json(f"cards/{chunk.name}", list[UnitCard])
        chosen[chunk.source.site] |= run.read_json(f"chosen/{chunk.name}", Chosen)
    names = {site: [chunk.name for chunk in chunks if chunk.source.site == site] for site in sites}
    more = {site: chance.above(run, names[site], cards[site], chosen[site]) for site in sites}
    measured = write_tables(run, cards, chosen, seed, more)
    run.write_json("overview", {"sentences": _sentences(measured, notes, heard)})
    run.write_json("facts", _facts(work, sites, heard))


def write_tables(
    run: Run,
    cards: dict[str, list[UnitCard]],
    chosen: dict[str, Chosen],
    seed: int,
    more: Mapping[str, list[Measurement]] | None = None,
) -> dict[str, list[Measurement]]:
    """Write units.parquet, explanations.parquet, measurements.parquet and curves.json; returns the numbers by site.

    `more` are numbers of the sites beside those of the cards.
    """
    everything = [card for own in cards.values() for card in own]
    if everything:
        run.write_table("units", _index(everything, chosen))
    rows = _explanations(everything, chosen)
    if rows["unit"].size:
        run.write_table("explanations", rows)
    measured = {site: _measured(own, seed) + (more or {}).get(site, []) for site, own in cards.items()}
    if any(measured.values()):
        report.write_measurements(run, measured)
    run.write_json("curves", [curve(site, own, chosen.get(site, {}), seed) for site, own in cards.items()])
    return measured


def told(run: Run, heard: Heard | None) -> dict[str, Any]:
    """What the command prints when it ends."""
    overview = run.read_json("overview", dict[str, Any])
    failed = []
    if heard is not None and (heard.stopped or heard.failed):
        failed = [heard.stopped or f"{heard.failed} units lack answers"]
    return {"sentences": [entry["text"] for entry in overview["sentences"]], "run": str(run.path), "failed": failed}


def value(explanation: Explanation, name: str) -> float:
    """One of the scores of an explanation; NaN if it has none."""
    found = None if explanation.score is None else getattr(explanation.score, name)
    return math.nan if found is None else found.value


def name_of(card: UnitCard) -> str:
    """Address of the unit, with what the card is about if it falls."""
    return card.unit + " falling" * (card.sign < 0)


def _index(cards: Sequence[UnitCard], chosen: dict[str, Chosen]) -> dict[str, np.ndarray]:
    rows: list[dict[str, Any]] = []
    for card in cards:
        first = told_first(card.explanations, chosen.get(card.site, {}).get(key_of(card), {}))
        row: dict[str, Any] = {
            "unit": card.unit,
            "site": card.site,
            "index": card.index,
            "kind": card.kind,
            "sign": card.sign,
        }
        row |= {
            "has_card": True,
            "explainer": first.explainer if first else "",
            "text": first.text[:200] if first else "",
        }
        row |= {
            "bits": first.bits if first else math.nan,
            "effective": card.coverage.effective.value if card.coverage else math.nan,
        }
        row |= {
            name: value(first, field) if first else math.nan
            for name, field in (
                ("rho", "top_and_random"),
                ("rho_random", "random_only"),
                ("rho_population", "population"),
            )
        }
        rows.append(row | {m.name: m.value for m in card.measurements})
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: _column([row.get(name, math.nan) for row in rows]) for name in names}


def _column(values: Sequence[Any]) -> np.ndarray:
    text = any(isinstance(v, str) for v in values)
    return np.array(values, dtype=object) if text else np.array(values)


def _explanations(cards: Sequence[UnitCard], chosen: dict[str, Chosen]) -> dict[str, np.ndarray]:
    """A row per explanation: what queries and plots need."""
    scores = ("top_and_random", "random_only", "population", "baseline", "permuted", "ablation")
    pairs = [(card, e) for card in cards for e in card.explanations]
    select = [chosen.get(card.site, {}).get(key_of(card), {}).get(e.explainer) for card, e in pairs]
    columns: dict[str, np.ndarray] = {
        "unit": np.array([name_of(card) for card, _ in pairs], dtype=object),
        "site": np.array([card.site for card, _ in pairs], dtype=object),
        "explainer": np.array([e.explainer for _, e in pairs], dtype=object),
        "bits": np.array([e.bits for _, e in pairs], float),
        "select": np.array([math.nan if v is None else v for v in select], float),
    }
    return columns | {name: np.array([value(e, name) for _, e in pairs], float) for name in scores}


def curve(site: str, cards: Sequence[UnitCard], chosen: Chosen, seed: int) -> Series:
    """Rate and distortion of a site: explained share of the variance against bits per unit."""
    scored = [card for card in cards if any(math.isfinite(value(e, "population")) for e in card.explanations)]
    table = np.array([[_affordable(card, chosen, bits) for bits in BUDGETS] for card in scored]).reshape(
        -1, len(BUDGETS)
    )
    if not len(table):
        return Series("line", site, (), ())
    low, high = _interval(table, seed, site)
    plain = [tuple(float(v) for v in row) for row in (table.mean(0), low, high)]
    return Series("line", site, BUDGETS, plain[0], low=plain[1], high=plain[2])


def _affordable(card: UnitCard, chosen: Chosen, bits: float) -> float:
    known = chosen.get(key_of(card), {})
    able = [(known.get(e.explainer), value(e, "population")) for e in card.explanations if e.bits <= bits]
    ranked = [
        (select, rho) for select, rho in able if select is not None and math.isfinite(select) and math.isfinite(rho)
    ]
    return max(max(ranked)[1], 0.0) ** 2 if ranked else 0.0


def _interval(table: np.ndarray, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Ends of 95 % intervals of the means over rows."""
    if len(table) < 2:
        return np.full(table.shape[1], math.nan), np.full(table.shape[1], math.nan)
    return stats.sample_interval(table, lambda v: v.mean(1), rng.numpy_stream(seed, "curve", name), DRAWS)


def _measured(cards: Sequence[UnitCard], seed: int) -> list[Measurement]:
    """Means over the units of a site: of every explainer its scores, what chance and other units reach, and its bits."""
    found = []
    names = list(dict.fromkeys(e.explainer for card in cards for e in card.explanations))
    for name in names:
        own = [e for card in cards for e in card.explanations if e.explainer == name]
        for score in ("top_and_random", "random_only", "population", "baseline", "permuted", "ablation"):
            if any(e.score is not None and getattr(e.score, score) is not None for e in own):
                found.append(mean(f"{name}: {score}", [value(e, score) for e in own], seed))
        found.append(mean(f"{name}: bits", [e.bits for e in own], seed))
        found += _judged(name, own, seed)
    effective = [card.coverage.effective.value for card in cards if card.coverage is not None]
    if effective:
        found.append(mean("effective", effective, seed))
    ceilings = [m.value for card in cards for m in card.measurements if m.name == "eta2"]
    if ceilings:  # other tools do not measure it
        note = "ceiling of any context-free explanation"
        found.append(report.median("eta2_median", np.array(ceilings, float), seed, note))
    return found


def _judged(explainer: str, own: Sequence[Explanation], seed: int) -> list[Measurement]:
    """Means of the scores by choice; their null is that of the units."""
    scored = [m for e in own if e.score is not None for m in e.score.choices]
    return [
        replace(
            mean(f"{explainer}: {name}", [m.value for m in scored if m.name == name], seed),
            null=next((m.null for m in scored if m.name == name and math.isfinite(m.null)), math.nan),
        )
        for name in dict.fromkeys(m.name for m in scored)
    ]


def mean(name: str, values: Sequence[float], seed: int) -> Measurement:
    """Mean over units with a bootstrap over them; those without the number are left out and counted."""
    draw = rng.numpy_stream(seed, "curve", name)
    return report.over_units(name, np.array(values, float), lambda v: v.mean(-1), draw, "mean", DRAWS, seed=seed)


def _sentences(
    measured: dict[str, list[Measurement]], notes: Sequence[str], heard: Heard | None
) -> list[dict[str, str]]:
    lines = [{"about": "missing", "text": note} for note in notes]
    for site, found in measured.items():
        by_name = {m.name: m for m in found}
        scores = {
            name.removesuffix(": top_and_random"): m for name, m in by_name.items() if name.endswith(": top_and_random")
        }
        known = {name: m for name, m in scores.items() if math.isfinite(m.value)}
        if not known:
            lines.append({"about": "explanation", "text": f"{site}: no explanation could be scored."})
            continue
        first = max(known, key=lambda name: known[name].value)
        text = f"{site}: over {counted(known[first].n, 'unit')}, the explanation by {first} predicts best, with a mean score ρ = {known[first]} on top and random excerpts of unseen documents"
        whole, other = by_name.get(f"{first}: population"), by_name.get(f"{first}: baseline")
        text += f", {whole} on all tokens of them" if whole is not None and math.isfinite(whole.value) else ""
        text += (
            f"; the explanations of other units reach {other}"
            if other is not None and math.isfinite(other.value)
            else ""
        )
        rest = [
            f"{name} {m.value:.2f}" for name, m in sorted(known.items(), key=lambda kv: -kv[1].value) if name != first
        ]
        lines.append(
            {
                "about": "explanation",
                "text": text + "." + (f" The others: {', '.join(rest)}." if rest else "") + chance.said(found),
            }
        )
        lines += _survives(site, by_name)
    words = [*heard.sentences, *(by_choice(site, found) for site, found in measured.items())] if heard else []
    return lines + [{"about": "words", "text": text} for text in words if text]


def by_choice(site: str, measured: Sequence[Measurement]) -> str:
    """What is said of scores by choice; nothing where there are none.

    >>> by_choice("embed", [Measurement("words: intruder", 0.5, n=2, null=0.2), Measurement("words: bits", 90.0, n=2)])
    'embed: intruder reads 0.5 in the mean over 2 units (chance 0.2).'
    """
    found = [(m.name.rpartition(": ")[2], m) for m in measured if m.n and m.name.rpartition(": ")[2] in CHOICES]
    parts = [f"{name} reads {m} in the mean over {counted(m.n, 'unit')} (chance {m.null:.2g})" for name, m in found]
    return f"{site}: {', '.join(parts)}." if parts else ""


def _survives(site: str, by_name: dict[str, Measurement]) -> list[dict[str, str]]:
    """What ablation says, if it was asked for."""
    scores = {name.removesuffix(": ablation"): m for name, m in by_name.items() if name.endswith(": ablation")}
    known = {name: m for name, m in scores.items() if math.isfinite(m.value)}
    if not known:
        return []
    best = max(known, key=lambda name: known[name].value)
    text = f"{site}: put into the network, the values of {best} keep {known[best]} of what it does with a unit, over {known[best].n} units: 1 as the unit itself, 0 as its mean."
    return [{"about": "explanation", "text": text}]


def _facts(work: Work, sites: Sequence[str], heard: Heard | None) -> dict[str, Any]:
    target, config, store = work.target, work.settings.explain, work.target.store
    facts: dict[str, Any] = {
        "kind": "explained",
        "title": f"{target.name}: what do its units respond to?",
        "model": {"name": target.name, "path": target.network or "not known"},
        "data": {
            "path": target.data or "that of the harvest",
            "tokens": len(store),
            "documents with tokens": len(store.document_ids),
        },
        "seed": config.seed,
        "sites": list(sites),
        "explainers without a language model": list(config.rungs) or "all",
        "versions": {"digon": __version__, "python": platform.python_version()},
        "commands": [command("explain", config, work.settings.words, out=work.run.path), f"digon page {work.run.path}"],
        "seconds": {name: stage["seconds"] for name, stage in work.run.stages().items()},
    }
    return facts | ({"language model": heard.facts} if heard else {})
