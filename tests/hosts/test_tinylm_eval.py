"""The baselines against numbers worked out by hand and against a second implementation made of dictionaries."""

import math
from collections import Counter, defaultdict

import pytest
import torch

from digon import rng
from digon.errors import CorpusError
from digon.hosts.tinylm import TinyLM, TinyLMConfig
from digon.hosts.tinylm_eval import evaluate, ngram_baselines, ratio, summarize, windows
from digon.hosts.tinylm_tokens import END_ID, previous


def doc(*ids: int) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.int64)


def test_by_hand():
    # Training text: end 1 2 1 2. Vocabulary 3. Unigram: (0 + 1)/7, (2 + 1)/7, (2 + 1)/7.
    # After 1: always 2, twice, one kind: p(2|1) = (2 + 1·3/7)/3 = 17/21. After 2: 1 once: p(1|2) = (1 + 3/7)/2 = 5/7.
    # After end: 1 once: p(1|end) = 5/7, p(2|end) = (0 + 3/7)/2 = 3/14.
    unigram, bigram = ngram_baselines([doc(1, 2, 1, 2)], [doc(1, 2), doc(2, 2)], vocabulary=3)
    assert unigram.tolist() == pytest.approx([-2 * math.log(3 / 7)] * 2)
    p22 = (0 + 1 * 3 / 7) / 2
    assert bigram.tolist() == pytest.approx([-math.log(5 / 7 * 17 / 21), -math.log(3 / 14 * p22)])


def by_dictionaries(train, held_out, vocabulary):
    """The same two models, counted token by token."""
    words, after = Counter(), defaultdict(Counter)
    for document in train:
        history = END_ID
        for word in document.tolist():
            words[word] += 1
            after[history][word] += 1
            history = word
    total = sum(words.values())
    results = []
    for document in held_out:
        unigram = bigram = 0.0
        history = END_ID
        for word in document.tolist():
            p = (words[word] + 1) / (total + vocabulary)
            c, kinds = after[history], len(after[history])
            q = (c[word] + kinds * p) / (c.total() + kinds) if c else p
            unigram, bigram, history = unigram - math.log(p), bigram - math.log(q), word
        results.append((unigram, bigram))
    return results


def test_against_dictionaries():
    generator = rng.stream(0, "documents")
    # Squaring makes some tokens frequent and leaves some of the vocabulary unseen as history.
    documents = [
        (torch.rand(n, generator=generator) ** 2 * 40).long() for n in torch.randint(0, 60, (30,), generator=generator)
    ]
    found = torch.stack(ngram_baselines(documents[:15], documents[15:], vocabulary=50), dim=1)
    expected = torch.tensor(by_dictionaries(documents[:15], documents[15:], 50), dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_both_baselines_are_probability_distributions():
    train = [doc(1, 2, 3, 1, 1), doc(4, 2)]
    for history in range(6):  # 5 is never seen
        pairs = ngram_baselines(train, [doc(history, word) for word in range(6)], 6)
        alone = ngram_baselines(train, [doc(history)], 6)
        for two, one in zip(pairs, alone, strict=True):
            assert float((one - two).exp().sum()) == pytest.approx(1)


def test_windows_cover_every_token_once_and_see_the_one_before():
    documents = [doc(*range(1, 12)), doc(), doc(20), doc(*range(30, 38))]
    inputs, targets, owner = windows(documents, context=4)
    for number, document in enumerate(documents):
        real = targets[owner == number].flatten() != -100
        assert torch.equal(targets[owner == number].flatten()[real], document)
        assert torch.equal(inputs[owner == number].flatten()[real], previous(document))


def test_an_untrained_uniform_model_costs_log_v_per_token():
    model = TinyLM(TinyLMConfig(vocabulary=300, context=8, width=16, layers=1, heads=2, mlp_width=8))
    with torch.no_grad():
        model.embed.weight.zero_()
    lengths = [1, 8, 9, 30]
    nats = evaluate(model, [torch.ones(n, dtype=torch.int64) for n in lengths], batch=2)
    assert nats.tolist() == pytest.approx([n * math.log(300) for n in lengths])


def test_summary_divides_sums_and_pairs_documents():
    nats = {"bigram": doc(2, 4).double(), "tinylm": doc(1, 3).double()}
    found = {m.name: m for m in summarize(nats, tokens=doc(1, 3), sizes=doc(2, 6))}
    assert found["bigram_nats_per_token"].value == pytest.approx(6 / 4)
    assert found["tinylm_bits_per_byte"].value == pytest.approx(4 / 8 / math.log(2))
    assert found["tinylm_below_bigram"].value == pytest.approx(2 / 8 / math.log(2))
    assert found["tinylm_bits_per_byte"].n == 2


def test_interval_agrees_with_the_delta_method_and_covers_nothing_from_one_document():
    generator = rng.stream(0, "losses")
    sizes = torch.randint(50, 500, (400,), generator=generator)
    losses = sizes * (2 + 0.5 * torch.randn(400, generator=generator, dtype=torch.float64))
    found = ratio("r", losses, sizes, "", seed=0)
    residual = losses - found.value * sizes
    error = float(residual.square().sum().sqrt() / sizes.sum())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.low < found.value < found.high
    one = ratio("r", doc(3).double(), doc(2), "", seed=0)
    assert one.value == 1.5
    assert math.isnan(one.low)


def test_nothing_to_measure_is_refused():
    with pytest.raises(CorpusError):
        ratio("r", doc(0).double(), doc(0), "", seed=0)
    with pytest.raises(CorpusError):
        ngram_baselines([doc()], [doc(1)], 5)
