"""Short ways to write the picture of a study: series, grids and panels from arrays, rounded so that pages stay light."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ...records import Frame, Grid, Panel, Series

Role = Literal["measured", "theory", "published", "guide"]


def rounded(values: Any, digits: int = 4) -> tuple[float, ...]:
    """Numbers with `digits` significant digits.

    >>> rounded([0.123456, 1234.56])
    (0.1235, 1235.0)
    """
    flat = np.asarray(values, dtype=float).ravel()
    return tuple(float(f"{v:.{digits}g}") for v in flat)


def series(
    kind: Literal["line", "points", "bars", "arrows", "edges"],
    name: str,
    x: Any,
    y: Any,
    *,
    role: Role = "measured",
    color: Any = (),
    interval: tuple[Any, Any] | None = None,
) -> Series:
    """A series from arrays."""
    low, high = (rounded(v) for v in interval) if interval is not None else ((), ())
    return Series(kind, name, rounded(x), rounded(y), (), rounded(color), low, high, role)


def line(name: str, x: Any, y: Any, role: Role = "theory") -> Series:
    """A line, by default theory."""
    return series("line", name, x, y, role=role)


def points(name: str, x: Any, y: Any, role: Role = "measured", color: Any = ()) -> Series:
    """Points, by default measured."""
    return series("points", name, x, y, role=role, color=color)


def across(name: str, x: Any, samples: Any) -> Series:
    """Means over seeds with the range of the seeds; `samples` is [seeds, len(x)]."""
    rows = np.asarray(samples, dtype=float)
    return series("points", name, x, rows.mean(0), interval=(rows.min(0), rows.max(0)))


def grid(x: Any, y: Any, values: Any, *, diverging: bool = False) -> Grid:
    """A matrix in colors; `values` is [len(y), len(x)]."""
    return Grid(rounded(x), rounded(y), tuple(rounded(row) for row in np.asarray(values, dtype=float)), diverging)


def still(*panels: Panel) -> tuple[Frame, ...]:
    """The frames of a figure without a control."""
    return (Frame("", panels),)


def log_slope(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Exponent of the power law through the points: least squares in logarithms.

    >>> round(log_slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)[0])
