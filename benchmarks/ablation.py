"""How much of what a network does with a unit survives an explanation of correlation ρ? Measured on a small transformer.

Neurons of every layer are explained by token look-up and n-grams, and by the truth with so much noise that ρ is known. Each
simulation is scored twice, on top-and-random excerpts and on random ones alone: correlation, and ablation score on the same
contexts after calibration. Means over units, intervals by bootstrap over units. Bills et al. 2023 report that ρ = .9 goes
with an ablation score of .6 on top-and-random and of .3 on random excerpts.

    digon demo                                                    trains the network, once
    OMP_NUM_THREADS=1 python benchmarks/ablation.py runs/demo-tinylm [--md docs/results/ablation.md]
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import torch

from digon import rng
from digon.explain import scorers
from digon.explain.ablation import Handle, Reading, ablation
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import LookUp, NGrams
from digon.hosts.corpus import python_corpus
from digon.hosts.harvest import HarvestConfig, harvest
from digon.hosts.load import load_host

NOISY = (0.95, 0.9, 0.8, 0.6, 0.4)
EDGES = (-1.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.01)
RANDOM = 10


def simulations(column, contexts, excerpts, draw):
    """Explanations of one unit, and its own values with noise: name → values of all rows, calibrated."""
    fit, select = excerpts.row_split("fit"), excerpts.row_split("select")
    found = {kind.name: kind.fit(contexts, column, fit, select).simulate(contexts) for kind in (LookUp, NGrams)}
    noise = torch.randn(len(column), generator=draw) * column.std()
    found |= {f"truth + noise {rho:g}": column + noise * (1 / rho**2 - 1) ** 0.5 for rho in NOISY}
    many = torch.stack(list(found.values()), 1)
    fitted = scorers.calibrated(column[:, None].expand_as(many), many, excerpts)
    return dict(zip(found, fitted.unbind(1), strict=True))


def measured(host, store, site, seed, turn):
    """Rows of one unit, the `turn`-th of a random order: set, kind of simulation, ρ, ablation score."""
    excerpts = Excerpts.of(store.documents, store.positions, store.document_ids, seed)
    contexts = Contexts.of(store.tokens, store.documents, store.positions, len(host.tokenizer))
    values = store.values(site.name)
    alive = (values.std(0) > 0).nonzero().squeeze(1)
    unit = int(alive[torch.randperm(len(alive), generator=rng.stream(seed, "units", site.name))[turn]])
    room = int(store.plan.settings["context"]) - len(host.tokenizer.prefix) - len(host.tokenizer.suffix)
    column, draw = values[:, unit].clone(), rng.stream(seed, "ablation", site.name, unit)
    known = simulations(column, contexts, excerpts, draw)
    chosen = scorers.scoring_set(excerpts, excerpts.maxima(column[:, None])[:, 0], draw)
    mean = float(column[excerpts.row_split("calibrate")].mean())
    rows = []
    for name, members in (
        ("top and random", torch.cat([chosen.top, chosen.beside])),
        ("random", chosen.random[:RANDOM]),
    ):
        wanted = excerpts.rows(members)
        only = torch.zeros(len(column), dtype=torch.bool).index_fill_(0, wanted, True)
        there = {kind: torch.where(only, v, torch.nan) for kind, v in known.items()}
        reading = Reading.of(host, store.tokens, store.documents, store.positions, wanted, room)
        found = ablation(host, site, Handle.neuron(unit, values.shape[1]), reading, there, mean, draw)
        for kind, v in known.items():
            rho = scorers.correlation(column[wanted], v[wanted])
            rows.append((name, kind.split(" 0.")[0], rho, found[kind].value))
    return rows


def summary(rows, draw):
    """Lines of the table: for every set, kind and range of ρ the units, mean ρ and mean ablation score with its interval."""
    for name in ("top and random", "random"):
        for kind in ("explained", "truth + noise"):
            mine = [r for r in rows if r[0] == name and (r[1] == kind or (kind == "explained" and "truth" not in r[1]))]
            for low, high in itertools.pairwise(EDGES):
                some = torch.tensor([r[2:4] for r in mine if low <= r[2] < high and r[3] == r[3]]).reshape(-1, 2)
                if len(some) >= 5:
                    picks = torch.randint(len(some), (1000, len(some)), generator=draw)
                    ends = some[:, 1][picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
                    yield (f"| {name} | {kind} | {max(low, -1):g} to {min(high, 1):g} | {len(some)} | {some[:, 0].mean():.2f} "
                           f"| {some[:, 0].square().mean():.2f} | {some[:, 1].mean():.2f} [{ends[0]:.2f}, {ends[1]:.2f}] |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--units", type=int, default=16, help="per layer and seed")
    parser.add_argument("--seeds", type=int, default=3, help="each splits documents and draws units anew")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long, with the units that are done")
    parser.add_argument("--md", type=Path)
    chosen = parser.parse_args()
    end = time.monotonic() + 60 * chosen.minutes
    host, rows, done = load_host(chosen.model), [], 0
    sites = host.sites("layers.*.mlp.act")
    with tempfile.TemporaryDirectory() as folder:
        store = harvest(host, python_corpus(), sites, Path(folder) / "store", HarvestConfig(max_tokens=chosen.tokens))
        turns = [(turn, seed, site) for turn in range(chosen.units) for seed in range(chosen.seeds) for site in sites]
        for turn, seed, site in turns:
            if time.monotonic() < end:
                rows += measured(host, store, site, seed, turn)
                done += 1
    print(f"{done} units of {len(sites)} layers, {chosen.seeds} seeds, {len(store)} tokens\n")
    lines = [
        "| excerpts | values | ρ | n | mean ρ | mean ρ² | ablation score |", "|---|---|---|---|---|---|---|",
        *summary(rows, rng.stream(0, "summary")),
    ]  # fmt: skip
    print("\n".join(lines))
    if chosen.md:
        text = chosen.md.read_text()
        head, _, rest = text.partition("<!-- table -->\n")
        chosen.md.write_text(head + "<!-- table -->\n" + "\n".join(lines) + "\n" + rest[rest.index("<!-- end -->") :])


if __name__ == "__main__":
    main()
