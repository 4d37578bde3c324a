"""What do simpler readings of the same activations say about why? Each is given the best classifier it can have.

    majority             the most frequent cause
    participation ratio  dimensions that carry the variance, per unit
    token kurtosis       are the units a privileged basis?
    effective features   ψ of a sparse autoencoder, and ψ less its null
    width elbow          at which width a sparse autoencoder stops getting better
    raw moments          a random forest on two dozen moments of the standardized units

One number alone is turned into a cause by a small tree that is fitted to the development cells, which is more than any
threshold in use could do.

Sources: Elhage et al. 2023 (token kurtosis); Bereska et al. 2025 (ψ).
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from ... import rng
from ...coders.effective import effective
from ...coders.sae import SAEConfig
from ...coders.train import TrainConfig, train
from ...measures.basis import token_kurtosis
from ...measures.dimension import participation_ratio
from ...measures.sparsity import fvu

ROWS = 10_000
"""Most rows that a baseline looks at."""
WIDTHS = (1, 2, 4, 8)
"""Latents per unit of the autoencoders whose elbow is looked for."""
WIDEST = 512
STEPS, BATCH, L0 = 250, 512, 4
GAIN = 0.1
"""Relative drop of the unexplained variance below which wider is no better."""
MOMENTS = "moment "
READINGS: dict[str, tuple[str, ...]] = {
    "majority": (),
    "participation ratio": ("participation ratio",),
    "token kurtosis": ("token kurtosis",),
    "effective features ψ": ("psi 2", "psi 4"),
    "ψ less its null": ("psi 2 excess", "psi 4 excess"),
    "width elbow": ("elbow", *(f"fvu {w}" for w in WIDTHS)),
}
"""Baseline → the numbers that it reads; the forest reads all that are called `moment …`."""


def cheap(values: Float[Tensor, "n d"]) -> dict[str, float]:
    """Moments of the units, participation ratio and token kurtosis: a second at most."""
    x = values[torch.linspace(0, len(values) - 1, min(len(values), ROWS)).long()].double()
    x = x - x.mean(0)
    covariance = x.T @ x / len(x)
    z = x / x.square().mean(0).sqrt().clamp(min=1e-12)
    found = {
        "participation ratio": float(participation_ratio(covariance, len(x))) / x.shape[1],
        "token kurtosis": float(token_kurtosis(values[: len(x)].float()).nanmean()),
    }
    return found | {MOMENTS + name: value for name, value in _moments(z)}


def costly(values: Float[Tensor, "n d"], seed: int) -> dict[str, float]:
    """Readings of small autoencoders."""
    g = rng.stream(seed, "baselines")
    some = values[torch.randperm(len(values), generator=g)[:ROWS]].float()
    psi = effective(some, g, repeats=1)
    found: dict[str, float] = {}
    for i, width in enumerate(psi.widths):
        found[f"psi {width}"] = float(psi.data[0, i])
        found[f"psi {width} excess"] = float(psi.data[0, i] - psi.null[0, i])
    return found | _elbow(some, seed)


def fit_and_call(
    name: str, table: dict[str, np.ndarray], develop: np.ndarray, causes: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """Causes that a baseline calls on the cells `asked`, fitted on the cells `develop`.

    `table` maps every number to its value per cell; a missing one is worth the median.
    """
    columns = READINGS.get(name) or tuple(key for key in table if name != "majority" and key.startswith(MOMENTS))
    names, counts = np.unique(causes[develop], return_counts=True)
    if not columns:
        return np.full(int(asked.sum()), names[counts.argmax()], dtype=object)
    x = np.stack([np.where(np.isfinite(table[c]), table[c], np.nanmedian(table[c])) for c in columns], 1)
    if name in READINGS:
        model = DecisionTreeClassifier(max_leaf_nodes=12, min_samples_leaf=5, class_weight="balanced", random_state=0)
    else:
        model = RandomForestClassifier(300, class_weight="balanced", random_state=0, n_jobs=1)
    return model.fit(x[develop], causes[develop]).predict(x[asked])


def _moments(z: Float[Tensor, "n d"]) -> Iterator[tuple[str, float]]:
    """Moments of standardized units: over units, over pairs, over rows."""
    n, d = z.shape
    yield "units", float(d)
    yield "rows", float(n)
    per_unit = {
        "skewness": z.pow(3).mean(0),
        "kurtosis": z.pow(4).mean(0),
        "size": z.abs().mean(0),
        "near zero": (z.abs() < 0.1).double().mean(0),
    }
    off = ~torch.eye(d, dtype=torch.bool)
    squares = z.square()
    per_pair = {
        "correlation": (z.T @ z / n)[off].abs(),
        "shared energy": (squares.T @ squares / n)[off],
    }
    for name, values in {**per_unit, **per_pair}.items():
        for q in (0.1, 0.5, 0.9):
            yield f"{name} {q:g}", float(values.quantile(q)) if len(values) else float("nan")
    length = squares.mean(1)
    yield "length spread", float(length.std() / length.mean())
    yield "length kurtosis", float((length - length.mean()).pow(4).mean() / length.var().square())
    yield "distinct", len(torch.unique(z[:2000].round(decimals=5), dim=0)) / min(n, 2000)


def _elbow(x: Float[Tensor, "n d"], seed: int) -> dict[str, float]:
    """Unexplained variance by width, and the width after which it hardly falls."""
    d, half = x.shape[1], len(x) // 2
    unexplained: list[float] = []
    for width in WIDTHS:
        config = SAEConfig(d, min(width * d, WIDEST), min(L0, width * d), seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            sae = train(config, lambda start: _batches(x[:half], start), TrainConfig(steps=STEPS), Path(folder) / "sae")
        with torch.no_grad():
            unexplained.append(float(fvu(x[half:], sae(x[half:]).reconstruction)))
    found = {f"fvu {w}": value for w, value in zip(WIDTHS, unexplained, strict=True)}
    drops = [1 - b / max(a, 1e-12) for a, b in itertools.pairwise(unexplained)]
    found["elbow"] = float(next((w for w, drop in zip(WIDTHS, drops, strict=False) if drop < GAIN), WIDTHS[-1]))
    return found


def _batches(x: Float[Tensor, "n d"], start: int) -> Iterator[Tensor]:
    step = start
    while True:
        yield x[torch.randint(len(x), (BATCH,), generator=rng.stream(0, "batch", step))]
        step += 1
