import pytest
import torch
from host_networks import bert, byte_tokenizer, decoder, word_tokenizer

from digon import rng
from digon.hosts.load import Host
from digon.hosts.promotions import direct_effect, promotions, spread
from digon.hosts.sites import Site
from digon.hosts.taps import capture, edited, replace
from digon.hosts.tinylm import TinyLM, TinyLMConfig
from digon.hosts.tokens import Tokenizer

IDS = torch.randint(1, 256, (12, 20), generator=rng.stream(0, "ids"))


def tiny():
    model = TinyLM(TinyLMConfig(vocabulary=257, context=32, width=16, layers=2, heads=2, mlp_width=24)).eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.rand(16, generator=rng.stream(0, "g")) + 0.5)
        for parameter in model.layers.parameters():
            parameter.mul_(4)
    return model


def host_of(kind):
    model = tiny() if kind == "tinylm" else decoder(kind)
    if kind != "tinylm":
        for name, module in model.named_modules():
            if "norm" in name or "ln_f" in name:
                with torch.no_grad():
                    module.weight.copy_(torch.rand(len(module.weight), generator=rng.stream(1, name)) + 0.5)
    read = (lambda ids, mask: model(ids)) if kind == "tinylm" else (lambda ids, mask: model(input_ids=ids).logits)
    return Host.from_module(model, kind, Tokenizer(byte_tokenizer()), forward=read, max_context=32)


@pytest.mark.parametrize("kind", ["tinylm", "gpt2", "llama", "neox"])
def test_direct_effect_is_the_difference_of_two_forward_passes(kind):
    """Neuron of the last layer: the logits before and after a nudge, the part along the row itself put back.

    A norm also rescales the whole row; that part, −x̂ (x̂·w)/d, is what holding the spread fixed leaves out.
    """
    host = host_of(kind)
    site, last = host.sites("layers.1.mlp.act")[0], host.sites("layers.1.resid")[0]
    unit, step = 5, 1e-3 if kind == "llama" else 1e-6  # llama's norm works in float32
    direction = torch.eye(site.width)[unit]
    nudge = lambda x: x + step * direction  # noqa: E731
    model = host.model.double()
    with torch.no_grad(), capture(model, [last]) as seen:
        before = host.forward(IDS).clone()
        stream = seen[last.name].clone()
        with edited(model, {site: replace(nudge)}):
            after = host.forward(IDS)
    effect = direct_effect(host, site, direction).double()
    centered = kind != "llama"
    x = stream - stream.mean(-1, keepdim=True) if centered else stream
    epsilon = 1e-6 if kind == "llama" else 1e-5
    size = (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
    found = (after - before) / step
    weight = model.get_submodule(site.module).weight
    w = (weight[unit] if type(model.get_submodule(site.module)).__name__ == "Conv1D" else weight[:, unit]).detach()
    w = w - w.mean() if centered else w
    along = (x @ w)[..., None] * x / (size**2 * x.shape[-1])  # what rescaling adds
    head = (model.unembed if kind == "tinylm" else model.get_output_embeddings()).weight.detach()
    gain = next(
        m for n, m in reversed(list(model.named_modules())) if "norm" in n or n.endswith("ln_f")
    ).weight.detach()
    expected = effect / size - (along * gain / size) @ head.T
    assert (found - expected).abs().max() < (1e-2 if kind == "llama" else 1e-4) * found.abs().max()
    top = [p.token for p in promotions(host, site, direction, 3)]
    order = effect.abs().argsort(descending=True)
    assert set(top[:1]) <= {host.tokenizer.token_text(int(t)) for t in order[:2]}


def test_spread_is_that_of_the_stream_before_the_last_norm():
    host = host_of("tinylm")
    last = host.sites("layers.1.resid")[0]
    with capture(host.model, [last]) as seen, torch.no_grad():
        host.forward(IDS)
    std = seen[last.name][:, 1:].double().std(-1, correction=0)
    assert spread(host, IDS) == pytest.approx(1 / float((1 / std).mean()), rel=1e-5)


def test_a_residual_direction_is_read_by_the_unembedding_itself():
    host = host_of("tinylm")
    site = host.sites("layers.1.resid")[0]
    model = host.model
    token = 77
    toward = model.unembed.weight[token].detach() / model.norm.weight.detach()
    effect = direct_effect(host, site, toward)
    by_hand = model.unembed.weight @ (model.norm.weight * (toward - toward.mean()))
    assert torch.allclose(effect, by_hand.detach(), atol=1e-5)
    found = promotions(host, site, toward, 5)
    assert host.tokenizer.token_text(token) in [p.token for p in found[:3]]
    assert [abs(p.logit) for p in found] == sorted((abs(p.logit) for p in found), reverse=True)
    assert any(p.logit < 0 for p in found)
    assert len(found) == 10


def test_networks_and_sites_without_a_way_to_the_logits_promote_nothing():
    host = Host.from_module(bert(), "bert", Tokenizer.framed(word_tokenizer()), forward=lambda i, m: bert()(i)[0])
    assert promotions(host, host.sites("layers.0.mlp.act")[0], torch.ones(24)) == ()
    tiny_host = host_of("tinylm")
    assert promotions(tiny_host, Site("odd", "layers.0.attn.qkv", "output", 48), torch.ones(48)) == ()
    assert promotions(tiny_host, tiny_host.sites("layers.0.mlp.act")[0], torch.zeros(24)) == ()
