"""Which excerpts of a unit a language model sees: some explain, some select, others judge; none shares a document."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...explain import exemplars as ex
from ...explain import scorers
from ...explain.llm.explainers import Act
from ...explain.splits import assert_disjoint
from ...hosts.load import Host
from ...hosts.taps import capture
from ...records import Excerpt
from ..sources import Source
from .desk import Desk

SHOWN = 5
"""Top excerpts of the fit split that explain, as in Bills et al. 2023."""
SELECT = 3
"""Top excerpts of the select split, and as many random ones, on which one of several descriptions is chosen."""
ACTIVE, QUIET = 10, 10
"""Excerpts of the test split that fire the unit, and that do not, for choice scores."""


@dataclass(frozen=True)
class Texts:
    """Excerpts of one unit by their use, as numbers of excerpts of the corpus."""

    desk: Desk
    values: Float[Tensor, " n"]
    shown: Int[Tensor, " a"]
    select: Int[Tensor, " b"]
    top: Int[Tensor, " c"]
    """With `random`, what a simulation is scored on."""
    random: Int[Tensor, " d"]
    active: Int[Tensor, " e"]
    quiet: Int[Tensor, " f"]
    near: Int[Tensor, " g"]

    @classmethod
    def of(cls, desk: Desk, values: Float[Tensor, " n"], site: str, unit: int) -> "Texts":
        """Choose them. Raises: RunError if a document would both explain and judge."""
        cut, draw = desk.excerpts, rng.stream(desk.seed, "words", site, unit)
        maxima = cut.maxima(values[:, None])[:, 0]
        mean, peak = values.double().mean(), values.double().max()
        loud = maxima > mean + ex.LOUD * (peak - mean)
        silent = maxima <= mean + ex.QUIET * (peak - mean)
        select, test = cut.in_split("select"), cut.in_split("test")
        best = ex.top(cut, maxima, select, SELECT)
        others = ex.uniform(cut, select, 2 * SELECT, draw)
        others = others[~torch.isin(cut.documents[others], cut.documents[best])][:SELECT]
        chosen = scorers.scoring_set(cut, maxima, draw)
        near = ex.near_misses(cut, values, desk.store.tokens, torch.where(test, maxima, torch.inf), QUIET)
        found = cls(
            desk, values,
            shown=ex.top(cut, maxima, cut.in_split("fit") & (maxima > values.min()), SHOWN),
            select=torch.cat([best, others]), top=chosen.top, random=chosen.beside,
            active=ex.top(cut, maxima, test & loud, ACTIVE), quiet=ex.uniform(cut, test & silent, QUIET, draw), near=near,
        )  # fmt: skip
        judges = torch.cat([found.top, found.random, found.active, found.quiet, found.near])
        assert_disjoint(found._documents(found.shown), found._documents(torch.cat([found.select, judges])))
        assert_disjoint(found._documents(found.select), found._documents(judges))
        return found

    def records(self, excerpts: Int[Tensor, " m"]) -> list[Excerpt]:
        """Excerpts as a language model gets them."""
        store = self.desk.store
        data = (self.values, store.tokens, store.positions)
        return [ex.record(self.desk.excerpts, e, "top", data, self.desk.token_text, {}) for e in excerpts.tolist()]

    def _documents(self, excerpts: Int[Tensor, " m"]) -> set[str]:
        cut = self.desk.excerpts
        return {str(cut.document_ids[int(d)]) for d in cut.documents[excerpts]}


def acting(host: Host | None, source: Source, unit: int, sign: int, mean: float) -> Act | None:
    """What the unit, or how far it falls below its mean, does on any texts; None where the network is not known, or how the unit is read."""
    handle = source.handle(unit)
    if host is None or host.tokenizer is None or handle is None or source.place is None:
        return None
    tokenizer, place = host.tokenizer, host.sites(source.place)[0]

    @torch.inference_mode()
    def act(texts: Sequence[str]) -> list[Excerpt]:
        found = []
        for number, ids in enumerate(tokenizer.encode_batch(list(texts))):
            room = host.max_context - len(tokenizer.prefix) - len(tokenizer.suffix)
            if not (ids := ids[:room]):
                continue
            whole = torch.tensor([[*tokenizer.prefix, *ids, *tokenizer.suffix]], device=host.device)
            with capture(host.model, [place]) as seen:
                host.body(whole)
            rows = seen[place.name].reshape(-1, seen[place.name].shape[-1])[len(tokenizer.prefix) :][: len(ids)]
            values = handle.read(rows.float()).cpu()
            tokens = tuple(tokenizer.token_text(token) for token in ids)
            found.append(
                Excerpt(
                    f"written {number}", 0, tokens, tuple((values if sign > 0 else mean - values).tolist()), "random"
                )
            )
        return found

    return act
