"""Run studies and judge the claims about them.

A run folder keeps one record per study, so that a second call with the same settings judges without measuring again,
and a call that was interrupted goes on with the next study.

    run/
      claims.json               the verdicts
      studies/<study>.json      quantities, exact values and figures of a study
"""

import hashlib
import importlib
import math
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ... import __version__
from ...errors import ConfigError, DigonError
from ...records import Claim, Figure, Measurement
from ...store import files
from ...store.runs import Run
from .base import Outcome, Say, StudyConfig
from .claims import Statement, chosen, judge, module_of, statements


@dataclass(frozen=True)
class ReproduceConfig:
    """Settings of a run folder of studies."""

    size: Literal["smoke", "paper"] = "paper"
    seed: int = 0
    device: str = "cpu"
    full: bool = False


def reproduce(names: Sequence[str], out: Path, config: ReproduceConfig, say: Say) -> tuple[list[Claim], list[str]]:
    """Judge the claims called `names` (none: all of them); returns them and the studies that failed.

    Raises: ConfigError if a name fits no claim; PathError if `out` holds something else.
    """
    rows = statements()
    wanted = chosen(rows, names) if names else rows
    run = Run.create(out, config)
    studies = list(dict.fromkeys(row.study for row in wanted))
    failed: list[str] = []
    for number, study in enumerate(studies, 1):
        try:
            run_study(run, study, config, lambda line, n=number, s=study: say(f"[{n}/{len(studies)}] {s}: {line}"))
        except Exception as error:  # the other studies go on; what failed is named, and fails the command at its end
            failed.append(study)
            say(f"[{number}/{len(studies)}] {study} failed: {error}")
            if not isinstance(error, DigonError):
                traceback.print_exc()
    judged = judge_all(run, rows, config.size)
    run.write_json("claims", judged)
    run.write_json("facts", _facts(run, config, judged))
    ids = {row.id for row in wanted}
    return [claim for claim in judged if claim.id in ids], failed


def run_study(run: Run, study: str, config: ReproduceConfig, say: Say) -> Outcome:
    """Run one study, or read what it found when it ran before."""
    module = importlib.import_module(module_of(study))
    settings = StudyConfig(config.size, config.seed, config.device, config.full)
    with run.stage(study, f"{__version__} {_sources()}") as needed:
        if needed:
            say("running")
            write_outcome(run, study, module.run(settings, say))
    return read_outcome(run, study)


def write_outcome(run: Run, study: str, outcome: Outcome) -> None:
    """Keep what a study found."""
    assert all(name == found.name for name, found in outcome.values.items()), "quantities under other names"
    run.write_json(f"studies/{study}.values", list(outcome.values.values()))
    run.write_json(f"studies/{study}.exact", {k: v for k, v in outcome.exact.items() if math.isfinite(v)})
    run.write_json(f"studies/{study}.figures", list(outcome.figures))


def read_outcome(run: Run, study: str) -> Outcome:
    """What a study found."""
    values = run.read_json(f"studies/{study}.values", list[Measurement])
    exact = run.read_json(f"studies/{study}.exact", dict[str, float])
    return Outcome({v.name: v for v in values}, exact, tuple(run.read_json(f"studies/{study}.figures", list[Figure])))


def judge_all(run: Run, rows: Sequence[Statement], size: str) -> list[Claim]:
    """Verdicts on all claims from the studies that are there."""
    done = set(run.stages())
    outcomes = {study: read_outcome(run, study) for study in {row.study for row in rows} & done}
    return [judge(row, outcomes.get(row.study), size) for row in rows]


def write_report(claims: Sequence[Claim], path: Path, command: str) -> None:
    """The verdicts as Markdown."""
    if path.suffix != ".md":
        raise ConfigError(f"cannot write a report to {path}", expected="a file that ends in .md")
    files.write_text(path, report(claims, command))


def report(claims: Sequence[Claim], command: str) -> str:
    """The verdicts as Markdown: a summary, what differs, then every claim."""
    counts = Counter(claim.verdict for claim in claims)
    lines = [
        "# Toy models of superposition: every claim, checked",
        "",
        f"Made by `{command}`. {len(claims)} claims: "
        + ", ".join(f"{counts[v]} {v}" for v in ("holds", "differs", "not reached"))
        + ".",
        "",
        "*Stated* is what the source says (for `ours`: our own criterion), *exact* what calculation gives, *measured* what",
        "the study found, with its 95 % interval where anything was random. A claim that differs is shown as it was made.",
        "",
    ]
    for title, picked in (
        ("What differs", [c for c in claims if c.verdict == "differs"]),
        ("What was not reached", [c for c in claims if c.verdict == "not reached"]),
        ("All claims", list(claims)),
    ):
        if picked:
            lines += [f"## {title}", "", *_table(picked), ""]
    return "\n".join(lines)


def _table(claims: Sequence[Claim]) -> list[str]:
    rows = [
        f"| {c.id} | {_cell(c.statement)} | {_cell(c.source)} | {c.kind} | {c.stated_text} | {c.exact_text} | "
        f"{c.measured_text} | {c.verdict} |"
        for c in claims
    ]
    return [
        "| id | claim | source | kind | stated | exact | measured | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@cache
def _sources() -> str:
    """Hash of all code that a study may stand on: whoever changes a world measures again."""
    digest = hashlib.blake2b(digest_size=8)
    with resources.as_file(resources.files("digon")) as root:
        for room in ("worlds", "measures", "intervene", "coders", "studies/toys"):
            for file in sorted((root / room).rglob("*.py")):
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _facts(run: Run, config: ReproduceConfig, judged: Sequence[Claim]) -> dict[str, Any]:
    stages, counts = run.stages(), Counter(claim.verdict for claim in judged)
    return {
        "kind": "toys",
        "title": "Toy models of superposition",
        "size": config.size,
        "seed": config.seed,
        "device": config.device,
        "version": __version__,
        "verdicts": f"{counts['holds']} hold, {counts['differs']} differ, {counts['not reached']} not reached",
        "seconds": {name: stage["seconds"] for name, stage in stages.items()},
    }
