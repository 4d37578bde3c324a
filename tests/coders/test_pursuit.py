import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Lasso, orthogonal_mp

from digon import rng
from digon.coders import pursuit
from digon.coders.base import Coder, evaluate
from digon.coders.pursuit import equality, greedy, pieces, shrinkage
from digon.errors import ConfigError, NonFiniteError
from digon.measures.bounds import coherence_sparsity
from digon.tensors import Codes, Dictionary
from digon.worlds import causes

F = torch.nn.functional


def dictionary(k, d, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(k, d, generator=rng.stream(seed, "atoms"), dtype=dtype), dim=1)


def rows(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=rng.stream(seed, "rows"), dtype=dtype)


def sparse_codes(n, k, active, seed, signed=False):
    g = rng.stream(seed, "codes")
    values = 0.5 + torch.rand(n, active, generator=g, dtype=torch.float64)
    if signed:
        values *= 2 * torch.randint(0, 2, values.shape, generator=g) - 1
    where = torch.rand(n, k, generator=g).argsort(1)[:, :active]
    return torch.zeros(n, k, dtype=torch.float64).scatter_(1, where, values)


def incoherent(d):
    """The neuron basis and a Hadamard basis: μ = 1/√d, the least that 2 d atoms can have of this kind."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < d:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return torch.cat([torch.eye(d, dtype=torch.float64), h / d**0.5])


# ------------------------------------------------------------------------------------------- against other code
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize("seed", range(3))
def test_orthogonal_pursuit_is_scikit_learns(seed, dtype, close):
    A, x = dictionary(120, 40, seed, dtype), rows(100, 40, seed, dtype)
    codes = greedy.orthogonal_matching_pursuit(x, A, 8, positive=False).dense()
    known = orthogonal_mp(A.double().T.numpy(), x.double().T.numpy(), n_nonzero_coefs=8).T
    np.testing.assert_allclose(codes.double().numpy(), known, atol=close)


@pytest.mark.parametrize("seed", range(3))
def test_non_negative_pursuit_with_all_atoms_is_non_negative_least_squares(seed):
    A, x = dictionary(60, 40, seed), rows(60, 40, seed)
    codes = greedy.orthogonal_matching_pursuit(x, A, 60).dense().numpy()
    known = np.stack([nnls(A.T.numpy(), row.numpy())[0] for row in x])
    np.testing.assert_allclose(codes, known, atol=1e-10)


def test_matching_pursuit_step_by_step():
    A, x = dictionary(30, 12), rows(20, 12)
    for positive in (True, False):
        codes, residual = torch.zeros(20, 30, dtype=torch.float64), x.clone()
        for _ in range(9):
            inner = residual @ A.T
            best = (inner if positive else inner.abs()).argmax(1)
            amount = inner[torch.arange(20), best]
            amount = amount.clamp(min=0) if positive else amount
            codes[torch.arange(20), best] += amount
            residual -= amount[:, None] * A[best]
        found = greedy.matching_pursuit(x, A, 9, positive=positive)
        torch.testing.assert_close(found.dense(), codes)
        # a step may return to an atom; its code is one number all the same
        assert torch.equal((found.values != 0).sum(1), (found.dense() != 0).sum(1))


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("k", "d"), [(120, 40), (30, 20)])
def test_lasso_is_scikit_learns(positive, k, d):
    A, x, penalty = dictionary(k, d), rows(25, d), 0.3
    found = shrinkage.lasso(x, A, penalty, positive=positive, tolerance=1e-12)
    model = Lasso(penalty / d, positive=positive, fit_intercept=False, tol=1e-10, max_iter=100_000)
    known = np.stack([model.fit(A.T.numpy(), row.numpy()).coef_ for row in x])
    np.testing.assert_allclose(found.codes.dense().numpy(), known, atol=1e-6)
    assert float(found.gap.max()) <= 1e-12


@pytest.mark.parametrize("positive", [True, False])
def test_the_gap_bounds_the_distance_from_the_best(positive):
    A, x, penalty = dictionary(80, 30), rows(40, 30), 0.2

    def objective(codes):
        c = codes.dense()
        return 0.5 * (x - c @ A).square().sum(1) + penalty * c.abs().sum(1)

    best = objective(shrinkage.lasso(x, A, penalty, positive=positive, tolerance=1e-13).codes)
    scale = 0.5 * x.square().sum(1)
    for steps in (10, 40):
        rough = shrinkage.lasso(x, A, penalty, positive=positive, tolerance=1e-9, steps=steps)
        excess = (objective(rough.codes) - best) / scale
        assert (excess <= rough.gap + 1e-12).all()
        assert float(rough.gap.max()) > 1e-6


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("d", "active"), [(30, 5), (30, 16), (50, 25)])
def test_basis_pursuit_is_the_linear_program(positive, d, active):
    A = torch.randn(60, d, generator=rng.stream(d, "A"), dtype=torch.float64)
    x = sparse_codes(15, 60, active, active, signed=not positive) @ A
    found, known = (f(x, A, positive=positive) for f in (equality.basis_pursuit, equality.linear_program))
    assert found.solved.all()
    assert known.solved.all()
    ours, theirs = found.codes.dense(), known.codes.dense()
    torch.testing.assert_close(ours @ A, x, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.abs().sum(1), theirs.abs().sum(1), rtol=1e-7, atol=0)
    assert float((ours - theirs).abs().amax(1).median()) < 1e-6  # a program may have two solutions that are as good
    assert int((ours != 0).sum(1).amax()) <= d


# --------------------------------------------------------------------------------------- where recovery is certain
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_all_decoders_but_matching_pursuit_find_every_code_below_the_coherence_bound(seed, signed):
    A = incoherent(64)
    inner = (A @ A.T).fill_diagonal_(0)
    active = int(np.ceil(coherence_sparsity(float(inner.abs().max()))) - 1)
    assert active == 4  # (1 + 8)/2 = 4.5
    truth = sparse_codes(200, 128, active, seed, signed)
    known, x = Dictionary(A, torch.full((64,), 0.3, dtype=torch.float64)), truth @ A + 0.3
    exact = (
        pursuit.orthogonal(known, active, positive=not signed),
        pursuit.basis_pursuit(known, positive=not signed),
    )
    for coder in exact:
        torch.testing.assert_close(coder.encode(x).dense(), truth, atol=1e-6, rtol=0)
        assert evaluate(coder, x.split(64)).fvu < 1e-12
    support = pursuit.lasso(known, 0.01, positive=not signed).encode(x).dense()
    assert torch.equal(support.abs() > 0.1, truth != 0)
    # matching pursuit gets there step by step: the residual shrinks geometrically
    some = [evaluate(pursuit.matching(known, steps, positive=False), x.split(64)).fvu for steps in (4, 16, 64)]
    assert some[1] < 0.05 * some[0]
    assert some[2] < 1e-4 * some[1]


@pytest.mark.parametrize("seed", range(3))
def test_worlds_of_known_directions_are_decoded(seed):
    world = causes.superposition(800, 24, seed, load=2.0, active=2.0)
    x, truth = world.activations.values, world.truth
    known = Dictionary(truth.atoms, torch.zeros(24))
    few = (truth.features != 0).sum(1) <= 3
    for coder, error in ((pursuit.orthogonal(known, 6, tolerance=1e-4), 0.15), (pursuit.basis_pursuit(known), 1e-3)):
        assert isinstance(coder, Coder)
        codes = coder.encode(x).dense()
        assert evaluate(coder, x.split(300)).fvu < 0.02
        missed = (codes - truth.features)[few].square().sum() / truth.features[few].square().sum()
        assert float(missed) < error


@pytest.mark.parametrize("seed", range(3))
def test_a_dictionary_of_other_directions_explains_little(seed):
    """The null: as many random atoms as features, as many codes."""
    world = causes.superposition(2000, 48, seed, load=1.5, active=2.0)
    x, l0 = world.activations.values, 4
    true, other = (
        Dictionary(world.truth.atoms, torch.zeros(48)),
        Dictionary(dictionary(72, 48, seed).float(), torch.zeros(48)),
    )
    right, wrong = (evaluate(pursuit.orthogonal(each, l0), x.split(500)).fvu for each in (true, other))
    assert right < 0.05
    assert wrong > 0.4


# ----------------------------------------------------------------------------------------------------- invariances
@pytest.mark.parametrize("make", [
    lambda a: pursuit.matching(a, 5), lambda a: pursuit.orthogonal(a, 5), lambda a: pursuit.lasso(a, 0.2, tolerance=1e-13),
    lambda a: pursuit.orthogonal(a, 5, positive=False), lambda a: pursuit.basis_pursuit(a, positive=False),
], ids=["matching", "orthogonal", "lasso", "signed", "basis_pursuit"])  # fmt: skip
def test_length_order_offset_and_rotation_of_the_atoms_do_not_matter(make):
    A, x = dictionary(40, 16), rows(30, 16)
    g = rng.stream(0, "change")
    length = 0.1 + 3 * torch.rand(40, generator=g, dtype=torch.float64)
    order, turn = torch.randperm(40, generator=g), torch.linalg.qr(rows(16, 16, 5))[0]
    offset = rows(1, 16, 6)[0]
    plain = make(Dictionary(A, torch.zeros(16, dtype=torch.float64))).encode(x).dense()
    moved = make(Dictionary((A * length[:, None])[order] @ turn, offset)).encode(x @ turn + offset).dense()
    torch.testing.assert_close(moved * length[order], plain[:, order], atol=1e-5, rtol=0)


def test_rows_do_not_depend_on_their_batch(monkeypatch):
    A, x = dictionary(50, 20), rows(200, 20)
    known = Dictionary(A, torch.zeros(20, dtype=torch.float64))
    coders = [pursuit.matching(known, 6), pursuit.orthogonal(known, 6), pursuit.lasso(known, 0.3)]
    coders.append(pursuit.basis_pursuit(known, positive=False))
    whole = [coder.encode(x).dense() for coder in coders]
    for module in (pieces, shrinkage, equality):
        monkeypatch.setattr(module, "NUMBERS", 1000)  # pieces of 16 rows
    for coder, codes in zip(coders, whole, strict=True):
        torch.testing.assert_close(coder.encode(x).dense(), codes, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------------- stopping
def test_tolerance_ends_a_row_and_not_the_others():
    A = torch.eye(8, dtype=torch.float64)
    x = torch.zeros(3, 8, dtype=torch.float64)
    x[0, :1], x[1, :3], x[2] = 1.0, 1.0, 1.0
    for pursue in (greedy.matching_pursuit, greedy.orthogonal_matching_pursuit):
        assert (pursue(x, A, 8).dense() != 0).sum(1).tolist() == [1, 3, 8]
        # the residual of the third row after s steps is √(8 − s): below 0.8 √8 from s = 3
        assert (pursue(x, A, 8, tolerance=0.8).dense() != 0).sum(1).tolist() == [1, 2, 3]
        assert not pursue(-x, A, 8).dense().any()
        assert not pursue(x * 0, A, 8).dense().any()


def test_twin_atoms_and_zero_atoms_do_no_harm():
    A = torch.cat([dictionary(10, 6), dictionary(10, 6)[:4], torch.zeros(2, 6, dtype=torch.float64)])
    x = rows(50, 6)
    zero = torch.zeros(6, dtype=torch.float64)
    for positive in (True, False):
        twins, alone = (
            evaluate(pursuit.orthogonal(Dictionary(a, zero), 10, positive=positive), [x]).fvu for a in (A, A[:10])
        )
        assert twins == pytest.approx(alone, abs=1e-9)
    assert pursuit.basis_pursuit(Dictionary(A, zero), positive=False).encode(x).dense().isfinite().all()


def test_rounding_at_the_origin_is_not_coded():
    offset = 100 * torch.randn(16, generator=rng.stream(0, "offset"))
    coder = pursuit.orthogonal(Dictionary(dictionary(32, 16, dtype=torch.float32), offset), 8)
    assert not coder.encode((offset * 1.000_000_1).repeat(4, 1)).dense().any()


@pytest.mark.parametrize("l0", [2.0, 6.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_lasso_reaches_the_l0_it_was_asked_for(l0, seed):
    world = causes.superposition(3000, 24, seed, load=2.0, active=4.0)
    x = causes.observed(world, ["noise"], seed).activations.values
    known = Dictionary(world.truth.atoms, x.mean(0) - world.activations.values.mean(0))
    coder = pursuit.lasso_of_l0(known, l0, x[:1500])
    assert evaluate(coder, x[1500:].split(500)).l0 == pytest.approx(l0, rel=0.12)


def test_codes_are_as_sparse_as_their_fullest_row():
    dense = torch.zeros(3, 20)
    dense[0, 3], dense[1, [2, 7]] = 1.0, -2.0
    codes = pieces.compact(dense)
    assert codes.values.shape == (3, 2)
    assert torch.equal(codes.dense(), dense)
    assert pieces.compact(torch.ones(3, 20)).indices is None
    joined = pieces.join([codes, Codes(torch.ones(1, 3), torch.tensor([[1, 2, 3]]), 20)])
    assert joined.values.shape == (4, 3)
    assert torch.equal(joined.dense()[:3], dense)


def test_no_rows_and_no_atoms():
    known, none = Dictionary(torch.eye(4), torch.ones(4)), Dictionary(torch.zeros(0, 4), torch.ones(4))
    for make in (
        lambda a: pursuit.matching(a, 1), lambda a: pursuit.orthogonal(a, 1), lambda a: pursuit.lasso(a, 0.1),
        pursuit.basis_pursuit,
    ):  # fmt: skip
        assert make(known).encode(torch.zeros(0, 4)).dense().shape == (0, 4)
        assert torch.equal(make(none).decode(make(none).encode(torch.ones(2, 4))), torch.ones(2, 4))


# ----------------------------------------------------------------------------------------------------------- refusals
def test_refusals():
    known = Dictionary(torch.eye(4), torch.zeros(4))
    with pytest.raises(ConfigError, match="l0 = 5"):
        pursuit.orthogonal(known, 5)
    with pytest.raises(ConfigError, match="tolerance"):
        pursuit.matching(known, 1, tolerance=1.0)
    with pytest.raises(ConfigError, match="penalty"):
        pursuit.lasso(known, 0.0)
    with pytest.raises(ConfigError, match="2 of 3 rows are no non-negative combination"):
        pursuit.basis_pursuit(known).encode(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [1.0, -1, 0, 0]]))
    with pytest.raises(ConfigError, match="1 of 1 rows"):
        pursuit.basis_pursuit(Dictionary(torch.eye(4)[:2], torch.zeros(4)), positive=False).encode(torch.ones(1, 4))
    with pytest.raises(ConfigError, match="atoms at the smallest penalty"):
        pursuit.lasso_of_l0(Dictionary(dictionary(40, 4).float(), torch.zeros(4)), 20, rows(50, 4).float())
    with pytest.raises(NonFiniteError):
        pursuit.orthogonal(known, 1).encode(torch.full((1, 4), torch.nan))
    with pytest.raises(AssertionError, match="5 units"):
        pursuit.orthogonal(known, 1).encode(torch.zeros(1, 5))
