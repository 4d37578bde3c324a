import pytest
import torch
from host_networks import bert, decoder
from torch import nn

from digon.errors import ConfigError, SiteError
from digon.hosts.sites import Site, discover, match
from digon.hosts.taps import ablate, capture, edited, replace, steer

IDS = torch.arange(1, 13).view(2, 6)


def site(model, name):
    return match(discover(model), name)[0]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.inference_mode()
def seen_at(model, names, ids=IDS):
    with capture(model, [site(model, name) for name in names]) as seen:
        model(ids)
    return dict(seen)


def test_captured_neurons_are_what_the_formula_says():
    model = bert()
    seen = seen_at(model, ["layers.0.resid", "layers.1.mlp.act", "layers.1.attn.out"])
    layer = model.encoder.layer[1]
    with torch.inference_mode():
        hidden = model(IDS, output_hidden_states=True).hidden_states
        attended = layer.attention.output.LayerNorm(hidden[1] + seen["layers.1.attn.out"])
        neurons = torch.nn.functional.gelu(layer.intermediate.dense(attended))
    assert torch.equal(seen["layers.0.resid"], hidden[1])
    torch.testing.assert_close(seen["layers.1.mlp.act"], neurons)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_captured_streams_are_the_hidden_states_of_transformers(kind):
    model = decoder(kind)
    seen = seen_at(model, ["embed", "layers.0.resid"])
    with torch.inference_mode():
        hidden = model(IDS, output_hidden_states=True).hidden_states
    assert torch.equal(seen["embed"], hidden[0])
    assert torch.equal(seen["layers.0.resid"], hidden[1])


def test_leaving_an_edit_leaves_nothing_behind():
    model = bert()
    before, bytes_before = model(IDS)[0], state(model)
    with edited(model, {site(model, "layers.0.resid"): steer(torch.ones(16), 3.0)}):
        assert hooks(model) == 1
        assert not torch.allclose(model(IDS)[0], before)
    assert hooks(model) == 0
    assert torch.equal(model(IDS)[0], before)
    assert all(torch.equal(tensor, bytes_before[name]) for name, tensor in model.state_dict().items())


def test_an_exception_cleans_up_too():
    model = bert()

    def explode(_):
        raise KeyError("on purpose")

    sites = [site(model, "layers.0.mlp.act"), site(model, "layers.1.resid")]
    with pytest.raises(KeyError), capture(model, sites), edited(model, {sites[1]: replace(explode)}):
        model(IDS)
    assert hooks(model) == 0
    with pytest.raises(SiteError, match="no module"), capture(model, [*sites, Site("x", "nowhere", "output", 3)]):
        pass
    assert hooks(model) == 0


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_without_neurons_the_mlp_says_its_bias(kind):
    model = bert() if kind == "bert" else decoder(kind)
    act, out = site(model, "layers.1.mlp.act"), site(model, "layers.1.mlp.out")
    bias = model.get_submodule(out.module).bias
    with torch.no_grad():
        bias.copy_(torch.linspace(-1, 1, 16))
    with torch.inference_mode(), edited(model, {act: ablate(range(act.width))}), capture(model, [out]) as seen:
        model(IDS)
    torch.testing.assert_close(seen[out.name], bias.expand(2, 6, 16))


def test_ablation_holds_the_named_units_and_only_those():
    model = bert()
    act = site(model, "layers.0.mlp.act")
    plain = seen_at(model, [act.name])[act.name]
    mean = torch.linspace(2, 3, 24)
    for edit, expected in [(ablate([3, 7]), torch.zeros(2)), (ablate([3, 7], "mean", mean), mean[[3, 7]])]:
        with edited(model, {act: edit}):
            changed = seen_at(model, [act.name])[act.name]
        assert torch.equal(changed[..., [3, 7]], expected.expand(2, 6, 2))
        others = [i for i in range(24) if i not in (3, 7)]
        assert torch.equal(changed[..., others], plain[..., others])
    with pytest.raises(ConfigError, match="needs the mean"):
        ablate([1], "mean")
    with pytest.raises(SiteError, match="units from 0 to 23"), edited(model, {act: ablate([24])}):
        model(IDS)


def test_steering_moves_the_site_by_exactly_the_vector():
    model = decoder("llama")
    place = site(model, "layers.0.resid")
    plain = seen_at(model, [place.name])[place.name]
    v = torch.linspace(-2, 2, 16)
    with edited(model, {place: steer(v, 0.5).then(steer(v, 1.5))}):
        moved = seen_at(model, [place.name])[place.name]
    torch.testing.assert_close(moved, plain + 2 * v, atol=1e-6, rtol=1e-6)


def test_edits_reach_blocks_that_return_tuples_and_take_keywords():
    class Block(nn.Module):
        def forward(self, *, hidden):
            return hidden + 1, "cache"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            hidden, cache = self.block(hidden=x)
            assert cache == "cache"
            return hidden

    net = Net()
    into, out = Site("i", "block", "input", 2), Site("o", "block", "output", 2)
    with edited(net, {into: replace(lambda x: 10 * x), out: steer(torch.tensor([0.0, 5.0]))}), capture(net, [out]) as s:
        assert net(torch.ones(1, 2)).tolist() == [[11.0, 16.0]]
    assert s["o"].tolist() == [[11.0, 16.0]]


def test_captures_of_networks_that_work_in_place_are_copies():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), capture(net, [Site("0", "0", "output", 3)]) as seen:
        net(x)
        assert torch.equal(seen["0"], net[0](x))
