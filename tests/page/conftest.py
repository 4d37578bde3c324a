"""A small finished run, with text that tries to break out of the page."""

import json
import shutil

import numpy as np
import pytest

from digon.records import (
    BlockVerdict,
    Check,
    Claim,
    Count,
    Diagnosis,
    Excerpt,
    Explanation,
    Figure,
    Frame,
    Grid,
    Histogram,
    Measurement,
    Neighbor,
    Panel,
    Score,
    Series,
    UnitCard,
)
from digon.store import files
from digon.store.runs import Run
from digon.studies.settings import AuditConfig
from digon.studies.toys.base import Outcome
from digon.studies.toys.reproduce import write_outcome
from digon.studies.toys.settings import ToyConfig

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
                "layers.0.mlp.act",
                ("rotated", "superposition"),
                "undecided: both",
                "A",
                checks=(check,),
                next_experiment="try this",
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


@pytest.fixture
def visit(browser):
    """Opens pages at a hash and size; fails on any console error or request."""
    contexts, trouble = [], []
    browsers_own = ("Canvas2D:", "GL Driver Message", "[.WebGL")  # advice to the drawing library, from a software GPU

    def complain(message):
        if message.type in ("error", "warning") and not any(own in message.text for own in browsers_own):
            trouble.append(message.text)

    def page(url):
        def go(hash_="", width=1280, scheme="light"):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            contexts.append(context)
            tab = context.new_page()
            tab.on("console", complain)
            tab.on("pageerror", lambda e: trouble.append(str(e)))
            tab.on(
                "request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else trouble.append(r.url)
            )
            tab.goto(url + hash_)
            tab.wait_for_selector("main h2")
            return tab

        return go

    yield page
    for context in contexts:
        context.close()
    assert trouble == []


def claim(number, verdict, published=1.0):
    nan = float("nan")
    return Claim(
        f"E1.{number}",
        f"Claim {EVIL} {number}.",
        "A paper",
        "published",
        published,
        1.0,
        1.02,
        0.9,
        nan,
        0.1,
        verdict,
        "at least",
    )


def toy_figure():
    def panels(density):
        arrows = Series("arrows", "feature", (1.0, -0.5, -0.5), (0.0, density, -density), color=(0.1, 0.5, 0.9))
        cube = Series("edges", "", (0.0, 1.0), (0.0, 1.0), (0.0, density))
        bars = Series("bars", "norm", (0.0, 1.0, 2.0), (1.0, density, float("nan")), color=(0.0, 0.5, 1.0))
        curve = Series(
            "line",
            "theory",
            (0.01, 0.1, 1.0),
            (0.1, 0.2, 0.3),
            low=(0.0, 0.1, 0.2),
            high=(0.2, 0.3, 0.4),
            role="theory",
        )
        dots = Series(
            "points", "measured", (0.01, 0.1, 1.0), (0.1, 0.2, 0.3), low=(0.0, 0.1, 0.2), high=(0.2, 0.3, 0.4)
        )
        gram = Grid((0.0, 1.0), (0.0, 1.0), ((1.0, -density), (-density, 1.0)), diverging=True)
        return (
            Panel("directions", "h1", "h2", (arrows,), square=True, color_range=(0.0, 1.0)),
            Panel("solid", "h1", "h2", (cube,)),
            Panel("inner products", "feature", "feature", grid=gram, square=True),
            Panel("norms", "feature", "norm", (bars,), color_label="interference"),
            Panel("curve", "density", "D", (curve, dots), x_log=True),
        )

    frames = tuple(Frame(f"{d} | {k}", panels(d)) for k in ("none", "pairs") for d in (0.1, 0.3, 0.5, 0.7, 0.9))
    return Figure(
        "E1-toy", f"A toy {EVIL}", "A paper", "A digon.", "Nothing else.", frames, control="density | correlation"
    )


@pytest.fixture
def toy_run(tmp_path):
    """A finished run of toy studies."""
    run = Run.create(tmp_path / "toys", ToyConfig())
    with run.stage("demonstration", "1"):
        write_outcome(run, "demonstration", Outcome({}, figures=(toy_figure(),)))
    run.write_json("claims", [claim(1, "holds"), claim(2, "differs"), claim(3, "not reached", float("nan"))])
    run.write_json(
        "facts", {"kind": "toys", "title": f"Toys {EVIL}", "size": "smoke", "seconds": {"demonstration": 1.5}}
    )
    return run


