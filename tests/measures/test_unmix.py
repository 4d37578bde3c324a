"""The unmixing against scikit-learn's, on mixtures whose directions are known, and what independence alone looks like."""

import pytest
import torch
from sklearn.decomposition import FastICA

from digon import rng
from digon.errors import ConfigError
from digon.measures.basis import dependence_of
from digon.measures.blocks import blocks_of
from digon.measures.unmix import GAUSSIAN_LOG_COSH, fast_ica, held_out, shifted, unfit_to_unmix, unmix, whitening
from digon.worlds import causes


def nearest(directions, atoms):
    """|cos| of every atom with the direction nearest to it."""
    return (torch.nn.functional.normalize(directions, dim=1) @ atoms.T).abs().amax(0)


def parts_of(world, seed):
    return unmix(world.activations.values, world.activations.documents, rng.stream(seed, "unmix"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("basis", ["haar", "oblique"])
def test_as_good_as_scikit_learn(basis, seed):
    world = causes.rotated(12_000, 16, seed, basis=basis)
    ours = parts_of(world, seed)
    rows = world.activations.values[ours.fit].numpy()
    theirs = FastICA(16, whiten="unit-variance", max_iter=500, random_state=seed).fit(rows).mixing_.T
    mine, other = (nearest(torch.as_tensor(m).float(), world.truth.atoms) for m in (ours.mixing, theirs))
    assert mine.min() > 0.99
    assert mine.mean() > other.mean() - 1e-3
    assert ours.converged


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_white_and_lead_back(seed):
    world = causes.rotated(8000, 8, seed)
    found = parts_of(world, seed)
    h = world.activations.values
    parts = found.transform(h)
    fitted = parts[found.fit]
    torch.testing.assert_close(fitted.T @ fitted / len(fitted), torch.eye(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(parts @ found.mixing + found.mean, h, atol=1e-4, rtol=1e-3)
    assert not (found.fit & found.rest).any()
    documents = world.activations.documents
    assert not set(documents[found.fit].tolist()) & set(documents[found.rest].tolist())


def test_the_rank_is_kept_and_nothing_else():
    h = causes.rotated(8000, 8, 0).activations.values
    full = torch.cat([h, h[:, :2], torch.full((8000, 1), 3.0), h[:, :1] - 2 * h[:, 1:2]], 1)
    found = unmix(full, None, rng.stream(0, "rank"))
    assert len(found) == 8
    torch.testing.assert_close(found.transform(full) @ found.mixing + found.mean, full, atol=1e-4, rtol=1e-3)
    assert not found.by_document
    few = causes.rotated(8000, 12, 0, n=5)
    assert len(parts_of(few, 0)) == 5


def test_alignment_is_one_for_neurons():
    assert parts_of(causes.monosemantic(8000, 8, 0), 0).alignment > 0.99
    assert parts_of(causes.rotated(8000, 8, 0), 0).alignment < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_models_are_independent_with_the_same_parts(seed):
    world = causes.superposition(8000, 6, seed)
    found = parts_of(world, seed)
    parts = held_out(world.activations.values, found, rng.stream(seed, "models"))
    assert len(parts.models) == 3
    energies = [torch.corrcoef(x.square().T).fill_diagonal_(0).abs().max() for x in (parts.values, *parts.models)]
    assert energies[0] > 2 * max(energies[1:])
    kurtosis = [(x.pow(4).mean(0) / x.square().mean(0).square()).sort().values for x in (parts.values, *parts.models)]
    for model in kurtosis[1:]:
        torch.testing.assert_close(model, kurtosis[0], rtol=0.3, atol=0.5)


def test_shifts_keep_columns_and_separate_rows():
    x = torch.arange(40.0)[:, None].expand(40, 8).contiguous()
    moved = shifted(x, rng.stream(0, "shift"))
    assert (moved.sort(0).values == x).all()
    steps = (moved[1:] - moved[:-1]).remainder(40)
    assert (steps == 1).all()
    assert len(moved[0].unique()) == 8
    both = shifted(torch.stack([x, -x]), rng.stream(0, "shift"))
    torch.testing.assert_close(both[0], -both[1])


def test_whitening_against_the_covariance():
    g = rng.stream(0, "white")
    x = torch.randn(5000, 5, generator=g) @ torch.randn(5, 5, generator=g) + 7
    mean, deviation, into, back = whitening(x)
    z = (x - mean) @ into
    torch.testing.assert_close(z.T @ z / 5000, torch.eye(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(z @ back + mean, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deviation, x.std(0, correction=0))


def test_a_start_is_refined_and_one_dimension_needs_no_search():
    world = causes.rotated(8000, 6, 0)
    mean, _, into, back = whitening(world.activations.values)
    z = (world.activations.values - mean) @ into
    turn, settled, _ = fast_ica(z, rng.stream(0, "start"), start=torch.eye(6))
    assert settled
    torch.testing.assert_close(turn @ turn.T, torch.eye(6), atol=1e-4, rtol=0)
    assert nearest(turn @ back, world.truth.atoms).min() > 0.99
    assert torch.equal(fast_ica(z[:, :1], rng.stream(0, "one"))[0], torch.ones(1, 1))


def test_the_constant_of_a_gaussian():
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    law = torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5
    assert float(torch.trapezoid(x.cosh().log() * law, x)) == pytest.approx(GAUSSIAN_LOG_COSH, abs=1e-7)


def test_wide_data_takes_one_start_and_few_steps(monkeypatch):
    monkeypatch.setattr("digon.measures.unmix.WIDE", 10)
    world = causes.rotated(12_000, 16, 0)
    found = parts_of(world, 0)
    assert found.steps <= 30
    assert (nearest(found.mixing, world.truth.atoms) > 0.95).double().mean() > 0.9
    assert len(held_out(world.activations.values, found, rng.stream(0, "m")).models) == 1


def test_reasons_not_to_unmix():
    g = rng.stream(0, "unfit")
    assert unfit_to_unmix(torch.randn(1000, 4, generator=g)) is None
    assert "too few" in str(unfit_to_unmix(torch.randn(100, 4, generator=g)))
    assert "NaN" in str(unfit_to_unmix(torch.full((10, 2), torch.nan)))
    assert "1 of 3 units vary" in str(unfit_to_unmix(torch.eye(3)[:1] * torch.randn(900, 1, generator=g)))
    assert "no rows" in str(unfit_to_unmix(torch.zeros(0, 3)))
    with pytest.raises(ConfigError, match="varies"):
        unmix(torch.ones(100, 3), None, g)
    with pytest.raises(ConfigError, match="dimensions to fit on"):
        unmix(torch.randn(30, 20, generator=g), None, g)


@pytest.mark.parametrize("seed", range(3))
def test_threads_change_no_bit(seed):
    h = causes.rotated(8000, 8, seed).activations
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        unmixing = unmix(h.values, h.documents, rng.stream(seed, "unmix"))
        parts = held_out(h.values, unmixing, rng.stream(seed, "models"))
        dependence = dependence_of(unmixing, parts, rng.stream(seed, "dependence"), permutations=9)
        blocks = blocks_of(parts, rng.stream(seed, "blocks"), permutations=9)
        assert torch.get_num_threads() == threads
        found.append((unmixing.components, *parts.models, dependence.kurtosis, blocks.correlations,
                      torch.tensor([dependence.ratio, dependence.reference, dependence.p, blocks.threshold])))  # fmt: skip
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_rounding_does_not_choose_among_starts_that_found_the_same(seed):
    world = causes.rotated(8000, 8, seed)
    rows = whitening(world.activations.values)
    z = (world.activations.values - rows[0]) @ rows[2]
    first = fast_ica(z, rng.stream(seed, "starts"))[0]
    for k in range(3):
        noise = 1e-6 * torch.randn(z.shape, generator=rng.stream(k, "rounding"))
        again = fast_ica(z + noise, rng.stream(seed, "starts"))[0]
        assert (first * again).sum(1).min() > 0.999  # in the same order, of the same signs


def test_same_generator_same_parts():
    world = causes.rotated(4000, 6, 0)
    assert torch.equal(parts_of(world, 3).components, parts_of(world, 3).components)
