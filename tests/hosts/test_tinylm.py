"""The network itself: causality, shapes, activations, and what `load` refuses."""

import json

import pytest
import torch

from digon import rng
from digon.errors import ConfigError, CorruptError, ModelError, PathError
from digon.hosts.tinylm import RECORD, TOKENIZER, WEIGHTS, SoLU, TinyLM, TinyLMConfig, TopK, rotate, rotations
from digon.hosts.tinylm_train import LMTrainConfig, train
from digon.store import files, weights

SMALL = TinyLMConfig(vocabulary=300, context=16, width=16, layers=2, heads=2, mlp_width=24)
TEXTS = [f"the cat {n} sat on the mat and the dog {n} sat on the log\n" * 4 for n in range(12)]


def ids(rows: int, columns: int, vocabulary: int = 300) -> torch.Tensor:
    return torch.randint(vocabulary, (rows, columns), generator=rng.stream(0, "ids"))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng.stream(1, "normal"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "lm"
    return train(TEXTS, TEXTS[:3], SMALL, LMTrainConfig(steps=2, batch=2), out, lambda _: None)


@pytest.fixture
def copy(trained, tmp_path):
    for name in (RECORD, TOKENIZER, WEIGHTS):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("activation", ["gelu", "relu", "solu", "topk", "topk_relu"])
def test_later_tokens_do_not_touch_earlier_logits(activation):
    model = TinyLM(TinyLMConfig(**(SMALL.__dict__ | {"activation": activation})))
    before, tokens = None, ids(2, 10)
    for last in (3, 250):
        tokens = tokens.clone()
        tokens[:, 7] = last
        logits = model(tokens)
        if before is not None:
            assert torch.equal(logits[:, :7], before[:, :7])
            assert not torch.equal(logits[:, 7:], before[:, 7:])
        before = logits


def test_padding_on_either_side_changes_nothing_for_the_real_tokens():
    model, tokens = TinyLM(SMALL), ids(1, 6)
    alone = model(tokens)
    pad = torch.zeros(1, 3, dtype=torch.int64)
    right = model(torch.cat([tokens, pad], 1), torch.tensor([[1] * 6 + [0] * 3]))
    left = model(torch.cat([pad, tokens], 1), torch.tensor([[False] * 3 + [True] * 6]))
    torch.testing.assert_close(right[:, :6], alone)
    torch.testing.assert_close(left[:, 3:], alone)  # rotary positions are relative
    assert bool(left.isfinite().all())


def test_rotary_scores_depend_on_distance_only():
    q, k = normal(1, 1, 1, 8).expand(1, 1, 12, 8), normal(1, 2, 1, 8)[:, 1:].expand(1, 1, 12, 8)
    turn = rotations(12, 8)
    scores = (rotate(q, turn) @ rotate(k, turn).transpose(-1, -2))[0, 0]
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert float(scores.std()) > 0.1


def test_tied_matrix_is_one_and_is_stored_once():
    tied = TinyLM(SMALL)
    untied = TinyLM(TinyLMConfig(**(SMALL.__dict__ | {"tied": False})))
    assert tied.unembed.weight is tied.embed.weight
    assert untied.unembed.weight.shape == (300, 16)
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 300 * 16
    assert untied.tensors().keys() - tied.tensors().keys() == {"unembed.weight"}


def test_sites_carry_the_promised_shapes():
    model, seen = TinyLM(SMALL), {}
    block = model.layers[1]
    for name, module in (("heads", block.attn.out), ("neurons", block.mlp.down)):
        module.register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0].shape}))
    assert model(ids(3, 5)).shape == (3, 5, 300)
    assert seen == {"heads": (3, 5, 16), "neurons": (3, 5, 24)}


def test_same_seed_same_weights_other_seed_other_weights():
    one, two, other = TinyLM(SMALL), TinyLM(SMALL), TinyLM(TinyLMConfig(**(SMALL.__dict__ | {"seed": 1})))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed.weight, other.embed.weight)


