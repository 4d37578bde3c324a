"""How probable is every cause, given the statistics of a site? Learned from worlds whose cause is known.

Probabilities are conditional on the benchmark's families: they say which kind of known world looks most like the site.

1. A *kind* is a set of causes that the given access cannot tell apart; every reference world has one per access level.
2. A multinomial logistic regression and extremely randomized trees learn P(kind | statistics) from the reference worlds,
   every cause weighing the same. Statistics that were not given, or that do not apply, are missing, which both see.
3. How far to trust them is learned by cross-fitting: every fifth of the worlds is predicted from the other four. These
   predictions choose how the two models are averaged, a temperature, and how often they are entirely wrong:
   P = (1 − ε) · softmax((w log P₁ + (1 − w) log P₂) / T) + ε / kinds. Without ε a few gross errors make all else too shy.
   The loss is that of the plausibilities of step 4, as these are what is stated. The models that are then used have seen
   all worlds, so what is stated is, if anything, a little shy.
4. A cause is *plausible* with the probability of all kinds that hold it. It belongs in the set if it is as plausible as
   worlds of that cause are while they are predicted, nine in ten of them (Mondrian, cross-conformal). What the most
   probable kind holds comes with it: causes that cannot be told apart stand together.
5. A site further from all other worlds than 99 % of the worlds are is *novel*: abstain.

There is no stored model: the table of reference statistics is stored, and the model is fitted from it in seconds.

Sources: Guo et al. 2017 (temperature); Geurts, Ernst & Wehenkel 2006 (trees); Vovk 2012 (class-conditional
sets), 2015 (cross-conformal ones).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from .. import rng
from ..errors import ConfigError, PathError
from ..measures.calibration import conformal_rank
from ..records import CAUSES, Cause

FILE = Path(__file__).parent / "reference.safetensors"
LEVELS = ("A", "A+", "B", "C", "D")
COVERAGE = 0.9
CONFIDENCE = 0.8
"""Share of samples of worlds for which the coverage holds."""
FOLDS = 5
FEWEST = 4
"""Worlds per cause below which nothing can be learned."""
NOVEL = 0.99
"""Quantile of the worlds' distances from the others beyond which a site is novel."""
NEIGHBORS = 5
MODELS = 2
TREES = 200
RIDGE = 0.3
"""Inverse strength of the penalty of the logistic regression."""
BLUR = 1e-3
"""Share of a uniform law in every prediction: no tree is certain."""
WRONG = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15)
"""Shares of entirely wrong predictions that are tried."""
Kind = frozenset[Cause]


def kind_of(cause: Cause, alike: Iterable[Cause], access: str) -> Kind:
    """The causes that this access cannot tell from the true one.

    Identity of the inputs splits look-up tables from the rest, labels split relations; a network splits everything.

    >>> sorted(kind_of("superposition", ("superposition", "lookup"), "A")), kind_of("lookup", ("lookup",), "A+")
    (['lookup', 'superposition'], frozenset({'lookup'}))
    """
    kind: Kind = frozenset((*alike, cause))
    splitting: tuple[tuple[str, Cause], ...] = (("A+", "lookup"), ("B", "relational"))
    for least, splits in splitting:
        if LEVELS.index(access) >= LEVELS.index(least) and splits in kind:
            kind = frozenset({cause}) if cause in (splits, "mixed") else kind - frozenset({splits})
    return frozenset({cause}) if access in ("C", "D") else kind


