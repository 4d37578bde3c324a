"""What `digon reproduce` does between its flags and its table."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import config as configs
from ...errors import ConfigError
from ...records import Claim
from .claims import statements
from .reproduce import ReproduceConfig, reproduce, write_report


def listing() -> dict[str, Any]:
    """All claims that can be checked, without running anything."""
    rows = [{"id": row.id, "study": row.study, "kind": row.kind, "claim": row.statement} for row in statements()]
    return {"runs": rows, "next": "digon reproduce E4, or digon reproduce --all"}


def reproduce_claims(ids: Sequence[str], out: Path | None, report: Path | None, **settings: Any) -> dict[str, Any]:
    """Judge claims; returns the claims, a sentence of counts and where the run is.

    Raises: ConfigError if an id fits nothing, or the report is no Markdown file.
    """
    if report is not None and report.suffix != ".md":
        raise ConfigError(f"cannot write a report to {report}", expected="a file that ends in .md")
    config = configs.from_dict(ReproduceConfig, settings)
    folder = out or Path("runs") / ("toys" if config.size == "paper" else "toys-smoke")
    claims, failed = reproduce(ids, folder, config, to_stderr)
    if report is not None:
        write_report(claims, report, _command(ids, config))
    return {"claims": claims, "sentences": _sentences(claims, failed), "run": str(folder), "failed": failed}


def to_stderr(line: str) -> None:
    """Progress: standard output is for the result."""
    print(line, file=sys.stderr, flush=True)


def _command(ids: Sequence[str], config: ReproduceConfig) -> str:
    return " ".join(["digon reproduce", *(ids or ["--all"]), f"--size {config.size}", f"--seed {config.seed}"])


def _sentences(claims: Sequence[Claim], failed: Sequence[str]) -> list[str]:
    counts = Counter(claim.verdict for claim in claims)
    told = [
        f"{len(claims)} claims: {counts['holds']} hold, {counts['differs']} differ, {counts['not reached']} not reached."
    ]
    return told + [f"Studies that failed: {', '.join(failed)}."] * bool(failed)
