"""The short form of the page: what a command prints when it ends, and the list of runs."""

import math
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptError, PathError
from ..records import CAUSES, Claim, Diagnosis, Figure
from ..store.runs import Run, list_runs
from .characters import draw

if TYPE_CHECKING:
    from rich.console import Console

OUTCOME_STYLES = {"for": "green", "against": "dark_orange3", "silent": "dim", "not applicable": "dim"}
BAR = 24
"""Characters of a bar that is full."""
COLUMNS = 4
"""Dictionaries side by side."""
VERDICT_STYLES = {"holds": "green", "differs": "dark_orange3", "not reached": "dim"}


def show(result: dict[str, Any]) -> None:
    """Print the result of a verb: figures, tables, sentences, then where things are and what to try next."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    for study in result.get("figures", []):
        _show_figures(console, Run.open(Path(result["run"])), study)
    if result.get("claims"):
        _show_claims(console, result["claims"])
    if result.get("diagnosis"):
        _show_diagnosis(console, result["diagnosis"])
    for sentence in result.get("sentences", []):
        console.print(f"• {escape(sentence)}")
    if result.get("dictionaries"):
        _show_dictionaries(console, result["dictionaries"])
    if result.get("runs"):
        _show_rows(console, result["runs"])
    for name, value in result.items():
        if name not in ("sentences", "runs", "claims", "figures", "failed", "diagnosis", "document", "dictionaries"):
            console.print(f"[bold]{escape(name)}[/bold]  {escape(str(value))}", soft_wrap=True)


def _show_rows(console: "Console", rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console.print(table)


def _show_dictionaries(console: "Console", rows: list[dict[str, Any]]) -> None:
    """A column per dictionary, as there are more numbers than dictionaries; what their names share is said once."""
    from rich.markup import escape
    from rich.table import Table

    names = [row["dictionary"] for row in rows]
    alike = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    shared = names[0].rfind("-", 0, alike) + 1 if len(names) > 1 else 0
    if shared:
        console.print(f"[dim]{escape(names[0][:shared])}…[/]")
    heads = [name[shared:] for name in names]
    for start in range(0, len(rows), COLUMNS):
        some = rows[start : start + COLUMNS]
        table = Table("", *(escape(head) for head in heads[start : start + COLUMNS]), box=None, pad_edge=False)
        for key in dict.fromkeys(key for row in some for key in row if key != "dictionary"):
            table.add_row(f"[bold]{escape(key)}[/]", *(escape(str(row.get(key, "–"))) for row in some))
        console.print(table)


def _show_claims(console: "Console", claims: list[Claim]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "claim", "stated", "exact", "measured", "verdict", box=None, pad_edge=False)
    for claim in claims:
        verdict = f"[{VERDICT_STYLES[claim.verdict]}]{claim.verdict}[/]"
        numbers = (claim.stated_text, claim.exact_text, claim.measured_text)
        table.add_row(claim.id, escape(claim.statement), *numbers, verdict)
    console.print(table)


def _show_diagnosis(console: "Console", found: Diagnosis) -> None:
    """The checks, then the verdict with its numbers, what is open and what would decide it."""
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    def line(name: str, text: str) -> None:
        console.print(f"[bold]{escape(name)}[/bold]")
        console.print(Padding(escape(text), (0, 0, 0, 2)))

    if found.checks:
        table = Table("", "check", "outcome", "statistic", "threshold", "speaks against", box=None, pad_edge=False)
        for check in found.checks:
            outcome = "n.a." if check.verdict == "not applicable" else check.verdict
            threshold = "" if math.isnan(check.threshold) else f"{check.threshold:.3g}"
            statistic = "" if check.statistic is None else escape(str(check.statistic))
            gone = "any" if len(check.excludes) == len(CAUSES) else ", ".join(check.excludes)
            outcome = f"[{OUTCOME_STYLES[check.verdict]}]{outcome}[/]"
            table.add_row(check.id, escape(check.title), outcome, statistic, threshold, gone)
        console.print(table)
        console.print()
    for cause, p in sorted(found.posterior.items(), key=lambda entry: -entry[1]):
        if p >= 0.005:
            style = "bold" if cause in found.causes else "dim"
            console.print(f"[{style}]{cause:<14}[/] {'█' * round(BAR * p):<{BAR}} {p:.2f}")
    line(f"{found.site}, access {found.access}: {' | '.join(found.causes)}", found.sentence)
    if not math.isnan(found.n_features.lower) or not math.isnan(found.n_features.point):
        line("features", _counted(found))
    for name, text in (("undecided", "\n".join(found.undecided)), ("what would decide", found.next_experiment)):
        if text:
            line(name, text)
    if found.notes:
        line("notes", "\n".join(f"• {note}" for note in found.notes))


def _counted(found: Diagnosis) -> str:
    n = found.n_features
    text = f"at least {n.lower:.4g}, best estimate {n.point:.4g}, at most " + (
        "unbounded" if math.isnan(n.upper) else f"{n.upper:.4g}"
    )
    for name, value in (("rank", found.rank), ("per dimension", found.load), ("active per row", found.active)):
        text += "" if math.isnan(value) else f"; {name} {value:.3g}"
    return text.replace("at least nan, ", "").replace("best estimate nan, ", "")


def _show_figures(console: "Console", run: Run, study: str) -> None:
    for figure in run.read_json(f"studies/{study}.figures", list[Figure]):
        for panel in figure.frames[-1].panels:
            for line in draw(panel):
                console.print(line, soft_wrap=True)
    console.print()


def list_folder(folder: Path) -> dict[str, Any]:
    """The runs in a folder, one row each.

    Raises: PathError if the folder does not exist.
    """
    if not folder.is_dir():
        raise PathError(f"no folder {folder}", expected="a folder of runs", hint="start a run with `digon demo`")
    rows = [_row(run) for run in list_runs(folder)]
    step = f"digon page {rows[-1]['run']}" if rows else "digon demo"
    return {"runs": rows, "next": step}


def _row(run: Run) -> dict[str, Any]:
    stages = run.stages()
    row = {"run": str(run.path), "model": "", "tokens": "", "stages": len(stages), "page": "", "verdicts": ""}
    facts: dict[str, Any] = {}
    if (run.path / "facts.json").is_file():
        facts = run.read_json("facts", dict[str, Any])
        row["model"] = facts.get("model", facts.get("target", {})).get("name", facts.get("title", ""))
        row["tokens"] = facts.get("data", {}).get("tokens", "")
    if (run.path / "page.html").is_file():
        row["page"] = "yes"
    if facts.get("kind") in ("toys", "dictionaries", "explained"):
        row["verdicts"] = facts.get("verdicts", "")
        return row
    try:
        diagnoses = run.read_json("diagnoses", list[Diagnosis])[: 1 if facts.get("kind") == "diagnosis" else None]
        row["verdicts"] = "; ".join(sorted({d.causes[0] if d.decided else "undecided" for d in diagnoses}))
    except (PathError, CorruptError) as error:
        row["verdicts"] = error.problem if isinstance(error, CorruptError) else "not finished"
    return row
