"""The report of the ladder: what was found per size, per layer and per density, beside what was published."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...records import CAUSES, Claim, Figure, Frame, Measurement, Panel, Series
from ..decoding_benchmark.report import table
from ..diagnosis import QUICK
from ..jobs import Record, failed
from .analysis import Ladder, Rung, Stat, mean
from .plan import DENSITIES, Tier
from .published import SMALL, per_decade

EXPLAINERS = {"lookup": "look-up", "short": "short look-up", "ngrams": "n-grams"}
WORDS = {"holds": "same direction", "differs": "opposite direction", "not reached": "no clear direction"}
MISSING = "not measured"
COLUMNS = (
    ("loss", "loss"),
    *((f"{e}_top_and_random", f"{name} T&R") for e, name in EXPLAINERS.items()),
    *((f"{e}_random_only", f"{name} random") for e, name in EXPLAINERS.items()),
    ("eta2", "η²"), ("density", "active"), ("dead", "dead"), ("senses", "several senses"), ("ms_excess", "MS − null"),
    ("effective", "N_eff"),
)  # fmt: skip
SCORES = [f"{e}_{s}" for e in EXPLAINERS for s in ("top_and_random", "random_only", "population")]
SLOPES = ("loss", *SCORES, "eta2", "senses", "ms_excess", "effective", "dead")


def markdown(found: Ladder, claims: Sequence[Claim], records: Sequence[Record], about: dict[str, str]) -> str:
    """The whole report; `about` has its command, machine and seconds, and the tier in words."""
    parts = [
        "# Do larger, deeper or sparser networks have units that are easier to explain?",
        f"Regenerate every number here with\n\n    {about['command']}",
        f"{about['setting']} Machine: {about['machine']}. {about['seconds']} Failed: {len(failed(records))}.",
        _reading(),
        "## Beside the published directions",
        _verdict(claims),
        _claims(claims),
        _lengths(found),
        _summary(found),
        "## Sizes",
        _rungs(found.sizes, lambda r: f"{r.first.parameters / 1e6:.2f} M", "parameters"),
        _slopes(found, "per decade", found.per_decade),
        "![scores and loss by size](ladder-sizes.svg)",
        "## Depth",
        _rungs(found.depths, lambda r: f"{r.blocks}", "blocks"),
        _by_layer(found),
        _slopes(found, "per layer, inside a network", found.per_layer),
        _slopes(found, "per block, between networks", found.per_block),
        "![scores by layer](ladder-layers.svg)",
        "## Activation and sparsity",
        _rungs(found.grid, lambda r: f"{r.first.base} {r.first.trained:g}", "trained"),
        _taxes(found),
        "![scores by density](ladder-sparsity.svg)",
        "## What sparsity does to scores by itself",
        _controls(found),
        "## Is it chance?",
        _null(found),
        "## Why polysemantic?",
        _diagnoses([*found.sizes, *found.depths, *found.grid]),
        "## What this does not show",
        "\n".join(f"- {line}" for line in LIMITS),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def setting(tier: Tier) -> str:
    """What was trained on what, in words."""
    r, s = tier.recipe, tier.shape
    tokens = r.steps * r.batch * s.context
    width, neurons, blocks = tier.sparse
    kept = ", ".join(f"{max(1, round(d * neurons))} at {d:g}" for d in tier.densities if d < 1)
    return (
        f"All networks read the same {tokens:,} tokens in the same order ({r.steps} updates of {r.batch} windows of {s.context} "
        f"tokens, vocabulary {s.vocabulary}); half of the documents are held out, and everything is measured on those. Sizes: "
        f"{tier.layers} blocks of four times as many neurons as the width. Depths: width {tier.depth_width}. Activations: width "
        f"{width}, {blocks} blocks of {neurons:,} neurons, of which a token keeps {kept}. {tier.look.units} units per layer are "
        f"explained, drawn among the living ones, and {tier.look.taken_apart} of them taken apart; {tier.look.judged} are diagnosed. Parameters count the embedding."
    )


def _reading() -> str:
    return (
        "Entries are mean ± half of the 95 % interval over documents, units and seeds; one seed: over documents and units. "
        "*T&R* is the correlation over 5 top and 5 random excerpts, *random* that over 40 random ones, of documents that the "
        "explanation has not seen (`explain.scorers`). *active* is the share of tokens on which a unit is above 0, *dead* the "
        "share of units that never is, *several senses* the share of units with more than one group of exemplars "
        "(`measures.clusters`), *MS − null* how much more alike the contexts are that fire a unit than chance "
        "(`measures.similarity`), *N_eff* how many kinds of context explain a unit, where any does (`explain.coverage`)."
    )


def number(stat: Stat, digits: int = 3) -> str:
    """Mean ± half width of the interval."""
    m = stat.measured("", 0)
    if not np.isfinite(m.value):
        return "–"
    wide = f" ± {(m.high - m.low) / 2:.{digits}f}" if np.isfinite(m.low) and m.high > m.low else ""
    return f"{m.value:.{digits}f}{wide}"


def _between(stat: Stat, digits: int = 3) -> str:
    return _spread(stat.value, *stat.interval, digits)


def _summary(found: Ladder) -> str:
    told = []
    for base in ("gelu", "relu"):
        both = {e: found.gained(base, 0.01, f"{e}_top_and_random") for e in ("short", "lookup")}
        likeness = found.gained(base, 0.01, "ms_excess")
        if both["short"] is None or both["lookup"] is None or likeness is None:
            continue
        told.append(
            f"- {base} at density 0.01, trained so: T&R of short look-ups {_between(both['short'][0])}, of whole ones "
            f"{_between(both['lookup'][0])}, MS − null {_between(likeness[0])}. The dense network cut while it is read: "
            f"{_between(both['short'][1])}, {_between(both['lookup'][1])}, {_between(likeness[1])}."
        )
    return "\n".join(["What sparsity changes, and what a cut alone changes:", "", *told]) if told else ""


def _spread(value: float, low: float, high: float, digits: int = 3) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}" + (f" [{low:+.{digits}f}, {high:+.{digits}f}]" if np.isfinite(low) else "")


def told(claim: Claim) -> str:
    """The verdict in words; what could not be measured, such as a score of too few documents, has none."""
    return WORDS[claim.verdict] if np.isfinite(claim.measured) else MISSING


def tally(claims: Sequence[Claim]) -> str:
    """How many claims have each verdict."""
    counts = Counter(map(told, claims))
    words = [*WORDS.values(), *([MISSING] if counts[MISSING] else [])]
    return ", ".join(f"{counts[word]} {word}" for word in words)


def _verdict(claims: Sequence[Claim]) -> str:
    return (
        f"**{tally(claims)}**, of {len(claims)}. A direction is the same if our interval lies on the published side of zero. Published "
        "numbers are of sentences by a language model on networks up to 400 times as large, or of look-ups where that is said: "
        "compare signs. A look-up may hold hundreds of tokens, which no sentence does; that of five tokens is as short as a "
        "sentence (about a hundred bits). It was added after the whole look-ups had been read. Over the published networks below 13 "
        f"million parameters, the ones nearest to ours, top-and-random is flat ({per_decade('top_and_random', SMALL):+.3f} per "
        f"decade) and random-only falls as it does overall ({per_decade('random_only', SMALL):+.3f})."
    )


def _claims(claims: Sequence[Claim]) -> str:
    short = {c.id[1:]: c for c in claims if c.id.startswith("S")}
    rows = []
    for c in claims:
        if not c.id.startswith("S"):
            other = short.get(c.id[1:]) if c.id.startswith("L") else None
            cells = [_spread(other.measured, other.low, other.high), told(other)] if other is not None else ["", ""]
            statement = c.statement.replace(" (look-ups)", "")
            rows.append([c.id, statement, f"{c.published:+.3f}", _spread(c.measured, c.low, c.high), told(c), *cells])
    return table(["", "statement", "published", "ours", "", "with five tokens", ""], rows)


def _lengths(found: Ladder) -> str:
    told = [f"{name} {mean(r.stat(f'{e}_bits') for r in found.sizes).value:,.0f}" for e, name in EXPLAINERS.items()]
    return f"Mean length of an explanation over the sizes, in bits: {', '.join(told)}."


def _rungs(rungs: Sequence[Rung], name: Any, head: str) -> str:
    rows = [[name(r), str(len(r.nets)), *(number(r.stat(score)) for score, _ in COLUMNS)] for r in rungs]
    return table([head, "seeds", *(title for _, title in COLUMNS)], rows)


def _slopes(found: Ladder, title: str, slope: Any) -> str:
    scores = [s for s in SLOPES if not (s == "loss" and slope == found.per_layer)]
    rows = [[s.replace("_", " "), _between(slope(s), 4)] for s in scores]
    return table([f"slope {title}", "ours"], rows)


def _by_layer(found: Ladder) -> str:
    most = max((r.blocks for r in found.depths), default=0)
    rows = []
    for r in found.depths:
        for explainer, name in EXPLAINERS.items():
            cells = [number(r.layer(i, f"{explainer}_top_and_random")) if i < r.blocks else "" for i in range(most)]
            rows.append([f"{r.blocks}", name, *cells])
    return "T&R, layer by layer:\n\n" + table(["blocks", "", *(f"layer {i}" for i in range(most))], rows)


def _taxes(found: Ladder) -> str:
    gain = found.per_doubling
    rows = []
    for density in DENSITIES[1:]:
        taxes = [found.tax([base], density) for base in ("gelu", "relu")] + [found.tax(["gelu", "relu"], density)]
        rows.append([f"{density:g}", *(_between(t, 2) for t in taxes)])
    return (
        f"A doubling of the parameters is worth {number(gain)} nats here (slope over our sizes; published: 0.17). Extra "
        "parameters that would make up for the loss of sparsity, as a share (published: 0.085 at 0.1, 0.40 at 0.01):\n\n"
        + table(["density", "gelu", "relu", "both"], rows)
    )


CONTROLLED = (
    ("lookup_top_and_random", "look-up T&R"), ("lookup_random_only", "look-up random"),
    ("short_top_and_random", "short look-up T&R"), ("short_random_only", "short look-up random"), ("eta2", "η²"),
    ("ms_excess", "MS − null"), ("effective", "N_eff"), ("loss", "loss"),
)  # fmt: skip


def _controls(found: Ladder) -> str:
    rows = []
    for base in ("gelu", "relu"):
        for density in DENSITIES[1:]:
            for score, title in CONTROLLED:
                gained = found.gained(base, density, score)
                back = found.cell(base, density, 1.0)
                dense = found.cell(base, 1.0)
                if gained is None or back is None or dense is None:
                    continue
                undone = back.stat(score) - dense.stat(score)
                cells = [_between(s) for s in (*gained, undone)]
                rows.append(
                    [f"{base} {density:g}", title, *cells, "" if score == "loss" else _part(gained[1], gained[0])]
                )
    text = (
        "Each against the dense network as it is: trained sparse; the dense one made sparse while it is read; the sparse one "
        "read without the cut. What rises in the second column rises because a variable became sparser, not because a "
        "network was trained to be sparse; the last column is that part, where the change itself is clear."
    )
    head = ["", "", "trained sparse", "sparse when read", "trained sparse, read dense", "part of the change"]
    return f"{text}\n\n{table(head, rows)}"


def _part(some: Stat, whole: Stat) -> str:
    """Ratio of two changes; nothing where the interval of the whole holds zero, as a ratio then says nothing."""
    low, high = whole.interval
    return _between(Stat(some.value / whole.value, some.draws / whole.draws), 2) if low * high > 0 else "–"


def _null(found: Ladder) -> str:
    columns = [f"{e}_{s}" for e in EXPLAINERS for s in ("null", "above_null")] + ["lookup_scored"]
    rows = [[f"{r.first.base} {r.first.trained:g}", *(number(r.stat(c)) for c in columns)] for r in found.grid]
    titles = [f"{name}: {t}" for name in EXPLAINERS.values() for t in ("ρ by chance", "units above chance")]
    text = (
        "Simulated values moved along the scored tokens, which keeps how sparse both sides are: mean T&R by chance, and the "
        "share of units above all 19 moves (5 % would be chance). A unit that is constant on its 40 random excerpts has no "
        "random score and is left out of that mean; an explanation that says the same everywhere scores 0."
    )
    return f"{text}\n\n{table(['', *titles, 'units with a random score'], rows)}"


def _diagnoses(rungs: Sequence[Rung]) -> str:
    rows = []
    for r in dict.fromkeys(rungs):
        layers = [layer for layer in r.first.layers if "causes" in layer]
        if layers:
            checks = [Counter(layer["verdicts"][check] for layer in layers) for check in QUICK]
            told = [", ".join(f"{n} {verdict}" for verdict, n in found.most_common()) for found in checks]
            left = set[str]().union(*(layer["causes"] for layer in layers))
            rows.append([r.first.name, *told, ", ".join(c for c in CAUSES if c not in left) or "–"])
    if not rows:
        return ""
    text = (
        "Quick checks, first seed, on equally many units of every layer: in how many layers each speaks for its claim. P01: some "
        "units respond to several kinds of context; P02: the units' axes are special directions; P03: a linear map takes the "
        "layer apart into independent parts; P16: its rows fill the dimensions that their variance spans. What these leave "
        "standing, `digon diagnose` with all checks has to tell apart."
    )
    return f"{text}\n\n{table(['', *QUICK, 'excluded in every layer'], rows)}"


LIMITS = (
    "The networks are a hundredth of the published sizes and see under a million tokens: they are far from trained to the end, "
    "and a doubling of the parameters is worth what it is worth at this point. Where a sparse network has the lower loss, and so "
    "a tax below zero, it may only have learned faster so far.",
    "The largest learning rate is one for all, 0.008 up to a width of 96, and falls with the width above. It was the best of "
    "0.002, 0.004 and 0.008 for dense gelu at widths 64 and 96 (0.016 gains the dense grid 0.04 nats more, a quarter of what "
    "density 0.1 gains it); at width 384, 0.002 was better than 0.004. Nothing was chosen for a sparse network, and a different rate may change what sparsity costs.",
    "The text is one kind of text (Python and its documentation, where no other was given), a token about three bytes.",
    "Explanations are look-ups and n-grams. Nothing here is about sentences by a language model; published look-ups behave "
    "like them across layers, and nothing is published about look-ups across sizes and densities.",
    "The grid has two blocks, and the sparsest networks keep one neuron per token. Most of their neurons are dead; scores are "
    "means over living ones.",
    "Intervals over three seeds are rough, and the largest network was trained once. Many comparisons are made, and none is "
    "corrected for their number.",
)


def layer_table(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """A row per network, reading and layer, for SQL over the run."""
    rows: list[Record] = []
    for r in records:
        if "error" in r:
            continue
        head = {k: r[k] for k in ("name", "base", "trained", "read", "width", "mlp_width", "seed", "parameters")}
        for i, layer in enumerate(r["layers"]):
            numbers = {name: mean["value"] for name, mean in layer["means"].items()}
            rest = {"dead": layer["dead"], "senses": layer.get("senses")}
            rows.append(head | {"blocks": len(r["layers"]), "layer": i, "loss": r["loss"]["value"]} | numbers | rest)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([_cell(row.get(name)) for row in rows]) for name in names}


def _cell(value: Any) -> Any:
    return float("nan") if value is None else value


def measurements(found: Ladder) -> list[Measurement]:
    """Slopes and taxes as records."""
    nets = sum(len(r.nets) for r in found.sizes)
    made = [found.per_decade(s).measured(f"{s}_per_decade", nets, "per decade of parameters") for s in SLOPES]
    made += [found.per_layer(s).measured(f"{s}_per_layer", nets, "per layer") for s in SLOPES if s != "loss"]
    made.append(found.per_doubling.measured("loss_per_doubling", nets, "nats per token"))
    made += [found.tax(["gelu", "relu"], d).measured(f"tax_{d:g}", nets, "share of parameters") for d in DENSITIES[1:]]
    return made


def figures(found: Ladder) -> list[Figure]:
    """Scores by size, by layer and by density."""
    return [f for f in (_by_size(found), _by_depth(found), _by_density(found)) if f is not None]


def _by_size(found: Ladder) -> Figure:
    x = [float(np.log10(r.first.parameters)) for r in found.sizes]
    panels = [
        Panel("top-and-random", "log10 of parameters", "ρ", tuple(_lines(x, found.sizes, "top_and_random"))),
        Panel("random-only", "log10 of parameters", "ρ", tuple(_lines(x, found.sizes, "random_only"))),
        Panel(
            "loss",
            "log10 of parameters",
            "nats per token",
            (_line("loss", x, [r.stat("loss") for r in found.sizes]),),
        ),
    ]
    return Figure(
        "ladder-sizes", "Explanations by size", "after Bills et al. 2023, scores by the size of the network",
        "Whether scores change while the loss falls.", "Sizes are a hundredth of the published ones.",
        (Frame("", tuple(panels)),),
    )  # fmt: skip


def _by_depth(found: Ladder) -> Figure:
    panels = []
    for score, title in (("top_and_random", "top-and-random"), ("random_only", "random-only")):
        lines = [
            _line(
                f"{r.blocks} blocks",
                list(range(r.blocks)),
                [r.layer(i, f"lookup_{score}") for i in range(r.blocks)],
            )
            for r in found.depths
        ]
        panels.append(Panel(title, "layer", "ρ of look-ups", tuple(lines)))
    return Figure(
        "ladder-layers", "Explanations by layer", "after Bills et al. 2023, scores by layer",
        "Whether look-ups fail further up, where a unit sees more than its token.",
        "Few layers: nothing is said about the upper half of a deep network.", (Frame("", tuple(panels)),),
    )  # fmt: skip


def _by_density(found: Ladder) -> Figure:
    panels = []
    for score, title, unit in (
        ("lookup_top_and_random", "top-and-random", "ρ of look-ups"),
        ("short_top_and_random", "top-and-random", "ρ of look-ups of five tokens"), ("loss", "loss", "nats per token"),
        ("ms_excess", "likeness of contexts", "MS − null"),
    ):  # fmt: skip
        lines = []
        for base in ("gelu", "relu"):
            trained = [r for r in found.grid if r.first.base == base]
            after = [r for r in found.controls if r.first.base == base and r.first.trained == 1]
            lines.append(_line(base, [r.first.trained for r in trained], [r.stat(score) for r in trained]))
            lines.append(
                _line(f"{base}, sparse when read", [r.first.read for r in after], [r.stat(score) for r in after])
            )
        panels.append(Panel(title, "density", unit, tuple(lines), x_log=True))
    return Figure(
        "ladder-sparsity", "Explanations by sparsity", "after Bills et al. 2023, sparse activations",
        "What training with few neurons per token does to scores and loss, beside a cut of the dense network afterwards.",
        "A score of a sparser variable is not the same question.", (Frame("", tuple(panels)),), columns=2,
    )  # fmt: skip


def _lines(x: Sequence[float] | Sequence[int], rungs: Sequence[Rung], score: str) -> Iterable[Series]:
    for explainer, name in EXPLAINERS.items():
        yield _line(name, x, [r.stat(f"{explainer}_{score}") for r in rungs])


def _line(name: str, x: Sequence[float] | Sequence[int], stats: Sequence[Stat]) -> Series:
    ends = [s.interval for s in stats]
    known = all(np.isfinite(low) for low, _ in ends)
    low, high = (tuple(e[i] for e in ends) if known else () for i in (0, 1))
    return Series("line", name, tuple(float(v) for v in x), tuple(s.value for s in stats), low=low, high=high)
