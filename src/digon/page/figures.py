"""The pictures of a run as files, drawn by matplotlib (extra `figures`): SVG, PNG or PDF for papers and slides."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..records import Figure, Frame, Panel, Series
from ..store.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

FORMATS = ("svg", "png", "pdf")
COLORS = ("#b3541e", "#2a6f97", "#4f772d", "#9d4edd", "#6c757d", "#d4a017", "#1b9e9e", "#c2185b")
STYLES = {"measured": "-", "theory": "--", "published": ":", "guide": ":"}
GUIDE = "#9a9a9a"
PANEL_INCHES = (3.6, 3.0)
ALONE_INCHES = 6.0
"""Width of a figure of one panel."""


def export(run: Run, folder: Path, form: str = "svg") -> list[Path]:
    """Write every figure of a run of toy studies, one file each; of several frames, the middle one.

    Raises: ConfigError for an unknown format, or without matplotlib.
    """
    return write(figures(run), folder, form)


def write(found: Iterable[Figure], folder: Path, form: str = "svg") -> list[Path]:
    """Write figures, one file each, named after them; of several frames, the middle one.

    Raises: ConfigError for an unknown format, or without matplotlib.
    """
    if form not in FORMATS:
        raise ConfigError(f"no figures as {form!r}", expected=" | ".join(FORMATS))
    written = []
    for figure in found:
        path = folder / f"{figure.id}.{form}"
        folder.mkdir(parents=True, exist_ok=True)
        # Fixed metadata: equal figures are equal files.
        page = drawing(figure, shown(figure))
        with _style():
            page.savefig(path, dpi=110, metadata=_metadata(form))
        written.append(path)
    return written


def figures(run: Run) -> Iterator[Figure]:
    """The figures of all studies of a run."""
    for study in sorted(run.stages()):
        yield from run.read_json(f"studies/{study}.figures", list[Figure])


def shown(figure: Figure) -> Frame:
    """The frame that stands for all: of several controls, the first one in its middle and the others as they start."""
    labels = [_parts(frame.label) for frame in figure.frames]
    values = list(dict.fromkeys(label[0] for label in labels))
    wanted = [values[len(values) // 2], *labels[0][1:]]
    return figure.frames[labels.index(wanted) if wanted in labels else 0]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


def _title(figure: Figure, frame: Frame) -> str:
    names, values = _parts(figure.control), _parts(frame.label)
    settings = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=False)) if frame.label else ""
    return figure.title + (f"\n{settings}" if settings else "")


def drawing(figure: Figure, frame: Frame) -> "Drawing":
    """One frame as a matplotlib figure.

    Raises: ConfigError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure as Drawing
    except ImportError:
        raise ConfigError("drawing figures needs matplotlib", hint="pip install 'digon[figures]'") from None

    columns = max(1, min(figure.columns, len(frame.panels)))
    rows = math.ceil(len(frame.panels) / columns)
    with _style():
        width = PANEL_INCHES[0] * columns if columns > 1 else ALONE_INCHES
        page = Drawing(figsize=(width, PANEL_INCHES[1] * rows + 0.5), layout="constrained")
        page.suptitle(_title(figure, frame), fontsize=10)
        for place, panel in enumerate(frame.panels, 1):
            spatial = any(series.z for series in panel.series)
            _draw_panel(page.add_subplot(rows, columns, place, projection="3d" if spatial else None), panel, spatial)
    return page


def _draw_panel(axes: Any, panel: Panel, spatial: bool) -> None:
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    for which, log in (("x", panel.x_log), ("y", panel.y_log)):
        if log and not spatial:
            getattr(axes, f"set_{which}scale")("log")
    mapped = _draw_grid(axes, panel) if panel.grid is not None else None
    for index, series in enumerate(panel.series):
        drawn = _draw_series(axes, series, index, panel)
        mapped = drawn if drawn is not None else mapped
    if panel.square and not spatial:
        axes.set_aspect("equal", adjustable="datalim" if panel.grid is None else "box")
    if mapped is not None and panel.color_label:
        axes.figure.colorbar(mapped, ax=axes, label=panel.color_label)
    if 1 < sum(bool(series.name) and series.role != "guide" for series in panel.series) <= 8:
        axes.legend(frameon=False)


