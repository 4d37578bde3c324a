"""Training: exact resume, refusal of foreign folders, learning, and determinism."""

import math

import pytest
import torch

from digon.errors import ConfigError, CorpusError, CorruptError, NonFiniteError
from digon.hosts.tinylm import RECORD, TOKENIZER, WEIGHTS, TinyLM, TinyLMConfig
from digon.hosts.tinylm_tokens import END_ID, encode
from digon.hosts.tinylm_train import PLAN, STATE, LMTrainConfig, learning_rate, report, train

SMALL = TinyLMConfig(vocabulary=300, context=16, width=16, layers=2, heads=2, mlp_width=24)
SHORT = LMTrainConfig(steps=12, batch=4, warmup=2, checkpoint_every=3)
TEXTS = [f"the cat {n} sat on the mat and the dog {n} sat on the log\n" * 4 for n in range(12)]
HELD_OUT = TEXTS[:3]


class Killed(Exception):
    pass


def kill_at(step):
    def callback(at):
        if at.step == step:
            raise Killed

    return callback


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(TEXTS, HELD_OUT, SMALL, SHORT, tmp_path_factory.mktemp("lm") / "lm", lambda _: None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_killed_and_resumed_ends_in_the_same_bytes(tmp_path, dtype):
    config = LMTrainConfig(**(SHORT.__dict__ | {"dtype": dtype}))
    whole = train(TEXTS, HELD_OUT, SMALL, config, tmp_path / "whole", lambda _: None)
    for step in (2, 5, 6, 12):  # before any checkpoint, between two, at one, at the last update
        with pytest.raises(Killed):
            train(TEXTS, HELD_OUT, SMALL, config, tmp_path / "killed", kill_at(step))
        assert not (tmp_path / "killed" / RECORD).exists()
    steps = []
    train(TEXTS, HELD_OUT, SMALL, config, tmp_path / "killed", lambda at: steps.append(at.step))
    assert steps == []  # the last update was checkpointed: only the report was missing
    assert content(tmp_path / "killed") == content(whole)
    assert set(content(whole)) == {RECORD, TOKENIZER, WEIGHTS}


def test_a_finished_folder_is_returned_at_once(undisturbed):
    before = content(undisturbed)
    steps = []
    train(TEXTS, HELD_OUT, SMALL, SHORT, undisturbed, lambda at: steps.append(at.step))
    assert steps == []
    assert content(undisturbed) == before


@pytest.mark.parametrize("change", ["seed", "texts", "held out"])
def test_a_folder_of_another_run_is_refused(undisturbed, tmp_path, change):
    config = LMTrainConfig(**(SHORT.__dict__ | {"seed": 1})) if change == "seed" else SHORT
    texts = [*TEXTS, "more"] if change == "texts" else TEXTS
    held_out = HELD_OUT[:2] if change == "held out" else HELD_OUT
    with pytest.raises(ConfigError, match="other settings or other texts"):
        train(texts, held_out, SMALL, config, undisturbed)
    with pytest.raises(Killed):
        train(TEXTS, HELD_OUT, SMALL, SHORT, tmp_path / "half", kill_at(4))
    with pytest.raises(ConfigError, match="other settings or other texts"):
        train(texts, held_out, SMALL, config, tmp_path / "half")


@pytest.mark.parametrize("name", [PLAN, STATE])
def test_a_damaged_checkpoint_is_refused(tmp_path, name):
    with pytest.raises(Killed):
        train(TEXTS, HELD_OUT, SMALL, SHORT, tmp_path, kill_at(4))
    (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(CorruptError):
        train(TEXTS, HELD_OUT, SMALL, SHORT, tmp_path, lambda _: None)


def test_it_learns_a_repetitive_text_far_below_the_unigram(tmp_path):
    config = LMTrainConfig(steps=150, batch=8, lr=1e-2, warmup=10)
    train(TEXTS, HELD_OUT, SMALL, config, tmp_path, lambda _: None)
    found = {m.name: m for m in report(tmp_path)}
    assert found["tinylm_nats_per_token"].value < 0.5 * found["unigram_nats_per_token"].value
    gain = found["tinylm_below_unigram"]
    assert 0 < gain.low <= gain.value <= gain.high
    expected = found["unigram_bits_per_byte"].value - found["tinylm_bits_per_byte"].value
    assert gain.value == pytest.approx(expected)


def test_the_report_is_the_model_read_token_by_token(undisturbed):
    model, tokenizer = TinyLM.load(undisturbed)
    nats = tokens = 0
    model.requires_grad_(False)
    for document in encode(tokenizer, HELD_OUT):
        row = [END_ID, *document.tolist()]
        for start in range(0, len(document), SMALL.context):
            window = row[start : start + SMALL.context + 1]
            for end in range(1, len(window)):
                logits = model(torch.tensor([window[:end]]))[0, -1]
                nats -= float(logits.log_softmax(-1)[window[end]])
                tokens += 1
    found = {m.name: m.value for m in report(undisturbed)}
    assert found["tinylm_nats_per_token"] == pytest.approx(nats / tokens, rel=1e-5)
    size = sum(len(t.encode()) for t in HELD_OUT)
    assert found["tinylm_bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_divergence_is_an_error_not_a_model(tmp_path):
    config = LMTrainConfig(steps=50, batch=2, lr=1e38, warmup=0)
    with pytest.raises(NonFiniteError, match="step"):
        train(TEXTS, HELD_OUT, SMALL, config, tmp_path, lambda _: None)
    assert not (tmp_path / RECORD).exists()


def test_learning_rate_rises_then_falls_to_zero():
    config = LMTrainConfig(steps=1000, lr=1.0, warmup=10)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert max(range(1000), key=rates.__getitem__) == 9
    assert rates[500] == pytest.approx(0.5)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("texts", "held_out"), [([], HELD_OUT), (["", ""], HELD_OUT), (TEXTS, []), (["a"], HELD_OUT)])
def test_too_little_text_is_refused(tmp_path, texts, held_out):
    with pytest.raises(CorpusError):
        train(texts, held_out, SMALL, SHORT, tmp_path, lambda _: None)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="steps"):
        LMTrainConfig(steps=0)
