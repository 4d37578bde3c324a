"""The ladder: what is trained, how it is read, slopes and taxes against known truth, and a killed run that goes on."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from digon import rng
from digon.cli import main
from digon.errors import ConfigError
from digon.explain import scorers
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import LookUp, Patterns, base
from digon.hosts import taps
from digon.hosts.load import load_host
from digon.hosts.tinylm import TinyLMConfig
from digon.records import Claim, Figure, Measurement
from digon.store.runs import Run
from digon.studies.ladder import analysis, measure, plan, published, report, scores
from digon.studies.ladder.analysis import DRAWS, Stat
from digon.studies.ladder.study import run_ladder
from digon.studies.settings import LadderStudy

WORDS = [f"{a}{b}" for a in ("al", "be", "ga", "del") for b in ("pha", "ta", "mma", "lon", "psi")]
SMALL = replace(
    plan.TIERS["smoke"], widths=((8, 1), (12, 1)), depths=(1, 2), depth_width=8, densities=(1.0, 0.1),
    recipe=replace(plan.TIERS["smoke"].recipe, tokenizer_bytes=5000, evaluation_bytes=3000),
    look=replace(plan.TIERS["smoke"].look, tokens=2500, units=3, taken_apart=1, judged=6, rows=600),
)  # fmt: skip
TINY = replace(SMALL, widths=((8, 1),), depths=(1,), densities=(1.0,))


def stat(value, noise=0.0, seed=0):
    return Stat(value, value + noise * np.random.default_rng(seed).standard_normal(DRAWS))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder-texts")
    for n in range(80):
        draw = np.random.default_rng(n)
        (folder / f"{n:03d}.txt").write_text(f"text {n} " + " ".join(draw.choice(WORDS, 60)))
    return folder


# ---- what is trained


def test_the_default_ladder_trains_every_network_once_on_the_same_tokens():
    found = plan.subjects(plan.TIERS["default"], 3, None)
    assert len({s.key for s in found}) == len({s.name for s in found}) == len(found) == 43
    assert (
        len({(s.recipe.seed, s.recipe.steps, s.recipe.batch, s.shape.context, s.shape.vocabulary) for s in found}) == 1
    )
    grid = {(s.base, s.density) for s in found if "sparsity" in s.parts}
    assert grid == {(b, d) for b in ("gelu", "relu") for d in plan.DENSITIES} | {("solu", 1.0)}
    assert [s.name for s in found if len(s.parts) == 2] == [f"w96-l3-m384-gelu-s{seed}" for seed in range(3)]
    kept = {s.density: max(1, round(s.density * s.shape.mlp_width)) for s in found if "sparsity" in s.parts}
    assert kept == {1.0: 1024, 0.1: 102, 0.01: 10, 0.001: 1}


def test_sparse_networks_are_read_dense_and_dense_ones_sparse():
    found = plan.readings(plan.subjects(plan.TIERS["default"], 3, None))
    assert len({r.key for r in found}) == len(found)
    changed = {(r.subject.base, r.subject.density, r.density) for r in found if not r.own}
    sparse = (0.1, 0.01, 0.001)
    assert changed == {(b, *pair) for b in ("gelu", "relu") for d in sparse for pair in ((1.0, d), (d, 1.0))}


# ---- scores


@pytest.fixture(scope="module")
def world():
    """60 documents of 100 tokens out of 12; the first unit is a token, the others are noise."""
    n, documents = 6000, torch.arange(6000) // 100
    tokens = torch.randint(12, (n,), generator=rng.stream(0, "tokens"))
    positions = torch.arange(n) % 100
    names = [f"document {i}" for i in range(60)]
    noise = torch.randn(n, 24, generator=rng.stream(0, "noise"))
    values = torch.cat([(tokens == 3).float()[:, None], noise], 1)
    contexts = Contexts.of(tokens, documents, positions, 12)
    return values, contexts, Excerpts.of(documents, positions, names), names


def test_a_token_is_explained_and_noise_is_at_chance(world):
    values, contexts, excerpts, names = world
    drawn = scores.weights(names, 0)
    token, noise = (
        scores.layer_scores(some, scores.explanations(some, contexts, excerpts), contexts, excerpts, drawn, 0)
        for some in (values[:, :1], values[:, 1:])
    )
    for explainer in ("lookup", "ngrams"):
        for score in ("top_and_random", "random_only", "population"):
            assert token[f"{explainer}_{score}"].value == pytest.approx(1, abs=1e-6)
        assert token[f"{explainer}_above_null"].value == 1
        assert abs(token[f"{explainer}_null"].value) < 0.1
    assert token["short_bits"].value == pytest.approx(8 + base.integer_bits(6) + 5 * base.pattern_bits(1, 12), rel=1e-6)
    assert abs(noise["lookup_random_only"].value) < 0.05
    assert noise["lookup_above_null"].value <= 0.3
    low, high = np.nanquantile(noise["lookup_random_only"].draws, [0.025, 0.975])
    assert low <= 0 <= high
    silent = scores.layer_scores(
        values[:, :1] * 0, {"lookup": [Patterns("x", 0.0, (), 12)]}, contexts, excerpts, drawn, 0
    )
    assert math.isnan(silent["lookup_top_and_random"].value)
    mute = scores.layer_scores(values[:, :1], {"lookup": [Patterns("x", 0.5, (), 12)]}, contexts, excerpts, drawn, 0)
    assert mute["lookup_top_and_random"].value == mute["lookup_above_null"].value == 0


def test_without_documents_to_judge_on_there_is_no_score(world):
    values, contexts, excerpts, names = world
    splits = torch.where(excerpts.in_split("test"), 0, excerpts.splits)
    seen = Excerpts(excerpts.starts, excerpts.lengths, excerpts.documents, splits, names)
    some = values[:, :2]
    found = scores.layer_scores(
        some, scores.explanations(some, contexts, seen), contexts, seen, scores.weights(names, 0), 0
    )
    for name in ("lookup_top_and_random", "lookup_random_only", "lookup_population", "lookup_above_null"):
        assert math.isnan(found[name].value)
        assert found[name].n == 0
    assert found["lookup_scored"].value == 0
    assert found["lookup_bits"].value > 0


def test_a_token_is_one_kind_of_context_and_noise_is_none(world):
    values, contexts, excerpts, _ = world
    some = values[:, :4]
    explained = scores.explanations(some, contexts, excerpts)["ngrams"]
    token, *noise = scores.effective_numbers(some, explained, contexts, excerpts, 0).tolist()
    assert token == pytest.approx(1, abs=0.05)
    assert sum(math.isnan(n) for n in noise) >= 2


def test_scores_are_those_of_the_scorers(world):
    values, contexts, excerpts, names = world
    mixed = values[:, 0] + 0.5 * values[:, 1]
    explained = scores.explanations(mixed[:, None], contexts, excerpts)
    ours = scores.layer_scores(mixed[:, None], explained, contexts, excerpts, scores.weights(names, 0), 0)
    draw = rng.stream(0, "ladder", 0)
    chosen = scorers.scoring_set(excerpts, excerpts.maxima(mixed[:, None])[:, 0], draw)
    fit, select = excerpts.row_split("fit"), excerpts.row_split("select")
    simulated = LookUp().fit(contexts, mixed, fit, select).simulate(contexts)
    theirs = scorers.score(mixed, simulated, excerpts, chosen, draw)
    assert ours["lookup_top_and_random"].value == pytest.approx(theirs.top_and_random.value, abs=1e-6)
    assert ours["lookup_random_only"].value == pytest.approx(theirs.random_only.value, abs=1e-6)
    # the same resampling of documents, drawn otherwise: intervals of like width (one unit: no resampling of units)
    low, high = np.quantile(ours["lookup_random_only"].draws, [0.025, 0.975])
    assert (high - low) / (theirs.random_only.high - theirs.random_only.low) == pytest.approx(1, abs=0.35)


def test_documents_have_the_same_weights_everywhere():
    one, two = scores.weights(["a", "b", "c"], 0), scores.weights(["c", "a"], 0)
    assert torch.equal(one[:, [2, 0]], two)
    assert one.mean() == pytest.approx(1, abs=0.15)
    assert not torch.equal(one[:, 0], one[:, 1])


def test_means_leave_out_what_is_not_known():
    found = scores.mean_of(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([[1.0, 9.0, 3.0]]).expand(400, 3), 0)
    assert (found.value, found.n) == (2.0, 2)
    assert set(np.asarray(found.draws)[np.isfinite(found.draws)]) <= {1.0, 1.66667, 2.0, 2.33333, 3.0}
    assert math.isnan(scores.mean_of(torch.tensor([math.nan]), torch.zeros(3, 1), 0).value)


# ---- slopes and taxes


def test_slope_is_that_of_least_squares_in_every_draw():
    x, y = [0.0, 1.0, 2.5, 4.0], [stat(v, 0.1, i) for i, v in enumerate((1.0, 0.5, 2.0, -1.0))]
    found = analysis.slope(x, y)
    assert found.value == pytest.approx(np.polyfit(x, [s.value for s in y], 1)[0])
    assert found.draws[7] == pytest.approx(np.polyfit(x, [s.draws[7] for s in y], 1)[0])
    assert math.isnan(analysis.slope([1.0, 1.0], y[:2]).value)
    assert analysis.slope([*x, 9.0], [*y, Stat(math.nan, np.full(DRAWS, math.nan))]).value == found.value


def test_intervals_over_seeds_are_as_wide_as_the_mean_is_uncertain():
    draw = np.random.default_rng(0)
    values, wide = draw.standard_normal((400, 3)), []
    for row in values:
        wide.append(np.var(analysis.over_seeds([stat(float(v)) for v in row]).draws))
    assert np.mean(wide) == pytest.approx(1 / 3, rel=0.15)  # the variance of a mean of three
    same = [analysis.over_seeds([stat(v), stat(v + 1), stat(v + 5)]) for v in (0.0, 7.0)]
    assert np.std((same[1] - same[0]).draws) == pytest.approx(0)  # seeds are paired between rungs


def net(width, loss, **more):
    spread = 0.01 * np.random.default_rng(width).standard_normal(DRAWS)
    record = {
        "width": width, "mlp_width": 4 * width, "seed": 0, "base": "gelu", "trained": 1.0, "read": 1.0, "parts": ["sizes"],
        "parameters": width, "name": f"w{width}", "loss": {"value": loss, "draws": [loss + d for d in spread], "n": 1},
    }  # fmt: skip
    return {"layers": [{"means": {}, "dead": 0.0}]} | record | more


def test_tax_is_what_size_would_have_to_make_up_for():
    # 0.2 nats per doubling; sparsity costs 0.1, so half a doubling
    rungs = [net(2**k, 5 - 0.2 * k) for k in (10, 11, 13)]
    grid = [net(64, loss, trained=d, read=d, parts=["sparsity"]) for d, loss in ((1.0, 3.0), (0.1, 3.1), (0.01, 2.8))]
    found = analysis.ladder([*rungs, *grid, {"error": "it failed"}])
    assert found.per_doubling.value == pytest.approx(0.2)
    assert found.tax(["gelu"], 0.1).value == pytest.approx(2**0.5 - 1)
    assert found.tax(["gelu", "relu"], 0.01).value == pytest.approx(0.5 - 1)
    assert math.isnan(found.tax(["relu"], 0.1).value)


def test_a_direction_needs_an_interval_on_one_side():
    flat = analysis.ladder([net(2**k, 5.0) for k in (10, 11, 13)])
    claim = next(c for c in published.claims(flat) if c.id == "C1")
    assert (claim.verdict, claim.measured) == ("not reached", pytest.approx(0))
    up = analysis.ladder([net(2**k, 5.0 + k) for k in (10, 11, 13)])
    assert next(c for c in published.claims(up) if c.id == "C1").verdict == "differs"


# ---- networks


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder-models")
    found = [s for s in plan.subjects(SMALL, 1, str(texts)) if "sparsity" in s.parts and s.base == "relu"]
    for subject in found:
        measure.train_subject(subject, folder)
    return {s.density: s for s in found}, folder


def test_a_network_read_sparse_is_the_network_with_its_small_neurons_cut(trained):
    subjects, folder = trained
    host, cut = load_host(folder / subjects[1.0].name), measure._host(plan.Reading(subjects[1.0], 0.1), folder)
    ids = torch.arange(2, 14)[None]

    def largest(values):
        k = round(0.1 * values.shape[-1])
        return values * (values >= values.topk(k, -1).values[..., -1:])

    edits = {site: taps.replace(largest) for site in host.sites("layers.*.mlp.act")}
    with taps.edited(host.model, edits):
        expected = host.forward(ids)
    torch.testing.assert_close(cut.forward(ids), expected)
    assert not torch.allclose(host.forward(ids), expected)


def test_reading_finds_how_sparse_the_units_are(trained):
    subjects, folder = trained
    own, dense = (measure.read(plan.Reading(subjects[0.1], d), folder) for d in (0.1, 1.0))
    width = subjects[0.1].shape.mlp_width
    layer = own["layers"][0]
    living = (1 - layer["dead"]) * width
    assert layer["means"]["density"]["value"] * living <= 1.5 * round(0.1 * width) * width / SMALL.look.units
    assert dense["layers"][0]["means"]["density"]["value"] > layer["means"]["density"]["value"]
    assert "causes" in layer
    assert "causes" not in dense["layers"][0]
    assert own["parameters"] == sum(p.numel() for p in load_host(folder / subjects[0.1].name).model.parameters())
    assert len(own["loss"]["draws"]) == DRAWS
    assert 1 < own["loss"]["value"] < math.log(300) + 0.5  # hardly trained: about as good as guessing


# ---- the whole


class Killed(BaseException):
    """As a signal would: nothing on the way may catch it."""


def tables(out):
    run = Run.open(out)
    return (
        run.read_table("layers"),
        run.read_json("measurements", list[Measurement]),
        run.read_json("claims", list[Claim]),
    )


def test_killed_and_resumed_gives_equal_tables(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(plan.TIERS, "smoke", TINY)
    config = LadderStudy(size="smoke", seeds=1, data=str(texts), workers=0)
    whole = run_ladder(config, tmp_path / "whole")
    assert whole["failed"] == []

    kills = iter(
        [("_nobody", 5), ("_nobody", 20), ("_alike", 2)]
    )  # in the first network, in a later one, while reading
    for where, after in kills:
        with monkeypatch.context() as patch:
            seen, before = SimpleNamespace(count=0), getattr(measure, where)

            def die(*given, seen=seen, before=before, after=after):
                seen.count += 1
                if seen.count > after:
                    raise Killed
                return before(*given)

            patch.setattr(measure, where, die)
            with pytest.raises(Killed):
                run_ladder(config, tmp_path / "killed")
    run_ladder(config, tmp_path / "killed")
    (table, numbers, claims), (again, numbers2, claims2) = tables(tmp_path / "whole"), tables(tmp_path / "killed")
    assert table.keys() == again.keys()
    for name in table:
        np.testing.assert_array_equal(table[name], again[name])
    assert str(numbers) == str(numbers2)
    assert str(claims) == str(claims2)
    assert len(table["name"]) == len(table["layer"]) == 5


def test_the_verb_writes_report_pictures_and_page(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(plan.TIERS, "smoke", replace(TINY, widths=()))
    words = ["study", "ladder", "--size", "smoke", "--seeds", "1", "--workers", "0", "--data", str(texts)]
    target = tmp_path / "doc" / "ladder.md"
    assert main([*words, "--out", str(tmp_path / "run"), "--report", str(target), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    text = target.read_text()
    assert "| C1 |" in text
    assert "digon study ladder --size smoke --seeds 1" in text
    for figure in Run.open(tmp_path / "run").read_json("studies/ladder.figures", list[Figure]):
        assert f"]({figure.id}.svg)" in text
        assert (target.parent / f"{figure.id}.svg").is_file()
    assert (tmp_path / "run" / "page.html").is_file()
    assert result["failed"] == []


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"workers": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        LadderStudy(**wrong)


def test_a_report_is_markdown_and_a_folder_holds_one_ladder(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.md"):
        run_ladder(LadderStudy(), tmp_path / "run", tmp_path / "report.txt")
    Run.create(tmp_path / "run", LadderStudy(seeds=2).settled)
    with pytest.raises(ConfigError, match="other settings"):
        run_ladder(LadderStudy(), tmp_path / "run")


def test_the_published_numbers_give_the_published_slopes():
    assert published.per_decade("top_and_random") == pytest.approx(-0.015, abs=5e-4)
    assert published.per_decade("random_only") == pytest.approx(-0.018, abs=5e-4)
    assert [round(published.tax(d), 2) for d in (0.1, 0.01)] == [0.09, 0.41]
    assert report.setting(plan.TIERS["default"]).count("819,200 tokens") == 1
    assert isinstance(plan.TIERS["default"].shape, TinyLMConfig)


def test_what_could_not_be_measured_has_no_direction():
    known = Claim("L1", "s", "p", "published", -1.0, math.nan, -2.0, -3.0, -1.0, 0.0, "holds")
    missing = replace(known, measured=math.nan, low=math.nan, high=math.nan, verdict="not reached")
    assert [report.told(c) for c in (known, missing)] == ["same direction", "not measured"]
    assert report.tally([known, missing]).endswith("0 no clear direction, 1 not measured")
    assert "not measured" not in report.tally([known])
