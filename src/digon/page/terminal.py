"""The short form of the page: what a command prints when it ends, and the list of runs."""

from pathlib import Path
from typing import Any

from ..errors import CorruptError, PathError
from ..records import Diagnosis
from ..store.runs import Run, list_runs


def show(result: dict[str, Any]) -> None:
    """Print the result of a verb: sentences, a table if there is one, then where things are and what to try next."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for sentence in result.get("sentences", []):
        console.print(f"• {escape(sentence)}")
    rows = result.get("runs", [])
    if rows:
        table = Table(*rows[0], box=None)
        for row in rows:
            table.add_row(*(escape(str(value)) for value in row.values()))
        console.print(table)
    for name, value in result.items():
        if name not in ("sentences", "runs"):
            console.print(f"[bold]{escape(name)}[/bold]  {escape(str(value))}", soft_wrap=True)


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
    if (run.path / "facts.json").is_file():
        facts = run.read_json("facts", dict[str, Any])
        row["model"] = facts.get("model", {}).get("name", "")
        row["tokens"] = facts.get("data", {}).get("tokens", "")
    if (run.path / "page.html").is_file():
        row["page"] = "yes"
    try:
        diagnoses = run.read_json("diagnoses", list[Diagnosis])
        row["verdicts"] = "; ".join(sorted({"undecided" if d.undecided else d.causes[0] for d in diagnoses}))
    except (PathError, CorruptError) as error:
        row["verdicts"] = error.problem if isinstance(error, CorruptError) else "not finished"
    return row
