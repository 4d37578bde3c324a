"""The view of dictionaries in a real browser, on its own page and on that of an audit."""

import json

import numpy as np
import pytest
from playwright.sync_api import expect

from digon.errors import CorruptError
from digon.page.build import build, collect
from digon.page.dictionaries import curves, histogram
from digon.page.terminal import list_folder, show
from digon.records import Measurement

NAMES = [f"layers.0.mlp.act.batchtopk-60-l0-{l0}" for l0 in (16, 4, 8)]


@pytest.fixture
def opened(dictionaries_run, visit):
    """Opens the page of a folder with three dictionaries."""
    return visit(build(dictionaries_run.path).as_uri())


@pytest.mark.browser
def test_numbers_with_intervals_nulls_and_definitions(opened):
    tab = opened(f"#sae={NAMES[1]}")
    text = tab.inner_text("main")
    for said in (
        "0.93 [0.9, 0.96]",
        "random directions 0.4",
        "0.7 [0.69, 0.71]",
        "asked for 8",
        "In the network",
        "Against the truth",
    ):
        assert said in text
    row = tab.locator("tr", has_text="loss recovered, against the mean")
    assert row.locator("td").nth(2).inner_text() == "0.4"
    button = tab.locator("button[aria-label='definition of loss recovered, against the mean']")
    button.focus()
    tab.keyboard.press("Enter")
    box = tab.locator(".popover:popover-open")
    expect(box).to_be_visible()
    said = box.inner_text()
    for part in ("1 = as clean", "The identity reads 1", "method of ce_recovered_mean", "after Somebody 2020", "640"):
        assert part in said
    tab.keyboard.press("Escape")
    expect(box).not_to_be_visible()


@pytest.mark.browser
def test_pictures_show_the_records(opened):
    tab = opened(f"#sae={NAMES[1]}")
    tab.wait_for_selector(".plot .main-svg")
    drawn = tab.evaluate(
        "[...document.querySelectorAll('.plot')].map((p) => p.data.map((t) => [t.name || '', t.x, t.y]))"
    )
    density, cosines, fvu, f1, training, probes = drawn
    assert sum(density[0][2]) == 58
    assert [t[0] for t in cosines] == [
        "nearest atom",
        "random directions",
        "random, same shape",
        "all pairs",
        "random pairs",
    ]
    assert [t[1] for t in fvu] == [[4, 8, 16], [4]]
    assert fvu[0][2] == [0.4, 0.2, 0.1]
    assert fvu[1][2] == [0.4]  # the ring around the one that is shown
    assert f1[0][1] == [4, 8]
    assert training[0][2] == [1, 0.5, pytest.approx(0.3333)]
    assert len(probes) == 5
    assert "2 of 60 never fire" in tab.inner_text("main")


@pytest.mark.browser
def test_dictionaries_are_chosen_and_shared(opened):
    tab = opened()
    expect(tab.locator("main h2")).to_contain_text(NAMES[0])
    assert "no text to probe" not in tab.inner_text("main")
    assert "digon decode … --model NAME" in tab.inner_text("main")
    tab.select_option("select[aria-label='dictionary']", NAMES[2])
    expect(tab.locator("main h2")).to_contain_text(NAMES[2])
    assert f"sae={NAMES[2]}" in tab.evaluate("location.hash")


@pytest.mark.browser
def test_latents_are_listed_opened_and_walked_by_keyboard(opened):
    tab = opened(f"#sae={NAMES[1]}")
    tab.select_option("select[aria-label='order of the latents']", "suspect")
    rows = tab.locator("#latents table").last.locator("tbody tr")
    assert rows.count() == 1
    assert rows.first.inner_text().split("\t")[0] == "#7"
    rows.first.locator("a.latent").first.focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#latent h4")).to_have_text("Latent #7")
    assert "#2, which is active on 10 % of its rows" in tab.inner_text("#latent")
    near = tab.locator("#latent table tbody tr")
    assert near.first.inner_text().split("\t")[:2] == ["#8", "0.9"]
    near.first.locator("a").click()
    expect(tab.locator("#latent h4")).to_have_text("Latent #8")
    shared = opened(tab.evaluate("location.hash"))
    assert shared.inner_text("#latent") == tab.inner_text("#latent")
    tab.fill("input[aria-label='open a latent by its number']", "4000")
    tab.keyboard.press("Enter")
    expect(tab.locator("#latents .not")).to_contain_text("There is no latent 4000 here")


@pytest.mark.browser
def test_failures_by_type_with_evidence(opened):
    tab = opened(f"#sae={NAMES[1]}")
    bars = [text.split() for text in tab.locator(".bars .bar").all_inner_texts()]
    assert bars == [["fine", "56"], ["dead", "2"], ["absorbed", "1"], ["merged", "1"]]
    tab.locator("summary").click()
    assert "because <script>" in tab.inner_text("details")
    tab.locator("details a.latent").last.click()
    expect(tab.locator("#latent")).to_contain_text("merged: carries two features")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_nothing_overflows_and_nothing_hostile_runs(opened, width, scheme):
    for name in NAMES:
        tab = opened(f"#sae={name}&latent=7", width, scheme)
        tab.wait_for_timeout(200)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("window.pwned") is None
        assert "<script>window.pwned=1</script>" in tab.inner_text("body")


