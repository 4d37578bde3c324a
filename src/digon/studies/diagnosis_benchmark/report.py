"""The results as Markdown: one section per question, every number from the records of one run.

Shares are shown in per cent with 95 % Wilson intervals and their cells.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...diagnose.posterior import Reference
from ...records import CAUSES
from ..jobs import Record, failed
from ..report import share
from .acceptance import promises
from .scores import (
    CALM,
    Judged,
    balanced,
    claims_superposition,
    confusion,
    flips,
    truth,
)

Row = Sequence[str]


@dataclass(frozen=True)
class Findings:
    """Everything that the report is written from."""

    command: str
    records: Mapping[str, Sequence[Record]]
    """By split."""
    judged: Mapping[str, Judged]
    """Test cells by access."""
    reference: Reference
    baselines: Mapping[str, Mapping[str, float]]
    left_out: Mapping[str, Mapping[str, float]]
    """By family."""
    ablation: Mapping[str, tuple[float, float]]
    machine: str = ""


def markdown(found: Findings) -> str:
    """The whole report."""
    sections = (
        _head, _promises, _confusion, _false_superposition, _loads, _recovered, _identity, _corners, _calibration, _sets,
        _abstention, _left_out, _ablation, _baselines, _times, _failures,
    )  # fmt: skip
    return "\n\n".join(text for section in sections if (text := section(found))) + "\n"


def percent(hits: Iterable[bool] | np.ndarray) -> str:
    """A share with its interval."""
    told = [bool(hit) for hit in hits]
    if not told:
        return "–"
    found = share("", sum(told), len(told), "")
    return f"{100 * found.value:.1f} % [{100 * found.low:.0f}, {100 * found.high:.0f}] ({sum(told)}/{len(told)})"


def table(header: Row, rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _head(found: Findings) -> str:
    counts = ", ".join(f"{len(records)} {split}" for split, records in found.records.items())
    lines = [
        "# How often is the diagnosis right?",
        f"Regenerate every number here with\n\n    {found.command}",
        f"Worlds of known cause, drawn from priors that were fixed beforehand (`cells.toml`, digest {found.reference.cells[:12]}): "
        f"{counts}. The posterior has learned from dev and calibration, how far to trust it by cross-fitting among them. Access: A "
        "activations alone; A+ and which rows are the same input; B and labels of the inputs. Errors are counted on what the "
        "access can tell apart. All probabilities hold given that a site is like one of the benchmark's families."
        + (f" Machine: {found.machine}." if found.machine else ""),
    ]
    return "\n\n".join(lines)


def _promises(found: Findings) -> str:
    """What was promised beforehand."""
    show = lambda x, p: f"{x:.3f}" if "error" in p.what else f"{100 * x:.1f} %"  # noqa: E731
    rows = [
        [
            p.what,
            ("≤ " if p.at_most else "≥ ") + show(p.bound, p),
            show(p.measured, p),
            str(p.cells),
            "yes" if p.kept else "**no**",
        ]
        for p in promises(found.records, found.judged)
    ]
    return "## What was promised\n\n" + table(["", "bound", "measured", "cells", "kept"], rows)


def _confusion(found: Findings) -> str:
    parts = ["## What is called what (most probable cause, test cells)"]
    for access, judged in found.judged.items():
        counts = confusion(judged)
        rows = [
            [f"**{cause}**", *(str(n) if n else "·" for n in row), percent(judged.right[_of(judged, cause)])]
            for cause, row in zip(CAUSES, counts, strict=True)
        ]
        parts.append(f"Access {access}: {percent(judged.right)} right; mean over causes "
                     f"{100 * balanced(judged.right, np.array([r['cause'] for r in judged.records])):.1f} %.")  # fmt: skip
        parts.append(table(["true \\ called", *CAUSES, "right"], rows))
    return "\n\n".join(parts)


def _false_superposition(found: Findings) -> str:
    """Verdicts that say superposition where there is none."""
    parts = ["## False superposition (cells without any: none, monosemantic, rotated)"]
    for split in ("calm", "test"):
        cells = [r for r in _good(found, split) if r["cause"] in CALM and r["verdicts"].get("A")]
        if not cells:
            continue
        parts.append(
            f"Verdicts on {split} cells at access A. As the only or most probable cause: "
            f"{percent(_claims(cells, 0))}; anywhere in the set: {percent(_claims(cells, 1))}."
        )
        seen_as = sorted({_nuisance(r) for r in cells}, key=lambda n: (n != "none", n))
        rows = []
        for group in sorted({_group(r) for r in cells}):
            mine = [r for r in cells if _group(r) == group]
            shown = [_two([r for r in mine if _nuisance(r) == n]) for n in seen_as]
            rows.append([group, *shown, _two(mine)])
        rows.append(["all", *(_two([r for r in cells if _nuisance(r) == n]) for n in seen_as), _two(cells)])
        parts.append("Cells called so (only or first / anywhere in the set / cells):")
        parts.append(table(["", *seen_as, "all"], rows))
    judged = found.judged.get("A")
    if judged is not None:
        calm = judged.of(lambda r: r["cause"] in CALM)
        falsely = [o.top in ("superposition", "lookup") for o in calm.opinions]
        parts.append(f"The posterior alone, test cells, most probable cause: {percent(falsely)}.")
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _loads(found: Findings) -> str:
    """How many features, against how many there are."""
    parts = ["## Superposition: named, and counted"]
    for split in ("loads", "test"):
        cells = [r for r in _good(found, split) if r["family"] == "superposition" and r["verdicts"].get("A")]
        if not cells:
            continue
        rows = [_counted(label, mine) for label, mine in _binned(cells, lambda r: _load(r), (1.75, 2.5, 3.5, 4.5))]
        rows += [_counted("active " + label, mine) for label, mine in _binned(cells, _active, (0.75, 1.5, 3.0))]
        rows.append(_counted("all", cells))
        parts.append(
            f"{split.capitalize()} cells at access A, by load (features per dimension) and by active features:"
        )
        header = ["load", "in the set", "n within ±10 %", "median abs log(n̂/n)", "n ≥ lower bound", "no n given"]
        parts.append(table(header, rows))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _counted(label: str, cells: Sequence[Record]) -> Row:
    counts = [r["verdicts"]["A"]["n_features"] for r in cells]
    true = np.array([r["truth"]["n"] for r in cells], float)
    point, lower = (np.array([c[k] if c[k] is not None else np.nan for c in counts]) for k in ("point", "lower"))
    known, bounded = np.isfinite(point) & (point > 0), np.isfinite(lower)
    errors = np.abs(np.log(point[known] / true[known]))
    return [
        label,
        percent("superposition" in r["verdicts"]["A"]["causes"] for r in cells),
        percent(known & (np.abs(point / true - 1) <= 0.1)),
        f"{np.median(errors):.3f}" if len(errors) else "–",
        percent(lower[bounded] <= true[bounded]),
        str(int((~known).sum())),
    ]


def _recovered(found: Findings) -> str:
    cells = [r for r in _good(found, "loads") if r["recovered"]]
    if not cells:
        return ""
    names = list(dict.fromkeys(name for r in cells for name in r["recovered"]))
    rows = []
    for load, mine in _binned(cells, _load, (1.75, 2.5, 3.5, 4.5)):
        for active, few in _binned(mine, _active, (0.75, 1.5, 3.0)):
            shares = [[r["recovered"].get(name, np.nan) for r in few] for name in names]
            rows.append([load, active, *(f"{100 * np.nanmedian(s):.1f} %" for s in shares), str(len(few))])
    header = ["load", "active", *names, "cells"]
    return "## Features found (median share of true directions with |cos| > .95, loads cells)\n\n" + table(header, rows)


def _identity(found: Findings) -> str:
    """Look-up against superposition, with and without the identity of the inputs."""
    cells = [r for r in _good(found, "identity") if r["verdicts"]]
    if not cells:
        return ""
    rows = []
    for access in ("A", "A+"):
        for family in ("lookup", "superposition"):
            mine = [set(r["verdicts"][access]["causes"]) for r in cells if r["family"] == family]
            other = "superposition" if family == "lookup" else "lookup"
            rows.append([access, family, percent(family in s for s in mine), percent(other in s for s in mine),
                         percent(family in s and other not in s for s in mine)])  # fmt: skip
    header = ["access", "world", "named", "the other one named too", "decided rightly"]
    return "## Look-up or superposition (identity cells)\n\n" + table(header, rows)


def _corners(found: Findings) -> str:
    cells = [r for r in _good(found, "corners") if r["verdicts"].get("A")]
    if not cells:
        return ""
    rows = []
    for family in ("polygon", "manifold"):
        mine = [set(r["verdicts"]["A"]["causes"]) for r in cells if r["family"] == family]
        both = [{"superposition", "manifold"} <= s for s in mine]
        rows.append([family, percent(both), percent("superposition" in s and "manifold" not in s for s in mine),
                     percent("manifold" in s and "superposition" not in s for s in mine)])  # fmt: skip
    header = ["world", "both left standing", "superposition without manifold", "manifold without superposition"]
    return "## Polygon or sampled circle (corners cells, access A)\n\n" + table(header, rows)


def _calibration(found: Findings) -> str:
    rows = [
        [access, f"{j.reliability.error:.3f}", "{:.3f}, {:.3f}".format(*j.chance_error), f"{j.brier:.3f}", f"{j.log_loss:.3f}", f"{100 * flips(j):.1f} %",
         f"{100 * np.mean([o.novel for o in j.opinions]):.1f} %"]
        for access, j in found.judged.items()
    ]  # fmt: skip
    header = [
        "access",
        "ECE",
        "ECE of exact probabilities (mean, 95 %)",
        "Brier",
        "log loss",
        "calls that 10:1 would change",
        "novel",
    ]
    parts = ["## Calibration of the posterior (test cells)", table(header, rows)]
    for access, judged in found.judged.items():
        r = judged.reliability
        bins = [i for i in range(len(r.counts)) if r.counts[i] > 0]
        shown = [[f"{r.confidence[i]:.2f}", f"{r.accuracy[i]:.2f}", f"{int(r.counts[i])}"] for i in bins]
        parts.append(f"Reliability at access {access}:\n\n" + table(["stated", "right", "cells"], shown))
    return "\n\n".join(parts)


def _sets(found: Findings) -> str:
    parts = ["## Sets that promise to cover in 90 % of the cases (test cells)"]
    header = ["cause", *(f"{a}: {what}" for a in found.judged for what in ("covered", "mean size"))]
    rows = []
    for cause in (*CAUSES, "all"):
        row = [cause]
        for judged in found.judged.values():
            mine = judged if cause == "all" else judged.of(_of(judged, cause))
            sizes = [len(o.causes) for o in mine.opinions]
            row += [percent(mine.covered), f"{np.mean(sizes):.2f}"] if sizes else ["–", "–"]
        rows.append(row)
    parts.append("Of the posterior:\n\n" + table(header, rows))
    cells = [r for r in _good(found, "test") if r["verdicts"].get("A")]
    rows = []
    for cause in (*CAUSES, "all"):
        mine = [r for r in cells if cause in (r["cause"], "all")]
        sets = [r["verdicts"]["A"]["causes"] for r in mine]
        held = [s == ["undecided"] or bool(truth(r, "A") & set(s)) for r, s in zip(mine, sets, strict=True)]
        alone = [len(s) == 1 and s != ["undecided"] for s in sets]
        rows.append([cause, percent(held), f"{np.mean([len(s) for s in sets]):.2f}" if sets else "–", percent(alone)])
    if cells:
        parts.append(
            "Of the verdicts at access A (`undecided` alone covers):\n\n"
            + table(["cause", "covered", "mean size", "one cause alone"], rows)
        )
    return "\n\n".join(parts)


def _abstention(found: Findings) -> str:
    rows = []
    for access, judged in found.judged.items():
        made, wrong = judged.abstaining()
        at = [wrong[max(0, int(np.ceil(q * len(made))) - 1)] for q in (0.25, 0.5, 0.75, 0.9, 1.0)]
        rows.append([access, *(f"{100 * w:.1f} %" for w in at)])
    header = ["access", "a quarter called", "half", "three quarters", "nine tenths", "all"]
    return "## Wrong calls, if only the surest are made (test cells)\n\n" + table(header, rows)


def _left_out(found: Findings) -> str:
    if not found.left_out:
        return ""
    names = list(next(iter(found.left_out.values())))
    rows = [
        [family, *(f"{v[n]:.0f}" if n == "cells" else f"{100 * v[n]:.0f} %" for n in names)]
        for family, v in found.left_out.items()
    ]
    title = "## Families that the model has never seen (each left out of dev and calibration; test cells, access A)"
    return f"{title}\n\n" + table(["family", *names], rows)


def _ablation(found: Findings) -> str:
    if not found.ablation:
        return ""
    order = sorted(found.ablation.items(), key=lambda item: -item[1][1])
    rows = [[f"`{name}`", f"{100 * right:+.1f}", f"{loss:+.4f}"] for name, (right, loss) in order]
    header = ["statistic left out", "right calls, percentage points", "log loss"]
    return "## What each statistic is worth (test cells, at the lowest access at which it is known)\n\n" + table(
        header, rows
    )


def _baselines(found: Findings) -> str:
    rows = [[name, *(f"{100 * x:.1f} %" for x in v.values())] for name, v in found.baselines.items()]
    judged = found.judged.get("A")
    if judged is not None:
        calm = judged.of(lambda r: r["cause"] in CALM)
        falsely = 100 * float(np.mean([o.top == "superposition" for o in calm.opinions])) if calm.opinions else np.nan
        causes = np.array([r["cause"] for r in judged.records])
        rows.append(["**digon, posterior**", f"**{100 * judged.right.mean():.1f} %**",
                     f"**{100 * balanced(judged.right, causes):.1f} %**", f"**{falsely:.1f} %**"])  # fmt: skip
    header = ["reading", "right", "right, mean over causes", "superposition called where there is none"]
    return "## Baselines (test cells, access A, each with a classifier fitted to dev cells)\n\n" + table(header, rows)


def _times(found: Findings) -> str:
    cells = [r for split in found.records for r in _good(found, split)]
    parts = list(dict.fromkeys(name for r in cells for name in r["seconds"]))
    rows = []
    for label, mine in _binned(cells, lambda r: r["d"], (12.0, 24.0, 48.0, 96.0)):
        times = [[r["seconds"][p] for r in mine if p in r["seconds"]] for p in parts]
        rows.append([label, str(len(mine)), *(f"{np.median(t):.1f} / {max(t):.1f}" if t else "–" for t in times)])
    header = ["units", "cells", *parts]
    return "## Seconds per cell, one core (median / longest)\n\n" + table(header, rows)


def _failures(found: Findings) -> str:
    lines = [f"- {r['id']}: {r['error']}" for records in found.records.values() for r in failed(records)]
    return "## Cells that failed\n\n" + ("\n".join(lines) if lines else "None.")


def _good(found: Findings, split: str) -> list[Record]:
    return [r for r in found.records.get(split, ()) if "error" not in r]


def _of(judged: Judged, cause: str) -> np.ndarray:
    return np.array([r["cause"] == cause for r in judged.records], bool)


def _claims(cells: Sequence[Record], reading: int) -> list[bool]:
    return [claims_superposition(r["verdicts"]["A"])[reading] for r in cells]


def _two(cells: Sequence[Record]) -> str:
    return f"{sum(_claims(cells, 0))} / {sum(_claims(cells, 1))} / {len(cells)}" if cells else "–"


def _group(record: Record) -> str:
    kwargs = record["kwargs"]
    extra = [str(kwargs[k]) for k in ("kind", "basis", "dependence") if kwargs.get(k) not in (None, "none", "haar")]
    return " ".join([record["family"], *extra])


def _nuisance(record: Record) -> str:
    return record["nuisances"][0] if len(record["nuisances"]) == 1 else "two" if record["nuisances"] else "none"


def _load(record: Record) -> float:
    return record["truth"]["n"] / record["truth"]["rank"]


def _active(record: Record) -> float:
    return record["truth"]["active"]


def _binned(
    cells: Sequence[Record], of: Callable[[Record], float], edges: Sequence[float]
) -> Iterable[tuple[str, list[Record]]]:
    """Cells whose number lies between consecutive edges, under a name for each range."""
    ends = (float("-inf"), *edges, float("inf"))
    for low, high in itertools.pairwise(ends):
        mine = [r for r in cells if low < of(r) <= high]
        if mine:
            name = f"≤ {high:g}" if low == ends[0] else f"> {low:g}" if high == ends[-1] else f"{low:g}–{high:g}"
            yield name, mine
