"""The page of `digon explain` in a real browser: ladder, coverage, senses, automaton, index, bill; hostile text stays text."""

import json
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import expect

from digon.page.build import build, collect
from digon.page.terminal import list_folder
from digon.records import (
    Arc,
    Coverage,
    Excerpt,
    Explanation,
    Measurement,
    Promotion,
    Provenance,
    Score,
    Sense,
    Series,
    UnitCard,
)
from digon.store.runs import Run
from digon.studies.explaining.settings import ExplainConfig, ExplainRun

EVIL = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
SITE = "layers.0.mlp.act"


def number(name, value, low=float("nan"), high=float("nan"), null=float("nan")):
    return Measurement(name, value, low, high, 640, method=f"method {EVIL}", null=null)


def card(index, sign=1):
    rho = number("rho_top_and_random", 0.8 - 0.1 * index, 0.7 - 0.1 * index, 0.9 - 0.1 * index)
    score = Score(rho, rho, number("rho_other_unit", 0.1), population=rho, permuted=number("rho_permuted", 0.05),
                  ablation=number("ablation_score", 0.4, 0.3, 0.5), flags=(f"flagged {EVIL}",),
                  choices=(number("detection", 0.75, 0.7, 0.8, 0.5),), simulated_share=0.5)  # fmt: skip
    arcs = (Arc(0, 1, EVIL, 2.0), Arc(0, 2, "any"), Arc(2, 3, "\n", 1.0), Arc(2, 2, "any"), Arc(3, 0, " back", 0.5))
    provenance = Provenance(f"model {EVIL}", "http://127.0.0.1:8000/v1", "abcdef0123456789", 11, "prompt")
    tokens = (" import", "\n", EVIL, "</script>")
    return UnitCard(
        unit=f"toy/{SITE}#{index}", site=SITE, index=index, kind="neuron",
        measurements=(number("eta2", 0.5), number("density", 0.1 * index)), sign=sign,
        exemplars=(Excerpt("d" * 32, 0, tokens, (0.0, 0.5, 2.0, 1.0), "top", "test", {"N2G+": (0.0, 0.4, float("nan"), 1.0)}),),
        explanations=(Explanation("token look-up", f"fires on: “{EVIL}”", 55.0, score),
                      Explanation("N2G+", "graph", 155.0, score, arcs),
                      Explanation("words", f"says {EVIL}", 255.0, score, (), provenance)),
        coverage=Coverage((f"piece {EVIL}", "another"), (0.4, 0.6), (0.3, 0.5), (0.5, 0.7), number("effective_explanations", 1.8, 1.5, 2.0)),
        senses=(Sense(f"sense {EVIL}", 0.7), Sense("rest", float("nan"))),
        promotions=(Promotion(EVIL, 1.5), Promotion("\t", -0.5)),
    )  # fmt: skip


@pytest.fixture
def explained_run(tmp_path):
    run = Run.create(tmp_path / "explained", ExplainRun(ExplainConfig("toy")))
    cards = [card(0), card(1), card(1, -1)]
    run.write_json(f"cards/{SITE}/00000", cards)
    names = [c.unit + " falling" * (c.sign < 0) for c in cards]
    run.write_table("units", {
        "unit": np.array(names, dtype=object), "site": np.array([SITE] * 3, dtype=object), "index": np.array([0, 1, 1]),
        "kind": np.array(["neuron"] * 3, dtype=object), "sign": np.array([1, 1, -1]), "has_card": np.array([True] * 3),
        "explainer": np.array(["N2G+"] * 3, dtype=object), "text": np.array([f"zebra {EVIL}", "lion", "ant"], dtype=object),
        "bits": np.array([10.0, 30.0, 20.0]), "rho": np.array([0.2, np.nan, 0.9]), "effective": np.array([1.0, 2.0, 3.0]),
    })  # fmt: skip
    fields = ("name", "unit", "method", "source")
    rows = {"N2G+: top_and_random": 0.8, "N2G+: bits": 20.0, "effective": 2.0}
    table = {name: np.array([n if name == "name" else "" for n in rows], dtype=object) for name in fields}
    table |= {"site": np.array([SITE] * 3, dtype=object), "value": np.array(list(rows.values()))}
    table |= {name: np.full(3, np.nan) for name in ("low", "high", "null", "p")} | {
        "n": np.full(3, 3),
        "seed": np.zeros(3, int),
    }
    run.write_table("measurements", table)
    run.write_json("curves", [Series("line", f"site {EVIL}", (8.0, 64.0), (0.1, 0.5), low=(0.0, 0.4), high=(0.2, 0.6))])
    run.write_json(
        "overview",
        {"sentences": [{"about": "explanation", "text": f"said {EVIL}"}, {"about": "missing", "text": "no key"}]},
    )
    bill = {"who": "m", "tiles": [["dollars", "1.2345", EVIL], ["known already", "7", ""]], "notes": [], "stopped": f"stopped {EVIL}",
            "failures": [{"times": 3, "problem": f"broke {EVIL}", "unit": names[0]}], "scorers": ["simulation"]}  # fmt: skip
    run.write_json("facts", {"kind": "explained", "title": f"toy {EVIL}", "sites": [SITE], "language model": bill})
    return run


