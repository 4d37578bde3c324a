"""What all cards of a harvest share, and the one seam between values of units and explanations.

`Desk.explain` turns values of many units into explanations with scores; `Desk.card` puts everything about a unit together.
The audit's cards and `digon explain` both come from here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError, did_you_mean
from ...explain import exemplars as ex
from ...explain import scorers
from ...explain.coverage import cover
from ...explain.exemplars import Contexts, Excerpts
from ...explain.explainers import LADDER, Fitted, Shared
from ...explain.explainers.rungs import BLENDED, HYBRID, fit_shared
from ...explain.kinds import Surroundings
from ...explain.moments import correlations
from ...explain.pieces import take_apart
from ...explain.senses import senses
from ...hosts.load import Host
from ...records import Arc, Coverage, Explanation, Histogram, Measurement, Neighbor, Promotion, Score, Sense, UnitCard
from ...store.shards import ActivationStore
from ..sources import Directions, Latents, Source

BINS = 40
NEIGHBORS = 5
NEIGHBOR_ROWS = 20_000
NEARLY = 0.95
"""Share of the best explained variance that is good enough to be told first."""
DRAWN = 3
"""Explainers without a language model whose simulated values are kept with the exemplars."""


@runtime_checkable
class Drawn(Protocol):
    """An explanation that matches patterns by an automaton."""

    def arcs(self, token_text: Callable[[int], str]) -> tuple[Arc, ...]:
        """Its steps."""
        ...


@dataclass(frozen=True)
class Found:
    """All explanations of one unit, and what they predict on every row, by explainer."""

    explanations: tuple[Explanation, ...]
    simulated: dict[str, Float[Tensor, " n"]]
    select: dict[str, float]
    """Correlation on the select split, by which one explainer is chosen among several."""
    coverage: Coverage | None = None
    senses: tuple[Sense, ...] = ()
    chance: Float[Tensor, " draws"] | None = None
    """Scores of the explanation to be told first, after permutations."""

    def best(self, count: int = 1) -> list[str]:
        """Explainers that do best on the select split, best first."""
        known = [name for name in self.simulated if math.isfinite(self.select.get(name, math.nan))]
        return sorted(known, key=lambda name: -self.select[name])[:count] or list(self.simulated)[:count]

    @property
    def shown(self) -> list[str]:
        """Explainers whose simulated values are kept with the exemplars: the one to be told first, then the best ones."""
        first = told(self.explanations, self.select)
        return list(dict.fromkeys([first.explainer, *self.best(DRAWN)]))[:DRAWN] if first else []


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
    texts: tuple[str, ...] | None = None
    """What every token of the vocabulary shows, if that is known."""

    @classmethod
    def of(cls, model: str, store: ActivationStore, host: Host | None, seed: int) -> "Desk":
        """Without a network, tokens are shown as numbers."""
        excerpts = Excerpts.of(store.documents, store.positions, store.document_ids, seed)
        tokenizer = host.tokenizer if host else None
        vocabulary = max(len(tokenizer) if tokenizer else 0, int(store.tokens.max()) + 1)
        contexts = Contexts.of(store.tokens, store.documents, store.positions, vocabulary)
        if tokenizer is None:
            return cls(model, store, excerpts, contexts, _numbered, seed)
        texts = tuple(tokenizer.token_text(token) for token in range(vocabulary))
        return cls(model, store, excerpts, contexts, tokenizer.token_text, seed, texts)

    @cached_property
    def shared(self) -> Shared:
        """Tables that the explanations of all units share."""
        return Shared(self.contexts, self.excerpts.row_split("fit"), self.excerpts.row_split("select"))

    @cached_property
    def surroundings(self) -> Surroundings:
        """What the text says around every row, by which kinds of context are told apart."""
        store = self.store
        return Surroundings.of(
            store.tokens, store.documents, store.positions, self.contexts.vocabulary, self.seed, self.texts
        )

    @property
    def missing(self) -> str:
        """Why nothing can be explained, or nothing scored; empty if both can be."""
        counts = {
            name: len(self.excerpts.documents[self.excerpts.in_split(name)].unique())
            for name in ("fit", "select", "test")
        }
        said = ", ".join(f"{count} documents of the {name} split" for name, count in counts.items())
        if counts["fit"] == 0:
            return f"The text has {said}: without any of the fit split nothing can be explained."
        if counts["test"] < 2:
            return f"The text has {said}: explanations are not scored, which takes 2 of the test split."
        return ""

    def explain(
        self,
        values: Float[Tensor, "n units"],
        rungs: Sequence[str] = (),
        *,
        coverage: bool = False,
        first: int = 0,
        owners: Sequence[int] | None = None,
    ) -> list[Found]:
        """Explanations of many units with their scores; each one's baseline are the explanations of the units after it.

        `rungs` names the explainers, none: all. `first` numbers the columns: it decides on which excerpts they are scored.
        `owners` says whose column it is, where a unit has two: they are no baseline for each other.
        A unit that is not finite, or any of a text without documents to fit, gets no explanations; the others do.
        Raises: ConfigError for an unknown explainer.
        """
        can = values.isfinite().all(0) & bool(self.excerpts.in_split("fit").any())
        good = can.nonzero().squeeze(1)
        nothing = Found((), {}, {})
        if not len(good):
            return [nothing] * values.shape[1]
        whose = [owners[i] for i in good.tolist()] if owners is not None else None
        found = iter(self._explained(values[:, good], rungs, coverage, (first, whose)))
        return [next(found) if ok else nothing for ok in can.tolist()]

    def _explained(
        self,
        values: Float[Tensor, "n units"],
        rungs: Sequence[str],
        coverage: bool,
        numbers: tuple[int, Sequence[int] | None],
    ) -> list[Found]:
        # parts are blended by how they do on the select split
        blend = (not rungs or HYBRID in rungs) and bool(self.shared.select.any())
        parts = fit_shared(values, self.shared, {name: LADDER[name] for name in ladder(rungs)}, blend=blend)
        fitted = [{one.name: one for one in ones if not rungs or one.name in rungs} for ones in parts]
        simulated = {
            name: torch.stack([ones[name].simulate(self.contexts) for ones in fitted], 1) for name in fitted[0]
        }
        scores = scorers.score_units(values, simulated, self.excerpts, self.seed, *numbers)
        rows = self.shared.select
        select = {name: correlations(values[rows], column[rows]).tolist() for name, column in simulated.items()}
        done = []
        for unit, ones in enumerate(fitted):
            found = Found(
                tuple(self._record(one, scores[name].records[unit]) for name, one in ones.items()),
                {name: column[:, unit] for name, column in simulated.items()},
                {name: values[unit] for name, values in select.items()},
            )
            if (one := told(found.explanations, found.select)) is not None:
                found = replace(found, chance=scores[one.explainer].null[:, unit])
            done.append(self._covered(found, values[:, unit]) if coverage else found)
        return done

    def _record(self, fitted: Fitted, score: Score) -> Explanation:
        automaton = fitted.arcs(self.token_text) if isinstance(fitted, Drawn) else ()
        return Explanation(fitted.name, fitted.render(self.token_text), round(fitted.bits, 1), score, automaton)

    def _covered(self, found: Found, values: Float[Tensor, " n"]) -> Found:
        """The same with its coverage curve and the kinds of context that it responds to."""
        seen = self.shared.fit | self.shared.select
        draw = rng.stream(self.seed, "coverage")
        simulated = found.simulated[found.best()[0]]
        pieces = take_apart(values, simulated, self.surroundings, seen) if bool(values.max() > values.min()) else []
        covered = cover(values, pieces, self.excerpts, self.token_text, draw)
        told = senses(covered, values, self.excerpts, self.token_text) if covered.pieces else ()
        return replace(found, coverage=covered.record, senses=told)

    def card(
        self,
        source: Source,
        unit: int,
        values: Float[Tensor, " n"],
        found: Found,
        measured: tuple[Measurement, ...],
        neighbors: tuple[Neighbor, ...] = (),
        sign: Literal[1, -1] = 1,
        promotions: tuple[Promotion, ...] = (),
    ) -> UnitCard:
        """Everything about one unit; `values` are those of the side that is explained."""
        draw = rng.stream(self.seed, "card", source.site, unit)
        data = (values, self.store.tokens, self.store.positions)
        maxima = self.excerpts.maxima(values[:, None])[:, 0]
        shown = {name: found.simulated[name] for name in found.shown}
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
            sign=sign,
            coverage=found.coverage,
            senses=found.senses,
            promotions=promotions,
        )


def told(explanations: Sequence[Explanation], select: Mapping[str, float | None]) -> Explanation | None:
    """The explanation that is told first: the cheapest that reaches `NEARLY` of the best ρ² on the select split.

    Of a unit without any such number, the last one; None without explanations.
    """
    known = {e.explainer: select.get(e.explainer) for e in explanations}
    able = {name: max(rho, 0.0) ** 2 for name, rho in known.items() if rho is not None and math.isfinite(rho)}
    if not able:
        return explanations[-1] if explanations else None
    enough = NEARLY * max(able.values())
    return min((e for e in explanations if able.get(e.explainer, -1.0) >= enough), key=lambda e: e.bits)


def ladder(names: Sequence[str]) -> tuple[str, ...]:
    """The rungs that make these explainers, all if none is named. Raises: ConfigError that names the known ones."""
    known = (*LADDER, HYBRID)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"no explainer {unknown[0]!r}", expected=", ".join(known), hint=did_you_mean(unknown[0], known)
        )
    needed = {*names, *(BLENDED if HYBRID in names else ())}
    return tuple(name for name in LADDER if not names or name in needed)


def _numbered(token: int) -> str:
    return f" <{token}>"


def side_of(values: Float[Tensor, " n"], sign: int) -> Float[Tensor, " n"]:
    """What a card is about: the activation, or how far it falls below its mean."""
    return values if sign > 0 else values.mean() - values


def key_of(card: UnitCard) -> str:
    """What tells the cards of a site apart: the unit, with a minus if it is about how far it falls."""
    return f"{'-' * (card.sign < 0)}{card.index}"


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