def diagnosis(site="acts", units=48):
    """A diagnosis that has everything, with numbers that a reader can check."""
    claims = {
        "P01": ("several meanings", "for", ("none",), "The exemplars of 62 % of 48 units fall into separate groups."),
        "P02": ("privileged basis", "silent", ("monosemantic",), "The axes are no better than any others."),
        "P03": ("independent linear features", "against", (), f"Parts depend on each other 74 times as much {EVIL}."),
        "P04": ("quartic atoms", "for", ("none", "monosemantic", "rotated"), "96 isolated atoms span 48 dimensions."),
        "P12": ("distinct-input generalization", "not applicable", (), "Which rows are the same input is not known."),
    }
    checks = tuple(
        Check(
            id, title, f"the claim of {id}", verdict, sentence,
            Measurement(f"statistic_of_{id}", 12.3456, 11.0, 14.0, 30000, method=f"method of {id} {EVIL}", source="after Somebody 2020", null=1.0, p=0.005)
            if verdict != "not applicable" else None,
            2.0 if verdict != "not applicable" else float("nan"), excludes,
        )
        for id, (title, verdict, excludes, sentence) in claims.items()
    )  # fmt: skip
    share = np.linspace(0.9, 0.1, units)
    budget = {"superposition": share, "rotated": 0.7 * (1 - share), "manifold": 0.3 * (1 - share)}
    budget["rotated"][3] = budget["superposition"][3] = budget["manifold"][3] = np.nan
    methods = {"quartic_atoms": (96, 92, 99), "rays": (94, 90, 101), "dictionary": (101, 88, 120), "seen_and_unseen": (110, 96, float("nan"))}  # fmt: skip
    return Diagnosis(
        site=site,
        causes=("superposition", "lookup"),
        sentence=f"superposition or a look-up code: 96 features in 48 dimensions {EVIL}.",
        access="A",
        posterior={"superposition": 0.81, "lookup": 0.12, "manifold": 0.05, "rotated": 0.0195, "none": 0.0005},
        n_features=Count(90, 96, 120),
        rank=48,
        load=2.0,
        active=2.1,
        checks=checks,
        blocks=(
            BlockVerdict(
                "superposition", 90, 44, 0.93, tuple(range(40)), f"isolated atoms, more than dimensions {EVIL}"
            ),
            BlockVerdict("undecided", 6, 4, 0.07, (1, 5), "a polygon or a sampled circle"),
        ),
        undecided=("superposition | lookup: the same bag of activations without the identity of the inputs",),
        next_experiment="learn the dictionary on half of the distinct inputs and decode the other half",
        counts=tuple(Measurement(name, *numbers, 30000, method=EVIL) for name, numbers in methods.items()),
        measurements=(Measurement("tail_index", 11.2, 9.5, 12.9, 163, method="Hill 1975"),),
        budget={cause: tuple(float(v) for v in row) for cause, row in budget.items()},
        notes=(f"Unit 3 never varies: left out {EVIL}.",),
    )


@pytest.fixture
def make_diagnosis():
    return diagnosis


@pytest.fixture
def diagnosis_run(tmp_path):
    run = Run.create(tmp_path / "diagnosis", AuditConfig(model="acts.npy"))
    run.write_json("diagnoses", [diagnosis(), diagnosis("acts (the projection alone)", 6)])
    facts = {"kind": "diagnosis", "title": f"acts {EVIL}", "target": {"name": f"acts.npy {EVIL}", "units": 48}}
    run.write_json("facts", facts)
    return run


def measurement(name, value, low=None, high=None, null=float("nan"), n=640):
    ends = (float("nan") if v is None else v for v in (low, high))
    return Measurement(
        name, value, *ends, n, method=f"method of {name} {EVIL}", source="after Somebody 2020", null=null
    )


