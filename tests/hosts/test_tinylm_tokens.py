"""The tokenizer repeats itself exactly, loses nothing, and documents are joined by end tokens."""

import pytest
import torch

from digon.errors import CorpusError, CorruptError
from digon.hosts.tinylm_tokens import END_ID, encode, join, load_tokenizer, previous, train_tokenizer

TEXTS = [f"the cat {n} sat on the mat and the dog {n} sat on the log\n" * 4 for n in range(12)]


def test_tokenizer_training_repeats_and_loses_nothing(tmp_path):
    one, two = train_tokenizer(TEXTS, 280), train_tokenizer(TEXTS, 280)
    assert one.to_str() == two.to_str()
    assert one.get_vocab_size() == 280
    assert one.token_to_id("<|end|>") == END_ID
    everything = "".join(chr(c) for c in [*range(0xD800), *range(0xE000, 0x10000)])
    (tmp_path / "t.json").write_text(one.to_str())
    for tokenizer in (one, load_tokenizer(tmp_path / "t.json")):
        assert tokenizer.decode(tokenizer.encode(everything).ids) == everything


def test_documents_are_joined_by_end_tokens():
    assert join([torch.tensor([3]), torch.tensor([], dtype=torch.int64), torch.tensor([4])]).tolist() == [
        0,
        3,
        0,
        0,
        4,
        0,
    ]


def test_frequent_words_become_one_token():
    tokenizer = train_tokenizer(TEXTS, 280)
    assert tokenizer.encode(" sat on the").tokens == ["Ġsat", "Ġon", "Ġthe"]
    first, second = encode(tokenizer, ["the", ""], batch=1)
    assert [tokenizer.id_to_token(int(i)) for i in first] == ["the"]
    assert second.tolist() == []
    assert second.dtype == torch.int64


def test_the_token_before_the_first_is_the_end():
    assert previous(torch.tensor([7, 8, 9])).tolist() == [END_ID, 7, 8]
    assert previous(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_no_text_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(CorpusError):
        train_tokenizer(["", ""], 300)
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(CorruptError, match=r"t\.json"):
        load_tokenizer(tmp_path / "t.json")