@pytest.mark.browser
def test_an_audit_without_a_dictionary_says_how_to_make_one(finished_run, visit):
    tab = visit(build(finished_run.path).as_uri())("#view=dictionary")
    assert "digon decode" in tab.inner_text("main .not")
    assert "--site layers.0.mlp.act " in tab.inner_text("main .not")
    assert "Latents with a card" in tab.inner_text("main")


@pytest.mark.browser
def test_an_audit_links_latents_to_their_cards(finished_run, make_dictionary, visit):
    make_dictionary(finished_run, "layers.0.mlp.act", 8, 0.2, width=6)
    tab = visit(build(finished_run.path).as_uri())("#view=dictionary&latent=1")
    tab.click("#latent a:has-text('its card')")
    tab.wait_for_selector("#unit-name")
    assert tab.inner_text("#unit-name") == "toy/layers.0.mlp.act.sae#1"


def test_the_page_takes_everything_from_records(dictionaries_run):
    data = collect(dictionaries_run)
    assert [d["about"]["name"] for d in data["dictionaries"]] == NAMES
    first = data["dictionaries"][1]
    assert first["latents"]["latent"] == list(range(60))
    assert first["failures"]["absorbed"]["count"] == 1
    assert "evidence" not in first["latents"]
    json.dumps(data, allow_nan=False)


def test_densities_are_counted_in_bins_of_equal_ratio():
    density = np.array([0.0, 1e-3, 2e-3, 0.5, 1.0])
    found = histogram(density)
    assert found["dead"] == 1
    assert sum(found["counts"]) == 4
    assert found["counts"][-1] == 1
    ratios = np.array(found["edges"][1:]) / np.array(found["edges"][:-1])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-2)
    assert histogram(np.zeros(3))["dead"] == 3


def test_damaged_metrics_are_a_clear_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert curves(path) == {}
    path.write_text('{"step": 1, "fvu": 0.5}\n{"step": 2, "fvu"')
    with pytest.raises(CorruptError, match=r"metrics\.jsonl is damaged"):
        curves(path)


def test_the_terminal_shows_a_column_per_dictionary(dictionaries_run, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    rows = [{"dictionary": f"a.batchtopk-l0-{i}", "fvu": f"0.{i} [0, 1]", "l0": i} for i in (4, 8)]
    show({"dictionaries": rows, "run": "here"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.batchtopk-l0-…"
    assert lines[1].split() == ["4", "8"]
    assert lines[2].split() == ["fvu", "0.4", "[0,", "1]", "0.8", "[0,", "1]"]
    assert list_folder(dictionaries_run.path.parent)["runs"][0]["model"].startswith("acts")


@pytest.mark.browser
def test_a_crosscoder_says_whose_its_latents_are(dictionaries_run, make_dictionary, visit):
    name = "layers.0+layers.1.topk-60-l0-8"
    folder = make_dictionary(dictionaries_run, name, 8, 0.3, host=False)
    sides = ["layers.0", "layers.1"]
    about = folder.read_json("about", dict) | {"mode": "crosscoder", "read": sides, "written": sides}
    folder.write_json("about", about | {"site": "layers.0 + layers.1"})
    more = {
        "fvu_of layers.0": 0.2,
        "fvu_of layers.1": 0.4,
        "alone_in layers.0": 0.5,
        "alone_in layers.1": 0.1,
        "shared": 0.4,
    }
    known = folder.read_json("measured", list[Measurement])
    folder.write_json(
        "measured", [*known, *(Measurement(key, value, value - 0.05, value + 0.05) for key, value in more.items())]
    )
    share = np.full(60, 0.25)
    folder.write_table("latents", folder.read_table("latents") | {"share_0": share, "share_1": 1 - share})
    tab = visit(build(dictionaries_run.path).as_uri())(f"#sae={name}")
    rows = [text.split("\t") for text in tab.locator("#sides tbody tr").all_inner_texts()]
    assert rows == [
        ["layers.0", "read and written", "0.2 [0.15, 0.25]", "0.5 [0.45, 0.55]"],
        ["layers.1", "read and written", "0.4 [0.35, 0.45]", "0.1 [0.05, 0.15]"],
    ]
    text = tab.inner_text("main")
    assert "that no site has alone: 0.4 [0.35, 0.45]" in text
    assert "that layers.0, layers.1 have in common" in text
    assert "read and written at one site" in text
    tab.fill("input[aria-label='open a latent by its number']", "4")
    tab.keyboard.press("Enter")
    assert "share in layers.1" in tab.inner_text("#latent")


@pytest.mark.browser
def test_a_transcoder_says_from_where_to_where(dictionaries_run, make_dictionary, visit):
    name = "a-to-b.topk-60-l0-8"
    folder = make_dictionary(dictionaries_run, name, 8, 0.3, host=False)
    about = folder.read_json("about", dict) | {"mode": "transcoder", "read": ["a"], "written": ["b"], "site": "a → b"}
    folder.write_json("about", about)
    tab = visit(build(dictionaries_run.path).as_uri())(f"#sae={name}")
    rows = [text.split("\t") for text in tab.locator("#sides tbody tr").all_inner_texts()]
    assert [row[:2] for row in rows] == [["a", "read"], ["b", "written"]]
    assert rows[1][2] == "0.3 [0.28, 0.32]"
    assert "that read a and write b" in tab.inner_text("main")
    others = visit(build(dictionaries_run.path).as_uri())(f"#sae={NAMES[0]}")
    assert others.locator("#sides").count() == 0
