"""How much of what a network does with a unit survives an explanation of correlation ρ? Measured on a small transformer.

Neurons, directions and latents of every layer are explained by token look-up and n-grams, and by the truth with so much noise
that ρ is known. Each simulation is scored twice, on top-and-random excerpts and on random ones alone: correlation, and
ablation score on the same contexts after calibration. Means with intervals by bootstrap over the n simulations: one per unit
and explainer, five per unit with noise. Directions are those that look-ups explain best, found and written as `digon
directions` does; latents are those of an autoencoder; the fit split of each seed makes both. Bills et al. 2023 report for
neurons that ρ = .9 goes with an ablation score of .6 on top-and-random and of .3 on random excerpts.

    digon demo                                                    trains the network, once
    OMP_NUM_THREADS=1 python benchmarks/ablation.py runs/demo-tinylm [--md docs/results/ablation.md]
"""

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from digon import rng
from digon.coders.sae import SAEConfig
from digon.coders.train import TrainConfig, from_rows, train
from digon.explain import scorers
from digon.explain.ablation import Handle, Reading, ablation
from digon.explain.directions import Ground, SearchConfig, Space, Words, search
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import LookUp, NGrams
from digon.hosts.corpus import python_corpus
from digon.hosts.harvest import HarvestConfig, harvest
from digon.hosts.load import load_host

KINDS = ("neuron", "direction", "latent")
NOISY = (0.95, 0.9, 0.8, 0.6, 0.4)
EDGES = (-1.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.01)
RANDOM = 10
EXPANSION, L0, STEPS = 2, 32, 300
"""Of the autoencoders: latents per neuron, active ones per token, training steps."""


@dataclass(frozen=True)
class Corpus:
    """Rows of a harvest under one split of its documents."""

    host: object
    store: object
    seed: int
    excerpts: Excerpts
    contexts: Contexts

    @classmethod
    def of(cls, host, store, seed):
        excerpts = Excerpts.of(store.documents, store.positions, store.document_ids, seed)
        contexts = Contexts.of(store.tokens, store.documents, store.positions, len(host.tokenizer))
        return cls(host, store, seed, excerpts, contexts)

    def units(self, kind, site, count, folder):
        """Handles of `count` units that vary, drawn at random where there are more; directions as they were found."""
        values = self.store.values(site.name)
        fit, d = self.excerpts.row_split("fit"), values.shape[1]
        draw = rng.stream(self.seed, kind, site.name)
        if kind == "neuron":
            alive = (values.std(0) > 0).nonzero().squeeze(1)
            return [Handle.neuron(u, d) for u in alive[torch.randperm(len(alive), generator=draw)[:count]].tolist()]
        if kind == "direction":
            space = Space.of(values[fit])
            ground = Ground.of(space.white(values), self.contexts, fit, self.excerpts.row_split("select"))
            found = search(ground, Words(), SearchConfig(count, starts=2, seed=self.seed))
            theta = torch.stack([one.theta for one in found])
            reads, writes = space.reads(theta).float(), space.writes(theta).float()
            return [Handle.along(read, write) for read, write in zip(reads, writes, strict=True)]
        rows = values[fit]
        shape = SAEConfig(d, EXPANSION * d, L0, activation="batchtopk", seed=self.seed)
        settings = TrainConfig(steps=STEPS, batch=min(2048, len(rows)), seed=self.seed)
        sae = train(shape, from_rows(rows, settings), settings, folder / f"sae-{site.name}-{self.seed}")
        with torch.inference_mode():
            fires = sum((sae.encode(part).dense() > 0).sum(0) for part in rows.split(4096))
        alive = (fires > 0).nonzero().squeeze(1)
        return [Handle.latent(sae, u) for u in alive[torch.randperm(len(alive), generator=draw)[:count]].tolist()]

    @torch.inference_mode()
    def column(self, site, handle):
        """What a unit does on all rows."""
        return torch.cat([handle.read(part) for part in self.store.values(site.name).split(4096)])


def simulations(corpus, column, draw):
    """Explanations of one unit, and its own values with noise: name → values of all rows, calibrated."""
    excerpts, contexts = corpus.excerpts, corpus.contexts
    fit, select = excerpts.row_split("fit"), excerpts.row_split("select")
    found = {kind.name: kind.fit(contexts, column, fit, select).simulate(contexts) for kind in (LookUp, NGrams)}
    noise = torch.randn(len(column), generator=draw) * column.std()
    found |= {f"truth + noise {rho:g}": column + noise * (1 / rho**2 - 1) ** 0.5 for rho in NOISY}
    many = torch.stack(list(found.values()), 1)
    fitted = scorers.calibrated(column[:, None].expand_as(many), many, excerpts)
    return dict(zip(found, fitted.unbind(1), strict=True))


