from host_networks import byte_tokenizer, word_tokenizer

from digon.hosts.tokens import Tokenizer


def test_the_frame_is_found_and_not_part_of_the_text():
    tokenizer = Tokenizer.framed(word_tokenizer())
    assert (tokenizer.prefix, tokenizer.suffix) == ((2,), (3,))
    assert tokenizer.encode_batch(["the cat sat", "", "a [SEP] b"])[:2] == [[4, 5, 6], []]
    assert tokenizer.special_ids == {0, 1, 2, 3}


def test_the_name_of_a_special_token_in_a_text_is_text():
    ids = Tokenizer.framed(word_tokenizer()).encode_batch(["a [SEP] b"])[0]
    assert 3 not in ids


def test_bytes_come_back_as_what_they_show():
    tokenizer = Tokenizer.framed(byte_tokenizer())
    assert (tokenizer.prefix, tokenizer.suffix) == ((), ())
    text = "a é\n\t"
    shown = [tokenizer.token_text(i) for i in tokenizer.encode_batch([text])[0]]
    assert shown == ["a", " ", "\\xc3", "\\xa9", "\n", "\t"]
    every = [tokenizer.token_text(i) for i in range(256)]
    assert len(set(every)) == 256
    assert {chr(i) for i in range(128)} <= set(every)
    assert tokenizer.token_text(999) == "<999>"
