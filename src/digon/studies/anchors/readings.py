"""Anchors of two indices: kurtosis over units, and effective features of a sparse autoencoder.

Kurtosis. A row that is turned at random is a random direction, whatever it was: over d units, its kurtosis is that of d
Gaussian numbers, 3 (d − 1)/(d + 1) on average.

Effective features. With p_i, the share of latent i in the sum of all codes of a sparse autoencoder, ψ = exp(entropy of
p) / d is called the number of effective features per unit. Where the penalty is weak, dense data is coded by an axis and
its opposite for each dimension: ψ is 2 although there is no feature. The autoencoder is that of `coders/effective`.

Sources: Elhage et al. 2023, "Privileged Bases in the Transformer Residual Stream"; Bereska et al. 2025 for ψ.
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...coders.effective import effective as autoencoders
from ...measures.basis import haar, token_kurtosis
from ...worlds import causes
from ..toys.base import Outcome, Say
from ..toys.threads import one_thread
from .base import SEEDS, Table, seeds

# -------------------------------------------------------------------------------------------------- kurtosis
WIDTHS = {16: (2000, 60), 64: (2000, 20), 1024: (400, 2)}
"""d → rows and rotations."""


def kurtosis(seed: int, say: Say) -> Outcome:
    """One sparse feature per unit, before and after random rotations."""
    table = Table(seed)
    for d, (rows, turns) in WIDTHS.items():
        say(f"{d} units")
        plain, turned = list[float](), list[float]()
        for s in seeds(seed, "kurtosis"):
            x = causes.monosemantic(rows, d, s).activations.values
            g = rng.stream(s, "anchor rotations")
            plain.append(float(token_kurtosis(x).nanmean()))
            turned.append(float(np.mean([float(token_kurtosis(x @ haar(d, g)).nanmean()) for _ in range(turns)])))
        text = f"mean over {rows:,} rows of {d} sparse units, density 0.05"
        table.note(f"plain_{d}", plain, text)
        table.note(f"turned_{d}", turned, f"{text}, {turns} rotations a seed", 3 * (d - 1) / (d + 1))
    return table.outcome()


# ------------------------------------------------------------------------------------------ effective features
D, ROWS = 8, 10_000
WIDTHS_OF = {"noise": (16, 32, 64), "rotated": (32,), "double": (32,), "fourfold": (32,)}
"""Data → latents."""


def data(name: str, seed: int) -> Float[Tensor, "n d"]:
    """Rows of a world in `D` units, 0.8 features active on average."""
    if name == "noise":
        made = causes.null(ROWS, D, seed, "isotropic")
    elif name == "rotated":
        made = causes.rotated(ROWS, D, seed, active=0.8)
    else:
        made = causes.superposition(ROWS, D, seed, 2.0 if name == "double" else 4.0, active=0.8)
    return made.activations.values


def effective(seed: int, say: Say) -> Outcome:
    """ψ of isotropic noise at three dictionary sizes, and of worlds with features."""
    table, repeats = Table(seed), seeds(seed, "effective", 2 * SEEDS)
    for name, widths in WIDTHS_OF.items():
        say(f"{name}, {', '.join(map(str, widths))} latents")
        latents = tuple(width // D for width in widths)
        with one_thread():
            psi = [
                autoencoders(data(name, s), rng.stream(s, "psi", name), widths=latents, repeats=1).data[0]
                for s in repeats
            ]
        for k, width in enumerate(widths):
            text = f"tied autoencoder, {width} latents, {D} units, {ROWS:,} rows, {len(repeats)} data sets"
            table.note(f"psi_{name}_{width}", [float(row[k]) for row in psi], text)
    return table.outcome()
