"""How can rare events be drawn without drawing all that do not happen? By the gaps between them, which are geometric."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Active(NamedTuple):
    """The active features of a sample and nothing else, by row and then by feature."""

    row: Int[Tensor, " a"]
    feature: Int[Tensor, " a"]
    value: Float[Tensor, " a"]

    def dense(self, rows: int, n: int) -> Float[Tensor, "rows n"]:
        """The same sample with its zeros."""
        x = torch.zeros(rows, n, device=self.value.device)
        return x.index_put_((self.row, self.feature), self.value)


def independent(
    density: Tensor, single: Tensor, rows: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and numbers of active independent features.

    Features whose densities agree within a factor of two form one long line of cells; gaps between the cells that are
    candidates are geometric at the largest density, and the rarer features are thinned.
    """
    yield torch.zeros(0, dtype=torch.long, device=density.device), single[:0]
    scale = torch.frexp(density[single]).exponent
    for level in scale.unique().tolist():
        alike = single[scale == level]
        most = float(density[alike].max())
        cells = positions(len(alike) * rows, most, generator)
        feature, row = alike[cells // rows], cells % rows
        keep = (
            torch.rand(len(row), generator=generator, device=row.device, dtype=torch.float64) * most < density[feature]
        )
        yield row[keep], feature[keep]


def positions(cells: int, density: float, generator: torch.Generator) -> Int[Tensor, " a"]:
    """Cells of a line that are chosen independently with one probability, in order."""
    device = generator.device
    if density >= 1:
        return torch.arange(cells, device=device)
    parts, last = [torch.zeros(0, dtype=torch.long, device=device)], -1
    while last < cells - 1:
        left = cells - 1 - last
        count = min(left, int(left * density + 6 * (left * density) ** 0.5 + 16))
        draw = 1 - torch.rand(count, generator=generator, device=device, dtype=torch.float64)  # in (0, 1]
        gap = (draw.log() / math.log1p(-density)).clamp(max=left).long() + 1
        found = last + gap.cumsum(0)
        parts.append(found[found < cells])
        last = int(found[-1])
    return torch.cat(parts)
