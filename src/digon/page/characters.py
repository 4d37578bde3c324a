"""Figures in a terminal: bars, a map of arrows, matrices as shades."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..records import Grid, Panel, Series

if TYPE_CHECKING:
    from rich.text import Text

SHADES = " ·░▒▓█"
WIDTH = 40
"""Columns of a full bar."""
MOST_CELLS = 40
"""Rows and columns of a matrix that still fit; larger ones are left to the page."""
MAP_ROWS = 17
ASPECT = 2
"""A character is about twice as high as wide."""


def draw(panel: Panel) -> "Iterable[Text]":
    """The lines of one panel; none if its kind is better seen on the page."""
    from rich.text import Text

    body: list[Text] = []
    if panel.grid is not None:
        body = list(_matrix(panel.grid))
    for series in panel.series:
        if series.kind == "bars":
            body += _bars(series, panel.color_label)
        elif series.kind == "arrows" and not series.z:
            body += _map(series)
    if body:
        yield Text(f"\n{panel.title}", style="bold")
        yield from body


def _bars(series: Series, color_label: str) -> "list[Text]":
    from rich.text import Text

    top = max([abs(v) for v in series.y if v == v] or [1.0]) or 1.0
    rows = []
    for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        row = Text(f"{x:>5g} ")
        row.append(
            f"{'█' * round(WIDTH * abs(y) / top):<{WIDTH}}", style=_warm(series.color[i] if series.color else 0.0)
        )
        row.append(f" {y:.3f}")
        if series.color:
            row.append(f"   {color_label} {series.color[i]:.3f}", style="dim")
        rows.append(row)
    return rows


def _matrix(grid: Grid) -> "Iterable[Text]":
    from rich.text import Text

    if max(len(grid.x), len(grid.y)) > MOST_CELLS:
        return
    top = max([abs(v) for row in grid.values for v in row if v == v] or [1.0]) or 1.0
    for row in grid.values:
        line = Text("      ")
        for value in row:
            shade = SHADES[round((len(SHADES) - 1) * abs(value) / top)] if value == value else "?"
            line.append(shade * ASPECT, style="dark_orange3" if value > 0 else "dodger_blue2")
        yield line
    yield Text("      orange: positive, blue: negative; █ = " + f"{top:.2f}", style="dim")


def _map(series: Series) -> "list[Text]":
    """The heads of arrows around the origin, by number; several on one place become a +."""
    from rich.text import Text

    reach = max([abs(v) for v in (*series.x, *series.y) if v == v] or [1.0]) or 1.0
    half = MAP_ROWS // 2
    cells = [[" "] * (2 * ASPECT * half + 1) for _ in range(2 * half + 1)]
    cells[half][ASPECT * half] = "o"
    for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        row, column = half - round(half * y / reach), ASPECT * half + round(ASPECT * half * x / reach)
        cells[row][column] = "0123456789abcdefghijklmnopqrstuvwxyz"[i % 36] if cells[row][column] == " " else "+"
    return [Text("      " + "".join(row)) for row in cells]


def _warm(value: float) -> str:
    """From blue (no interference) to orange (as much as of an antipodal pair)."""
    steps = ("dodger_blue2", "steel_blue", "grey62", "dark_goldenrod", "dark_orange3")
    return steps[min(len(steps) - 1, int(max(0.0, value) * len(steps)))] if value == value else "grey62"
