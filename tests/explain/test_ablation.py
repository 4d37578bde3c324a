import copy
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from digon import rng
from digon.coders.sae import SAE, SAEConfig
from digon.errors import ConfigError
from digon.explain.ablation import Handle, Reading, ablation
from digon.explain.directions import Space
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


def turned(model, matrix):
    """The same network in other coordinates: the site holds `matrix` · its old row."""
    copied = copy.deepcopy(model)
    mlp = copied.layers[1].mlp
    turn = torch.nn.Linear(12, 12, bias=False)
    with torch.no_grad():
        turn.weight.copy_(matrix)
        mlp.down.weight.copy_(mlp.down.weight.double() @ torch.linalg.inv(matrix.double()))
    mlp.act = torch.nn.Sequential(mlp.act, turn)
    return Host.from_module(copied, "turned", words(), forward=lambda ids, mask: copied(ids, mask), max_context=16)


def bases(acts):
    """Coordinates in which a direction is a neuron: a rotation, any matrix, white coordinates; what every axis writes."""
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=rng.stream(0, "q"), dtype=torch.float64))[0]
    mixed = rotation + 0.3 * torch.randn(12, 12, generator=rng.stream(0, "m"), dtype=torch.float64)
    space = Space.of(acts)
    assert space.rank == 12
    theta = torch.linalg.qr(torch.randn(12, 12, generator=rng.stream(0, "θ"), dtype=torch.float64))[0]
    return {
        "rotation": (rotation, None),
        "mixed": (mixed, torch.linalg.inv(mixed).T),
        "white": (space.reads(theta), space.writes(theta)),
    }


@pytest.mark.parametrize("name", ["rotation", "mixed", "white"])
def test_a_direction_scores_as_the_neuron_of_the_network_that_is_turned_into_its_basis(model, host, corpus, name):
    reads, writes = bases(corpus[3])[name]
    other, unit = turned(model, reads), 4
    real = (corpus[3].double() @ reads[unit]).float()
    mean, spread = float(real.mean()), float(real.std())
    simulated = {
        f"{e}": real + e * spread * torch.randn(len(real), generator=rng.stream(0, "e")) for e in (0.0, 0.4, 1.0)
    }
    direction = Handle.along(reads[unit].float(), None if writes is None else writes[unit].float())
    ours = scores(host, corpus, direction, simulated, mean)
    theirs = scores(other, corpus, Handle.neuron(unit, 12), simulated, mean)
    assert ours["0.0"].value == pytest.approx(1, abs=1e-6)
    assert ours["1.0"].value < 0.6 < ours["0.4"].value < 0.97
    for one in simulated:
        assert ours[one].value == pytest.approx(theirs[one].value, abs=2e-4)
    assert "written" in ours["0.4"].method
    assert "written" not in theirs["0.4"].method


def test_only_what_a_direction_writes_is_put_into_the_network(model, corpus):
    deaf = copy.deepcopy(model)
    with torch.no_grad():
        deaf.layers[1].mlp.down.weight[:, 3] = 0
    host = Host.from_module(deaf, "deaf", words(), forward=lambda ids, mask: deaf(ids, mask), max_context=16)
    both = torch.eye(12)[3] + torch.eye(12)[4]
    simulated = {"x": (corpus[3] @ both) / 2}
    assert math.isnan(scores(host, corpus, Handle.along(both, torch.eye(12)[3]), simulated, 0.0)["x"].value)
    assert math.isfinite(scores(host, corpus, Handle.along(both), simulated, 0.0)["x"].value)
    with pytest.raises(ConfigError, match="leaves what it reads"):
        Handle.along(torch.eye(12)[0], torch.eye(12)[1])
    silent = Handle.along(torch.zeros(12))
    assert math.isnan(scores(host, corpus, silent, simulated, 0.0)["x"].value)


def autoencoder(atoms, bias):
    """With the atoms as encoder."""
    sae = SAE(SAEConfig(12, len(atoms), None, activation="relu"))
    with torch.no_grad():
        sae.W_dec.copy_(atoms)
        sae.W_enc.copy_(atoms)
        sae.b_enc.fill_(bias)
        sae.b_dec.zero_()
    return sae.requires_grad_(False)


def test_a_latent_that_is_a_rotated_neuron_scores_as_it(model, host, corpus):
    atoms = bases(corpus[3])["rotation"][0].float()
    handle, far = (
        Handle.latent(autoencoder(atoms, 50.0), 4),
        turned(model, atoms),
    )  # the bias keeps all codes above zero
    code = corpus[3] @ atoms[4] + 50
    mean = float(code.mean())
    noisy = code + 0.4 * code.std() * torch.randn(len(code), generator=rng.stream(0, "l"))
    ours = scores(host, corpus, handle, {"own": code, "noisy": noisy}, mean)
    theirs = scores(far, corpus, Handle.neuron(4, 12), {"noisy": noisy - 50}, mean - 50)
    assert ours["own"].value == pytest.approx(1, abs=1e-4)
    assert ours["noisy"].value == pytest.approx(theirs["noisy"].value, abs=1e-3)
    assert "atom" in ours["noisy"].method


def test_the_error_of_an_autoencoder_stays_when_a_latent_is_set(corpus):
    atoms = torch.nn.functional.normalize(torch.randn(5, 12, generator=rng.stream(0, "atoms")), dim=1)
    handle = Handle.latent(autoencoder(atoms, -0.1), 2)
    x = corpus[3][:40].view(2, 20, 12)
    now = handle.read(x)
    assert torch.allclose(now, (x @ atoms[2] - 0.1).relu(), atol=1e-5)
    assert 0 < int((now > 0).sum()) < 40  # some rows have the latent, some do not
    wanted = torch.full((2, 20), 0.7)
    wanted[0, :5] = math.nan
    expected = x + (0.7 - now)[..., None] * atoms[2]
    expected[0, :5] = x[0, :5]
    assert torch.allclose(handle.put(x, wanted, now), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["neuron", "direction", "latent"])
def test_values_of_other_tokens_are_worth_nothing_once_calibrated(host, corpus, kind):
    acts = corpus[3]
    if kind == "neuron":
        handle = Handle.neuron(3, 12)
    elif kind == "direction":
        handle = Handle.along(*(m[4].float() for m in bases(acts)["white"]))
    else:
        handle = Handle.latent(autoencoder(bases(acts)["rotation"][0].float(), 0.2), 4)
    real = handle.read(acts)
    mean, simulated = float(real.mean()), {}
    for seed in range(3):
        moved = real[torch.randperm(len(real), generator=rng.stream(seed, "moved"))]
        rho = float(torch.corrcoef(torch.stack([real, moved]))[0, 1])
        simulated[str(seed)] = mean + rho * (moved - mean)  # the regression of what is real on what is said
        simulated[f"{seed} as it is"] = moved
    found = scores(host, corpus, handle, simulated, mean)
    for seed in range(3):
        assert abs(found[str(seed)].value) < 0.1
        assert found[f"{seed} as it is"].value < -0.5  # twice the variance, to the mean's once


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
