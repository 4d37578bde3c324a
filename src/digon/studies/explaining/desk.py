"""What all cards of a harvest share, and the one seam between values of units and explanations.

`Desk.explain` turns values of many units into explanations with scores; `Desk.card` puts everything about a unit together.
The audit's cards and `digon explain` both come from here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...explain import exemplars as ex
from ...explain import scorers
from ...explain.exemplars import Contexts, Excerpts
from ...hosts.load import Host
from ...records import Coverage, Explanation, Histogram, Measurement, Neighbor, Promotion, Sense, UnitCard
from ...store.shards import ActivationStore
from ..sources import Directions, Latents, Source

BINS = 40
NEIGHBORS = 5
NEIGHBOR_ROWS = 20_000
DRAWN = 3
"""Explainers without a language model whose simulated values are kept with the exemplars: the best on the select split."""


@dataclass(frozen=True)
class Found:
    """All explanations of one unit, and what they predict on every row, by explainer."""

    explanations: tuple[Explanation, ...]
    simulated: dict[str, Float[Tensor, " n"]]
    select: dict[str, float]
    """Correlation on the select split, by which one explainer is chosen among several."""
    coverage: Coverage | None = None
    senses: tuple[Sense, ...] = ()

    def best(self, count: int = 1) -> list[str]:
        """Explainers that do best on the select split, best first."""
        known = [name for name in self.simulated if math.isfinite(self.select.get(name, math.nan))]
        return sorted(known, key=lambda name: -self.select[name])[:count] or list(self.simulated)[:count]


@dataclass(frozen=True)
class Desk:
    """The harvested text as explainers see it; the same for all sites."""

    model: str
    """Name of the network, first part of the addresses of its units."""
    store: ActivationStore
    excerpts: Excerpts
    contexts: Contexts
    token_text: Callable[[int], str]
    seed: int

    @classmethod
    def of(cls, model: str, store: ActivationStore, host: Host | None, seed: int) -> "Desk":
        """Without a network, tokens are shown as numbers."""
        excerpts = Excerpts.of(store.documents, store.positions, store.document_ids, seed)
        tokenizer = host.tokenizer if host else None
        vocabulary = max(len(tokenizer) if tokenizer else 0, int(store.tokens.max()) + 1)
        contexts = Contexts.of(store.tokens, store.documents, store.positions, vocabulary)
        return cls(model, store, excerpts, contexts, tokenizer.token_text if tokenizer else _numbered, seed)

    @property
    def missing(self) -> str:
        """Why nothing can be explained, or nothing scored; empty if both can be."""
        counts = {
            name: len(self.excerpts.documents[self.excerpts.in_split(name)].unique())
            for name in ("fit", "select", "test")
        }
        said = ", ".join(f"{count} of the {name} split" for name, count in counts.items())
        if counts["fit"] == 0:
            return f"The text has {said}: without documents of the fit split nothing can be explained."
        if counts["test"] < 2:
            return f"The text has {said}: explanations are not scored, which takes 2 unseen documents."
        return ""

    def explain(self, values: Float[Tensor, "n units"]) -> list[Found]:
        """Explanations of many units with their scores; each one's baseline are the explanations of the units after it.

        Raises: NonFiniteError if a unit is not finite.
        """
        if not bool(self.excerpts.in_split("fit").any()) or values.shape[1] == 0:
            return [Found((), {}, {}) for _ in range(values.shape[1])]
        select = self.excerpts.row_split("select")
        done = []
        for real, one in zip(
            values.T,
            scorers.explain_units(values, self.contexts, self.excerpts, self.token_text, self.seed),
            strict=True,
        ):
            chosen = {name: scorers.correlation(real[select], column[select]) for name, column in one.simulated.items()}
            scored = tuple(_with_population(e, one.population.get(e.explainer)) for e in one.explanations)
            done.append(Found(scored, one.simulated, chosen))
        return done

    def card(
        self,
        source: Source,
        unit: int,
        values: Float[Tensor, " n"],
        found: Found,
        measured: tuple[Measurement, ...],
        neighbors: tuple[Neighbor, ...] = (),
        promotions: tuple[Promotion, ...] = (),
    ) -> UnitCard:
        """Everything about one unit."""
        draw = rng.stream(self.seed, "card", source.site, unit)
        data = (values, self.store.tokens, self.store.positions)
        maxima = self.excerpts.maxima(values[:, None])[:, 0]
        shown = {name: found.simulated[name] for name in found.best(DRAWN)}
        return UnitCard(
            unit=f"{self.model}/{source.site}#{unit}",
            site=source.site,
            index=unit,
            kind=source.kind,
            measurements=measured,
            histogram=histogram(values),
            exemplars=ex.exemplars(self.excerpts, data, maxima, self.token_text, shown, draw),
            explanations=found.explanations,
            neighbors=neighbors,
            coverage=found.coverage,
            senses=found.senses,
            promotions=promotions,
        )


def _numbered(token: int) -> str:
    return f" <{token}>"


def _with_population(explanation: Explanation, population: Measurement | None) -> Explanation:
    if explanation.score is None or population is None:
        return explanation
    return replace(explanation, score=replace(explanation.score, population=population))


def histogram(values: Float[Tensor, " n"]) -> Histogram:
    """Counts of a unit's values."""
    counts, edges = np.histogram(values.numpy(), bins=BINS)
    return Histogram(tuple(float(e) for e in edges), tuple(int(c) for c in counts))