def _draw_grid(axes: Any, panel: Panel) -> Any:
    assert panel.grid is not None
    flat = [v for row in panel.grid.values for v in row if v == v] or [0.0]
    top = max(abs(v) for v in flat) or 1.0
    low, high = panel.color_range or ((-top, top) if panel.grid.diverging else (min(flat), max(flat)))
    colors = "coolwarm" if panel.grid.diverging else "viridis"
    x, y = panel.grid.x, panel.grid.y
    mesh = axes.pcolormesh(
        x, y, panel.grid.values, cmap=colors, vmin=low, vmax=high, shading="nearest", rasterized=True
    )
    if panel.grid.diverging and not panel.y_log:
        axes.invert_yaxis()  # a matrix is read from the top
    return mesh


def _draw_series(axes: Any, series: Series, index: int, panel: Panel) -> Any:
    guide = series.role == "guide"
    color = GUIDE if guide else COLORS[index % len(COLORS)]
    where = (series.x, series.y, series.z) if series.z else (series.x, series.y)
    named = {"label": series.name or None}
    if guide and series.kind == "line" and series.name and not series.z:
        axes.annotate(series.name, (series.x[-1], series.y[-1]), fontsize=6, color=GUIDE, va="bottom", ha="right")
        named = {}
    if series.kind == "line":
        axes.plot(*where, STYLES[series.role], color=color, linewidth=0.8 if guide else 1.3, **named)
        if series.low:
            axes.fill_between(series.x, series.low, series.high, color=color, alpha=0.2, linewidth=0)
        return None
    if series.kind == "bars":
        return _draw_bars(axes, series, color, panel, named)
    lines = _segments(series)
    for line in lines:
        axes.plot(*line, color=color, linewidth=0.9)
    if series.kind == "edges":
        return None
    if series.low:
        errors = (
            [y - a for y, a in zip(series.y, series.low, strict=True)],
            [b - y for y, b in zip(series.y, series.high, strict=True)],
        )
        axes.errorbar(series.x, series.y, errors, fmt="none", ecolor=color, linewidth=0.8)
    low, high = panel.color_range or (None, None)
    tint = {"c": series.color, "cmap": "viridis", "vmin": low, "vmax": high} if series.color else {"color": color}
    dots = axes.scatter(*where, s=14, **tint, **named, zorder=3)
    return dots if series.color else None


def _draw_bars(axes: Any, series: Series, color: str, panel: Panel, named: dict[str, Any]) -> Any:
    if not series.color:
        axes.bar(series.x, series.y, color=color, alpha=0.8, **named)
        return None
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, high = panel.color_range or (min(series.color), max(series.color))
    mapping = ScalarMappable(Normalize(low, high), "viridis")
    axes.bar(series.x, series.y, color=mapping.to_rgba(np.asarray(series.color)), **named)
    return mapping


def _segments(series: Series) -> list[tuple[tuple[float, ...], ...]]:
    """Lines of arrows (from the origin) and of edges (between pairs of points)."""
    axes = (series.x, series.y, series.z) if series.z else (series.x, series.y)
    if series.kind == "arrows":
        return [tuple((0.0, axis[i]) for axis in axes) for i in range(len(series.x))]
    if series.kind == "edges":
        return [tuple((axis[i], axis[i + 1]) for axis in axes) for i in range(0, len(series.x) - 1, 2)]
    return []


def _style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context({"svg.hashsalt": "digon", "font.size": 8, "axes.titlesize": 9, "legend.fontsize": 7})


def _metadata(form: str) -> dict[str, None]:
    return {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