@pytest.fixture
def opened(explained_run, visit):
    return visit(build(explained_run.path).as_uri())


@pytest.mark.browser
def test_a_card_shows_everything_and_runs_nothing(opened):
    tab = opened(f"#view=unit&unit=toy/{SITE}%230")
    text = tab.inner_text("main")
    for said in ("0.80 [0.70, 0.90]", "0.40 [0.30, 0.50]", "detection (chance 0.5)", "0.75 [0.70, 0.80]", "50 %", "http://127.0.0.1:8000/v1", "11 answers",
                 "1.8 [1.5, 2] effective", "70 %", "Automaton of N2G+", "raises", "lowers"):  # fmt: skip
        assert said in text, said
    assert "<script>window.pwned=1</script>" in text
    real, simulated = tab.locator(".excerpt .line").all()
    colors = "[...arguments[0].querySelectorAll('.token')].map((t) => t.style.background)".replace(
        "arguments[0]", "node"
    )
    assert (
        real.evaluate(f"(node) => {colors}")[3] == simulated.evaluate(f"(node) => {colors}")[3] != ""
    )  # one scale, one color
    assert simulated.locator(".token.unknown").count() == 1  # a missing value is not 0
    drawn = tab.evaluate("[...document.querySelectorAll('.plot')].map((p) => (p.data || []).map((t) => t.y))")
    assert drawn[-1][0] == [0, 0.4, 0.6]
    assert tab.locator(".automaton circle").count() == 4
    assert tab.evaluate("window.pwned") is None


@pytest.mark.browser
def test_cards_of_another_tool_claim_nothing_that_it_does_not_tell(explained_run, visit):
    shown = card(0)
    foreign = replace(shown, exemplars=(replace(shown.exemplars[0], start=-1),), histogram=None)
    explained_run.write_json(f"cards/{SITE}/00000", [foreign])
    facts = explained_run.read_json("facts", dict)
    explained_run.write_json("facts", facts | {"data": {"written by": "another tool"}})
    text = visit(build(explained_run.path).as_uri())(f"#view=unit&unit=toy/{SITE}%230").inner_text("main")
    assert "document dddddddd\n" in text
    assert "Explanations, as another tool scored them" in text
    for unknown in ("from token", "unseen documents", "Activations"):
        assert unknown not in text, unknown


@pytest.mark.browser
def test_the_index_sorts_searches_and_leads_to_cards(opened):
    tab = opened("#view=units")
    order = lambda: [row.split("#")[1].split("\t")[0] for row in tab.locator("table.index tbody tr").all_inner_texts()]  # noqa: E731
    assert order() == ["1 −", "0", "1"]  # by ρ, what is missing last
    tab.click("button.sort:has-text('bits')")
    expect(tab.locator("th[aria-sort=descending]")).to_contain_text("bits")
    assert order() == ["1", "1 −", "0"]
    tab.click("button.sort:has-text('bits')")
    expect(tab.locator("th[aria-sort=ascending]")).to_contain_text("bits")
    assert order() == ["0", "1 −", "1"]
    tab.click("table.index a:has-text('1 −')")
    tab.wait_for_selector("#unit-name")
    assert "how far it falls" in tab.inner_text("main")
    tab.fill("#search", "says <script>")
    expect(tab.locator("#found a")).to_have_count(3)


@pytest.mark.browser
def test_overview_and_bill_on_every_width_and_in_the_dark(opened):
    for view in ("overview", "units", "unit", "run"):
        for width, scheme in ((400, "dark"), (1280, "light")):
            tab = opened(f"#view={view}", width, scheme)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, view
            assert tab.evaluate("window.pwned") is None
    text = tab.inner_text("main")
    for said in ("1.2345", "dollars", "known already", "stopped <script>", "broke <script>", "3"):
        assert said in text


def test_many_units_leave_a_page_that_opens(explained_run, monkeypatch):
    monkeypatch.setattr("digon.page.build.MOST_CARDS", 2)
    data = collect(explained_run)
    assert len(data["cards"]) == 2
    assert data["units"]["has_card"] == [True, False, True]
    json.dumps(data, allow_nan=False)
    assert list_folder(explained_run.path.parent)["runs"][0]["model"].startswith("toy")
