"""The report: is the truth ranked first, are explanations counted right, how much of what can be reached is reached?"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...explain.kinds import ALIKE
from ...measures.recovery import over_seeds
from ...records import Figure, Frame, Measurement, Panel, Series
from ..decoding_benchmark.report import table
from ..jobs import Record, failed
from ..report import share
from .trial import BESIDE

FIRST, NEAR, REACHED = 0.9, 0.3, 0.95
"""What is asked for: truths ranked first, distance of the number of explanations, share of the reachable ρ."""
HOW = ("population", "top and random")
TEXTS = {"topics": "Drawn documents about topics", "python": "Python's own source"}


@dataclass(frozen=True)
class Cell:
    """All units of one kind on one text."""

    text: str
    about: str
    units: list[Record]

    def known(self, name: str) -> list[float]:
        """A number of every unit; NaN where there is none."""
        return [math.nan if u[name] is None else float(u[name]) for u in self.units]

    @property
    def effective(self) -> float:
        """True number of explanations."""
        return self.known("effective")[0]

    @property
    def counted(self) -> Measurement:
        """Mean N_eff of the units that have one."""
        return mean("n_eff", self.known("n_eff"))

    @property
    def near(self) -> Measurement:
        """Share of units whose N_eff is within `NEAR` of the truth; of noise, those that read nothing or one."""
        noise = math.isnan(self.effective)
        right = lambda n: math.isnan(n) or n < 1 + NEAR if noise else abs(n - self.effective) <= NEAR  # noqa: E731
        return share("near", sum(map(right, self.known("n_eff"))), len(self.units), "Wilson interval over units")

    def ranked(self, how: str, *, ties: bool = False) -> Measurement:
        """Share of units whose truth scores higher than every foil, or with `ties` as high."""
        found = [u["ranked"][how] for u in self.units if u["ranked"]]
        wins = sum(truth_first(r, ties=ties) for r in found)
        return share("truth first", wins, len(found), "Wilson interval over units")

    @property
    def reached(self) -> Measurement:
        """Mean of ρ over the reachable ρ, of the explanation that was best on the select split."""
        return self.of_rung(None)

    def of_rung(self, rung: str | None) -> Measurement:
        """The same of one rung."""
        ratios = [_ratio(u, u["best"] if rung is None else rung) for u in self.units]
        return mean("reached", ratios)


def truth_first(scores: dict[str, float | None], *, ties: bool = False) -> bool:
    """Whether the truth beats all foils; a foil without a score is no rival, a truth without one beats none."""
    truth = scores["truth"]
    foils = [s for name, s in scores.items() if name != "truth" and s is not None]
    return truth is not None and all(truth > s or (ties and truth == s) for s in foils)


def mean(name: str, values: Sequence[float]) -> Measurement:
    """Mean with Student's interval over units; NaN left out."""
    known = [v for v in values if math.isfinite(v)]
    if len(known) > 2:
        return over_seeds([{name: v} for v in known], of="units")[name]
    return Measurement(name, sum(known) / len(known) if known else math.nan, n=len(known), method="mean over units")


def cells_of(records: Iterable[Record]) -> list[Cell]:
    """Seeds put together, in the order of the records."""
    good = [r for r in records if "error" not in r]
    order = list(dict.fromkeys((r["text"], r["about"]) for r in good))
    place = lambda r: order.index((r["text"], r["about"]))  # noqa: E731
    return [
        Cell(*order[i], [unit for r in group for unit in r["found"]])
        for i, group in groupby(sorted(good, key=place), place)
    ]


def markdown(records: Sequence[Record], command: str, machine: str) -> str:
    """The whole report."""
    cells = cells_of(records)
    parts = [
        "# Explanations, judged on units whose explanation is known",
        f"Regenerate every number here with\n\n    {command}",
        "Constructed units (`worlds.units`) on two texts, explained by every rung that needs no language model. Documents that "
        "judge are in no other split. Means have Student's intervals over units, shares Wilson's. "
        f"Machine: {machine}. Failed trials: {len(failed(records))}.",
        METHOD,
    ]
    for text in dict.fromkeys(cell.text for cell in cells):
        parts += _text(text, [cell for cell in cells if cell.text == text], _sample(records, text))
    return "\n\n".join([*parts, LIMITS]) + "\n"


METHOD = f"""## What is asked

- **The truth is ranked first**: the rule that made the unit has a higher ρ than every rule that is wrong in one respect (a part
  missing, too many or another; the gate left out, turned round or another; half of the tokens) and than the truths of other units of
  its kind; on all unseen tokens, and on the 5 + 5 excerpts of the top-and-random protocol. Wanted: {FIRST:.0%}. Excerpts in which
  the wrong part does not occur cannot tell: a tie.
- **N_eff** is right: within ±{NEAR} of 1/Σ share². It is counted from the best explanation, without knowing what there is to count
  (`explain.coverage`). On noise, nothing or one is right.
- **The best explanation reaches {REACHED:.0%}** of what can be reached. Values are rule + leak + noise; whoever knows rule and leak
  has ρ = √(S/(S + σ²)). The best one is chosen on the select split, ρ is that of the test split."""

LIMITS = """## What this does not show

- Units are sums of clean rules with Gaussian noise. Units of networks are not.
- Two parts in the same kind of context count as one, and one part in two kinds of context as two: the text around is all that a
  count without labels can go by. Topics are made to be told apart; words of Python's source are not, and where N_eff falls
  short there, two of them stand in one kind of context. Spellings of a word are one by definition, in the truth and in the count.
- The threshold at which two kinds of context are one was chosen on seed 0 of both texts. Words of a topic share their contexts
  exactly; true synonyms share them in part.
- Where a unit fires in few documents of the calibrate split, no piece can be told from chance, and N_eff is missing.
- Shares of gain depend on the order: a part of density p that is added after k others gains k(1 − Kp)/(K(1 − kp)) in all, so
  frequent parts make N_eff a little smaller (4.3 for five that fill half of the text)."""


