"""Where directions are sought: rows of one site in white coordinates, with the text behind them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import ConfigError, SiteError
from ...explain import scorers
from ...explain.directions import Ground, Phrases, SearchConfig, Space, Words
from ...explain.exemplars import Contexts
from ...explain.explainers import Fitted
from ...explain.splits import NAMES
from ...records import Score
from ..explaining.desk import Desk
from ..explaining.settings import ExplainConfig
from ..explaining.target import Target, read_target
from ..settings import DirectionsConfig

DOCUMENTS = 3
"""Fewest documents in each of the splits that fit, select and test."""


@dataclass(frozen=True)
class Judged:
    """Units of one kind with their explanations, on all rows."""

    values: Float[Tensor, "n k"]
    explanations: Sequence[Fitted]
    simulated: Float[Tensor, "n k"]
    scores: list[Score]


@dataclass(frozen=True, eq=False)
class Place:
    """One site of a harvest."""

    config: DirectionsConfig
    target: Target
    desk: Desk
    rows: Float[Tensor, "n d"]
    space: Space
    explainer: Words | Phrases

    @classmethod
    def of(cls, config: DirectionsConfig, out: Callable[[], Path]) -> "Place":
        """Open or make the harvest, and whiten its fit split; `out` makes the folder of the run.

        Raises: PathError, SiteError, ModelError or ConfigError before any work; ConfigError if there are too few documents,
        units or dimensions; NonFiniteError.
        """
        asked = ExplainConfig(
            config.target, config.site, host=config.host, data=config.data, tokens=config.tokens, seed=config.seed,
            device=config.device,
        )  # fmt: skip
        target = read_target(asked, out)
        store = target.store
        width = store.sites.get(config.site)
        if width is None:
            raise SiteError(f"no site {config.site!r} in {store.root}", expected=f"one of {', '.join(store.sites)}")
        if width < 2:
            raise ConfigError(
                f"{config.site} has one unit", expected="at least 2: directions are combinations of units"
            )
        desk = Desk.of(target.name, store, target.host, config.seed)
        _check_documents(desk)
        rows = store.values(config.site)
        space = Space.of(rows[desk.excerpts.row_split("fit")])
        if config.count > space.rank:
            raise ConfigError(
                f"{config.count} directions of {config.site}, which varies in {space.rank} dimensions",
                expected=f"at most {space.rank} that are orthogonal",
                hint=f"--count {space.rank}",
            )
        explainer = (Words if config.explainer == "look-up" else Phrases)(config.bits)
        return cls(config, target, desk, rows, space, explainer)

    @cached_property
    def white(self) -> Float[Tensor, "n r"]:
        """All rows in white coordinates."""
        return self.space.white(self.rows)

    @cached_property
    def ground(self) -> Ground:
        """Rows of the fit and select splits."""
        return self.on(self.desk.contexts)

    def on(self, contexts: Contexts) -> Ground:
        """The same rows with another text."""
        return Ground.of(self.white, contexts, self.split("fit"), self.split("select"))

    def split(self, name: str) -> Bool[Tensor, " n"]:
        """Rows of one split."""
        return self.desk.excerpts.row_split(name)

    def search(self, count: int) -> SearchConfig:
        """How to look for so many directions."""
        c = self.config
        return SearchConfig(count, c.starts, c.iterations, c.update, seed=c.seed)

    def explained(self, values: Float[Tensor, "n k"]) -> Judged:
        """Explain any units by the same explainer, and score it on the test split."""
        ground = self.ground
        found = self.explainer.fit_many(ground.contexts, values[ground.rows], ground.fit, ground.select)
        return self.judged(values, found)

    def judged(
        self, values: Float[Tensor, "n k"], found: Sequence[Fitted], moved: Int[Tensor, " n"] | None = None
    ) -> Judged:
        """Score explanations on the test split; `moved`: rows of the text that stands for each row."""
        contexts = self.desk.contexts if moved is None else self.desk.contexts.take(moved)
        simulated = torch.stack([e.simulate(contexts) for e in found], 1)
        scores = scorers.score_units(values, {"": simulated}, self.desk.excerpts, self.config.seed)[""].records
        return Judged(values, found, simulated, scores)


def _check_documents(desk: Desk) -> None:
    excerpts = desk.excerpts
    counts = {name: len(excerpts.documents[excerpts.in_split(name)].unique()) for name in NAMES}
    short = [name for name in ("fit", "select", "test") if counts[name] < DOCUMENTS]
    if short:
        said = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise ConfigError(
            f"too few documents to find directions and judge them: {said}",
            expected=f"at least {DOCUMENTS} in fit, select and test each, that is some 30 in all",
            hint="more text, in more documents, or another --seed",
        )
