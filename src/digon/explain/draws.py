"""Drawing excerpts, at most one of each document, for many units at once.

Systematic sampling: documents stand in random order, each as long as it has excerpts; points at equal distance N/k with a random
start pick k excerpts. Every excerpt is picked with probability k/N exactly, whatever the sizes of the documents, and no
document is picked twice if none has more than N/k excerpts. Sums over the k excerpts, times N/k, are unbiased for all N.

Sources: Madow 1949 (systematic sampling); Horvitz & Thompson 1952 (weights).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def first_of_documents(
    documents: Int[Tensor, " x"], order: Int[Tensor, "units y"], count: int
) -> Int[Tensor, "units count"]:
    """The first `count` members of each unit's order that come from documents of their own; −1 where there are fewer.

    `order` holds places in `documents`, maybe repeatedly.

    >>> first_of_documents(torch.tensor([7, 7, 8]), torch.tensor([[1, 0, 2]]), 3).tolist()
    [[1, 2, -1]]
    """
    found = order.new_full((len(order), count), -1)
    if not len(documents):
        return found
    names, index = documents.unique(return_inverse=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    best = order.new_full((len(order), len(names)), order.shape[1])
    best = best.scatter_reduce(1, index[order], places, "amin")
    place = best.sort(dim=1).values[:, :count]
    taken = order.gather(1, place.clamp_max(order.shape[1] - 1))
    found[:, : place.shape[1]] = torch.where(place < order.shape[1], taken, -1)
    return found


def systematic(
    documents: Int[Tensor, " x"], uniform: Float[Tensor, "units x1"], count: int
) -> Int[Tensor, "units count"]:
    """Places of `count` members by systematic sampling; where documents are too large or too few, filled up or −1.

    `uniform` holds one random number in [0, 1) for every member, which orders them, and one more for the start.
    """
    size = len(documents)
    if not size:
        return torch.full((len(uniform), count), -1, dtype=torch.long, device=documents.device)
    names, index = documents.unique(return_inverse=True)
    own = uniform[:, :size].double()
    # the rank of a document is that of one of its members' numbers, no matter which: always the same one
    anchor = torch.full_like(names, size).scatter_reduce(0, index, torch.arange(size, device=index.device), "amin")
    rank = own[:, anchor].argsort(dim=1).argsort(dim=1)
    order = (rank[:, index] + own).argsort(dim=1)
    steps = torch.arange(count, device=order.device) + uniform[:, size:].double()
    points = (steps * (size / count)).long().clamp_max(size - 1)
    return first_of_documents(documents, torch.cat([order.gather(1, points), order], 1), count)


def is_exact(documents: Int[Tensor, " x"], count: int) -> bool:
    """Whether every member is drawn with probability count / number: no document is too large to be hit only once."""
    return len(documents) > 0 and int(torch.bincount(documents).max()) * count <= len(documents)


def compact(chosen: Int[Tensor, "units m"], keep: Bool[Tensor, "units m"]) -> Int[Tensor, "units m"]:
    """What is kept, moved to the front; −1 for the rest.

    >>> compact(torch.tensor([[4, -1, 6]]), torch.tensor([[False, True, True]])).tolist()
    [[6, -1, -1]]
    """
    keep = keep & (chosen >= 0)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    return torch.where(keep, chosen, -1).gather(1, order)
