"""What the network does with a unit: tokens that it promotes, and what survives if simulated values stand in for it.

Only where the network is known. Ablation runs it on random excerpts of the test split, the same for all units, and puts
values there by each unit's `Handle`; latents that read or write other sites have none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...explain import exemplars as ex
from ...explain import scorers
from ...explain.ablation import Reading, ablation
from ...hosts.load import Host
from ...hosts.promotions import promotions, spread
from ...records import Explanation, Measurement, Promotion
from ..sources import Source
from .desk import Desk, Found

EXCERPTS = 48
"""Random excerpts of unseen documents whose contexts are run again."""


@dataclass(frozen=True)
class Network:
    """The network behind the rows of a desk."""

    host: Host
    desk: Desk

    @cached_property
    def reading(self) -> Reading:
        """The contexts that are run again."""
        cut, store = self.desk.excerpts, self.desk.store
        draw = rng.stream(self.desk.seed, "ablated excerpts")
        wanted = cut.rows(ex.uniform(cut, cut.in_split("test"), EXCERPTS, draw))
        tokenizer = self.host.tokenizer
        frame = len(tokenizer.prefix) + len(tokenizer.suffix) if tokenizer else 0
        room = int(store.plan.settings.get("context", 128)) - frame
        return Reading.of(self.host, store.tokens, store.documents, store.positions, wanted, room)

    @cached_property
    def spread(self) -> float:
        """Size of the stream before the last norm, by which promoted logits are divided; 1 where there is none."""
        contexts = [ids for ids in self.reading.ids if len(ids) > 1]
        if not contexts:
            return 1.0
        longest = max(contexts, key=len)
        found = spread(self.host, torch.tensor([longest]))
        return found if math.isfinite(found) else 1.0

    def promoted(self, source: Source, unit: int) -> tuple[Promotion, ...]:
        """Tokens whose logits the unit raises and lowers most."""
        handle = source.handle(unit)
        if source.place is None or handle is None:
            return ()
        return promotions(self.host, self.host.sites(source.place)[0], handle.write, spread=self.spread)

    def ablated(
        self, source: Source, unit: int, raw: Float[Tensor, " n"], side: Float[Tensor, " n"], sign: int, found: Found
    ) -> Found:
        """The same with the ablation scores of the explanations whose values are shown.

        `raw` is the unit's activation, `side` what was explained of it.
        """
        handle = source.handle(unit) if bool(raw.isfinite().all()) else None
        if source.place is None or handle is None or not found.simulated or len(self.reading.documents) == 0:
            return found
        names = found.shown
        columns = torch.stack([found.simulated[name] for name in names], 1)
        fitted = scorers.calibrated(side[:, None].expand_as(columns), columns, self.desk.excerpts)
        mean = float(raw.double().mean())
        put = {name: fitted[:, i] if sign > 0 else mean - fitted[:, i] for i, name in enumerate(names)}
        draw = rng.stream(self.desk.seed, "ablation", source.site, unit)
        site = self.host.sites(source.place)[0]
        scores = ablation(self.host, site, handle, self.reading, put, mean, draw)
        return replace(found, explanations=_with(found.explanations, scores))


def _with(explanations: Sequence[Explanation], scores: dict[str, Measurement]) -> tuple[Explanation, ...]:
    return tuple(
        replace(e, score=replace(e.score, ablation=scores[e.explainer])) if e.score and e.explainer in scores else e
        for e in explanations
    )
