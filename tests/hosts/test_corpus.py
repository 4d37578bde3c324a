import hashlib
import json

import duckdb
import pytest

from digon.errors import CorpusError, PathError
from digon.hosts.corpus import MAX_BYTES, CorpusReport, Document, python_corpus, read_corpus, split


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_a_folder_is_read_in_order_and_what_cannot_be_used_is_counted(tmp_path):
    folder = write(
        tmp_path / "texts",
        {
            "b.md": "second", "a.txt": "first", "sub/c.py": "third é", "sub/d.xyz": "fourth", ".git/x": "hidden",
            "e-empty.txt": " \n ", "f-copy.txt": "first", "g-junk.txt": b"\xff\xfe\x00\x01", "h-nul.txt": "a\0b",
            "i-large.txt": b"x" * (MAX_BYTES + 1), "j-bom.txt": b"\xef\xbb\xbffifth",
        },
    )  # fmt: skip
    corpus = read_corpus(folder)
    assert [d.text for d in corpus] == ["first", "second", "fifth", "third é", "fourth"]
    assert [d.origin for d in corpus] == ["a.txt", "b.md", "j-bom.txt", "sub/c.py", "sub/d.xyz"]
    assert corpus.report == CorpusReport(5, 29, empty=1, undecodable=2, duplicates=1, oversized=1)
    first = next(iter(corpus))
    assert first.id == hashlib.blake2b(b"first", digest_size=16).hexdigest()
    assert corpus.sizes[first.id] == 5
    assert len(corpus) == 5


def test_the_fingerprint_is_that_of_the_texts(tmp_path):
    one = read_corpus(write(tmp_path / "1", {"a": "x", "b": "y"}))
    same = read_corpus(write(tmp_path / "2", {"c": "x", "d": "y", "e": " "}))
    other = read_corpus(write(tmp_path / "3", {"a": "y", "b": "x"}))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_jsonl(tmp_path):
    lines = [{"text": "one"}, {"text": ""}, {"text": 7}, {"text": "half \ud800"}, {"text": "two"}, {"other": "x"}]
    content = "\n".join(json.dumps(line) for line in lines) + "\n\n{broken\n"
    corpus = read_corpus(write(tmp_path, {"t.jsonl": content}) / "t.jsonl")
    assert [(d.origin, d.text) for d in corpus] == [("t.jsonl:1", "one"), ("t.jsonl:5", "two")]
    assert corpus.report == CorpusReport(2, 6, empty=1, undecodable=4)
    renamed = write(tmp_path, {"u.ndjson": '{"content": "one"}'}) / "u.ndjson"
    assert [d.text for d in read_corpus(renamed, field="content")] == ["one"]
    with pytest.raises(CorpusError, match="no field 'contents'"):
        read_corpus(renamed, field="contents")


def test_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    duckdb.execute(f"copy (select * from (values ('one', 1), (null, 2), ('two', 3)) t(text, n)) to '{path}'")
    corpus = read_corpus(path)
    assert [d.text for d in corpus] == ["one", "two"]
    assert corpus.report.empty == 1
    with pytest.raises(CorpusError, match="the text in one of text, n"):
        read_corpus(path, field="texts")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorpusError, match="1 undecodable"):
        read_corpus(path)


def test_nothing_usable_is_an_error_that_says_what_was_found(tmp_path):
    with pytest.raises(CorpusError, match=r"0 documents, 0 characters \(left out: 1 empty, 1 undecodable\)"):
        read_corpus(write(tmp_path / "bad", {"a": b"\xff\xff", "b": ""}))
    (tmp_path / "none").mkdir()
    with pytest.raises(CorpusError, match="holds no files"):
        read_corpus(tmp_path / "none")
    with pytest.raises(PathError, match="did you mean bad"):
        read_corpus(tmp_path / "bud")


def test_a_split_is_decided_for_each_document_alone():
    documents = [Document(hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest(), "", "") for i in range(4000)]
    fit, held = split(documents, 0.2, seed=1)
    assert len(held) / 4000 == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 4000) ** 0.5)
    assert {d.id for d in fit}.isdisjoint(d.id for d in held)
    assert len(fit) + len(held) == 4000
    some_held = split(documents[::3], 0.2, seed=1)[1]
    assert {d.id for d in some_held} == {d.id for d in held} & {d.id for d in documents[::3]}
    assert {d.id for d in split(documents, 0.2, seed=2)[1]} != {d.id for d in held}
    assert split(documents, 0.0)[1] == split(documents, 1.0)[0] == []


def test_every_python_carries_a_corpus():
    corpus = python_corpus(limit_bytes=400_000)
    documents = list(corpus)
    size = sum(len(d.text.encode()) for d in documents)
    assert 300_000 < size <= 400_000
    assert [d.text for d in python_corpus(limit_bytes=400_000)] == [d.text for d in documents]
    kinds = {d.origin.split("/")[0] == "pydoc" for d in documents}
    assert kinds == {True, False}, "a limited corpus samples topics and source"
    assert not any({"test", "tests", "site-packages"} & set(d.origin.split("/")) for d in documents)
