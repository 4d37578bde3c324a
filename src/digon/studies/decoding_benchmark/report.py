"""The report: who finds the features, at what l0, with intervals over seeds, and what goes wrong with the rest."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...measures.recovery import LABELS, over_seeds
from ...records import Figure, Frame, Measurement, Panel, Series
from ..jobs import Record, failed
from .entrants import ENTRANTS
from .trials import ARENAS, SWEEPS, SWEPT, swept_name

TABLES = (
    ("f1", "F1 per feature, one latent each, a feature without one scores 0 (mean over features)"),
    ("mcc", "MCC: mean cosine of one-to-one pairs"),
    ("public_f1", "F1 as published: per latent, several may share a feature"),
    ("public_mcc", "MCC as published: |cosine|"),
    ("fvu", "fraction of variance unexplained"),
)
OURS = "digon"
OTHER = "flat"
"""Ours too, but not what is judged: nobody says beforehand which of the two suits a world."""
LIMIT = "truth"
DRAWN = ("standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka", OURS, LIMIT)
"""Coders in the pictures: as many as colors."""


@dataclass(frozen=True)
class Cell:
    """One coder at one l0, over its seeds."""

    about: str
    coder: str
    l0: int
    scores: dict[str, Measurement]
    failures: dict[str, float]
    """Mean share of latents with each label; empty where the features are not known."""
    seconds: float


def cells_of(records: Sequence[Record]) -> list[Cell]:
    """Seeds put together; with fewer than three, means without intervals."""
    name = lambda r: (r["about"], r["l0"], list(ENTRANTS).index(r["coder"]))  # noqa: E731
    good = sorted((r for r in records if "error" not in r), key=name)
    found: list[Cell] = []
    for _, group in groupby(good, name):
        mine = list(group)
        first, n = mine[0], len(mine)
        scores = interval([r["scores"] for r in mine])
        failures = {label: sum(r["failures"][label] for r in mine) / n for label in first.get("failures", {})}
        seconds = sum(r["seconds"] for r in mine) / n
        found.append(Cell(first["about"], first["coder"], first["l0"], scores, failures, seconds))
    return found


def interval(runs: Sequence[Record]) -> dict[str, Measurement]:
    """Every score over seeds; with fewer than three, means without intervals."""
    whole = [{k: float("nan") if v is None else v for k, v in run.items()} for run in runs]
    return over_seeds(whole) if len(runs) > 2 else {k: _mean(k, [run[k] for run in whole]) for k in whole[0]}


def _mean(name: str, values: list[float]) -> Measurement:
    return Measurement(
        name, sum(values) / len(values), n=len(values), method="mean over seeds, too few for an interval"
    )


def markdown(records: Sequence[Record], command: str, machine: str, real: str = "") -> str:
    """The whole report; `real` is its part about real networks. Its pictures are those of `figures`, beside it."""
    cells = cells_of(records)
    parts = [
        "# Which coder takes features out of superposition?",
        f"Regenerate every number here with\n\n    {command}",
        "Worlds whose features are known (`worlds.tree`), the same stream for every coder, judged by the deployed encoder on "
        "fresh rows, row by row. Intervals are Student's, over seeds; entries are mean ± half width. "
        f"Machine: {machine}. Failed trials: {len(failed(records))}.",
        _entrants(cells),
    ]
    for about in [about for about in ARENAS if any(cell.about == about for cell in cells)]:
        parts += _tier(about, [cell for cell in cells if cell.about == about])
    parts += [*_sweeps(cells), real]
    return "\n\n".join(part for part in parts if part) + "\n"


def _entrants(cells: Iterable[Cell]) -> str:
    known = dict.fromkeys(cell.coder for cell in cells)
    return "\n".join(f"- **{name}** {ENTRANTS[name].about}" for name in ENTRANTS if name in known)


def _tier(about: str, cells: Sequence[Cell]) -> list[str]:
    grid = tuple(dict.fromkeys(cell.l0 for cell in cells))
    arena = ARENAS[about]  # type: ignore[index]
    true = next(iter(cells)).scores["l0_true"].value
    parts = [
        f"## {about.capitalize()}: {arena.about}",
        f"{arena.width:,} latents, {true:.1f} features active per row, {arena.steps * arena.batch:,} rows to train on. {_seeds(cells)}",
        verdict(cells),
        f"![l0 against unexplained variance, F1 and MCC](decoding-{about}.svg)",
    ]
    for score, title in TABLES:
        rows = []
        for coder in (name for name in ENTRANTS if any(cell.coder == name for cell in cells)):
            its = {cell.l0: cell.scores[score] for cell in cells if cell.coder == coder}
            rows.append([coder, *(number(its.get(l0)) for l0 in grid)])
        parts += [f"### {title}", table(["l0", *map(str, grid)], rows)]
    middle = grid[len(grid) // 2]
    at = [cell for cell in cells if cell.l0 == middle]
    shares = [[c.coder, *(f"{100 * c.failures[label]:.0f} %" for label in LABELS), f"{c.scores['l0'].value:.2f}",
               f"{c.seconds:.0f}"] for c in at]  # fmt: skip
    return [
        *parts,
        f"### What becomes of the latents, at l0 = {middle}",
        table(["", *LABELS, "l0 measured", "s"], shares),
    ]


def _seeds(cells: Sequence[Cell]) -> str:
    runs = {cell.coder: min(c.scores["f1"].n or 0 for c in cells if c.coder == cell.coder) for cell in cells}
    counts = sorted(set(runs.values()))
    later = "; why they differ is told in [decoding-settings.md](decoding-settings.md)" if len(counts) > 1 else ""
    return "Seeds: " + "; ".join(f"{n} of {', '.join(c for c in runs if runs[c] == n)}" for n in counts) + later + "."


def verdict(cells: Sequence[Cell]) -> str:
    """Whether ours beats every coder that does not know the truth, with intervals that do not overlap, in F1 and MCC."""
    lost: dict[str, dict[str, list[int]]] = {}
    told, unknown = 0, 0
    for mine in (c for c in cells if c.coder == OURS):
        for rival in (c for c in cells if c.coder not in (OURS, OTHER, LIMIT) and c.l0 == mine.l0):
            for score in ("f1", "mcc"):
                a, b = mine.scores[score], rival.scores[score]
                told += 1
                if not (math.isfinite(a.low) and math.isfinite(b.high)):
                    unknown += 1
                elif not a.low > b.high:
                    lost.setdefault(rival.coder, {}).setdefault(score, []).append(mine.l0)
    if not told:
        return ""
    if not lost and not unknown:
        return f"**{OURS} is above every other coder, in F1 and MCC at every l0, and no intervals overlap** ({told} comparisons)."
    count = sum(len(l0) for scores in lost.values() for l0 in scores.values())
    named = [
        f"{coder} ({', '.join(f'{score} at l0 = {_listed(l0)}' for score, l0 in scores.items())})"
        for coder, scores in lost.items()
    ]
    parts = [f"{OURS} is clearly above the others in {told - count - unknown} of {told} comparisons"]
    parts += [f"not above {'; '.join(named)}"] if named else []
    parts += [f"for {unknown} there are too few seeds to tell"] if unknown else []
    return f"{'; '.join(parts)}."


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _sweeps(cells: Sequence[Cell]) -> list[str]:
    parts: list[str] = []
    for name, worlds in SWEEPS.items():
        abouts = {value: swept_name(name, value) for value in worlds}
        its = {(cell.coder, cell.about): cell.scores for cell in cells if cell.about in abouts.values()}
        if not any(about.startswith(name) for _, about in its):
            continue
        rows: list[list[str]] = []
        for coder in [coder for coder in ENTRANTS if any(coder == known for known, _ in its)]:
            shown = (its.get((coder, about)) for about in abouts.values())
            rows.append([coder, *(f"{number(s['latent_f1'])}; {number(s['mcc'])}" if s else "–" for s in shown)])
        parts += [f"## Sweep: {name}", "F1 per latent; MCC.", table([name, *(f"{v:g}" for v in abouts)], rows)]
    if parts:
        rows_read = SWEPT.steps * SWEPT.batch
        said = f"{SWEPT.about}, target l0 = {SWEPT.l0[0]}, {rows_read:,} rows; one property at a time, and half as many latents as features."
        parts.insert(0, said)
    return parts


def figures(cells: Sequence[Cell]) -> list[Figure]:
    """Pareto curves of every tier: l0 against unexplained variance, F1 and MCC."""
    panels = (("reconstruction", "fvu", "fvu"), ("recovery", "F1", "f1"), ("directions", "MCC", "mcc"))
    return [
        curves(
            f"decoding-{about}", f"Coders on {arena.about}", [cell for cell in cells if cell.about == about], panels,
            "Which curve is lowest on the left, and highest in the middle and on the right.",
            "Good reconstruction does not mean that features were found.",
        )
        for about, arena in ARENAS.items()
        if any(cell.about == about for cell in cells)
    ]  # fmt: skip


def curves(
    name: str, title: str, cells: Sequence[Cell], panels: Sequence[tuple[str, str, str]], see: str, caution: str
) -> Figure:
    """Measured l0 against scores, a line per coder; `panels` are titles, names of axes and scores."""
    drawn = tuple(
        Panel(head, "active latents per row", axis, tuple(_lines(cells, score))) for head, axis, score in panels
    )
    return Figure(name, title, "", see, caution, (Frame("", drawn),), columns=len(panels))


def _lines(cells: Sequence[Cell], score: str) -> Iterable[Series]:
    for coder in [name for name in DRAWN if any(cell.coder == name for cell in cells)]:
        its = sorted((c for c in cells if c.coder == coder and score in c.scores), key=lambda c: c.scores["l0"].value)
        x, found = tuple(c.scores["l0"].value for c in its), [c.scores[score] for c in its]
        known = all(math.isfinite(m.low) for m in found)
        ends = [tuple(getattr(m, end) for m in found) if known else () for end in ("low", "high")]
        yield Series("line", coder, x, tuple(m.value for m in found), low=ends[0], high=ends[1])


def number(m: Measurement | None) -> str:
    """Mean ± half width of the interval, where there is one."""
    if m is None:
        return "–"
    half = (m.high - m.low) / 2
    return f"{m.value:.3f} ± {half:.3f}" if math.isfinite(half) else f"{m.value:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)
