"""A network small enough to be trained and audited in seconds."""

from pathlib import Path

import pytest

from digon.hosts.tinylm import TinyLMConfig
from digon.hosts.tinylm_train import LMTrainConfig, train

WORDS = [
    "import",
    "os",
    "sys",
    "path",
    "def",
    "class",
    "return",
    "self",
    "value",
    "<script>alert(1)</script>",
    "if",
    "else",
    "for",
    "in",
    "not",
    "None",
    "True",
]


def text(number: int) -> str:
    return " ".join(WORDS[(number * k + k * k) % len(WORDS)] for k in range(1, 160))


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for i in range(150):
        (folder / f"{i:03d}.txt").write_text(f"document {i}\n{text(i)}")
    (folder / "junk.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, texts) -> Path:
    documents = [p.read_text() for p in sorted(texts.glob("1*.txt"))]
    shape = TinyLMConfig(vocabulary=300, context=32, width=16, layers=2, heads=2, mlp_width=24)
    settings = LMTrainConfig(steps=8, batch=4, warmup=2, checkpoint_every=4, dtype="float32")
    return train(documents[:40], documents[40:], shape, settings, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "audit.toml"
    path.write_text('model = ""\ntokens = 12000\nsae_steps = 30\nl0 = 4\ncards = 6\n')
    return path
