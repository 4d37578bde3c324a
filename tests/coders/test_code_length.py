import itertools
import math

import pytest
import torch

from digon import rng
from digon.coders import code_length
from digon.coders.code_length import DELTA, code


def rows_of(n, r, m, active, noise=0.02):
    g = rng.stream(0, "rows", n, r)
    atoms = torch.nn.functional.normalize(torch.randn(n, r, generator=g), dim=1)
    f = (torch.rand(m, n, generator=g) < active / n) * (0.5 + torch.rand(m, n, generator=g))
    return f @ atoms + noise * torch.randn(m, r, generator=g), atoms


@pytest.mark.parametrize(("n", "r", "active"), [(40, 20, 3), (7, 12, 2), (6, 3, 2), (1, 5, 1), (0, 4, 0)])
def test_compiled_and_plain_pursuits_agree(monkeypatch, n, r, active):
    z, atoms = (
        rows_of(n, r, 500, active) if n else (torch.randn(500, r, generator=rng.stream(0, "z")), torch.zeros(0, r))
    )
    compiled = code(z, atoms)
    monkeypatch.setattr(code_length, "has_numba", lambda: False)
    plain = code(z, atoms)
    torch.testing.assert_close(compiled.bits, plain.bits, rtol=1e-3, atol=1e-2)
    same = (compiled.codes - plain.codes).abs().amax(1, keepdim=True) < 1e-3 if n else torch.ones(500, 1) > 0
    assert float(same.double().mean()) > 0.99  # the others are ties
    for name in ("codes", "left"):
        torch.testing.assert_close(getattr(compiled, name) * same, getattr(plain, name) * same, rtol=1e-3, atol=1e-3)
    assert torch.equal(compiled.active[same[:, 0]], plain.active[same[:, 0]])


def test_pieces_and_threads_change_nothing(monkeypatch):
    z, atoms = rows_of(30, 16, 700, 2)
    whole = code(z, atoms)
    monkeypatch.setattr(code_length, "PIECE", 10_000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    torch.testing.assert_close(code(z, atoms).bits, whole.bits)


def test_bits_are_those_of_the_formula_and_no_pair_does_better():
    """Against all sets of at most two atoms, fitted by least squares."""
    z, atoms = rows_of(8, 6, 60, 1.2)
    coded = code(z, atoms)
    r, n, b = 6, 8, 1 + 0.5 * math.log2(1 / DELTA)
    for i, row in enumerate(z):
        s = int(coded.active[i])
        assert s == int((coded.codes[i] != 0).sum())
        error = float((row - coded.codes[i] @ atoms).square().sum())
        bits = math.log2(math.comb(n, s)) + s * b + (r - s) / 2 * math.log2(1 + error / ((r - s) * DELTA))
        assert float(coded.bits[i]) == pytest.approx(bits, abs=1e-2)
        for atom in range(n):
            left = row - (row @ atoms[atom]) * atoms[atom]
            alone = math.log2(n) + b + (r - 1) / 2 * math.log2(1 + float(left.square().sum()) / ((r - 1) * DELTA))
            assert bits <= alone + 1e-2
    worse = 0
    for i, row in enumerate(z):
        for pair in itertools.combinations(range(n), 2):
            chosen = atoms[list(pair)]
            left = row - torch.linalg.lstsq(chosen.T, row).solution @ chosen
            bits = (
                math.log2(math.comb(n, 2))
                + 2 * b
                + (r - 2) / 2 * math.log2(1 + float(left.square().sum()) / ((r - 2) * DELTA))
            )
            worse += float(coded.bits[i]) > bits + 1e-2
    assert worse <= 0.1 * len(z)  # greedy, so now and then
