import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from digon import rng
from digon.explain.ablation import Handle, Reading, ablation
from digon.hosts.load import Host
from digon.hosts.taps import capture
from digon.hosts.tinylm import TinyLM, TinyLMConfig
from digon.hosts.tinylm_tokens import END_ID, train_tokenizer
from digon.hosts.tokens import Tokenizer
from digon.measures.patching import jensen_shannon

ROOM, CONTEXTS = 15, 24


def words():
    """A tokenizer of 257 tokens that puts an end token before every context."""
    return Tokenizer(train_tokenizer(["abc"], 257), prefix=(END_ID,))


@pytest.fixture(scope="module")
def model():
    lm = TinyLM(TinyLMConfig(vocabulary=257, context=16, width=16, layers=2, heads=2, mlp_width=12))
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(6)
    return lm.eval()


@pytest.fixture(scope="module")
def host(model):
    return Host.from_module(model, "tiny", words(), forward=lambda ids, mask: model(ids, mask), max_context=16)


@pytest.fixture(scope="module")
def corpus(host):
    """Rows as a harvest leaves them, their order shuffled by context, and what every unit does on them."""
    tokens = torch.randint(1, 257, (CONTEXTS, ROOM), generator=rng.stream(0, "t"))
    order = torch.randperm(CONTEXTS, generator=rng.stream(0, "o"))
    tokens = tokens[order]
    documents = (order // 2)[:, None].expand(-1, ROOM)
    positions = (order % 2)[:, None] * ROOM + torch.arange(ROOM)
    site = host.sites("layers.1.mlp.act")[0]
    ids = torch.cat([torch.zeros(CONTEXTS, 1, dtype=torch.long), tokens], 1)
    with capture(host.model, [site]) as seen, torch.no_grad():
        host.model(ids)
    acts = seen[site.name][:, 1:].reshape(-1, 12)
    return tokens.flatten(), documents.flatten(), positions.flatten(), acts, site


def scores(host, corpus, handle, simulated, mean, rows=None):
    tokens, documents, positions, _, site = corpus
    wanted = torch.arange(len(tokens)) if rows is None else rows
    reading = Reading.of(host, tokens, documents, positions, wanted, ROOM)
    return ablation(host, site, handle, reading, simulated, mean, rng.stream(0, "a"))


def test_divergence_agrees_with_scipy():
    a, b = (torch.randn(300, 7, generator=rng.stream(0, name)) for name in "ab")
    p, q = a.double().softmax(-1).numpy(), b.double().softmax(-1).numpy()
    assert jensen_shannon(a, b).tolist() == pytest.approx((jensenshannon(p, q, axis=1) ** 2).tolist(), abs=1e-12)
    assert jensen_shannon(a, a).abs().max() < 1e-15


def test_the_unit_itself_scores_one_its_mean_zero_and_its_opposite_less(host, corpus):
    acts = corpus[3]
    true, mean = acts[:, 3], float(acts[:, 3].mean())
    half = mean + 0.5 * (true - mean)
    found = scores(
        host, corpus, Handle.neuron(3, 12),
        {"true": true, "mean": torch.full_like(true, mean), "half": half, "opposite": 2 * mean - true}, mean,
    )  # fmt: skip
    assert found["true"].value == pytest.approx(1, abs=1e-6)
    assert found["mean"].value == pytest.approx(0, abs=1e-9)
    assert found["mean"].value < found["half"].value < found["true"].value
    # halving the error quarters the divergence as long as it is small
    assert found["half"].value == pytest.approx(0.75, abs=0.1)
    assert found["opposite"].value < 0
    assert found["half"].low <= found["half"].value <= found["half"].high
    assert "Jensen–Shannon" in found["true"].method
    assert found["true"].n == CONTEXTS * ROOM


def test_by_hand_on_the_last_layer(host, corpus):
    tokens, _, _, acts, _ = corpus
    simulated = acts[:, 5] + 0.3 * torch.randn(len(acts), generator=rng.stream(0, "s"))
    mean = float(acts[:, 5].mean())
    found = scores(host, corpus, Handle.neuron(5, 12), {"s": simulated}, mean)["s"]
    block = host.model.layers[1]
    ids = torch.cat([torch.zeros(CONTEXTS, 1, dtype=torch.long), tokens.view(CONTEXTS, ROOM)], 1)
    totals = []
    with torch.no_grad():
        resid = host.sites("layers.1.resid")[0]
        with capture(host.model, [resid]) as seen:
            host.model(ids)
        last = seen[resid.name][:, 1:].reshape(len(acts), -1)
        write = block.mlp.down.weight[:, 5]
        say = lambda x: host.model.unembed(host.model.norm(x)).double().softmax(-1).numpy()  # noqa: E731
        for new in (simulated, torch.full_like(simulated, mean)):
            moved = last + (new - acts[:, 5])[:, None] * write
            totals.append(float((jensenshannon(say(last), say(moved), axis=1) ** 2).sum()))
    assert found.value == pytest.approx(1 - totals[0] / totals[1], abs=1e-4)


def test_directions_and_latents_are_patched_along_what_they_write(host, corpus):
    acts = corpus[3]
    direction = torch.zeros(12)
    direction[3] = 2.5
    true, mean = acts[:, 3], float(acts[:, 3].mean())
    noisy = true + 0.4 * torch.randn(len(true), generator=rng.stream(0, "n"))
    neuron = scores(host, corpus, Handle.neuron(3, 12), {"x": noisy}, mean)["x"]
    along = scores(host, corpus, Handle.along(direction), {"x": 2.5 * noisy}, 2.5 * mean)["x"]
    latent = scores(
        host, corpus, Handle.latent(lambda x: x[..., 3] / 2, 2 * torch.eye(12)[3]), {"x": noisy / 2}, mean / 2
    )["x"]
    assert along.value == pytest.approx(neuron.value, abs=1e-5)
    assert latent.value == pytest.approx(neuron.value, abs=1e-5)
    mixed = torch.randn(12, generator=rng.stream(0, "d"))
    real = acts @ mixed
    own = scores(host, corpus, Handle.along(mixed), {"x": real}, float(real.mean()))["x"]
    assert own.value == pytest.approx(1, abs=1e-6)


def test_rows_that_are_not_simulated_stay_as_they_are(host, corpus):
    acts = corpus[3]
    true, mean = acts[:, 3], float(acts[:, 3].mean())
    some = torch.where(torch.arange(len(true)) % 3 == 0, true + 1.0, torch.nan)
    few = torch.where(torch.arange(len(true)) % 3 == 0, 2 * mean - true, torch.nan)
    found = scores(host, corpus, Handle.neuron(3, 12), {"some": some, "few": few, "none": true * math.nan}, mean)
    assert math.isfinite(found["some"].value)
    assert found["few"].value < 0
    assert math.isnan(found["none"].value)


def test_a_unit_that_nothing_reads_has_no_score(model, corpus):
    import copy

    deaf = copy.deepcopy(model)
    with torch.no_grad():
        deaf.layers[1].mlp.down.weight[:, 3] = 0
    host = Host.from_module(deaf, "deaf", words(), forward=lambda ids, mask: deaf(ids, mask), max_context=16)
    assert math.isnan(scores(host, corpus, Handle.neuron(3, 12), {"x": corpus[3][:, 3] + 1}, 0.0)["x"].value)


def test_a_network_that_predicts_nothing_is_judged_by_its_last_hidden_states(model, corpus):
    host = Host.from_module(model, "body", words(), forward=lambda ids, mask: model.stream(ids, mask), max_context=16)
    true = corpus[3][:, 3]
    found = scores(host, corpus, Handle.neuron(3, 12), {"true": true, "half": true / 2}, 0.0)
    assert found["true"].value == pytest.approx(1, abs=1e-6)
    assert found["half"].value == pytest.approx(0.75, abs=0.15)
    assert "cosine" in found["half"].method


def test_contexts_are_found_again_whatever_the_order_of_rows(host, corpus):
    tokens, documents, positions, _, _ = corpus
    shuffled = torch.randperm(len(tokens), generator=rng.stream(0, "shuffle"))
    whole = Reading.of(host, tokens[shuffled], documents[shuffled], positions[shuffled], torch.tensor([0]), ROOM)
    assert len(whole.ids) == 1
    row = int(shuffled[0])
    first = row // ROOM * ROOM
    assert whole.ids[0] == [0, *tokens[first : first + ROOM].tolist()]
    assert whole.rows[0].tolist()[0] == -1
    assert np.array_equal(shuffled[whole.rows[0][1:]].numpy(), np.arange(first, first + ROOM))
    part = Reading.of(host, tokens[1:], documents[1:], positions[1:], torch.arange(len(tokens) - 1), ROOM)
    assert (len(part.ids), part.left) == (CONTEXTS - 1, 1)