@dataclass(frozen=True)
class Reference:
    """Statistics of worlds of known cause."""

    names: tuple[str, ...]
    """Statistics; a name such as `A+:reuse` says from which access on it is known."""
    statistics: np.ndarray
    """[worlds, names] float32; NaN where a statistic does not apply."""
    causes: tuple[Cause, ...]
    alike: tuple[Kind, ...]
    families: tuple[str, ...]
    cells: str = ""
    """Digest of the cells that these worlds are."""

    def __len__(self) -> int:
        return len(self.causes)

    def take(self, chosen: np.ndarray) -> "Reference":
        """The worlds selected by a mask."""
        rows = np.flatnonzero(chosen)
        pick = lambda values: tuple(values[i] for i in rows)  # noqa: E731
        return Reference(
            self.names, self.statistics[rows], pick(self.causes), pick(self.alike), pick(self.families),
            self.cells,
        )  # fmt: skip

    def without(self, names: Iterable[str]) -> "Reference":
        """The same worlds with some statistics left out."""
        gone = set(names)
        keep = [i for i, name in enumerate(self.names) if name not in gone]
        return Reference(
            tuple(self.names[i] for i in keep), self.statistics[:, keep], self.causes, self.alike, self.families,
            self.cells,
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """As safetensors; causes are numbered as in `records.CAUSES`, sets of them are bits."""
        families = sorted(set(self.families))
        tensors = {
            "statistics": self.statistics.astype(np.float32),
            "causes": np.array([CAUSES.index(c) for c in self.causes], np.uint8),
            "alike": np.array([sum(1 << CAUSES.index(c) for c in kind) for kind in self.alike], np.int16),
            "families": np.array([families.index(f) for f in self.families], np.uint8),
        }
        metadata = {"names": json.dumps(self.names), "families": json.dumps(families), "cells": self.cells}
        return save(tensors, metadata)


def load_reference(path: Path = FILE) -> Reference:
    """The reference that the package carries, or another one.

    Raises: PathError if there is none.
    """
    if not path.is_file():
        raise PathError(
            f"no reference statistics at {path}", expected="a table written by the benchmark",
            hint="digon benchmark diagnosis --split dev calibration --update-reference",
        )  # fmt: skip
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        table = {name: file.get_tensor(name) for name in ("statistics", "causes", "alike", "families")}
    families = json.loads(metadata["families"])
    return Reference(
        tuple(json.loads(metadata["names"])),
        table["statistics"],
        tuple(CAUSES[i] for i in table["causes"]),
        tuple(frozenset(c for i, c in enumerate(CAUSES) if bits >> i & 1) for bits in table["alike"].tolist()),
        tuple(families[i] for i in table["families"]),
        metadata["cells"],
    )


@dataclass(frozen=True)
class Opinion:
    """What the reference worlds say about a site."""

    probabilities: dict[Cause, float]
    """Sum to 1; causes that cannot be told apart share equally. Every cause equally likely beforehand."""
    causes: tuple[Cause, ...]
    """Conformal set."""
    plausible: dict[Cause, float]
    """Probability that the cause is among those that the data cannot tell from the true one."""
    novel: bool
    """Whether the site is unlike all reference worlds; then nothing else here means anything."""
    distance: float
    """To the nearest reference worlds, in units of the novelty limit: above 1 is novel."""
    kinds: dict[Kind, float]
    """Probability of every set of causes that this access cannot tell apart."""

    @property
    def top(self) -> Cause:
        """The most plausible cause."""
        return max(CAUSES, key=lambda c: (round(self.plausible[c], 9), self.probabilities[c]))

    def under(self, prior: Mapping[Cause, float]) -> dict[Cause, float]:
        """Probabilities under another prior; causes that it does not name weigh 1."""
        weighted: dict[Cause, float] = {c: p * prior.get(c, 1.0) for c, p in self.probabilities.items()}
        total = sum(weighted.values())
        return {c: w / total for c, w in weighted.items()}


@dataclass(frozen=True)
class Posterior:
    """Opinions at every level of access; a level is fitted when it is first asked for."""

    reference: Reference
    _levels: dict[str, "_Level"] = field(default_factory=dict, repr=False)

    def of(self, statistics: Mapping[str, float], access: str = "A") -> Opinion:
        """What the statistics of one site say.

        Statistics that the reference does not know are ignored, unknown ones are missing.

        Raises: ConfigError for an unknown access level.
        """
        row = np.array([[statistics.get(name, math.nan) for name in self.reference.names]])
        return self.of_table(row, access)[0]

    def of_table(self, statistics: np.ndarray, access: str = "A") -> list[Opinion]:
        """The same for many sites: rows of statistics in the order of `reference.names`."""
        if access not in LEVELS:
            raise ConfigError(f"no access level {access!r}", expected=" | ".join(LEVELS))
        if access not in self._levels:
            self._levels[access] = _Level(self.reference, access)
        return self._levels[access].opinions(statistics)


def fit(reference: Reference) -> Posterior:
    """A posterior from reference worlds.

    Raises: ConfigError if there are too few of them.
    """
    fewest = min(reference.causes.count(cause) for cause in set(reference.causes)) if len(reference) else 0
    if fewest < FEWEST:
        raise ConfigError(
            f"{len(reference)} reference worlds, of one cause only {fewest}",
            expected=f"at least {FEWEST} of every cause",
        )
    return Posterior(reference)


@cache
def shipped() -> Posterior:
    """The posterior of the reference that the package carries."""
    return fit(load_reference())


class _Level:
    """The model of one level of access."""

    def __init__(self, reference: Reference, access: str) -> None:
        known = [name.split(":")[0] if ":" in name else "A" for name in reference.names]
        given = np.array([LEVELS.index(level) <= LEVELS.index(access) for level in known])
        kinds = [kind_of(c, a, access) for c, a in zip(reference.causes, reference.alike, strict=True)]
        causes = np.array(reference.causes)
        self.kinds: list[Kind] = sorted(set(kinds), key=sorted)
        self._holds = np.array([[c in kind for c in CAUSES] for kind in self.kinds])
        self._scale = _Scale(reference.statistics, given)
        x, target = self._scale(reference.statistics), np.array([self.kinds.index(k) for k in kinds])
        logs, distances = self._unseen(x, target, causes)
        truth, weight = self._holds[target], _balanced(causes)
        self._blend = _stack(logs, self._holds, truth, weight)
        self._limit = float(np.quantile(distances, NOVEL)) or 1.0
        plausible = np.exp(self._blend(logs)) @ self._holds
        self._thresholds = np.array([_threshold(plausible[causes == c, i]) for i, c in enumerate(CAUSES)])
        self._models, self._near = _models(x, target, weight), _near(x)

    def _unseen(self, x: np.ndarray, target: np.ndarray, causes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Log probabilities and distance of every world, as the worlds of the other folds see it."""
        fold, distances = _folds(causes), np.zeros(len(x))
        logs = [np.zeros((len(x), len(self.kinds))) for _ in range(MODELS)]
        for held in (fold == f for f in range(FOLDS)):
            models = _models(x[~held], target[~held], _balanced(causes[~held]))
            for column, found in zip(logs, self._logs(models, x[held]), strict=True):
                column[held] = found
            distances[held] = _distance(_near(x[~held]), x[held])
        return logs, distances

    def opinions(self, statistics: np.ndarray) -> list[Opinion]:
        x = self._scale(statistics)
        kinds, distances = np.exp(self._blend(self._logs(self._models, x))), _distance(self._near, x) / self._limit
        return [self._opinion(p, float(d)) for p, d in zip(kinds, distances, strict=True)]

    def _opinion(self, p: np.ndarray, distance: float) -> Opinion:
        plausible = p @ self._holds
        shared = p @ (self._holds / self._holds.sum(1, keepdims=True))
        chosen = plausible >= self._thresholds
        chosen[plausible.argmax()] = True
        # what the most probable kind holds cannot be told apart
        closed = chosen | self._holds[p.argmax()]
        return Opinion(
            dict(zip(CAUSES, shared.tolist(), strict=True)),
            tuple(c for c, take in zip(CAUSES, closed, strict=True) if take),
            dict(zip(CAUSES, plausible.tolist(), strict=True)),
            distance > 1,
            distance,
            dict(zip(self.kinds, p.tolist(), strict=True)),
        )

    def _logs(self, models: list[Any], x: np.ndarray) -> list[np.ndarray]:
        """Log probability of every kind by each model."""
        found: list[np.ndarray] = []
        for model in models:
            p = np.full((len(x), len(self.kinds)), BLUR / len(self.kinds))
            p[:, model.classes_] += (1 - BLUR) * model.predict_proba(x)
            found.append(np.log(p))
        return found


class _Scale:
    """Statistics on comparable scales, compressed at the ends; a column more for every one that may be missing."""

    def __init__(self, table: np.ndarray, given: np.ndarray) -> None:
        finite = np.isfinite(table)
        self._columns = np.flatnonzero(given & finite.any(0))
        x = np.where(finite, table, np.nan)[:, self._columns]
        self._center = np.nanmedian(x, 0)
        low, high = np.nanquantile(x, [0.25, 0.75], axis=0)
        spread, deviation = (high - low) / 1.35, np.nanstd(x, 0)
        self._spread = np.where(spread > 1e-9 * (1e-9 + deviation), spread, np.where(deviation > 0, deviation, 1.0))
        self._may_miss = np.flatnonzero(np.isnan(x).any(0))

    def __call__(self, statistics: np.ndarray) -> np.ndarray:
        x = np.asarray(statistics, np.float64)[:, self._columns]
        missing = ~np.isfinite(x)
        scaled = np.arcsinh((np.where(missing, self._center, x) - self._center) / self._spread)
        return np.concatenate([scaled, missing[:, self._may_miss].astype(float)], 1)


def _folds(causes: np.ndarray) -> np.ndarray:
    """Which fold holds a world: every cause is spread evenly over all of them."""
    g, fold = rng.numpy_stream(0, "folds"), np.zeros(len(causes), int)
    for cause in np.unique(causes):
        rows = np.flatnonzero(causes == cause)
        fold[g.permutation(rows)] = (np.arange(len(rows)) + g.integers(FOLDS)) % FOLDS
    return fold


def _near(x: np.ndarray) -> NearestNeighbors:
    return NearestNeighbors(n_neighbors=min(NEIGHBORS, len(x))).fit(x)


def _distance(near: NearestNeighbors, x: np.ndarray) -> np.ndarray:
    return near.kneighbors(x)[0].mean(1)


def _models(x: np.ndarray, target: np.ndarray, weight: np.ndarray) -> list[Any]:
    linear = LogisticRegression(C=RIDGE, max_iter=2000, tol=1e-3)
    trees = ExtraTreesClassifier(TREES, min_samples_leaf=2, max_features=0.3, random_state=0, n_jobs=1)  # type: ignore[arg-type]
    return [model.fit(x, target, sample_weight=weight) for model in (linear, trees)]


def _balanced(causes: np.ndarray) -> np.ndarray:
    """A weight per world such that every cause weighs the same, and 1 on average."""
    names, place, counts = np.unique(causes, return_inverse=True, return_counts=True)
    return (len(causes) / len(names) / counts)[place]


@dataclass(frozen=True)
class _Blend:
    """Two predictions made one."""

    mix: float
    temperature: float
    wrong: float

    def __call__(self, logs: list[np.ndarray]) -> np.ndarray:
        z = (self.mix * logs[0] + (1 - self.mix) * logs[1]) / self.temperature
        sure = z - logsumexp(z, axis=1, keepdims=True)
        return np.logaddexp(np.log1p(-self.wrong) + sure, math.log(self.wrong / z.shape[1]))


def _stack(logs: list[np.ndarray], holds: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> _Blend:
    """The blend whose plausibilities have the smallest log loss: what is stated of every cause is what gets calibrated."""

    def loss(log_temperature: float, mix: float, wrong: float) -> float:
        p = np.exp(_Blend(mix, math.exp(log_temperature), wrong)(logs)) @ holds
        right = np.where(truth, p, 1 - p).clip(1e-6)
        return float(-(weight[:, None] * np.log(right)).mean())

    best, blend = math.inf, _Blend(0.5, 1.0, WRONG[0])
    for mix in np.linspace(0, 1, 6).tolist():
        for wrong in WRONG:
            found: Any = minimize_scalar(
                loss, bounds=(-2.5, 2.0), args=(mix, wrong), method="bounded", options={"xatol": 0.02}
            )
            if found.fun < best:
                best, blend = float(found.fun), _Blend(mix, math.exp(found.x), wrong)
    return blend


def _threshold(plausible: np.ndarray) -> float:
    rank = conformal_rank(len(plausible), COVERAGE, CONFIDENCE)
    return float(np.sort(plausible)[rank - 1]) if rank else 0.0