def dictionary(run, name, l0, fvu, width=60, truth=False, host=True):
    """Records of one dictionary, with numbers that a reader can check."""
    folder = Run(run.path / "sae" / name)
    about = {
        "name": name,
        "site": "layers.0.mlp.act",
        "activation": "batchtopk",
        "nested": False,
        "width": width,
        "d": 16,
    }
    folder.write_json("about", about | {"target_l0": 8, "seed": 0, "tied": False, "rows": 9000, "documents": 70})
    g = np.random.default_rng(int(l0))
    density = np.concatenate([[0.0, 0.0, 0.5], 10 ** g.uniform(-3, -1.1, width - 3)])
    table = {"density": density, "mean_code": g.uniform(1, 3, width), "encoder_mismatch": g.uniform(0, 1, width)}
    table |= {
        "suspect": np.where(np.arange(width) == 7, 2, -1),
        "suspect_awake": np.where(np.arange(width) == 7, 0.1, np.nan),
    }
    for place in range(5):
        table[f"near_{place}"] = (np.arange(width) + 1 + place) % width
        table[f"cosine_{place}"] = np.full(width, 0.9 - 0.1 * place)
    folder.write_table("latents", table)
    edges, flat = np.linspace(-1, 1, 65), [1 / 64] * 64
    chance = {"pairs": flat, "nearest": flat, "shaped": flat}
    folder.write_json(
        "geometry", {"edges": edges.tolist(), "pairs": flat, "nearest": flat, "chance": chance, "atoms": width, "d": 16}
    )
    folder.write_json("measured", [measurement("fvu", fvu, fvu - 0.02, fvu + 0.02, 1.0), measurement("l0", l0, l0 - 1, l0 + 1),
                                   measurement("dead_share", 2 / width, 0.01, 0.1), measurement("absorption_suspects", 1 / width, 0.0, 0.05, 0.004)])  # fmt: skip
    lines = [
        {"step": s, "fvu": 1 / s, "l0": l0 + 9 / s, "dead_share": 0.0, "lr": 1e-3, "tokens_per_s": 5.0}
        for s in (1, 2, 3)
    ]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if host:
        folder.write_json(
            "host", [measurement("ce_recovered_mean", 0.93, 0.9, 0.96, 0.4), measurement("kl", 0.1, null=1.2)]
        )
        folder.write_json(
            "probes",
            [
                measurement(f"probe_{b}_{k}", v, v - 0.05, v + 0.05, 0.5)
                for b, v in (("latents", 0.8), ("directions", 0.6), ("neurons", 0.7), ("random_latents", 0.55))
                for k in (1, 2)
            ]
            + [measurement("probe_dense", 0.95)],
        )
        lines = [
            (c, b, k)
            for c in ("keyword", f"string {EVIL}")
            for b in ("latents", "directions", "neurons", "random latents", "dense")
            for k in ((1, 2) if b != "dense" else (16,))
        ]
        columns = {
            "concept": np.array([r[0] for r in lines], dtype=object),
            "basis": np.array([r[1] for r in lines], dtype=object),
            "members": np.array([r[2] for r in lines]),
        }
        folder.write_table(
            "probes", columns | {c: np.full(len(lines), v) for c, v in (("value", 0.8), ("low", 0.7), ("high", 0.9))}
        )
    if truth:
        label = np.array(["fine"] * (width - 4) + ["dead", "dead", "absorbed", "merged"], dtype=object)
        folder.write_table(
            "truth",
            {
                "label": label,
                "feature": np.arange(width) - 1,
                "cosine": np.full(width, 0.9),
                "f1": np.linspace(1, 0, width),
                "evidence": np.array([f"{v}: because {EVIL}" for v in label], dtype=object),
            },
        )
        folder.write_json("truth", [measurement("f1", 0.7, 0.69, 0.71), measurement("mcc", 0.8)])
    return folder


@pytest.fixture
def dictionaries_run(tmp_path):
    run = Run(tmp_path / "decoded")
    files.write_text(run.path / "config.toml", 'kind = "dictionaries"\n')
    run.write_json(
        "facts",
        {"kind": "dictionaries", "title": f"acts {EVIL}", "commands": [f"digon decode acts {EVIL}", "digon page acts"]},
    )
    dictionary(run, "layers.0.mlp.act.batchtopk-60-l0-4", 4, 0.4, truth=True)
    dictionary(run, "layers.0.mlp.act.batchtopk-60-l0-8", 8, 0.2, truth=True)
    dictionary(run, "layers.0.mlp.act.batchtopk-60-l0-16", 16, 0.1, host=False)
    return run


@pytest.fixture
def make_dictionary():
    return dictionary
