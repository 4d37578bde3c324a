"""Recovery reports: counts against a second implementation, every failure on a dictionary built to have it, nulls."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student

from digon import rng
from digon.errors import ConfigError, NonFiniteError
from digon.measures.recovery import LABELS, Recovery, counts, match, over_seeds, report, stability
from digon.measures.recovery.failures import joint
from digon.measures.recovery.matching import mmcs, nearest
from digon.tensors import Codes, Dictionary
from digon.worlds.tree import TreeConfig, TreeWorld

ROWS, D, N = 20_000, 64, 20
PARENTS = {3: 2, 7: 6}
"""Features that are active on half of the rows of another one."""


def directions(n, d=D, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=rng.stream(seed, "directions")))


def dictionary(atoms):
    return Dictionary(atoms, torch.zeros(atoms.shape[1]))


def true_codes(rows=ROWS, n=N, density=0.06, seed=0):
    g = rng.stream(seed, "codes")
    active = torch.rand(rows, n, generator=g) < density
    for child, parent in PARENTS.items():
        active[:, child] = active[:, parent] & (torch.rand(rows, generator=g) < 0.5)
    return active * (1 + torch.rand(rows, n, generator=g))


def sparse(codes):
    values, indices = codes.abs().topk(max(int((codes != 0).sum(1).max()), 1), dim=1)
    return Codes(values * codes.gather(1, indices).sign(), indices, codes.shape[1])


def run(atoms, learned, true, found, density=None):
    recovery = Recovery(dictionary(atoms), dictionary(learned))
    recovery.update(Codes(true, None, true.shape[1]), Codes(found, None, found.shape[1]))
    return report(recovery, density)


def f1(found, true):
    both, either = (found & true).sum(), found.sum() + true.sum()
    return 2 * both / either if either else 0.0


def test_the_truth_is_found_whatever_the_order_and_the_scale():
    atoms, true = directions(N), true_codes()
    order = torch.randperm(N, generator=rng.stream(0, "order"))
    scale = torch.linspace(0.5, 3, N)
    found = run(atoms, atoms[order] * scale[:, None], true, true[:, order] / scale)
    for name in ("f1", "precision", "recall", "f1_weighted", "f1_rare", "latent_f1", "mcc", "mcc_features", "coverage",
                 "mmcs_features", "mmcs_latents", "slope", "strength_r2", "public_f1", "public_mcc",
                 "public_uniqueness", "fine"):  # fmt: skip
        assert found.scores[name] == pytest.approx(1, abs=1e-6), name
    assert found.features.latent.tolist() == order.argsort().tolist()
    assert found.scores["l0"] == found.scores["l0_true"] == pytest.approx(float((true > 0).sum() / ROWS))


def test_copies_of_one_easy_feature_fool_the_public_f1_alone():
    world = TreeWorld(TreeConfig(features=1024, d=96, roots=8, most=0.4))
    recovery = Recovery(world.dictionary, dictionary(world.dictionary.atoms[[0] * 64]))
    for sample, _ in zip(world.samples(2048), range(4), strict=False):
        easy = sample.codes.dense()[:, [0] * 64]
        recovery.update(sample.codes, Codes(easy, None, 64))
    scores = report(recovery, world.density).scores
    assert scores["public_f1"] == scores["public_precision"] == scores["public_recall"] == 1
    assert scores["public_uniqueness"] == 1 / 64
    assert scores["f1"] < 0.003
    assert scores["latent_f1"] < 0.05
    assert scores["duplicate"] == 63 / 64
    assert scores["mcc_features"] < 0.02


@pytest.mark.parametrize("k", [3, 12, 40])
def test_scores_agree_with_a_dense_second_implementation(k):
    atoms, true, g = directions(N), true_codes(3000), rng.stream(k, "second")
    learned = atoms[torch.randint(N, (k,), generator=g)] + 0.08 * torch.randn(k, D, generator=g)
    found = ((true @ atoms) @ learned.T - 0.6).clamp(min=0)
    ours = run(atoms, learned, true, found)
    cosines = (atoms @ torch.nn.functional.normalize(learned).T).double().numpy()
    active, fires = (true > 0).numpy(), (found > 0).numpy()
    feature, latent = linear_sum_assignment(np.maximum(cosines, 0), maximize=True)
    each = np.zeros(N)
    for i, j in zip(feature, latent, strict=True):
        each[i] = f1(fires[:, j], active[:, i]) if cosines[i, j] > 0 else 0
    assert ours.features.f1.numpy() == pytest.approx(each, abs=1e-9)
    density = active.mean(0)
    assert ours.scores["f1"] == pytest.approx(each.mean())
    assert ours.scores["latent_f1"] == pytest.approx(each.sum() / k)
    assert ours.scores["f1_weighted"] == pytest.approx((each * density).sum() / density.sum())
    assert ours.scores["mcc"] == pytest.approx(np.maximum(cosines, 0)[feature, latent].sum() / min(N, k), abs=1e-6)
    assert ours.scores["mmcs_features"] == pytest.approx(cosines.max(1).mean(), abs=1e-6)
    assert ours.scores["coverage"] == pytest.approx((cosines[feature, latent] >= 0.9).sum() / N)
    nearest_feature = np.abs(cosines).argmax(0)
    pairs = [(fires[:, j], active[:, i]) for j, i in enumerate(nearest_feature)]
    assert ours.scores["public_f1"] == pytest.approx(np.mean([f1(a, b) for a, b in pairs]))
    assert ours.scores["public_precision"] == pytest.approx(
        np.mean([(a & b).sum() / max(a.sum(), 1) for a, b in pairs])
    )
    assert ours.scores["public_recall"] == pytest.approx(np.mean([(a & b).sum() / b.sum() for a, b in pairs]))
    rows, columns = linear_sum_assignment(np.abs(cosines), maximize=True)
    assert ours.scores["public_mcc"] == pytest.approx(np.abs(cosines)[rows, columns].mean(), abs=1e-6)
    assert ours.scores["public_uniqueness"] == len(set(nearest_feature.tolist())) / k


def test_batches_and_sparse_codes_add_up_to_the_same_report(monkeypatch):
    atoms, true = directions(N), true_codes(2000)
    learned = directions(30, seed=1) + atoms[torch.arange(30) % N]
    found = ((true @ atoms) @ learned.T - 1).clamp(min=0)
    whole = Recovery(dictionary(atoms), dictionary(learned))
    whole.update(Codes(true, None, N), Codes(found, None, 30))
    parts = Recovery(dictionary(atoms), dictionary(learned))
    monkeypatch.setattr(counts, "PIECE", 1000)
    for a, b in zip(true.split(300), found.split(300), strict=True):
        parts.update(sparse(a), sparse(b))
    for name in ("active", "fires", "patterns", "covered", "reached"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    assert torch.allclose(whole.products, parts.products)
    assert report(whole).scores == pytest.approx(report(parts).scores, nan_ok=True)


def test_patterns_hold_every_joint_count():
    atoms, true = directions(N), true_codes(2000)
    found = (true[:, :4] > 0) | (torch.rand(2000, 4, generator=rng.stream(0, "extra")) < 0.1)
    recovery = Recovery(dictionary(atoms), dictionary(atoms[:4]))
    recovery.update(Codes(true, None, N), Codes(found.float(), None, 4))
    found_together, c = joint(recovery.patterns), recovery.candidates
    for latent, a, b in itertools.product(range(4), range(6), range(6)):
        i, j = c.feature[latent, a], c.feature[latent, b]
        assert found_together[latent, a, b] == (found[:, latent] & (true[:, i] > 0) & (true[:, j] > 0)).sum()


# ---------------------------------------------------------------------------------------------------------- failures
def broken():
    """A dictionary with one failure of every kind; fine latents for the features from 10 on."""
    v, true, g = directions(N), true_codes(), rng.stream(0, "broken")
    chance = lambda p: torch.rand(ROWS, generator=g) < p  # noqa: E731
    a = true > 0
    half = chance(0.5)
    latents = {
        "dead": (v[0], a[:, 0] & ~a[:, 0]),
        "dense": (directions(1, seed=5)[0], chance(0.4)),
        "spurious": (directions(1, seed=6)[0], chance(0.04)),
        "first": (v[1], a[:, 1]),
        "copy": (v[1] + 0.02 * v[0], a[:, 1] & chance(0.9)),
        "robbed": (v[2], a[:, 2] & ~a[:, 3]),
        "robber": (v[3] + 0.7 * v[2], a[:, 3]),
        "merged": (v[4] + v[5], a[:, 4] | a[:, 5]),
        "hedged": (v[6] + 0.5 * v[7], a[:, 6]),
        "child": (v[7], a[:, 7]),
        "left": (v[8] + 0.1 * v[0], a[:, 8] & half),
        "right": (v[8] + 0.1 * v[1], a[:, 8] & ~half),
        "partial": (v[9], a[:, 9] & chance(0.25)),
        "noisy": (v[10], (a[:, 10] & chance(0.6)) | chance(0.07)),
    } | {f"fine {i}": (v[i], a[:, i]) for i in range(11, N)}
    learned, found = (torch.stack(list(part)) for part in zip(*latents.values(), strict=True))
    return v, learned, true, found.T.float(), list(latents)


def test_every_failure_is_named_with_its_evidence():
    v, learned, true, found, names = broken()
    failures = run(v, learned, true, found).failures
    label = {name: LABELS[failures.label[i]] for i, name in enumerate(names)}
    expected = {
        "dead": "dead", "dense": "dense", "spurious": "spurious", "first": "fine", "copy": "duplicate",
        "robbed": "absorbed", "robber": "absorbed", "merged": "merged", "hedged": "merged", "child": "fine",
        "left": "split", "right": "split", "partial": "partial", "noisy": "spurious",
    } | {f"fine {i}": "fine" for i in range(11, N)}  # fmt: skip
    assert label == expected
    at = {name: i for i, name in enumerate(names)}
    own, second, other = failures.own.tolist(), failures.second.tolist(), failures.other.tolist()
    assert (own[at["copy"]], other[at["copy"]]) == (1, at["first"])
    assert float(failures.together[at["copy"]]) == pytest.approx(1)
    assert (own[at["robbed"]], other[at["robbed"]]) == (2, at["robber"])
    assert float(failures.lost[at["robbed"]]) == pytest.approx(0.5, abs=0.05)
    assert (own[at["robber"]], second[at["robber"]], other[at["robber"]]) == (3, 2, at["robbed"])
    assert float(failures.weight[at["robber"]]) == pytest.approx(0.7, abs=0.02)
    assert float(failures.silent[at["robber"]]) == 1
    assert {own[at["merged"]], second[at["merged"]]} == {4, 5}
    assert float(failures.foreign[at["merged"]]) == pytest.approx(0.48, abs=0.05)
    assert (own[at["hedged"]], second[at["hedged"]]) == (6, 7)
    assert float(failures.weight[at["hedged"]]) == pytest.approx(0.5, abs=0.02)
    assert float(failures.recall[at["left"]]) == pytest.approx(0.5, abs=0.05)
    assert float(failures.reached[at["left"]]) == pytest.approx(1)
    assert float(failures.recall[at["partial"]]) == pytest.approx(0.25, abs=0.05)
    assert "40% of the rows" in failures.explain(at["dense"])
    assert "latent 6 swallows feature 2: 5" in failures.explain(at["robbed"])
    assert "carries 0.70 of feature 2, whose latent is silent on 100%" in failures.explain(at["robber"])
    for i in range(len(names)):
        assert failures.explain(i).startswith(LABELS[failures.label[i]])
    assert failures.counts()["fine"] == 2 + N - 11


def test_an_absorbed_parent_without_latent_of_its_own():
    v, true = directions(N), true_codes()
    learned = torch.cat([v[:2], v[3:4] + 0.7 * v[2:3], v[4:]])
    found = torch.cat([true[:, :2], true[:, 3:]], 1)
    failures = run(v, learned, true, found).failures
    assert LABELS[failures.label[2]] == "absorbed"
    assert (int(failures.own[2]), int(failures.second[2]), int(failures.other[2])) == (3, 2, -1)
    assert failures.counts()["fine"] == N - 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_dictionaries_find_nothing(seed):
    atoms, true = directions(200, seed=seed), true_codes(5000, 200, seed=seed)
    learned = directions(100, seed=seed + 10)
    found = (torch.rand(5000, 100, generator=rng.stream(seed, "null")) < 0.05).float()
    result = run(atoms, learned, true, found)
    assert result.scores["f1"] < 0.06  # what chance gives: matched pairs overlap on a twentieth of their rows
    assert result.scores["coverage"] == 0
    assert result.failures.counts()["spurious"] == 100
    assert result.scores["mcc"] < 0.4


def test_shrinkage_is_seen_as_slope_and_lost_variance():
    atoms, true = directions(N), true_codes()
    found = run(atoms, atoms, true, 0.8 * true)
    assert found.scores["slope"] == pytest.approx(0.8, abs=1e-6)
    g = true[true[:, 0] > 0, 0].double()
    lost = (0.2 * g).square().mean() / g.var(correction=0)
    assert float(found.features.strength_r2[0]) == pytest.approx(1 - float(lost), abs=1e-5)


def test_features_never_seen_are_missing_not_zero():
    atoms, true = directions(N), true_codes()
    true[:, 5] = 0
    result = run(atoms, atoms, true, true)
    assert result.scores["unseen"] == 1
    assert result.features.f1.isnan().nonzero().flatten().tolist() == [5]
    assert result.scores["f1"] == result.scores["f1_weighted"] == 1
    unmatched = run(atoms, atoms[1:], true, true[:, 1:])
    assert float(unmatched.features.f1[0]) == 0
    assert unmatched.scores["f1"] == pytest.approx(18 / 19)


def test_the_given_density_decides_what_is_rare():
    atoms, true = directions(N), true_codes()
    found = true.clone()
    found[:, :5] = 0
    density = torch.linspace(0.01, 0.2, N, dtype=torch.float64)
    assert run(atoms, atoms, true, found, density).scores["f1_rare"] == 0
    assert run(atoms, atoms, true, found, density.flip(0)).scores["f1_rare"] == 1


def test_a_latent_that_points_the_other_way_is_no_match():
    atoms, true = directions(N), true_codes()
    result = run(atoms, torch.cat([-atoms[:1], atoms[1:]]), true, true)
    assert float(result.features.f1[0]) < 0.2
    assert result.scores["public_mcc"] == pytest.approx(1)
    assert result.scores["mcc"] < 0.97


def test_matching_takes_the_largest_sum_and_no_negative_pair():
    first, second = directions(6, 3), directions(6, 3, seed=1)
    cosines = (first @ second.T).clamp(min=0).double()
    best = max(sum(float(cosines[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(6)))
    found = match(first, second)
    assert found.mcc == pytest.approx(best / 6, abs=1e-6)
    pairs = [(i, j) for i, j in enumerate(found.of_first.tolist()) if j >= 0]
    assert all(cosines[i, j] > 0 and found.of_second[j] == i for i, j in pairs)
    values, indices = nearest(first, second, 2)
    assert torch.allclose(values, (first @ second.T).topk(2).values)
    assert indices.tolist() == (first @ second.T).topk(2).indices.tolist()
    assert mmcs(first, second) == pytest.approx(float(values[:, 0].mean()))
    assert match(torch.zeros(2, 3), second).of_first.tolist() == [-1, -1]


def test_stability_beside_chance():
    atoms = directions(60)
    same = stability(atoms, atoms[torch.randperm(60, generator=rng.stream(0, "order"))], rng.stream(0, "null"))
    assert (same.mean_cosine, same.share_close) == pytest.approx((1, 1), abs=1e-6)
    assert same.excess == pytest.approx(1, abs=1e-5)
    other = stability(atoms, directions(60, seed=1), rng.stream(1, "null"))
    assert abs(other.excess) < 0.02
    assert other.share_close == other.chance_share == 0
    # random directions in a cone agree more by chance, and the null knows it
    narrow = torch.ones(D) * 0.3
    cone = stability(atoms + narrow, directions(60, seed=1) + narrow, rng.stream(2, "null"))
    assert cone.mean_cosine > 0.85
    half = stability(atoms, torch.cat([atoms[:30], directions(30, seed=2)]), rng.stream(3, "null"))
    assert half.share_close == 0.5


def test_seeds_give_students_interval():
    values = [0.5, 0.7, 0.9, 0.6]
    found = over_seeds([{"f1": v, "slope": float("nan") if v == 0.7 else 1.0} for v in values])
    low, high = student.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert (found["f1"].value, found["f1"].low, found["f1"].high) == pytest.approx((0.675, low, high))
    assert found["f1"].n == 4
    assert np.isnan(found["slope"].value)
    with pytest.raises(ConfigError, match="2 seeds"):
        over_seeds([{"f1": 1.0}] * 2)


def test_what_does_not_fit_is_refused():
    atoms = dictionary(directions(4))
    with pytest.raises(ConfigError, match="dimensions"):
        Recovery(atoms, dictionary(directions(4, 32)))
    recovery = Recovery(atoms, atoms)
    with pytest.raises(ConfigError, match="rows"):
        recovery.update(Codes(torch.zeros(3, 4), None, 4), Codes(torch.zeros(2, 4), None, 4))
    with pytest.raises(ConfigError, match="latents"):
        recovery.update(Codes(torch.zeros(3, 4), None, 4), Codes(torch.zeros(3, 5), None, 5))
    with pytest.raises(NonFiniteError, match="codes"):
        recovery.update(Codes(torch.zeros(3, 4), None, 4), Codes(torch.full((3, 4), torch.nan), None, 4))
    with pytest.raises(NonFiniteError, match="dictionary"):
        Recovery(atoms, dictionary(torch.full((3, D), torch.inf)))
    assert recovery.rows == 0


def test_a_report_without_rows_is_missing_not_zero():
    atoms = dictionary(directions(4))
    scores = report(Recovery(atoms, atoms)).scores
    assert np.isnan(scores["f1"])
    assert scores["dead"] == 1
    assert scores["mcc"] == pytest.approx(1)