def _sample(records: Sequence[Record], text: str) -> str:
    """What the numbers of a text rest on."""
    units: dict[int, int] = {}
    for record in records:
        if record["text"] == text and "error" not in record:
            units[record["seed"]] = units.get(record["seed"], 0) + len(record["found"])
    return "Units: " + ", ".join(f"{n} with seed {seed}" for seed, n in sorted(units.items())) + "."


def _text(text: str, cells: Sequence[Cell], sample: str) -> list[str]:
    rows = [
        [c.about, str(len(c.units)), *(_percent(c.ranked(how)) for how in HOW), _percent(c.ranked(HOW[1], ties=True)),
         _short(c.effective), _pm(c.counted),
         _percent(c.near), _pm(c.reached), Counter(u["best"] for u in c.units).most_common(1)[0][0]]
        for c in cells
    ]  # fmt: skip
    head = [
        "unit",
        "n",
        "truth first: all tokens",
        "top-and-random",
        "N",
        "N_eff",
        f"within ±{NEAR}",
        "ρ / reachable",
        "best, most often",
    ]
    rungs = list(cells[0].units[0]["rho"])
    by_rung = [[rung, *(_plain(c.of_rung(rung)) for c in cells if c.effective == c.effective)] for rung in rungs]
    unions = [c for c in cells if c.about.startswith("union")]
    at = [f"n_eff at {alike:g}" for alike in BESIDE]
    other = [[c.about, _short(c.effective), _pm(c.counted), *(_pm(mean(a, c.known(a))) for a in at)] for c in unions]
    return [
        f"## {TEXTS.get(text, text)}",
        sample,
        " ".join(verdicts(cells)),
        table(head, rows),
        "### ρ / reachable of every rung",
        table(["", *(c.about for c in cells if c.effective == c.effective)], by_rung),
        *(
            [
                "### N_eff at other thresholds of what counts as the same kind of context",
                table(["", "N", f"cosine {ALIKE:g}", *(f"{alike:g}" for alike in BESIDE)], other),
            ]
            if unions
            else []
        ),
    ]


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """What is asked for, and whether it is there."""
    units = [u for c in cells for u in c.units]
    told = []
    whole, excerpts = (Cell("", "", units).ranked(how) for how in HOW)
    told.append(
        f"Truth first on all unseen tokens: {_percent(whole)}, wanted {FIRST:.0%}{_mark(whole.value >= FIRST)}."
    )
    tied = Cell("", "", units).ranked(HOW[1], ties=True)
    told.append(f"By 5 + 5 excerpts alone: {_percent(excerpts)} first, {_percent(tied)} first or tied.")
    balanced = [c for c in cells if c.about == "single" or c.about.startswith("union of")]
    if balanced:
        wrong = [c.about for c in balanced if not abs(c.counted.value - c.effective) <= NEAR]
        off = max((abs(c.counted.value - c.effective) for c in balanced), default=math.nan)
        worst = f"mean N_eff at most {off:.2f} from K"
        told.append(f"Balanced unions: {worst}, wanted {NEAR}{_mark(not wrong)}{_list(wrong)}.")
    rest = [c for c in cells if math.isfinite(c.effective)]
    short = [c.about for c in rest if not c.reached.value >= REACHED]
    told.append(
        f"{REACHED:.0%} of the reachable ρ in {len(rest) - len(short)} of {len(rest)} kinds{_mark(not short)}{_list(short)}."
    )
    return told


def figures(cells: Sequence[Cell]) -> list[Figure]:
    """N_eff beside the true number of balanced unions, a panel per text."""
    panels = []
    for text in dict.fromkeys(c.text for c in cells):
        its = [c for c in cells if c.text == text and (c.about == "single" or c.about.startswith("union of"))]
        if its:
            x, found = tuple(c.effective for c in its), [c.counted for c in its]
            known = all(math.isfinite(m.low) for m in found)
            ends = [tuple(getattr(m, end) for m in found) if known else () for end in ("low", "high")]
            counted = Series("line", "counted", x, tuple(m.value for m in found), low=ends[0], high=ends[1])
            panels.append(Panel(TEXTS.get(text, text), "parts of the union", "N_eff", (counted, Series("line", "true", x, x, role="theory"))))  # fmt: skip
    if not panels:
        return []
    return [
        Figure(
            "explanation-number", "How many explanations does a union of K parts need?", "",
            "Whether the counted number follows the diagonal.",
            "Parts in the same kind of context cannot be told apart.", (Frame("", tuple(panels)),),
        )
    ]  # fmt: skip


def _ratio(unit: Record, rung: str) -> float:
    rho, reachable = unit["rho"][rung], unit["reachable"]
    return math.nan if rho is None or reachable is None else rho / reachable


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".rstrip("0").rstrip(".")


def _pm(m: Measurement) -> str:
    half = (m.high - m.low) / 2
    return "–" if math.isnan(m.value) else f"{m.value:.2f} ± {half:.2f}" if math.isfinite(half) else f"{m.value:.2f}"


def _plain(m: Measurement) -> str:
    return "–" if math.isnan(m.value) else f"{m.value:.2f}"


def _percent(m: Measurement) -> str:
    if math.isnan(m.value):
        return "–"
    return f"{100 * m.value:.0f} % [{100 * m.low:.0f}, {100 * m.high:.0f}]"


def _mark(good: bool) -> str:
    return ": reached" if good else ": **not reached**"


def _list(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
