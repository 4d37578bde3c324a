"""A small finished run, with text that tries to break out of the page."""

import shutil

import numpy as np
import pytest

from digon.records import Check, Diagnosis, Excerpt, Explanation, Histogram, Measurement, Neighbor, Score, UnitCard
from digon.store.runs import Run
from digon.studies.settings import AuditConfig

EVIL = "<script>window.pwned=1</script>"
BROWSER_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def card(site, index, kind):
    tokens = (" import", "\n", EVIL, "</script>", "&amp;", " os")
    rho = Measurement("rho_top_and_random", 0.8, 0.7, 0.9, 640)
    return UnitCard(
        unit=f"toy/{site}#{index}",
        site=site,
        index=index,
        kind=kind,
        measurements=(Measurement("eta2", 0.5, 0.4, 0.6, 100), Measurement("cluster_z", float("nan"))),
        histogram=Histogram((0.0, 1.0, 2.0), (5, 1)),
        exemplars=(
            Excerpt(
                "d" * 32,
                0,
                tokens,
                (0.0, 0.5, 2.0, 1.0, 0.0, float("nan")),
                "top",
                "fit",
                {"n-grams": (0.0, 0.4, 1.9, 0.9, 0.1, 0.0)},
            ),
            Excerpt("e" * 32, 8, tokens, (0.0,) * 6, "random", "test", {"n-grams": (0.0,) * 6}),
        ),
        explanations=(Explanation("n-grams", f"after “{EVIL}” 2.0; otherwise 0", 55.0, Score(rho, rho, rho)),),
        neighbors=(Neighbor(f"toy/{site}#{(index + 1) % 6}", 0.7),),
    )


@pytest.fixture
def finished_run(tmp_path):
    run = Run.create(tmp_path / "run", AuditConfig(model="toy"))
    sites = {"layers.0.mlp.act": "neuron", "layers.0.mlp.act.sae": "latent"}
    n = 6
    columns = {
        "unit": [f"toy/{s}#{i}" for s in sites for i in range(n)],
        "site": [s for s in sites for _ in range(n)],
        "kind": [k for k in sites.values() for _ in range(n)],
    }
    table = {name: np.array(values, dtype=object) for name, values in columns.items()}
    table["index"] = np.array(list(range(n)) * 2)
    g = np.random.default_rng(0)
    for name in (
        "density",
        "density_low",
        "density_high",
        "mean",
        "kurtosis",
        "eta2",
        "eta2_low",
        "eta2_high",
        "cluster_z",
        "cluster_p",
        "senses",
        "rho",
    ):
        table[name] = g.random(2 * n)
    table["rho"][3] = np.nan
    table["polysemantic"] = np.arange(2 * n) % 3 == 0
    table["has_card"] = np.arange(2 * n) % n < 2
    run.write_table("units", table)
    for site, kind in sites.items():
        run.write_json(f"cards/{site}", [card(site, i, kind) for i in range(2)])
    fields = {"name": "polysemantic_share", "unit": "", "method": EVIL, "source": ""}
    measured = {"site": np.array(list(sites), dtype=object)} | {
        k: np.array([v, v], dtype=object) for k, v in fields.items()
    }
    measured |= {k: np.array([0.3, np.nan]) for k in ("value", "low", "high", "null", "p")} | {
        k: np.array([6, 6]) for k in ("n", "seed")
    }
    run.write_table("measurements", measured)
    check = Check("P01", "several meanings", "claim", "not applicable", f"no {EVIL}")
    run.write_json(
        "diagnoses",
        [
            Diagnosis(
                "layers.0.mlp.act", ("rotated", "superposition"), True, "undecided: both", "try this", "A", (check,)
            )
        ],
    )
    run.write_json("overview", {"sentences": [{"about": "polysemanticity", "text": f"30 % {EVIL}"}]})
    run.write_json(
        "facts",
        {
            "title": f"toy {EVIL}",
            "model": {"name": "toy"},
            "data": {"tokens": 9},
            "commands": [f"digon {EVIL}"],
            "seed": 0,
        },
    )
    return run


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        yield opened
        opened.close()
