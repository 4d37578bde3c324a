"""The short form of the page: what a command prints when it ends, and the list of runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptError, PathError
from ..records import Claim, Diagnosis, Figure
from ..store.runs import Run, list_runs
from .characters import draw

if TYPE_CHECKING:
    from rich.console import Console

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
    for sentence in result.get("sentences", []):
        console.print(f"• {escape(sentence)}")
    if result.get("runs"):
        _show_rows(console, result["runs"])
    for name, value in result.items():
        if name not in ("sentences", "runs", "claims", "figures", "failed"):
            console.print(f"[bold]{escape(name)}[/bold]  {escape(str(value))}", soft_wrap=True)


def _show_rows(console: "Console", rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
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
        row["model"] = facts.get("model", {}).get("name", facts.get("title", ""))
        row["tokens"] = facts.get("data", {}).get("tokens", "")
    if (run.path / "page.html").is_file():
        row["page"] = "yes"
    if facts.get("kind") == "toys":
        row["verdicts"] = facts.get("verdicts", "")
        return row
    try:
        diagnoses = run.read_json("diagnoses", list[Diagnosis])
        row["verdicts"] = "; ".join(sorted({d.causes[0] if d.decided else "undecided" for d in diagnoses}))
    except (PathError, CorruptError) as error:
        row["verdicts"] = error.problem if isinstance(error, CorruptError) else "not finished"
    return row