def measurements(row: Mapping[str, float], n: int, seed: int) -> tuple[Measurement, ...]:
    """A unit's row of the survey as measurements; numbers that the survey does not have are left out."""
    get = {
        name: float(row.get(name, math.nan))
        for name in ("density_low", "density_high", "eta2_low", "eta2_high", "cluster_p")
    }
    rules: dict[str, dict[str, object]] = {
        "density": {"low": get["density_low"], "high": get["density_high"], "seed": seed, "method": "share of tokens above 0, bootstrap over documents"},
        "mean": {"method": "mean over tokens"},
        "kurtosis": {"method": "fourth standardized moment", "null": 3.0},
        "eta2": {"low": get["eta2_low"], "high": get["eta2_high"], "seed": seed, "null": 0.0, "source": "correlation ratio",
                 "method": "same token in different documents, jackknife over groups of documents"},
        "cluster_z": {"n": 64, "method": "exemplar clusters against the nearer null", "null": 0.0, "p": get["cluster_p"], "seed": seed},
        "senses": {"n": 64, "method": "groups of exemplars that beat both nulls", "null": 1.0, "seed": seed},
    }  # fmt: skip
    return tuple(
        Measurement(**({"name": name, "value": float(row[name]), "n": n} | rule))  # type: ignore[arg-type]
        for name, rule in rules.items()
        if name in row
    )


def neighbors(source: Source, store: ActivationStore, units: Sequence[int], model: str) -> list[tuple[Neighbor, ...]]:
    """Units that point the same way. Neurons: correlation of their activations; others: cosine of their vectors."""
    if not units:
        return []
    if isinstance(source, Latents | Directions):
        vectors = source.atoms if isinstance(source, Latents) else source.vectors
    else:
        rows = torch.arange(0, len(store), max(1, -(-len(store) // NEIGHBOR_ROWS)))
        values = store.values(source.site, rows)
        vectors = (values - values.mean(0)).T
    unit_norm = torch.nn.functional.normalize(vectors, dim=1)
    chosen = torch.tensor(list(units))
    cosines = unit_norm[chosen] @ unit_norm.T
    cosines[torch.arange(len(chosen)), chosen] = -math.inf
    best = cosines.topk(min(NEIGHBORS, cosines.shape[1]), dim=1)
    return [
        tuple(
            Neighbor(f"{model}/{source.site}#{u}", round(c, 4))
            for u, c in zip(indices, values, strict=True)
            if math.isfinite(c)
        )
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def columns(source: Source, units: Sequence[int]) -> Float[Tensor, "n units"]:
    """Values of some units on all rows, consecutive ones read together."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][1]:
            runs[-1][1] = unit + 1
        else:
            runs.append([unit, unit + 1])
    return torch.cat([source.columns(start, stop) for start, stop in runs], 1)
