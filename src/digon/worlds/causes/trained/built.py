"""Networks that are built, not trained: digits packed into numbers, and conjunctions of pairs.

    extraction      units hold numbers whose binary digits are labels, and steep sawtooths read them
    conjunctions    units read random sets of m inputs and fire from the second on, so that all pairs have directions

Sources: bit extraction: Bartlett, Maiorov & Meir 1998, "Almost linear VC dimension bounds for piecewise polynomial
networks"; conjunctions: Hänni et al. 2024, "Mathematical models of computation in superposition".
"""

from dataclasses import replace
from functools import partial
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ..base import World, check_size, world
from .oracle import additive_truth, judged, table_truth

STEEP = 2.0**12
"""Slope of the steps that turn numbers into digits."""
DRAWS = 20
"""Random sets of reads; the one with the most different pairs is taken."""
ON = (0.3, 0.2, 0.45, 0.05)
"""Share of rows with none, one, two and three bits on."""


def extraction(
    n_rows: int, d: int, seed: int, *, site: str = "packed", bits: int = 8, points: int | None = None
) -> World:
    """A table of `points` inputs (default 4 d) in binary digits.

    packed: every unit holds a number in [0, 1) whose first `bits` digits are labels of the input, drawn at random; the
    network reads them by sawtooths: rounding the units loses the last ones first. index: the units are the digits of
    the input's number, read from one coordinate by sawtooths, as signs; what the digits say about the input is nothing.

    Raises: ConfigError for an unknown site, no input, or more digits than float32 can hold.
    """
    check_size(n_rows, d)
    count = 4 * d if points is None else points
    if site not in ("packed", "index") or not 1 <= bits <= 12 or count < 2:
        raise ConfigError(
            f"{count} inputs in {bits} digits at {site!r}", expected="packed | index; 1 to 12 digits; 2 inputs"
        )
    g = rng.stream(seed, "extraction")
    rows = torch.randint(count, (n_rows,), generator=g)
    if site == "packed":
        table = torch.randint(2, (count, d, bits), generator=g).float()
        codes = (table * 0.5 ** torch.arange(1, bits + 1)).sum(2) + 0.5 ** (bits + 1)
        made = world(codes[rows], table_truth(codes, rows), inputs=rows)
        return replace(made, network=partial(digits, count=bits))
    needed = max(1, (count - 1).bit_length())
    line = (torch.randperm(count, generator=g)[:, None].float() + 0.5) / 2**needed
    codes = (2 * digits(line, needed)[:, torch.arange(d) % needed] - 1) / d**0.5
    weight = torch.randn(d, 1, generator=g)
    return replace(world(codes[rows], table_truth(codes, rows), inputs=rows), network=lambda h: (h @ weight).relu())


def digits(z: Float[Tensor, "rows d"], count: int) -> Float[Tensor, "rows k"]:
    """Leading binary digits of numbers in [0, 1), by ReLUs alone: a steep step, and what is left, doubled.

    Digits of one number stand side by side. Within 1 / `STEEP` of a step the answer is between 0 and 1.

    >>> digits(torch.tensor([[0.8125]]), 3)  # 0.1101 in binary
    tensor([[1., 1., 0.]])
    """
    found: list[Tensor] = []
    for _ in range(count):
        rise = STEEP * (z - 0.5) + 0.5
        digit = rise.relu() - (rise - 1).relu()
        found.append(digit)
        z = 2 * z - digit
    return torch.stack(found, 2).flatten(1)


def conjunctions(n_rows: int, d: int, seed: int, *, inputs: int | None = None, per_pair: float = 4.0) -> World:
    """Which two of `inputs` (default d / 2, at least 6) bits are on? Each unit reads a random set of bits and fires from the second.

    A pair is read as the mean of the units that read both of its bits: about `per_pair` of them. At most
    three bits are on. Features are the pairs that can be read.

    Raises: ConfigError for fewer than three inputs; RunError if too few pairs can be read.
    """
    check_size(n_rows, d)
    m = max(6, d // 2) if inputs is None else inputs
    if m < 3:
        raise ConfigError(f"pairs of {m} inputs", expected="at least 3 inputs")
    g = rng.stream(seed, "conjunctions")
    pairs = torch.tensor(list(combinations(range(m), 2)))
    sets = (torch.rand(DRAWS, m, d, generator=g) < min(0.5, (per_pair / d) ** 0.5)).float()
    together = sets[:, pairs[:, 0]] * sets[:, pairs[:, 1]]
    chosen = int(torch.tensor([len(units[units.any(1)].unique(dim=0)) for units in together]).argmax())
    reads, both = sets[chosen], together[chosen]
    order = torch.rand(n_rows, m, generator=g).argsort(1)
    number = torch.multinomial(torch.tensor(ON), n_rows, replacement=True, generator=g)
    x = torch.zeros(n_rows, m).scatter_(1, order, (torch.arange(m) < number[:, None]).float())
    h = (x @ reads - 1).relu()
    f = x[:, pairs[:, 0]] * x[:, pairs[:, 1]]
    found = judged(both, h, f)
    truth = additive_truth(found, f)
    mean = (both / both.sum(1, keepdim=True).clamp_min(1)).T
    return replace(world(h, truth), network=lambda a: a @ mean)