def measured(corpus, site, kind, number, handle):
    """Rows of one unit: kind of unit, set, kind of simulation, ρ, ablation score."""
    host, store, excerpts = corpus.host, corpus.store, corpus.excerpts
    room = int(store.plan.settings["context"]) - len(host.tokenizer.prefix) - len(host.tokenizer.suffix)
    column, draw = corpus.column(site, handle), rng.stream(corpus.seed, "ablation", site.name, kind, number)
    known = simulations(corpus, column, draw)
    chosen = scorers.scoring_set(excerpts, excerpts.maxima(column[:, None])[:, 0], draw)
    mean = float(column[excerpts.row_split("calibrate")].mean())
    rows = []
    for name, members in (
        ("top and random", torch.cat([chosen.top, chosen.beside])),
        ("random", chosen.random[:RANDOM]),
    ):
        wanted = excerpts.rows(members)
        only = torch.zeros(len(column), dtype=torch.bool).index_fill_(0, wanted, True)
        there = {said: torch.where(only, v, torch.nan) for said, v in known.items()}
        reading = Reading.of(host, store.tokens, store.documents, store.positions, wanted, room)
        found = ablation(host, site, handle, reading, there, mean, draw)
        for said, v in known.items():
            rho = scorers.correlation(column[wanted], v[wanted])
            rows.append((kind, name, said.split(" 0.")[0], rho, found[said].value))
    return rows


def interval(values, draw):
    """Mean and its interval by bootstrap, as text."""
    picks = torch.randint(len(values), (1000, len(values)), generator=draw)
    low, high = values[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def by_kind(rows, draw):
    """Lines of the first table: every kind of unit and of simulation, over all ρ."""
    yield "| excerpts | values | units | n | mean ρ | mean ρ² | ablation score | score − ρ² |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, said, kind in itertools.product(
        ("top and random", "random"), (LookUp().name, NGrams().name, "truth + noise"), KINDS
    ):
        some = torch.tensor([r[3:] for r in rows if r[:3] == (kind, name, said)]).reshape(-1, 2)
        some = some[some.isfinite().all(1)]
        if len(some) >= 3:
            square = some[:, 0].square()
            yield (
                f"| {name} | {said} | {kind}s | {len(some)} | {some[:, 0].mean():.2f} | {square.mean():.2f} "
                f"| {interval(some[:, 1], draw)} | {interval(some[:, 1] - square, draw)} |"
            )


def by_rho(rows, draw):
    """Lines of the second table: every range of ρ, what is put in being explained or noisy, beside each other the kinds of unit."""
    yield "| excerpts | values | ρ | mean ρ² | " + " | ".join(f"{kind}s: n, ablation score" for kind in KINDS) + " |"
    yield "|---" * (4 + len(KINDS)) + "|"
    for name, noisy in itertools.product(("top and random", "random"), (False, True)):
        for low, high in itertools.pairwise(EDGES):
            here = [
                r for r in rows if r[1] == name and ("truth" in r[2]) == noisy and low <= r[3] < high and r[4] == r[4]
            ]
            some = {kind: torch.tensor([r[3:] for r in here if r[0] == kind]).reshape(-1, 2) for kind in KINDS}
            if sum(map(len, some.values())) >= 5:
                cells = [f"{len(s)}, {interval(s[:, 1], draw)}" if len(s) >= 5 else f"{len(s)}" for s in some.values()]
                square = torch.cat(list(some.values()))[:, 0].square().mean()
                yield (
                    f"| {name} | {'truth + noise' if noisy else 'explained'} | {max(low, -1):g} to {min(high, 1):g} "
                    f"| {square:.2f} | {' | '.join(cells)} |"
                )


def all_rows(chosen, host, folder, end):
    """Units of all kinds, layers and seeds by turns until the time is over; with how many there were of each kind."""
    sites = host.sites("layers.*.mlp.act")
    store = harvest(host, python_corpus(), sites, folder / "store", HarvestConfig(max_tokens=chosen.tokens))
    corpora = [Corpus.of(host, store, seed) for seed in range(chosen.seeds)]
    units = {}
    for kind, corpus, site in itertools.product(chosen.kinds, corpora, sites):
        units[kind, corpus.seed, site.name] = corpus.units(kind, site, chosen.units, folder)
        print(f"{kind}s of {site.name}, seed {corpus.seed}", flush=True)
    rows, done = [], dict.fromkeys(chosen.kinds, 0)
    for turn, corpus, site, kind in itertools.product(range(chosen.units), corpora, sites, chosen.kinds):
        known = units[kind, corpus.seed, site.name]
        if time.monotonic() < end and turn < len(known):
            rows += measured(corpus, site, kind, turn, known[turn])
            done[kind] += 1
    said = ", ".join(f"{count} {kind}s" for kind, count in done.items())
    return rows, f"{said} of {len(sites)} layers, {chosen.seeds} splits of {len(store):,} tokens."


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--units", type=int, default=16, help="of each kind, per layer and seed")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=3, help="each splits documents and draws units anew")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long, with the units that are done")
    parser.add_argument("--md", type=Path)
    chosen = parser.parse_args()
    end, host = time.monotonic() + 60 * chosen.minutes, load_host(chosen.model)
    with tempfile.TemporaryDirectory() as folder:
        rows, said = all_rows(chosen, host, Path(folder), end)
    draw = rng.stream(0, "summary")
    text = "\n".join([said, "", *by_kind(rows, draw), "", *by_rho(rows, draw)])
    print(text)
    if chosen.md:
        known = chosen.md.read_text()
        head, _, rest = known.partition("<!-- table -->\n")
        chosen.md.write_text(head + "<!-- table -->\n" + text + "\n" + rest[rest.index("<!-- end -->") :])


if __name__ == "__main__":
    main()
