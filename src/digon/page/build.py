"""From a run folder to one HTML file that opens from disk and makes no request.

Everything is inlined: data as JSON in which no character can end a script, plotly.js once, our styles and scripts. The
page's own policy forbids every request. Text of the corpus reaches the document as text nodes only.
"""

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from .. import __version__
from ..records import Claim, Diagnosis, Figure, Series, UnitCard, to_json
from ..store import files
from ..store.runs import Run
from . import dictionaries

CARD = ("tokens.js", "ladder.js", "automaton.js", "card.js")
DICTIONARY = ("measures.js", "charts.js", "dictionary.js")
SCRIPTS = {
    "audit": (
        "dom.js", "hash.js", "state.js", *CARD, "diagnosis.js", *DICTIONARY, "search.js", "views.js", "main.js",
    ),
    "explained": ("dom.js", "hash.js", "state.js", *CARD, "search.js", "index.js", "explained.js", "main.js"),
    "diagnosis": ("dom.js", "hash.js", "diagnosis.js", "single.js", "main.js"),
    "dictionaries": ("dom.js", "hash.js", *DICTIONARY, "decoded.js", "main.js"),
    "toys": ("dom.js", "hash.js", "figures.js", "laboratory.js"),
}  # fmt: skip
"""Scripts of a page, by the kind of the run."""
DIGITS = 4
MOST_CARDS = 600
"""Cards in one page, some 50 KB each; of more units every so many-th has one, the others stay in the run's files."""


def build(run_path: Path, out: Path | None = None) -> Path:
    """Write the page of a run, by default `page.html` in its folder.

    Raises: PathError if there is no run or it is not finished; CorruptError if a file of it is damaged.
    """
    run = Run.open(run_path)
    path = out or run_path / "page.html"
    files.write_text(path, render(collect(run)))
    return path


def collect(run: Run) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    facts = run.read_json("facts", dict[str, Any])
    kinds = {
        "toys": _toys,
        "diagnosis": _diagnosis,
        "audit": _audit,
        "dictionaries": _dictionaries,
        "explained": _explained,
    }
    return kinds[facts.get("kind", "audit")](run, facts)


def _explained(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    """What `digon explain` found."""
    measured = (run.path / "measurements.parquet").is_file()
    units = run.read_table("units") if (run.path / "units.parquet").is_file() else {}
    kept = _kept(units)
    cards: dict[str, Any] = {}
    for path in sorted(run.path.glob("cards/*/*.json")):
        found = run.read_json(str(path.relative_to(run.path).with_suffix("")), list[UnitCard])
        named = {card.unit + " falling" * (card.sign < 0): card for card in found}
        cards |= {name: _shown(card) for name, card in named.items() if name in kept}
    return {
        "facts": facts,
        "overview": run.read_json("overview", dict[str, Any]),
        "measurements": _rows(run.read_table("measurements")) if measured else [],
        "curves": json.loads(to_json(run.read_json("curves", list[Series]))),
        "units": {name: _plain(column) for name, column in units.items()}
        | {"has_card": [u in cards for u in units.get("unit", [])]},
        "diagnoses": [],
        "cards": cards,
    }


def _kept(units: dict[str, np.ndarray]) -> set[str]:
    """Units whose card is in the page."""
    names = units["unit"].tolist() if units else []
    return set(names[:: max(1, -(-len(names) // MOST_CARDS))])


def _shown(card: UnitCard) -> dict[str, Any]:
    plain = json.loads(to_json(card))
    for excerpt in plain["exemplars"]:
        excerpt["activations"] = [_short(v) for v in excerpt["activations"]]
        simulated = excerpt["simulated"] or {}
        excerpt["simulated"] = {name: [_short(v) for v in values] for name, values in simulated.items()}
    return plain


def _dictionaries(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    """What `digon decode` found in a folder of shards."""
    return {"facts": facts, "dictionaries": dictionaries.collect(run)}


def _diagnosis(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    """What `digon diagnose` found."""
    return {"facts": facts, "diagnoses": _diagnoses(run)}


def _diagnoses(run: Run) -> list[dict[str, Any]]:
    found = json.loads(to_json(run.read_json("diagnoses", list[Diagnosis])))
    for diagnosis in found:
        shares = diagnosis["budget"]
        diagnosis["budget"] = {cause: [_short(v) for v in row] for cause, row in shares.items()}
    return found


def _toys(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    """The toy laboratory: figures of every study, and claims if any were judged."""
    figures = [
        {"study": study, "figure": figure}
        for study in run.stages()
        for figure in json.loads(to_json(run.read_json(f"studies/{study}.figures", list[Figure])))
    ]
    figures.sort(key=lambda entry: _place(entry["study"], entry["figure"]["id"]))
    judged = (run.path / "claims.json").is_file()
    claims = json.loads(to_json(run.read_json("claims", list[Claim]))) if judged else []
    return {"facts": facts, "figures": figures, "claims": claims}


def _place(study: str, figure: str) -> tuple[Any, ...]:
    """The laboratory first, then sections in their order: E2 before E10 before F1."""
    section = figure.split("-")[0]
    letters = section.rstrip("0123456789")
    return study != "laboratory", letters != "E", letters, int(section[len(letters) :] or 0), study


def _audit(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    units = run.read_table("units")
    sites = list(dict.fromkeys(units["site"].tolist()))
    cards = [card for site in sites for card in run.read_json(f"cards/{site}", list[UnitCard])]
    return {
        "facts": facts,
        "overview": run.read_json("overview", dict[str, Any]),
        "measurements": _rows(run.read_table("measurements")),
        "units": {name: _plain(column) for name, column in units.items()},
        "diagnoses": _diagnoses(run),
        "cards": {card.unit: _shown(card) for card in cards},
        "dictionaries": dictionaries.collect(run),
    }


def render(data: dict[str, Any]) -> str:
    """The HTML for collected data."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_asset("templates/page.html.j2"))
    return template.render(
        title=data["facts"].get("title", "digon"),
        version=__version__,
        data=embeddable(data),
        style=_asset("assets/style.css"),
        script="\n".join(_asset(f"assets/{name}") for name in SCRIPTS[data["facts"].get("kind", "audit")]),
        plotly=_plotly(),
    )


def embeddable(data: Any) -> str:
    """Strict JSON that is safe inside a script element: no character in it can open or close markup.

    >>> embeddable("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plotly() -> str:
    return resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")


def _asset(name: str) -> str:
    return resources.files("digon.page").joinpath(name).read_text(encoding="utf-8")


def _plain(column: np.ndarray) -> list[Any]:
    if column.dtype.kind != "f":
        return column.tolist()
    return [_short(v) for v in column.tolist()]


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _rows(table: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    columns = {name: _plain(column) for name, column in table.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
