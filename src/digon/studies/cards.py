"""Cards: everything about some units of a site, chosen so that extremes and the ordinary are both seen.

A third of the units are those with the clearest several senses (for latents: the densest), a third the most
context-free, the rest drawn at random among units that are ever active.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import rng
from ..explain import exemplars as ex
from ..explain import scorers
from ..explain.exemplars import Contexts
from ..explain.explainers import LookUp, NGrams, Patterns
from ..hosts.load import Host
from ..records import Explanation, Histogram, Measurement, Neighbor, UnitCard
from ..store.runs import Run
from ..store.shards import ActivationStore
from .settings import AuditConfig
from .sources import Latents, Source

BINS = 40
NEIGHBORS = 5
BASELINES = 3
NEIGHBOR_ROWS = 20_000


def choose(table: dict[str, np.ndarray], count: int, seed: int) -> list[int]:
    """Units that get a card, by index. Fewer than `count` where fewer are ever active."""
    alive = np.flatnonzero(np.isfinite(table["eta2"]) & (table["density"] > 0))
    first = table["cluster_z"] if np.isfinite(table["cluster_z"]).any() else table["density"]
    chosen: list[int] = []
    for key in (first, table["eta2"]):
        ranked = alive[np.argsort(-np.nan_to_num(key[alive], nan=-math.inf), kind="stable")]
        chosen += [int(u) for u in ranked if u not in chosen][: count // 3]
    rest = rng.numpy_stream(seed, "cards").permutation(alive)
    chosen += [int(u) for u in rest if u not in chosen][: count - len(chosen)]
    return sorted(chosen)


def write_cards(run: Run, source: Source, store: ActivationStore, host: Host, config: AuditConfig) -> None:
    """Write `cards/<site>.json`."""
    table = run.read_table(f"survey/{source.site}")
    units = choose(table, config.cards, config.seed)
    assert host.tokenizer is not None, "a harvested host has a tokenizer"
    desk = _Desk(source, store, host, config.seed)
    columns = torch.stack([source.columns(u, u + 1)[:, 0] for u in units], 1) if units else torch.zeros(len(store), 0)
    fitted = [desk.fit(columns[:, i]) for i in range(len(units))]
    simulations = [{p.name: p.simulate(desk.contexts) for p in patterns} for patterns in fitted]
    neighbors = _neighbors(source, store, units, host.name)
    cards = [
        desk.card(unit, columns[:, i], (fitted[i], simulations, i), table, neighbors[i]) for i, unit in enumerate(units)
    ]
    run.write_json(f"cards/{source.site}", cards)


class _Desk:
    """What all cards of a site share."""

    def __init__(self, source: Source, store: ActivationStore, host: Host, seed: int) -> None:
        tokenizer = host.tokenizer
        assert tokenizer is not None, "a harvested host has a tokenizer"
        self.source, self.store, self.model, self.seed = source, store, host.name, seed
        self.excerpts = ex.Excerpts.of(store.documents, store.positions, store.document_ids, seed)
        self.contexts = Contexts.of(store.tokens, store.documents, store.positions, len(tokenizer))
        self.token_text = tokenizer.token_text
        self.fit_rows = self.excerpts.row_split("fit")
        self.select_rows = self.excerpts.row_split("select")

    def fit(self, values: Float[Tensor, " n"]) -> list[Patterns]:
        """Both explainers on one unit."""
        return [kind.fit(self.contexts, values, self.fit_rows, self.select_rows) for kind in (LookUp, NGrams)]

    def card(
        self,
        unit: int,
        values: Float[Tensor, " n"],
        explained: tuple[list[Patterns], list[dict[str, Tensor]], int],
        table: dict[str, np.ndarray],
        neighbors: tuple[Neighbor, ...],
    ) -> UnitCard:
        """One card; `explained` holds the unit's patterns, the simulations of all carded units, and its place there."""
        patterns, simulations, place = explained
        maxima = self.excerpts.maxima(values[:, None])[:, 0]
        draw = rng.stream(self.seed, "card", self.source.site, unit)
        chosen = scorers.scoring_set(self.excerpts, maxima, draw)
        others = [
            simulations[(place + step) % len(simulations)] for step in range(1, min(BASELINES + 1, len(simulations)))
        ]
        explanations = tuple(
            Explanation(
                p.name,
                p.render(self.token_text),
                round(p.bits, 1),
                scorers.score(
                    values, simulations[place][p.name], self.excerpts, chosen, draw, [other[p.name] for other in others]
                ),
            )
            for p in patterns
        )
        data = (values, self.store.tokens, self.store.positions)
        found = ex.strata(self.excerpts, values, self.store.tokens, maxima, draw)
        shown = tuple(
            ex.record(self.excerpts, e, stratum, data, self.token_text, simulations[place])
            for stratum, members in found.items()
            for e in members.tolist()
        )
        return UnitCard(
            unit=f"{self.model}/{self.source.site}#{unit}",
            site=self.source.site,
            index=unit,
            kind=self.source.kind,
            measurements=_measurements(table, unit, len(values), self.seed),
            histogram=_histogram(values),
            exemplars=shown,
            explanations=explanations,
            neighbors=neighbors,
        )


def _measurements(table: dict[str, np.ndarray], unit: int, n: int, seed: int) -> tuple[Measurement, ...]:
    get = {name: float(column[unit]) for name, column in table.items()}
    return (
        Measurement(
            "density", get["density"], get["density_low"], get["density_high"], n, "", "share of tokens above 0, "
            "bootstrap over documents", seed,
        ),
        Measurement("mean", get["mean"], n=n, method="mean over tokens"),
        Measurement("kurtosis", get["kurtosis"], n=n, method="fourth standardized moment", null=3.0),
        Measurement(
            "eta2", get["eta2"], get["eta2_low"], get["eta2_high"], n, "", "same token in different documents, jackknife "
            "over groups of documents", seed, "correlation ratio", 0.0,
        ),
        Measurement("cluster_z", get["cluster_z"], n=64, method="exemplar clusters against the nearer null", null=0.0,
                    p=get["cluster_p"], seed=seed),
        Measurement("senses", get["senses"], n=64, method="groups of exemplars that beat both nulls", null=1.0, seed=seed),
    )  # fmt: skip


def _histogram(values: Float[Tensor, " n"]) -> Histogram:
    counts, edges = np.histogram(values.numpy(), bins=BINS)
    return Histogram(tuple(float(e) for e in edges), tuple(int(c) for c in counts))


def _neighbors(source: Source, store: ActivationStore, units: list[int], model: str) -> list[tuple[Neighbor, ...]]:
    """Latents: cosine of their atoms. Neurons: cosine of their centered activations, that is, correlation."""
    if not units:
        return []
    if isinstance(source, Latents):
        vectors = source.atoms
    else:
        rows = torch.arange(0, len(store), max(1, -(-len(store) // NEIGHBOR_ROWS)))
        values = store.values(source.site, rows)
        vectors = (values - values.mean(0)).T
    unit_norm = torch.nn.functional.normalize(vectors, dim=1)
    cosines = unit_norm[units] @ unit_norm.T
    cosines[torch.arange(len(units)), torch.tensor(units)] = -math.inf
    best = cosines.topk(min(NEIGHBORS, cosines.shape[1]), dim=1)
    return [
        tuple(
            Neighbor(f"{model}/{source.site}#{u}", round(c, 4))
            for u, c in zip(indices, values, strict=True)
            if math.isfinite(c)
        )
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
