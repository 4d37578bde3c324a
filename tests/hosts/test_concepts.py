import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from digon.hosts.concepts import CHARACTERS, SYNTAX, label, python_syntax
from digon.hosts.corpus import Document
from digon.hosts.tokens import Tokenizer

SOURCE = 'def f(x):  # note if 3\n    """Return it."""\n    return "no" + x * 3.5\n'


def kinds(text):
    marks = python_syntax(text)
    assert marks is not None
    names = ["".join(n[0] for n, on in zip(SYNTAX, row, strict=True) if on) or "." for row in marks[:-1]]
    return "".join(names)


def test_every_character_has_its_syntax():
    assert kinds("if a1 == 'b c': # d\n") == "kk.nn.oo.sssssoo"[:14] + "o.ccc."
    assert kinds("x = 3.5\n") == "n.o.nnn."  # number and name share their letter
    marks = python_syntax(SOURCE)
    assert marks is not None
    said = {name: "".join(c for c, on in zip(SOURCE, marks[:, i], strict=False) if on) for i, name in enumerate(SYNTAX)}
    assert said == {
        "keyword": "defreturn",
        "name": "fxx",
        "number": "3.5",
        "operator": "():+*",
        "string": '"""Return it.""""no"',
        "comment": "# note if 3",
    }


def test_strings_with_code_inside_are_strings_and_lines_may_end_in_any_way():
    marks = python_syntax('a = f"x {b!r} y" + c\r\nd\x0c = 1\r\n')
    assert marks is not None
    inside = marks[:, SYNTAX.index("string")]
    assert "".join(c for c, on in zip('a = f"x {b!r} y" + c', inside, strict=False) if on) == 'f"x {b!r} y"'
    assert marks[22, SYNTAX.index("name")]  # d


def test_what_python_cannot_read_has_no_syntax():
    assert python_syntax('x = """never closed') is None
    assert python_syntax("  a\n b\n") is None or python_syntax("  a\n b\n").any()


def tokenizer():
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return Tokenizer(raw)


def test_tokens_get_the_labels_of_their_characters():
    words = tokenizer()  # a token per byte
    found = label([Document("a", SOURCE, "a.py"), Document("b", "not code 3", "b.txt")], words)
    assert set(found.of) == {"a"}
    rows = found.of["a"]
    assert len(rows) == len(words.encode_batch([SOURCE])[0])
    at = {name: rows[:, i] for i, name in enumerate(found.names)}
    assert [SOURCE[i] for i in at["digit"].nonzero()[0]] == ["3", "3", "5"]
    assert at["keyword"].sum() == 9
    assert at["newline"].sum() == 3
    assert SOURCE[at["capital"].nonzero()[0][0]] == "R"


def test_other_text_has_characters_only():
    found = label([Document("b", "Not code 3.", "b.txt")], tokenizer())
    assert found.names == CHARACTERS
    at = {name: found.of["b"][:, i].nonzero()[0].tolist() for i, name in enumerate(found.names)}
    assert at == {"digit": [9], "capital": [0], "punctuation": [10], "word start": [0, 4], "newline": []}
