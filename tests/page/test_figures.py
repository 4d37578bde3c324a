"""Figures as files, and in the terminal."""

import io

import pytest
from rich.console import Console

from digon.errors import ConfigError
from digon.page.characters import draw
from digon.page.figures import drawing, export, figures
from digon.page.terminal import list_folder, show
from digon.records import Claim, Grid, Panel, Series


def test_export_writes_one_file_per_figure_the_same_every_time(toy_run, tmp_path):
    first = export(toy_run, tmp_path / "a")
    second = export(toy_run, tmp_path / "b")
    assert [path.name for path in first] == ["E1-toy.svg"]
    assert first[0].read_bytes() == second[0].read_bytes()
    assert b"<script>" not in first[0].read_bytes()


def test_an_unknown_format_is_refused(toy_run, tmp_path):
    with pytest.raises(ConfigError, match="no figures as 'gif'"):
        export(toy_run, tmp_path / "a", "gif")


def test_a_drawing_has_the_panels_of_its_frame(toy_run):
    figure = next(figures(toy_run))
    axes = [a for a in drawing(figure, figure.frames[0]).axes if a.get_title()]
    assert [a.get_title() for a in axes] == ["directions", "solid", "inner products", "norms", "curve"]
    assert axes[4].get_xscale() == "log"
    assert axes[2].yaxis_inverted()
    assert [bar.get_height() for bar in axes[3].patches][:2] == [1.0, 0.1]


def written(panel):
    console = Console(width=100, record=True, file=io.StringIO())
    for line in draw(panel):
        console.print(line, soft_wrap=True)
    return console.export_text()


def test_bars_matrices_and_maps_in_characters():
    bars = Panel(
        "norms", "", "", (Series("bars", "n", (0.0, 1.0), (1.0, 0.5), color=(0.0, 1.0)),), color_label="interference"
    )
    lines = written(bars).splitlines()
    assert lines[2].count("█") == 40
    assert lines[3].count("█") == 20
    assert lines[3].endswith("interference 1.000")
    matrix = written(Panel("m", "", "", grid=Grid((0.0, 1.0), (0.0, 1.0), ((1.0, -0.5), (0.0, float("nan"))))))
    assert "██▒▒" in matrix or "██░░" in matrix
    assert "??" in matrix
    arrows = written(Panel("d", "", "", (Series("arrows", "f", (1.0, -1.0, 1.0), (0.0, 0.0, 0.0)),)))
    assert arrows.index("1") < arrows.index("o") < arrows.index("+")
    assert written(Panel("c", "", "", (Series("line", "l", (0.0,), (1.0,)),))) == ""


def test_show_prints_claims_with_their_verdicts(toy_run, capsys):
    show({"claims": toy_run.read_json("claims", list[Claim]), "sentences": ["two claims"]})
    text = capsys.readouterr().out
    assert "E1.1" in text
    assert "≥ 1" in text
    assert "differs" in text
    assert "• two claims" in text


def test_runs_of_toys_are_listed(toy_run):
    row = list_folder(toy_run.path.parent)["runs"][0]
    assert row["model"].startswith("Toys")
