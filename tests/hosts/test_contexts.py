import itertools

import numpy as np
import pytest
from host_networks import byte_tokenizer

from digon.errors import CorpusError
from digon.hosts import contexts
from digon.hosts.contexts import cut
from digon.hosts.corpus import Corpus
from digon.hosts.tokens import Tokenizer

TEXTS = {f"d{i}": chr(65 + i % 26) * (7 * i % 60 + 1) + str(i) for i in range(120)}


def corpus(texts=TEXTS):
    return Corpus("texts", lambda: iter(texts.items()))


@pytest.fixture
def tokenizer():
    return Tokenizer(byte_tokenizer())


def pieces(found, tokenizer):
    """Document, position and text of every context."""
    show = lambda i: "".join(tokenizer.token_text(int(t)) for t in found.ids(i))  # noqa: E731
    names = [found.document_ids[n] for n in found.documents]
    return [(names[i], int(found.positions[i]), show(i)) for i in range(len(found.starts))]


def test_contexts_make_up_the_documents_and_none_crosses_one(tokenizer):
    found = cut(corpus(), tokenizer, room=16, batch=4, max_tokens=None, seed=0)
    texts: dict[str, str] = {}
    for name, position, text in sorted(pieces(found, tokenizer)):
        assert position == len(texts.get(name, ""))
        assert len(text) <= 16
        texts[name] = texts.get(name, "") + text
    assert texts == {d.id: d.text for d in corpus()}
    assert sorted(np.concatenate(found.batches)) == list(range(len(found.starts)))


def test_documents_are_numbered_as_they_appear(tokenizer):
    found = cut(corpus(), tokenizer, 16, 4, None, 0)
    order = found.documents[np.concatenate(found.batches)]
    assert list(dict.fromkeys(order)) == list(range(120))
    cuts = [0, 3, 4, 20, len(found.batches)]
    parts = [found.new_documents(a, b) for a, b in itertools.pairwise(cuts)]
    assert [*itertools.chain(*parts)] == found.document_ids


def test_a_budget_is_met_exactly_and_samples_all_of_the_text(tokenizer):
    texts = {"big": "x" * 20_000} | TEXTS
    found = cut(corpus(texts), tokenizer, 16, 4, 3000, 0)
    assert found.n_tokens == 3000
    big = next(d.id for d in corpus(texts) if d.origin == "big")
    share = (
        sum(n for (name, _, _), n in zip(pieces(found, tokenizer), found.lengths, strict=True) if name == big) / 3000
    )
    whole = 20_000 / sum(len(text) for text in texts.values())
    assert share == pytest.approx(whole, abs=0.1), "a large document gets its share of tokens and no more"
    assert len(found.document_ids) > 20
    smaller = cut(corpus(texts), tokenizer, 16, 4, 1500, 0)
    assert set(pieces(smaller, tokenizer)[:-1]) <= set(pieces(found, tokenizer)), "a smaller budget is a subset"
    assert set(pieces(cut(corpus(texts), tokenizer, 16, 4, 3000, 1), tokenizer)) != set(pieces(found, tokenizer))


def test_a_huge_corpus_is_not_cut_up_as_a_whole(tokenizer):
    found = cut(corpus(), tokenizer, 16, 4, 10, 0)
    assert found.n_tokens == 10
    total = sum(map(len, TEXTS.values()))
    assert contexts.POOL * 10 <= len(found.tokens) < total


def test_similar_lengths_share_a_batch(tokenizer):
    found = cut(corpus(), tokenizer, 16, 4, None, 0)
    padding = sum(len(b) * found.lengths[b].max() - found.lengths[b].sum() for b in found.batches)
    assert padding / found.n_tokens < 0.05


def test_no_tokens_is_an_error(tokenizer):
    class Mute(Tokenizer):
        def encode_batch(self, texts):
            return [[] for _ in texts]

    with pytest.raises(CorpusError, match="makes no tokens"):
        cut(corpus(), Mute(byte_tokenizer()), 16, 4, None, 0)
