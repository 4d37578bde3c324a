import numpy as np
import pytest
import torch
from torch.nn import functional as F

from digon.errors import ConfigError
from digon.measures.neighbors import chance_below, chance_nearest, cosine_counts, nearest_latents, shaped


def random_atoms(k, d, seed=0):
    return F.normalize(torch.randn(k, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_nearest_latents_are_those_of_all_cosines():
    atoms = 3 * random_atoms(50, 7)
    cosines = F.normalize(atoms, dim=1) @ F.normalize(atoms, dim=1).T
    wanted = cosines.fill_diagonal_(-2).topk(4, 1)
    found = nearest_latents(atoms, 4)
    torch.testing.assert_close(found[0], wanted.values)
    assert torch.equal(found[1], wanted.indices)


def test_copies_are_neighbors_and_nobody_is_its_own():
    atoms = random_atoms(3, 4)[[0, 0, 0, 0, 0, 0, 1, 2]]
    cosines, near = nearest_latents(atoms, 2)
    assert not (near == torch.arange(8)[:, None]).any()
    assert (near[:6] < 6).all()
    torch.testing.assert_close(cosines[:6], torch.ones(6, 2))
    assert nearest_latents(atoms[:1], 3)[1].shape == (1, 0)


@pytest.mark.parametrize(("k", "d"), [(2, 2), (30, 3), (400, 24)])
def test_the_law_of_chance_is_that_of_drawn_directions(k, d):
    drawn = torch.cat([nearest_latents(random_atoms(k, d, seed), 1)[0][:1, 0] for seed in range(600)]).numpy()
    for q in (0.1, 0.5, 0.9):
        cosine = chance_nearest(q, k, d)
        assert chance_below(np.array(cosine), d, k - 1) == pytest.approx(q, abs=1e-6)
        assert (drawn <= cosine).mean() == pytest.approx(q, abs=3.5 * np.sqrt(q * (1 - q) / 600))


def test_pairs_are_counted_once_per_order_and_follow_chance():
    atoms = random_atoms(600, 12)
    counts = cosine_counts(atoms, torch.Generator().manual_seed(0))
    assert counts.sum() == 600 * 599
    expected = np.diff(chance_below(np.linspace(-1, 1, 65), 12))
    np.testing.assert_allclose(counts.numpy() / (600 * 599), expected, atol=2e-3)
    flat = cosine_counts(torch.eye(5), torch.Generator().manual_seed(0), bins=4)
    assert flat.tolist() == [0, 0, 20, 0]


def test_one_dimension_has_no_null():
    with pytest.raises(ConfigError, match="1 dimension"):
        chance_below(np.zeros(1), 1)
    with pytest.raises(ConfigError, match="1 dimension"):
        chance_nearest(0.5, 4, 1)


def test_shaped_directions_have_the_second_moment_of_the_atoms():
    atoms = random_atoms(4000, 5) * torch.tensor([3.0, 2.0, 1.0, 1.0, 0.0])
    drawn = shaped(atoms, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(4000))
    assert drawn[:, 4].abs().max() < 1e-6
    rows = F.normalize(atoms, dim=1)
    mine, theirs = (x.T @ x / 4000 for x in (drawn, rows))
    torch.testing.assert_close(mine, theirs, atol=0.1, rtol=0)
    flat = shaped(random_atoms(300, 20), torch.Generator().manual_seed(2))
    middle = nearest_latents(flat, 1)[0].median()
    assert float(middle) == pytest.approx(chance_nearest(0.5, 300, 20), abs=0.03)
