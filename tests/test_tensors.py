import pytest
import torch

from digon import rng
from digon.tensors import Activations, Codes, Dictionary


def test_sparse_and_dense_codes_decode_alike():
    g = rng.stream(0, "codes")
    atoms, bias = torch.randn(7, 4, generator=g), torch.randn(4, generator=g)
    indices = torch.rand(5, 7, generator=g).topk(3).indices
    sparse = Codes(torch.rand(5, 3, generator=g), indices, 7)
    dense = Codes(sparse.dense(), None, 7)
    dictionary = Dictionary(atoms, bias)
    torch.testing.assert_close(dictionary.decode(sparse), dictionary.decode(dense))
    torch.testing.assert_close(dictionary.decode(dense), sparse.dense() @ atoms + bias)


def test_take_keeps_rows_aligned():
    acts = Activations(torch.arange(6.0).reshape(3, 2), "s", tokens=torch.tensor([5, 6, 7]))
    taken = acts.take(torch.tensor([True, False, True]))
    assert taken.tokens is not None
    assert taken.tokens.tolist() == [5, 7]
    assert taken.documents is None
    assert (len(taken), taken.d) == (2, 2)


def test_misaligned_rows_are_a_broken_invariant():
    # jaxtyping sees it first when its checks are on, the assertion when they are off
    with pytest.raises((AssertionError, TypeError), match="tokens"):
        Activations(torch.zeros(3, 2), tokens=torch.tensor([1, 2]))