@pytest.mark.parametrize(("density", "k"), [(0.01, 1), (0.1, 4), (0.5, 20), (1.0, 40)])
def test_topk_keeps_exactly_k_and_they_are_the_largest(density, k):
    x = normal(50, 40)
    y = TopK(40, density)(x)
    assert torch.equal((y != 0).sum(-1), torch.full((50,), k))
    kept = x.masked_fill(y == 0, float("inf")).amin(-1)
    dropped = x.masked_fill(y != 0, float("-inf")).amax(-1)
    assert bool((kept > dropped).all())
    torch.testing.assert_close(y[y != 0], torch.nn.functional.gelu(x)[y != 0])


def test_topk_of_relu_drops_what_is_negative_even_among_the_largest():
    x = torch.tensor([[3.0, -1.0, 2.0, -2.0], [-4.0, -1.0, -2.0, -3.0]])
    expected = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(TopK(4, 0.75, torch.relu)(x), expected)
    torch.testing.assert_close(TopK(4, 0.001, torch.relu)(x)[0], torch.tensor([3.0, 0.0, 0.0, 0.0]))
    model = TinyLM(TinyLMConfig(**(SMALL.__dict__ | {"activation": "topk_relu", "density": 1.0})))
    plain = TinyLM(TinyLMConfig(**(SMALL.__dict__ | {"activation": "relu"})))
    torch.testing.assert_close(model(ids(2, 6)), plain(ids(2, 6)))


def test_solu_by_hand():
    # x = (0, ln 3): softmax = (1/4, 3/4), x·softmax = (0, 3/4 ln 3), which LayerNorm turns into (−1, 1).
    y = SoLU(2)(
        torch.tensor([[0.0, 3.0]]).log1p() * torch.tensor([1.0, torch.tensor(3.0).log() / torch.tensor(4.0).log()])
    )
    torch.testing.assert_close(y, torch.tensor([[-1.0, 1.0]]), atol=1e-4, rtol=0)
    x = normal(5, 7)
    raw = x * x.exp() / x.exp().sum(-1, keepdim=True)
    expected = (raw - raw.mean(-1, keepdim=True)) / (raw.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(SoLU(7)(x), expected)


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"vocabulary": 256}, {"density": 0.0}, {"layers": 0}])
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ConfigError):
        TinyLMConfig(**wrong)


def test_load_gives_back_the_weights_and_a_lossless_tokenizer(trained):
    model, tokenizer = TinyLM.load(trained)
    stored = weights.read_tensors(trained / WEIGHTS)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.tensors().items())
    text = "naïve <|end|>\n\tπ🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert 0 not in tokenizer.encode(text).ids  # the end token's text is only text


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def test_damage_is_named(copy):
    with pytest.raises(PathError):
        TinyLM.load(copy / "nowhere")
    flip(copy / WEIGHTS)
    with pytest.raises(CorruptError, match=WEIGHTS):
        TinyLM.load(copy)


@pytest.mark.parametrize("name", [WEIGHTS, TOKENIZER])
def test_a_truncated_or_missing_file_is_refused(copy, name):
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    with pytest.raises(CorruptError, match=name):
        TinyLM.load(copy)
    (copy / name).unlink()
    with pytest.raises(CorruptError, match=name):
        TinyLM.load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {}}', "\x00"])
def test_a_damaged_record_is_refused(copy, text):
    (copy / RECORD).write_text(text)
    with pytest.raises(CorruptError, match=RECORD):
        TinyLM.load(copy)
    (copy / RECORD).unlink()
    with pytest.raises(ModelError, match=RECORD):
        TinyLM.load(copy)


def resigned(folder, tensors):
    """Write other weights and make the checksum fit, as a careless edit would."""
    weights.write_tensors(folder / WEIGHTS, tensors)
    record = json.loads((folder / RECORD).read_text())
    record["files"][WEIGHTS] = files.sha256(folder / WEIGHTS)
    (folder / RECORD).write_text(json.dumps(record))


def test_nan_weights_and_foreign_shapes_are_refused(copy):
    tensors = {name: t.clone() for name, t in weights.read_tensors(copy / WEIGHTS).items()}
    tensors["norm.weight"][3] = float("nan")
    resigned(copy, tensors)
    with pytest.raises(ModelError, match="NaN"):
        TinyLM.load(copy)
    resigned(copy, tensors | {"norm.weight": torch.ones(5)})
    with pytest.raises(CorruptError, match=r"norm\.weight"):
        TinyLM.load(copy)
