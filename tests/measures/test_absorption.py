"""Absorption without truth, on a world in which it is known who absorbs whom."""

import pytest
import torch
from torch.nn import functional as F

from digon.measures.absorption import Firings, encoder_mismatch, one_sided_silence
from digon.measures.stats import jackknife_interval

ROWS, D, LONE = 20_000, 32, 20
PARENT, CHILDREN = LONE, (LONE + 1, LONE + 2)


def firing(absorbed):
    """Twenty lone features, a parent on .3 of the rows, and two children that come with it; maybe swallowing it."""
    g = torch.Generator().manual_seed(0)
    lone = torch.rand(ROWS, LONE, generator=g) < 0.05
    parent = torch.rand(ROWS, generator=g) < 0.3
    dice = torch.rand(ROWS, generator=g)
    children = [parent & (dice < 0.2), parent & (dice >= 0.2) & (dice < 0.4)]
    own = parent & ~(children[0] | children[1]) if absorbed else parent
    return torch.cat([lone, own[:, None], *(c[:, None] for c in children)], 1)


def directions(absorbed):
    basis = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)))[0][: LONE + 3]
    atoms = basis.clone()
    if absorbed:
        for child in CHILDREN:
            atoms[child] += basis[PARENT]
    return F.normalize(atoms, dim=1)


def silence(active, atoms, groups=10):
    row, latent = active.nonzero(as_tuple=True)
    firings = Firings.of(latent, row, active.shape[1], len(active))
    return one_sided_silence(
        firings, atoms, torch.arange(len(active)) % groups, groups, torch.Generator().manual_seed(9)
    )


def test_absorbed_parents_are_suspected_and_nobody_else():
    found = silence(firing(True), directions(True))
    pairs = {
        (c, p) for c, p, s in zip(found.child.tolist(), found.parent.tolist(), found.silent.tolist(), strict=True) if s
    }
    assert pairs == {(child, PARENT) for child in CHILDREN}
    assert found.share == pytest.approx(2 / (LONE + 3))
    assert found.awake[found.silent].tolist() == [0.0, 0.0]
    low, high = jackknife_interval(torch.tensor([found.share], dtype=torch.float64), found.left_out[:, None])
    assert low <= found.share <= high


@pytest.mark.parametrize(
    ("active", "atoms"),
    [(False, False), (False, True), (True, False)],
    ids=["right dictionary", "hedged: both are active", "no overlap of atoms"],
)
def test_without_absorption_there_is_no_suspect(active, atoms):
    assert silence(firing(active), directions(atoms)).share == 0


def test_random_directions_are_the_null():
    """Rows without any relation: then every overlapping pair is silent, and few overlap beyond chance."""
    active = torch.rand(2000, 200, generator=torch.Generator().manual_seed(0)) < 0.05
    shares = []
    for seed in range(12):
        atoms = F.normalize(torch.randn(200, D, generator=torch.Generator().manual_seed(seed)), dim=1)
        shares.append(silence(active, atoms).share)
    assert sum(shares) / len(shares) == pytest.approx(0.035, abs=0.015)  # about .05, less those whose partner is rarer


def test_atoms_in_a_small_part_of_the_space_are_no_suspects_for_that():
    """Random directions in 6 of 32 dimensions overlap far beyond chance in 32, but not beyond their own shape."""
    active = torch.rand(2000, 100, generator=torch.Generator().manual_seed(0)) < 0.05
    plane = torch.linalg.qr(torch.randn(D, 6, generator=torch.Generator().manual_seed(1)))[0].T
    atoms = F.normalize(torch.randn(100, 6, generator=torch.Generator().manual_seed(2)), dim=1) @ plane
    assert silence(active, atoms).share < 0.12


def test_parents_that_are_mostly_awake_and_children_with_few_rows_are_no_suspects():
    active = firing(True)
    child = active[:, CHILDREN[0]].nonzero()[:, 0]
    active[child[: 6 * len(child) // 10], PARENT] = True
    active[active[:, CHILDREN[1]].nonzero()[9:, 0], CHILDREN[1]] = False
    found = silence(active, directions(True))
    assert found.awake[found.child == CHILDREN[0]].tolist() == pytest.approx([0.6], abs=1e-3)
    assert found.share == 0


def test_copies_are_no_suspects():
    """Two halves of one feature exclude each other, but they are copies, which are counted as twins."""
    active = firing(False)
    half = torch.arange(ROWS) % 2 == 0
    split = torch.cat([active, (active[:, PARENT] & half)[:, None]], 1)
    split[:, PARENT] &= ~half
    atoms = directions(False)
    assert silence(split, torch.cat([atoms, atoms[[PARENT]]])).share == 0


def test_rows_in_common_are_those_of_the_matrix():
    active = firing(False)[:500]
    row, latent = active.nonzero(as_tuple=True)
    shuffle = torch.randperm(len(row), generator=torch.Generator().manual_seed(3))
    firings = Firings.of(latent[shuffle], row[shuffle], active.shape[1], 500)
    groups = torch.arange(500) % 3
    first, second = torch.arange(20), torch.arange(20).flip(0) + 3
    found = firings.together(first, second, groups, 3)
    for group in range(3):
        own = active[groups == group].long()
        assert torch.equal(found[group], (own[:, first] * own[:, second]).sum(0))
        assert torch.equal(firings.counts(groups, 3)[group], own.sum(0))
    nobody = Firings.of(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 24, 500)
    assert nobody.together(first, second, groups, 3).sum() == 0


def test_encoders_that_keep_silent_on_purpose_differ_from_their_atoms():
    atoms = torch.eye(3)
    encoder = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, -1.0]])
    assert encoder_mismatch(encoder, atoms).tolist() == pytest.approx([0.0, 1 - 0.5**0.5, 2.0])
