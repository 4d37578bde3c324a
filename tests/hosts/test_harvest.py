import os
import signal
import subprocess
import sys

import pytest
import torch
from host_networks import WORDS, decoder
from torch import nn

from digon.errors import ConfigError, ModelError, NonFiniteError
from digon.hosts.corpus import Corpus, python_corpus
from digon.hosts.harvest import HarvestConfig, harvest
from digon.hosts.load import Host, load_host

TEXTS = {f"d{i}": " ".join((WORDS[4:] * 9)[i : 3 * i + 3]) for i in range(30)}
CONFIG = HarvestConfig(context=12, batch=4, store_dtype="float32", shard_batches=3)


def corpus():
    return Corpus("texts", lambda: iter(TEXTS.items()))


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def host(bert_folder):
    return load_host(bert_folder)


@pytest.fixture
def store(host, tmp_path):
    return harvest(host, corpus(), host.sites("layers.*.mlp.act,layers.1.resid"), tmp_path / "store", CONFIG)


def test_every_row_is_what_the_network_says_of_that_token_in_its_context(host, store):
    """Each document is cut again by hand, run alone and without padding, and compared row by row."""
    room = 10  # 12 less [CLS] and [SEP]
    texts = {d.id: d.text for d in corpus()}
    checked = 0
    for number, name in enumerate(store.document_ids):
        ids = host.tokenizer.encode_batch([texts[name]])[0]
        rows = (store.documents == number).nonzero().squeeze(1)
        rows = rows[store.positions[rows].argsort()]
        assert store.tokens[rows].tolist() == ids
        assert store.positions[rows].tolist() == list(range(len(ids)))
        for start in range(0, len(ids), room):
            part = torch.tensor([[2, *ids[start : start + room], 3]])
            with torch.inference_mode():
                hidden = host.model(input_ids=part, output_hidden_states=True).hidden_states
                layer = host.model.encoder.layer[1]
                attended = layer.attention(hidden[1])[0]
                neurons = layer.intermediate(attended)
            here = rows[start : start + room]
            torch.testing.assert_close(store.values("layers.1.resid", here), hidden[2][0, 1:-1], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(store.values("layers.1.mlp.act", here), neurons[0, 1:-1], atol=1e-5, rtol=1e-4)
            checked += len(here)
    assert checked == len(store) == sum(len(text.split()) for text in TEXTS.values())


def test_frames_are_kept_on_request(host, store, tmp_path):
    config = HarvestConfig(context=12, batch=4, store_dtype="float32", shard_batches=3, skip_special=False)
    whole = harvest(host, corpus(), host.sites("layers.1.resid"), tmp_path / "whole", config)
    frame = whole.positions == -1
    assert set(whole.tokens[frame].tolist()) == {2, 3}
    assert torch.equal(whole.tokens[~frame], store.tokens)
    assert torch.equal(whole.values("layers.1.resid", ~frame), store.values("layers.1.resid"))


@pytest.mark.parametrize("batches", [1, 3, 4, 8])
def test_an_interrupted_harvest_ends_in_the_same_bytes(host, store, tmp_path, batches):
    sites = host.sites("layers.*.mlp.act,layers.1.resid")
    calls = []

    def interrupt(done, total):
        calls.append(done)
        if len(calls) == batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(host, corpus(), sites, tmp_path / "again", CONFIG, progress=interrupt)
    resumed = []
    harvest(
        host, corpus(), sites, tmp_path / "again", CONFIG, progress=lambda done, total: resumed.append((done, total))
    )
    assert resumed[-1] == (len(store), len(store))
    assert resumed[0][0] == calls[(batches - 1) // 3 * 3], "it goes on behind the last whole shard"
    assert contents(tmp_path / "again") == contents(store.root)
    assert len(harvest(host, corpus(), sites, tmp_path / "again", CONFIG)) == len(store), "a third call only opens it"


SCRIPT = """
import sys, time
from pathlib import Path
from digon.hosts import HarvestConfig, harvest, load_host, read_corpus
host = load_host(sys.argv[1])
def slow(done, total):
    print(done, flush=True)
    time.sleep(0.02)
config = HarvestConfig(context=12, batch=4, store_dtype="float32", shard_batches=3)
harvest(host, read_corpus(Path(sys.argv[2])), host.sites("layers.*.mlp.act"), Path(sys.argv[3]), config, progress=slow)
"""


def test_a_killed_harvest_ends_in_the_same_bytes(bert_folder, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in TEXTS.items():
        (texts / name).write_text(text)

    def start(out):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(bert_folder), str(texts), str(out)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"},
        )

    undisturbed = start(tmp_path / "whole")
    victim = start(tmp_path / "killed")
    assert victim.stdout is not None
    for _ in range(8):
        victim.stdout.readline()
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    victim.stdout.close()
    assert (
        not (tmp_path / "killed" / "manifest.json").is_file()
        or b'"done": false' in (tmp_path / "killed" / "manifest.json").read_bytes()
    )
    for process in (undisturbed, start(tmp_path / "killed")):
        process.communicate()
        assert process.returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_store_of_another_harvest_is_left_alone(host, store):
    before = contents(store.root)
    other = HarvestConfig(context=12, batch=4, store_dtype="float32", shard_batches=3, seed=1)
    with pytest.raises(ConfigError, match="another harvest: different settings"):
        harvest(host, corpus(), host.sites("layers.*.mlp.act,layers.1.resid"), store.root, other)
    assert contents(store.root) == before


def test_decoders_are_read_up_to_their_budget_in_any_type(gpt2_folder, tmp_path):
    host = load_host(gpt2_folder)
    sites = host.sites("layers.*.mlp.act")
    exact = HarvestConfig(context=999, batch=4, max_tokens=500, store_dtype="float32")
    low = HarvestConfig(context=999, batch=4, max_tokens=500, compute="bfloat16")
    a = harvest(host, corpus(), sites, tmp_path / "a", exact)
    b = harvest(host, corpus(), sites, tmp_path / "b", low)
    assert len(a) == len(b) == 500
    assert a.plan.settings["context"] == 32, "no more than the model reads"
    assert torch.equal(a.tokens, b.tokens)
    x, y = a.values(sites[0].name), b.values(sites[0].name)
    assert 0 < float((x - y).norm() / x.norm()) < 0.02
    assert b.plan.dtype == "bfloat16"


def poisoned(value):
    net = decoder("gpt2")
    original = net.transformer.h[1].mlp.act.forward
    net.transformer.h[1].mlp.act.forward = lambda x: original(x) + value
    return net


@pytest.mark.parametrize(("value", "kind", "message"), [
    (float("nan"), "float32", "layers.1.mlp.act hold NaN"),
    (1e5, "float16", "layers.1.mlp.act exceed the range of torch.float16"),
])  # fmt: skip
def test_broken_activations_name_their_site(gpt2_folder, tmp_path, value, kind, message):
    plain = load_host(gpt2_folder)
    net = poisoned(value)
    host = Host.from_module(net, "bad", plain.tokenizer, lambda ids, mask: net(input_ids=ids).logits, 32)
    config = HarvestConfig(batch=4, max_tokens=50, store_dtype=kind)
    with pytest.raises(NonFiniteError, match=message):
        harvest(host, corpus(), host.sites("layers.*.mlp.act"), tmp_path / "s", config)


def test_settings_that_make_no_sense_are_refused(host, tmp_path):
    for wrong in ({"batch": 0}, {"max_tokens": 0}, {"store_dtype": "int8"}):
        with pytest.raises(ConfigError):
            HarvestConfig(**wrong)
    with pytest.raises(ConfigError, match="no room"):
        harvest(host, corpus(), host.sites("embed"), tmp_path / "s", HarvestConfig(context=2))
    silent = Host.from_module(nn.Linear(2, 2), "linear")
    with pytest.raises(ModelError, match="no tokenizer"):
        harvest(silent, corpus(), [], tmp_path / "s")


@pytest.mark.peers
def test_minilm_neurons_are_gelu_of_the_first_linear_map(minilm, tmp_path):
    config = HarvestConfig(max_tokens=1000, batch=8, store_dtype="float32")
    sites = minilm.sites("layers.0.mlp.act,layers.*.attn.out")
    store = harvest(minilm, python_corpus(limit_bytes=100_000), sites, tmp_path / "s", config)
    assert len(store) == 1000
    starts = [i for i in range(len(store) - 125) if int(store.positions[i + 125] - store.positions[i]) == 125]
    rows = torch.arange(starts[0], starts[0] + 126)
    assert store.positions[rows[0]] % 126 == 0
    ids = store.tokens[rows]
    layer = minilm.model.encoder.layer[0]
    with torch.inference_mode():
        hidden = minilm.model.embeddings(torch.tensor([[101, *ids.tolist(), 102]]))
        attended = layer.attention.output.LayerNorm(
            hidden + layer.attention.output.dense(layer.attention.self(hidden)[0])
        )
        neurons = torch.nn.functional.gelu(layer.intermediate.dense(attended))[0, 1:-1]
    torch.testing.assert_close(store.values("layers.0.mlp.act", rows), neurons, atol=1e-4, rtol=1e-4)


def test_a_pass_ends_at_the_last_site(host, store, tmp_path):
    runs = []
    handle = host.model.encoder.layer[1].register_forward_hook(lambda *_: runs.append(1))
    try:
        early = harvest(host, corpus(), host.sites("layers.0.mlp.act"), tmp_path / "early", CONFIG)
    finally:
        handle.remove()
    assert len(runs) == 1, "only the first batch runs to the end"
    assert torch.equal(early.values("layers.0.mlp.act"), store.values("layers.0.mlp.act"))


def test_where_a_network_comes_twice_the_last_time_counts(host, store, tmp_path):
    layer, runs = host.model.encoder.layer[0], []

    def again(module, args, output):
        runs.append(1)
        module.output.dense(torch.full((*args[0].shape[:2], 24), 0.5))

    handle = layer.register_forward_hook(again)
    try:
        twice = harvest(host, corpus(), host.sites("layers.0.mlp.act"), tmp_path / "twice", CONFIG)
    finally:
        handle.remove()
    assert (twice.values("layers.0.mlp.act") == 0.5).all()
    assert twice.moments("layers.0.mlp.act")[1].tolist() == [0.5] * 24
    assert len(runs) > 1, "no pass may end before the last time"
