"""How many units have an explanation that scores at least ρ*, and how many of them would by chance?

Every unit brings draws of a null: its score after permutations. A draw of all units together says how many reach ρ* without
any explanation. The expected share of false ones among those counted is that number over the count: a bound on the false
discovery rate, as units that are truly explained are counted among the possible false ones.

Source: Storey & Tibshirani 2003, with the share of null units put at its largest, 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..measures import stats
from ..records import Measurement

SOURCE = "Storey & Tibshirani 2003"


def count_above(
    rho: Float[Tensor, " units"],
    null: Float[Tensor, "draws units"],
    threshold: float,
    interval: tuple[Float[Tensor, " units"], Float[Tensor, " units"]] | None = None,
) -> tuple[Measurement, Measurement]:
    """The number of units with ρ ≥ threshold, and the bound on the share of false ones among them. NaN is never counted.

    Number: null is what chance reaches, p how often it reaches as many; low and high are the numbers of units whose interval
    lies above the threshold as a whole, or in part. Share: range [0, 1], high with one more draw at the count (Phipson &
    Smyth 2010); 0 units give NaN.
    """
    units, draws = int(rho.isfinite().sum()), len(null)
    count = int((rho >= threshold).sum())
    chance = (null >= threshold).sum(1).double()
    expected = float(chance.mean()) if draws else math.nan
    low, high = (math.nan, math.nan) if interval is None else (float((side >= threshold).sum()) for side in interval)
    p = float(stats.permutation_p(torch.tensor(float(count)).double(), chance)) if draws else math.nan
    name = f"units_above_{threshold:g}"
    method = f"units of {units} with ρ ≥ {threshold:g}; ends: whose interval lies above it as a whole, or in part"
    number = Measurement(name, float(count), low, high, units, "units", method, None, SOURCE, expected, p)
    share, worst = ((min(1.0, x / count) for x in (expected, (float(chance.sum()) + count) / (draws + 1))) if count
                    else (math.nan, math.nan))  # fmt: skip
    how = f"units of {draws} permutations with ρ ≥ {threshold:g}, per permutation, over the {count} found"
    return number, Measurement(f"false_discovery_{threshold:g}", share, 0.0, worst, units, "", how, None, SOURCE)
