"""Which units of a site: by number, at random, or the highest by a column."""

import re
from collections.abc import Sequence

import numpy as np

from ... import rng
from ...errors import ConfigError, did_you_mean

EXPECTED = "'all', 'sample:50', 'top:20', or numbers and ranges such as 3,17,40:50"

MEASURED = ["density", "density_low", "density_high", "mean", "kurtosis", "eta2", "eta2_low", "eta2_high"]
"""Columns that every site has."""


def wants_table(text: str) -> bool:
    """Whether the choice needs numbers of every unit of the site."""
    return text.startswith("top:")


def check(text: str) -> None:
    """Raises: ConfigError if the text names no choice of units."""
    if text != "all" and not re.fullmatch(r"(sample|top):[1-9][0-9]*|[0-9]+(:[0-9]+)?(,[0-9]+(:[0-9]+)?)*", text):
        raise ConfigError(f"no choice of units {text!r}", expected=EXPECTED)


def check_column(by: str, table: dict[str, np.ndarray] | None = None) -> None:
    """Raises: ConfigError if neither a table nor what is measured without one has the column."""
    known = MEASURED if table is None else [name for name, column in table.items() if column.dtype.kind in "fi"]
    if by not in known:
        raise ConfigError(f"no column {by!r}", expected=", ".join(known), hint=did_you_mean(by, known))


def choose(
    text: str, width: int, site: str, seed: int, table: dict[str, np.ndarray] | None = None, by: str = ""
) -> list[int]:
    """Units in ascending order; `table` has a row per unit, where `wants_table` says so.

    Raises: ConfigError for a choice that makes no sense, or names a unit that the site does not have.

    >>> choose("1,3:5", 8, "embed", 0)
    [1, 3, 4]
    """
    check(text)
    if text == "all":
        return list(range(width))
    kind, _, count = text.partition(":")
    if kind == "sample":
        drawn = rng.numpy_stream(seed, "explained units", site).permutation(width)[: int(count)]
        return sorted(drawn.tolist())
    if kind == "top":
        assert table is not None, "the highest by a column need the column"
        return sorted(_highest(table, by, int(count)))
    ranges = [_range(part) for part in text.split(",")]
    for units in ranges:
        if not units or units[-1] >= width:
            wrong = f"unit {units[-1]} is not in {site}" if units else f"{units.start}:{units.stop} holds no unit"
            raise ConfigError(f"{wrong}, which has {width}", expected=f"units from 0 to {width - 1}")
    return sorted({unit for units in ranges for unit in units})


def among(text: str, known: Sequence[int], site: str, seed: int) -> list[int]:
    """The same of units that need not be consecutive: those of another tool.

    Raises: ConfigError for a choice that makes no sense.

    >>> among("1,3:5", [0, 3, 4, 9], "embed", 0)
    [3, 4]
    """
    check(text)
    if text == "all" or text.startswith("sample:"):
        return [known[place] for place in choose(text, len(known), site, seed)]
    ranges = [_range(part) for part in text.split(",")]
    return [unit for unit in known if any(unit in some for some in ranges)]


def _range(part: str) -> range:
    first, _, stop = part.partition(":")
    return range(int(first), int(stop) if stop else int(first) + 1)


def _highest(table: dict[str, np.ndarray], by: str, count: int) -> list[int]:
    check_column(by, table)
    column = table[by].astype(float)
    known = np.flatnonzero(np.isfinite(column) & (table["density"] > 0))
    return known[np.argsort(-column[known], kind="stable")][:count].tolist()
