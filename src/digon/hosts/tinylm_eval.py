"""How good is a tinylm? Its loss on held-out documents beside what counting alone achieves.

Three predictors read the same tokens of the same documents, each after the end token:

    unigram   p(w)   = (c(w) + 1) / (N + V)                                    add-one
    bigram    p(w|h) = (c(h w) + T(h) · p(w)) / (c(h) + T(h))                  Witten–Bell interpolation
    tinylm    the network, in windows of its context that do not overlap

c counts training tokens and T(h) counts the different tokens seen after h. A network below the bigram uses more than
the previous token. Bits per byte = nats / (ln 2 · bytes of the documents), comparable between tokenizers.

Source: Witten & Bell 1991; Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling".
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .. import rng
from ..errors import CorpusError, NonFiniteError
from ..records import Measurement
from .tinylm import TinyLM
from .tinylm_tokens import END_ID, previous

ROWS = 128
"""Rows of logits at once: their cross-entropy then stays in the processor's cache."""
SOURCE = "Witten & Bell 1991; Chen & Goodman 1998"


def cross_entropy(model: TinyLM, inputs: Int[Tensor, "b t"], targets: Int[Tensor, "b t"]) -> Float[Tensor, " rows"]:
    """Nats of every target, row after row; targets of −100 cost nothing."""
    stream = model.stream(inputs).flatten(0, 1)
    return torch.cat(
        [
            F.cross_entropy(model.unembed(rows).float(), wanted, reduction="none")
            for rows, wanted in zip(stream.split(ROWS), targets.flatten().split(ROWS), strict=True)
        ]
    )


@torch.no_grad()
def evaluate(model: TinyLM, documents: Sequence[Tensor], batch: int = 16) -> Float[Tensor, " documents"]:
    """Nats that the model needs for every document (a vector of token ids), the end token before it given.

    Unit: nats. Raises: NonFiniteError if the model yields NaN or infinity.
    """
    device = model.embed.weight.device
    inputs, targets, owner = windows(documents, model.config.context)
    nats = torch.zeros(len(documents), dtype=torch.float64)
    for start in range(0, len(inputs), batch):
        some = slice(start, start + batch)
        losses = cross_entropy(model, inputs[some].to(device), targets[some].to(device))
        nats.index_add_(0, owner[some], losses.view(-1, model.config.context).double().sum(1).cpu())
    if not bool(nats.isfinite().all()):
        raise NonFiniteError("the model's loss on held-out documents is NaN or infinite", hint="lower the lr")
    return nats


def windows(
    documents: Sequence[Tensor], context: int
) -> tuple[Int[Tensor, "n t"], Int[Tensor, "n t"], Int[Tensor, " n"]]:
    """Inputs, targets (−100 where there is none) and document number of windows that cover every token once.

    >>> inputs, targets, owner = windows([torch.tensor([5, 6, 7])], context=2)
    >>> inputs.tolist(), targets.tolist(), owner.tolist()
    ([[0, 5], [6, 0]], [[5, 6], [7, -100]], [0, 0])
    """
    inputs, targets, owner = [], [], []
    for number, document in enumerate(documents):
        read, wanted = previous(document), document
        missing = -len(document) % context
        inputs.append(F.pad(read, (0, missing), value=END_ID).view(-1, context))
        targets.append(F.pad(wanted, (0, missing), value=-100).view(-1, context))
        owner.append(torch.full((len(inputs[-1]),), number))
    return torch.cat(inputs), torch.cat(targets), torch.cat(owner)


def ngram_baselines(
    train: Sequence[Tensor], held_out: Sequence[Tensor], vocabulary: int
) -> tuple[Float[Tensor, " documents"], Float[Tensor, " documents"]]:
    """Nats that a unigram and a bigram model, counted on `train`, need for every held-out document.

    Unit: nats. Raises: CorpusError if there is no training token. Source: Witten & Bell 1991.
    """
    words, before = torch.cat(list(train)), torch.cat([previous(d) for d in train])
    if not len(words):
        raise CorpusError("there is no token to count", expected="at least one training document with text")
    unigram = (torch.bincount(words, minlength=vocabulary) + 1).double() / (len(words) + vocabulary)
    pairs, pair_counts = torch.unique(before * vocabulary + words, return_counts=True)
    seen = torch.bincount(before, minlength=vocabulary).double()
    kinds = torch.bincount(pairs // vocabulary, minlength=vocabulary).double()

    def bigram(history: Tensor, word: Tensor) -> Tensor:
        wanted = history * vocabulary + word
        place = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
        count = torch.where(pairs[place] == wanted, pair_counts[place], 0).double()
        total = seen[history] + kinds[history]
        backed_off = (count + kinds[history] * unigram[word]) / total.clamp(min=1)
        return torch.where(total > 0, backed_off, unigram[word])

    return (
        torch.stack([-unigram[d].log().sum() for d in held_out]),
        torch.stack([-bigram(previous(d), d).log().sum() for d in held_out]),
    )


def summarize(
    nats: dict[str, Tensor], tokens: Int[Tensor, " documents"], sizes: Int[Tensor, " documents"], seed: int = 0
) -> tuple[Measurement, ...]:
    """Bits per byte and nats per token of every predictor, and how far the last stays below each of the others.

    `nats` maps predictors to their nats per document, `sizes` are bytes. Intervals: 95 %, documents resampled.
    """
    found = []
    for name, losses in nats.items():
        found.append(ratio(f"{name}_bits_per_byte", losses / math.log(2), sizes, "bits/byte", seed))
        found.append(ratio(f"{name}_nats_per_token", losses, tokens, "nats/token", seed))
    *baselines, best = nats
    for name in baselines:
        gain = (nats[name] - nats[best]) / math.log(2)
        found.append(ratio(f"{best}_below_{name}", gain, sizes, "bits/byte", seed))
    return tuple(found)


def ratio(
    name: str, losses: Float[Tensor, " documents"], sizes: Int[Tensor, " documents"], unit: str, seed: int
) -> Measurement:
    """Σ losses / Σ sizes with the 95 % percentile interval of 1000 resamplings of documents.

    Raises: CorpusError if the documents are empty. Source: Efron 1979.
    """
    n, total = len(losses), float(sizes.sum())
    if not total:
        raise CorpusError("the held-out documents are empty", expected="at least one document with text")
    drawn = torch.randint(n, (1000, n), generator=rng.stream(seed, "documents", name))
    ratios = losses.double()[drawn].sum(1) / sizes.double()[drawn].sum(1).clamp(min=1)
    interval = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64))
    low, high = (float(end) if n > 1 else math.nan for end in interval)
    value = float(losses.double().sum()) / total
    method = "sum over held-out documents; percentile bootstrap over documents, 1000 draws"
    return Measurement(name, value, low, high, n, unit, method, seed, SOURCE)


def byte_counts(texts: Iterable[str]) -> Int[Tensor, " documents"]:
    """Size of every text in UTF-8 bytes."""
    return torch.tensor([len(text.encode()) for text in texts], dtype=torch.int64)
