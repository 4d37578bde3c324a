"""Which directions of a site can be explained best? By turns: explain the direction, then move it to what was said.

1. θ uniform on the sphere of white coordinates, many at once, that climb a few rounds: where the hills are.
2. Explain: fit the explainer on a_θ = Zθ, fit split; of this and all earlier explanations, of any start, take the one that
   predicts a_θ best on the select split.
3. Move: the explanation and what it simulates held fixed, take the closed form (ridge, λ by the select split) or climb the
   gradient with Adam (the step by the select split). A move that does not raise the select score is not made, so that
   score never falls.
4. Stop when no start gains; keep the start with the best select score; explain once more.
5. The next direction is sought orthogonal to all before it, under Σ: it can say nothing that was said. It starts from what
   is left of the best climbers of step 1, and from new random directions.

Rows of the calibrate and test splits are never handed to any of this.

Source: Bills et al. 2023, "Finding explainable directions"; with a fixed class of explanations this is alternating
conditional expectations (Breiman & Friedman 1985), and for a full look-up discriminant analysis of the tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ..exemplars import Contexts
from ..explainers import Explainer, Fitted
from .objective import PENALTIES, Moments, Ridge, adam, covariance, project

GAIN = 5e-4
"""Rise of the select score that counts."""
ROUNDS = 4
"""Of the first climb of many directions at once."""
WIDE = 2
"""Directions of that first climb per direction that is wanted."""
ALIKE, LEFT = 0.9, 0.3
"""Cosine above which two starts are one; length outside what was found below which nothing is left of a start."""


@runtime_checkable
class Explainers(Protocol):
    """A class of explanations that is fitted to many directions at once."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        ...

    def fit_many(
        self, contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Sequence[Fitted]:
        """One explanation per column. A row that it cannot simulate is NaN there, and is left out of its score."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """Any explainer of single units, such as one that asks a language model, for many directions."""

    explainer: Explainer

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return self.explainer.name

    def fit_many(
        self, contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> list[Fitted]:
        """One explanation per column."""
        return [self.explainer.fit(contexts, column, fit, select) for column in values.T]


@dataclass(frozen=True)
class SearchConfig:
    """How hard to look."""

    count: int = 50
    starts: int = 4
    """Starts per direction: half of them the best that the first climb left, half random; of one direction alone, random ones."""
    iterations: int = 10
    """Explanations of every start, at most."""
    update: Literal["ridge", "adam"] = "ridge"
    steps: int = 100
    """Of Adam between two explanations."""
    deflate: bool = True
    """Whether directions are sought orthogonal to those before; else each is found by itself, and some twice."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: ConfigError if the numbers make no sense."""
        for name in ("count", "starts", "iterations", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"setting {name!r}: {getattr(self, name)} is too small", expected="at least 1")


@dataclass(frozen=True)
class Ground:
    """White rows of the fit split, then those of the select split, each in their order, and what every row ends with."""

    white: Float[Tensor, "n r"]
    contexts: Contexts
    fitted: int
    """Rows of the fit split."""
    rows: Int[Tensor, " n"]
    """Which rows of the harvest these are."""

    @property
    def fit(self) -> Bool[Tensor, " n"]:
        """Rows of the fit split."""
        return torch.arange(len(self.white), device=self.white.device) < self.fitted

    @property
    def select(self) -> Bool[Tensor, " n"]:
        """Rows of the select split."""
        return ~self.fit

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The part of something over all rows that belongs to each split, without a copy."""
        return rows[: self.fitted], rows[self.fitted :]

    @classmethod
    def of(
        cls, white: Float[Tensor, "n r"], contexts: Contexts, fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> "Ground":
        """The rows of two splits; nothing of the others is kept.

        Raises: ConfigError if one of them has fewer than two rows.
        """
        for name, rows in (("fit", fit), ("select", select)):
            if int(rows.sum()) < 2:
                raise ConfigError(
                    f"{int(rows.sum())} rows in the {name} split",
                    expected="documents in every split: dozens of documents in all",
                    hint="more text, in more documents",
                )
        rows = torch.cat([fit.nonzero()[:, 0], select.nonzero()[:, 0]])
        return cls(white[rows], contexts.take(rows), int(fit.sum()), rows)


@dataclass(frozen=True)
class Found:
    """One direction with its explanation."""

    theta: Float[Tensor, " r"]
    """In white coordinates, of length 1."""
    explanation: Fitted
    fitted: float
    """ρ on the fit split."""
    selected: float
    """ρ on the select split."""
    trace: tuple[float, ...]
    """ρ on the select split before any move, then after every iteration; it never falls."""


def search(
    ground: Ground,
    explainer: Explainers,
    config: SearchConfig | None = None,
    found: Sequence[Found] = (),
    progress: Callable[[Found], None] | None = None,
) -> list[Found]:
    """Directions in the order in which they were found; `found` are those of an earlier call, to go on from.

    Raises: ConfigError for more orthogonal directions than dimensions, or a width below 2.
    """
    config = config or SearchConfig()
    rank = ground.white.shape[1]
    if rank < 2:
        raise ConfigError(f"directions of {rank} dimension", expected="a site of at least 2 dimensions")
    if config.deflate and config.count > rank:
        raise ConfigError(
            f"{config.count} directions of a site that varies in {rank} dimensions",
            expected=f"at most {rank} that are orthogonal",
            hint="ask for fewer, or do not deflate",
        )
    climb, kept = _Climb(ground, explainer, config), list(found)
    first = climb.many() if config.deflate and 1 < config.count > len(kept) else None
    for number in range(len(kept), config.count):
        draw = rng.stream(config.seed, "direction", number)
        start = torch.randn(config.starts, rank, generator=draw, dtype=torch.float64).to(ground.white.device)
        apart = torch.stack([f.theta for f in kept]) if kept and config.deflate else start[:0]
        start = project(start, apart)
        if first is not None:
            best = first.left(apart, -(-config.starts // 2))
            start = torch.cat([best, start[: config.starts - len(best)]])
        kept.append(climb.best(start, apart))
        if progress is not None:
            progress(kept[-1])
    return kept


@dataclass
class _Pool:
    """Explanations that simulate the same rows, with their moments on two splits."""

    ridge: Ridge
    fit: Moments
    select: Moments
    explanations: list[Fitted]

    def add(self, fit: Moments, select: Moments, explanations: Sequence[Fitted]) -> None:
        """More explanations."""
        self.fit = replace(self.fit, cross=torch.cat([self.fit.cross, fit.cross]))
        self.select = replace(self.select, cross=torch.cat([self.select.cross, select.cross]))
        self.explanations += explanations

    def some(self, places: list[int]) -> tuple[Moments, Moments]:
        """Moments of some explanations on both splits."""
        return replace(self.fit, cross=self.fit.cross[places]), replace(self.select, cross=self.select.cross[places])


class _Climb:
    """The search for one direction at a time; what all of them share is calculated once."""

    def __init__(self, ground: Ground, explainer: Explainers, config: SearchConfig) -> None:
        self._ground, self._explainer, self._config = ground, explainer, config
        self._grams = [covariance(rows) for rows in ground.split(ground.white)]
        self._ridge = Ridge.of(self._grams[0])

    def many(self) -> "_Many":
        """As many directions as are wanted, each by itself, a few rounds."""
        draw = rng.stream(self._config.seed, "first climb")
        start = torch.randn(WIDE * self._config.count, self._ground.white.shape[1], generator=draw, dtype=torch.float64)
        theta, pools = project(start.to(self._ground.white.device), start[:0]), dict[bytes, _Pool]()
        self._rounds(theta, theta[:0], pools, ROUNDS)
        return _Many(theta, list(pools.values()))

    def best(self, theta: Float[Tensor, "b r"], apart: Float[Tensor, "q r"]) -> Found:
        """Climb from all starts; the one that ends with the best select score."""
        pools: dict[bytes, _Pool] = {}
        traces = self._rounds(theta, apart, pools, self._config.iterations)
        chosen = self._explain(theta, pools)
        b = max(range(len(theta)), key=lambda i: chosen[i][2])
        pool, place, score = chosen[b]
        fit = pool.some([place])[0].score(theta[b : b + 1])
        return Found(theta[b].clone(), pool.explanations[place], float(fit), score, (*traces[b], score))

    def _rounds(
        self, theta: Float[Tensor, "b r"], apart: Float[Tensor, "q r"], pools: dict[bytes, "_Pool"], rounds: int
    ) -> list[list[float]]:
        """Explain and move by turns, in place; what every direction scored before, and after every round."""
        traces: list[list[float]] = [[] for _ in theta]
        for _ in range(rounds):
            chosen = self._explain(theta, pools)
            moved, values = self._move(theta, chosen, apart)
            gained = False
            for b, (_, _, score) in enumerate(chosen):
                traces[b] += [] if traces[b] else [score]
                if float(values[b]) > max(score, traces[b][-1] + GAIN):
                    theta[b], score, gained = moved[b], float(values[b]), True
                traces[b].append(max(score, traces[b][-1]))
            if not gained:
                break
        return traces

    def _explain(self, theta: Float[Tensor, "b r"], pools: dict[bytes, _Pool]) -> list[tuple[_Pool, int, float]]:
        """Explain every direction afresh; of all explanations so far the one with the best select score on each."""
        ground = self._ground
        values = ground.white @ theta.T.to(ground.white)
        fresh = self._explainer.fit_many(ground.contexts, values, ground.fit, ground.select)
        simulated = torch.stack([e.simulate(ground.contexts) for e in fresh], 1)
        complete = simulated.isfinite().all(0).tolist()
        whole = [i for i, full in enumerate(complete) if full]
        if whole:
            self._add(pools, b"", simulated[:, whole], [fresh[i] for i in whole])
        for i in (i for i, full in enumerate(complete) if not full):
            rows = simulated[:, i].isfinite()
            self._add(pools, rows.cpu().numpy().tobytes(), simulated[:, i : i + 1], [fresh[i]], rows)
        return _best(theta, list(pools.values()))

    def _add(
        self,
        pools: dict[bytes, _Pool],
        key: bytes,
        simulated: Float[Tensor, "n b"],
        fresh: Sequence[Fitted],
        rows: Bool[Tensor, " n"] | None = None,
    ) -> None:
        """Remember explanations; those that simulate all rows share what is known of the rows."""
        splits = zip(self._ground.split(self._ground.white), self._ground.split(simulated), strict=True)
        if rows is None:
            fit, select = (Moments.of(z, s, gram) for (z, s), gram in zip(splits, self._grams, strict=True))
        else:
            fit, select = (_some(z[k], s[k]) for (z, s), k in zip(splits, self._ground.split(rows), strict=True))
        if key in pools:
            pools[key].add(fit, select, fresh)
        else:
            ridge = self._ridge if rows is None else Ridge.of(fit.gram)
            pools[key] = _Pool(ridge, fit, select, list(fresh))

    def _move(
        self, theta: Float[Tensor, "b r"], chosen: Sequence[tuple[_Pool, int, float]], apart: Float[Tensor, "q r"]
    ) -> tuple[Float[Tensor, "b r"], Float[Tensor, " b"]]:
        """Where each one's explanation, held fixed, takes it: of all candidates the best on the select split."""
        moved, values = theta.clone(), theta.new_zeros(len(theta))
        for pool in {id(pool): pool for pool, _, _ in chosen}.values():
            here = [b for b, choice in enumerate(chosen) if choice[0] is pool]
            fit, select = pool.some([chosen[b][1] for b in here])
            if self._config.update == "ridge":
                candidates = pool.ridge.path(fit.cross, apart, PENALTIES)
            else:
                candidates = adam(theta[here], fit, apart, self._config.steps)
            scores, best = select.score(candidates).max(0)
            moved[here] = candidates[best, torch.arange(len(here), device=best.device)]
            values[here] = scores
        return moved, values


@dataclass(frozen=True)
class _Many:
    """Directions that were climbed each by itself, with all their explanations."""

    theta: Float[Tensor, "b r"]
    pools: list[_Pool]

    def left(self, apart: Float[Tensor, "q r"], count: int) -> Float[Tensor, "m r"]:
        """What is left of the best of them outside some directions, the best first; no two alike, none that was said."""
        rest = project(self.theta, apart, unit=False)
        theta = project(self.theta[rest.norm(dim=1) > LEFT], apart)
        if len(theta) == 0:
            return theta
        scores = torch.tensor([score for _, _, score in _best(theta, self.pools)], dtype=torch.float64)
        kept: list[int] = []
        for b in scores.argsort(descending=True, stable=True).tolist():
            if all(abs(float(theta[b] @ theta[k])) < ALIKE for k in kept):
                kept.append(b)
            if len(kept) == count:
                break
        return theta[kept]


def _best(theta: Float[Tensor, "b r"], pools: Sequence[_Pool]) -> list[tuple[_Pool, int, float]]:
    """Of all explanations the one with the best select score on each direction."""
    tables = [(pool, pool.select.table(theta).max(0)) for pool in pools]
    options = [[(pool, int(t.indices[b]), float(t.values[b])) for pool, t in tables] for b in range(len(theta))]
    return [max(some, key=lambda option: option[2]) for some in options]


def _some(white: Float[Tensor, "n r"], simulated: Float[Tensor, "n b"]) -> Moments:
    """Moments over the rows that were simulated; all zero, so that nothing scores, where there are none."""
    if len(white) < 2:
        r = white.shape[1]
        zero = white.new_zeros(simulated.shape[1], r, dtype=torch.float64)
        return Moments(torch.eye(r, dtype=torch.float64, device=white.device), zero)
    return Moments.of(white, simulated)
