import pytest
import torch
from host_networks import bert, decoder
from torch import nn

from digon.errors import SiteError
from digon.hosts.load import Host
from digon.hosts.sites import Unit, discover, match
from digon.hosts.taps import capture
from digon.hosts.tinylm import TinyLM, TinyLMConfig

KINDS = ["attn.heads", "attn.out", "mlp.act", "mlp.out", "resid"]
WIDTHS = {"attn.heads": 16, "attn.out": 16, "mlp.act": 24, "mlp.out": 16, "resid": 16, "embed": 16}


def tiny():
    return TinyLM(TinyLMConfig(vocabulary=300, context=16, width=16, layers=2, heads=2, mlp_width=24)).eval()


def network(name):
    return {"bert": bert, "tinylm": tiny}.get(name, lambda: decoder(name))()


@pytest.fixture(params=["bert", "gpt2", "llama", "neox", "tinylm"])
def model(request):
    return network(request.param)


def test_families_share_their_names_and_widths_are_true(model):
    named = [site for site in discover(model) if site.kind != "module"]
    assert [site.name for site in named] == ["embed", *(f"layers.{i}.{kind}" for i in range(2) for kind in KINDS)]
    with torch.inference_mode(), capture(model, named) as seen:
        model(torch.ones(3, 5, dtype=torch.long))
    for site in named:
        width = 64 if site.kind == "mlp.act" and "GPT2" in type(model).__name__ else WIDTHS[site.kind]
        assert seen[site.name].shape == (3, 5, width)
        assert site.width == width


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "tinylm"])
def test_the_residual_stream_is_the_sum_of_what_goes_in(name):
    """In a pre-norm decoder: resid(i) = resid(i-1) + attn.out + mlp.out."""
    model = network(name)
    sites = match(discover(model), "embed,layers.*")
    with torch.inference_mode(), capture(model, sites) as seen:
        model(torch.arange(6)[None])
    before = seen["embed"]
    for i in range(2):
        after = before + seen[f"layers.{i}.attn.out"] + seen[f"layers.{i}.mlp.out"]
        torch.testing.assert_close(seen[f"layers.{i}.resid"], after)
        before = after


def test_globs_and_aliases_name_the_same_places():
    sites = discover(bert())
    names = lambda pattern: [site.name for site in match(sites, pattern)]  # noqa: E731
    assert names("layers.*.mlp.act") == ["layers.0.mlp.act", "layers.1.mlp.act"]
    assert names("layers.1.resid, embed") == ["embed", "layers.1.resid"]
    assert names("blocks.1.hook_resid_post") == ["layers.1.resid"]
    assert names("blocks.*.hook_resid_pre") == ["embed", "layers.0.resid"]
    assert names("blocks.0.mlp.hook_post") == ["layers.0.mlp.act"]
    assert names("blocks.0.attn.hook_z") == ["layers.0.attn.heads"]
    assert names("blocks.0.hook_mlp_out") == names("encoder.layer.0.output.dense") == ["layers.0.mlp.out"]
    assert names("blocks.0.hook_attn_out") == ["layers.0.attn.out"]
    assert names("encoder.layer.1.intermediate.dense") == ["encoder.layer.1.intermediate.dense"]
    assert len(names("*")) == 11, "a star is every named site, not every module"


def test_an_unknown_site_is_answered_with_near_ones():
    with pytest.raises(SiteError, match=r"did you mean layers\.0\.mlp\.act"):
        match(discover(bert()), "layers.0.mlp.akt")
    with pytest.raises(SiteError, match="no site was asked for"):
        match(discover(bert()), " , ")
    with pytest.raises(SiteError, match=r"no site fits .blocks\.2\.hook_resid_pre"):  # there is no block 2
        match(discover(bert()), "blocks.2.hook_resid_pre")


def test_any_module_has_sites_and_a_probe_learns_their_widths():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 3), nn.Tanh()))
    assert {site.name: site.width for site in discover(net)} == {"0": 6, "1": None, "2": None, "2.0": 3, "2.1": None}
    host = Host.from_module(net, "net", example=torch.zeros(2, 4))
    assert {site.name: site.width for site in host.sites()} == {"0": 6, "1": 6, "2": 3, "2.0": 3, "2.1": 3}


def test_units_have_addresses():
    unit = Unit("org/model", "layers.3.mlp.act", 412)
    assert str(unit) == "org/model/layers.3.mlp.act#412"
    assert Unit.parse(str(unit)) == unit
    for wrong in ("layers.3.mlp.act#1", "m/layers.3.mlp.act", "m/embed#x", "m/embed#-1"):
        with pytest.raises(SiteError, match="no address"):
            Unit.parse(wrong)
