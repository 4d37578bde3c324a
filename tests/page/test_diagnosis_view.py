"""The view of a diagnosis in a real browser, on its own page and on that of an audit."""

import dataclasses
import json

import pytest
from playwright.sync_api import expect

from digon.page.build import build, collect
from digon.page.terminal import list_folder, show
from digon.records import Count, Diagnosis

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(diagnosis_run, visit):
    """Opens the page of a diagnosis."""
    return visit(build(diagnosis_run.path).as_uri())


def test_verdict_numbers_and_what_would_decide(opened):
    tab = opened()
    assert tab.locator(".verdict .cause").all_inner_texts() == ["superposition", "lookup"]
    text = tab.inner_text("main")
    for said in (
        "undecided between these",
        "at least 90, at most 120",
        "features per dimension",
        "What would decide: learn the dictionary on half",
        "superposition | lookup: the same bag",
        "Unit 3 never varies",
        "isolated atoms, more than dimensions",
    ):
        assert said in text
    assert tab.locator(".bar").count() == 5
    assert tab.locator(".bar").first.inner_text().split() == ["superposition", "0.810"]
    assert tab.locator("#search").is_hidden()


def test_checks_with_outcome_statistic_and_definition(opened):
    tab = opened()
    chips = tab.locator(".chip").all_inner_texts()
    assert chips == ["for", "silent", "against", "for", "n.a."]
    row = tab.locator("tr", has_text="P04")
    assert "12.3 [11, 14]" in row.inner_text()
    assert row.locator(".gone .cause").all_inner_texts() == ["none", "monosemantic", "rotated"]
    box = tab.locator(".popover").nth(4)
    assert not box.is_visible()
    tab.locator("button[aria-label='definition of P04']").click()
    expect(box).to_be_visible()
    said = box.inner_text()
    for part in ("the claim of P04", "method of P04", "after Somebody 2020", "the data speaks for the claim"):
        assert part in said
    tab.keyboard.press("Escape")
    expect(box).not_to_be_visible()


def test_the_cause_map_is_stacked_to_one_and_sorts(opened):
    tab = opened()
    tab.wait_for_selector(".plot .bars path")
    bars = "() => [...document.querySelectorAll('.plot')].at(-1).data.map((t) => [t.name, t.y, t.customdata])"
    drawn = tab.evaluate(bars)
    assert [name for name, _, _ in drawn] == ["superposition", "rotated", "manifold"]
    for unit in (0, 1, 47):
        assert sum(y[unit] for _, y, _ in drawn) == pytest.approx(1, abs=1e-3)
    tab.select_option("select[aria-label='order of the units']", "manifold")
    tab.wait_for_timeout(200)
    name, y, units = tab.evaluate(bars)[2]
    assert name == "manifold"
    assert units[0] == 47
    assert [v for v in y if v is not None] == sorted((v for v in y if v is not None), reverse=True)


def test_numbers_of_features_have_their_intervals(opened):
    tab = opened()
    tab.wait_for_selector(".plot .errorbars path")
    data = tab.evaluate("document.querySelector('.plot').data[0]")
    assert data["y"] == ["seen and unseen", "dictionary", "rays", "quartic atoms"]
    assert data["x"] == [110, 101, 94, 96]
    assert data["error_x"]["array"][-1] == 3
    assert data["error_x"]["arrayminus"][-1] == 4
    assert data["error_x"]["array"][0] == 0  # nothing bounds it from above


def test_several_sites_are_listed_and_chosen(opened):
    tab = opened()
    tab.click("a:has-text('acts (the projection alone)')")
    expect(tab.locator("main h2")).to_contain_text("the projection alone")
    assert "site=acts" in tab.evaluate("location.hash")


def test_hostile_text_is_shown_and_never_run(opened):
    for view in ("checks", "run"):
        tab = opened(f"#view={view}")
        tab.wait_for_timeout(150)
        assert tab.evaluate("window.pwned") is None
        assert "<script>window.pwned=1</script>" in tab.inner_text("body")


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_nothing_overflows(opened, width, scheme):
    for view in ("checks", "run"):
        tab = opened(f"#view={view}", width, scheme)
        tab.wait_for_timeout(150)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_an_audit_shows_the_same_view(finished_run, make_diagnosis, visit):
    run = finished_run
    found = dataclasses.replace(make_diagnosis("layers.0.mlp.act", 6), posterior={}, counts=(), blocks=())
    run.write_json("diagnoses", [found, Diagnosis("layers.1.mlp.act", ("undecided",), "undecided: too few rows", "A")])
    go = visit(build(run.path).as_uri())
    tab = go("#view=checks")
    tab.wait_for_selector(".plot .bars path")
    assert tab.locator(".verdict .cause").all_inner_texts() == ["superposition", "lookup"]
    tab.evaluate("openUnit('layers.0.mlp.act', 1)")
    tab.wait_for_selector("#unit-name")
    assert tab.inner_text("#unit-name") == "toy/layers.0.mlp.act#1"
    assert "definition of P01" in tab.content()
    bare = go("#view=checks&site=layers.1.mlp.act")
    assert "undecided: too few rows" in bare.inner_text("main")
    assert bare.locator(".plot").count() == 0


def test_the_page_keeps_four_digits_of_a_budget(diagnosis_run):
    data = collect(diagnosis_run)
    shares = data["diagnoses"][0]["budget"]
    assert shares["superposition"][3] is None
    assert all(len(f"{v:.10g}") <= 6 for v in shares["superposition"] if v is not None)
    json.dumps(data, allow_nan=False)


def test_the_terminal_says_the_same(diagnosis_run, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    found = diagnosis_run.read_json("diagnoses", list[Diagnosis])[0]
    show({"diagnosis": found, "document": {"secret": 1}, "run": "here"})
    text = " ".join(capsys.readouterr().out.split())
    for said in (
        "P04 quartic atoms for",
        "P12 distinct-input generalization n.a.",
        "acts, access A: superposition | lookup",
        "at least 90, best estimate 96, at most 120; rank 48; per dimension 2; active per row 2.1",
        "superposition ███████████████████ 0.81",
        "Unit 3 never varies",
        "decode the other half",
        "run here",
    ):
        assert said in text
    assert "secret" not in text
    show({"diagnosis": dataclasses.replace(found, n_features=Count(lower=90))})
    assert "at least 90, at most unbounded" in " ".join(capsys.readouterr().out.split())


def test_a_diagnosis_is_listed_among_runs(diagnosis_run):
    row = list_folder(diagnosis_run.path.parent)["runs"][0]
    assert row["model"].startswith("acts.npy")
    assert row["verdicts"] == "undecided"
