"""Which end of a unit carries meaning: what it rises to, what it falls to, or both?

    t± = E[((x − μ)/σ)±⁴], the fourth moment of each side; a normal distribution has 3/2 on either

The unit is explained on the side with the heavier tail, on the upper one if both are light. The other side is explained as well, as a unit of its own (−x), if its
tail is heavier than twice a normal one's: a side that is bounded (relu, gelu) or of noise never is.

Source: units have meanings at both ends in Choi et al. 2024; the rule by tails is ours.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NORMAL = 1.5
"""E[z₊⁴] of a normal variable."""
HEAVY = 2.0
"""Times the normal tail from which a second side counts."""


@dataclass(frozen=True)
class Sides:
    """Fourth moments of both sides of every unit, relative to its deviation; NaN where a unit never varies."""

    upper: Float[Tensor, " units"]
    lower: Float[Tensor, " units"]

    @property
    def sign(self) -> Int[Tensor, " units"]:
        """1, or −1 where the lower tail is heavier than the upper one and than a normal one's."""
        return torch.where((self.lower > self.upper) & (self.lower > NORMAL), -1, 1)

    @property
    def both(self) -> Bool[Tensor, " units"]:
        """Whether the other side is to be explained, too."""
        return torch.minimum(self.upper, self.lower) > HEAVY * NORMAL

    def statement(self, unit: int) -> str:
        """The rule on one unit, in words."""
        up, down = float(self.upper[unit]), float(self.lower[unit])
        if math.isnan(up):
            return "never varies: no side to explain"
        tails = f"tails {up:.3g} up and {down:.3g} down, normal {NORMAL:.2g}"
        if bool(self.both[unit]):
            return f"both sides are explained: {tails}"
        return f"the {'lower' if int(self.sign[unit]) < 0 else 'upper'} side is explained: {tails}"


def sides(values: Float[Tensor, "n units"]) -> Sides:
    """Tails of every unit.

    >>> found = sides(torch.tensor([[0.0], [0.0], [0.0], [-4.0]]))
    >>> int(found.sign), bool(found.both)
    (-1, False)
    """
    x = values.double()
    varies = x.amax(0) > x.amin(0) if len(x) else torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    x = x - x.mean(0)
    scale = torch.where(varies, x.square().mean(0), math.nan).square()
    return Sides(x.clamp_min(0).pow(4).mean(0) / scale, x.clamp_max(0).pow(4).mean(0) / scale)


def expanded(found: Sides) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Units and signs to explain: each unit once by its sign, those with two sides twice. Units that never vary once."""
    units = torch.arange(len(found.upper), device=found.upper.device)
    unit = torch.cat([units, units[found.both]])
    sign = torch.cat([found.sign, -found.sign[found.both]])
    order = unit.argsort(stable=True)
    return unit[order], sign[order]
