"""What a study claims and shows, free of any drawing library."""

import math
from typing import Literal

from pydantic.dataclasses import dataclass

from .base import STRICT, Number

ClaimKind = Literal["published", "exact", "ours"]
ClaimVerdict = Literal["holds", "differs", "not reached"]


@dataclass(frozen=True, config=STRICT)
class Claim:
    """One statement of the literature, or of ours, beside what was calculated and what was measured."""

    id: str
    """Study and number, such as `E4.2`."""
    statement: str
    source: str
    """Paper and section."""
    kind: ClaimKind
    """Where the expected value comes from: the paper, an exact calculation, or our own earlier measurement."""
    published: Number
    exact: Number
    measured: Number
    low: Number
    high: Number
    tolerance: Number
    verdict: ClaimVerdict
    compare: Literal["equal", "at least", "at most"] = "equal"
    """How the measured value relates to the stated one if the claim holds."""

    @property
    def stated_text(self) -> str:
        """What the claim says, with ≥ or ≤ where it is a bound."""
        sign = {"equal": "", "at least": "≥ ", "at most": "≤ "}[self.compare]
        return "–" if math.isnan(self.published) else sign + _short(self.published)

    @property
    def exact_text(self) -> str:
        """What calculation gives; a dash where it gives nothing."""
        return _short(self.exact)

    @property
    def measured_text(self) -> str:
        """What was measured, with its interval."""
        text = _short(self.measured)
        return text if math.isnan(self.low) else f"{text} [{_short(self.low)}, {_short(self.high)}]"


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


@dataclass(frozen=True, config=STRICT)
class Series:
    """Numbers that are drawn together in a panel."""

    kind: Literal["line", "points", "bars", "arrows", "edges"]
    """`arrows` start at the origin; `edges` are pairs of points, (0, 1), (2, 3) and so on."""
    name: str
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    z: tuple[Number, ...] = ()
    """Third coordinate; given, the panel is three-dimensional."""
    color: tuple[Number, ...] = ()
    """One number per point, on the panel's color scale; empty: one color for the series."""
    low: tuple[Number, ...] = ()
    """Ends of the interval of every y."""
    high: tuple[Number, ...] = ()
    role: Literal["measured", "theory", "published", "guide"] = "measured"


@dataclass(frozen=True, config=STRICT)
class Grid:
    """A matrix that is drawn as colors: values[row][column] at (x[column], y[row])."""

    x: tuple[Number, ...]
    y: tuple[Number, ...]
    values: tuple[tuple[Number, ...], ...]
    diverging: bool = False
    """True: zero is in the middle of the color scale."""


@dataclass(frozen=True, config=STRICT)
class Panel:
    """One coordinate system."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = ()
    grid: Grid | None = None
    x_log: bool = False
    y_log: bool = False
    square: bool = False
    """True: one unit is equally long on all axes."""
    color_label: str = ""
    color_range: tuple[Number, Number] | None = None


@dataclass(frozen=True, config=STRICT)
class Frame:
    """One position of a figure's control: a density, a step, a correlation."""

    label: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, config=STRICT)
class Figure:
    """What a study shows, free of any drawing library."""

    id: str
    """Study and name, such as `E4-branches`: a file name."""
    title: str
    source: str
    """Figure of a paper that it corresponds to; empty if there is none."""
    see: str
    """What you should see."""
    caution: str
    """What this does not show."""
    frames: tuple[Frame, ...]
    """One frame for a still picture, several for a control or an animation."""
    control: str = ""
    """What distinguishes the frames."""
    columns: int = 3
