import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from digon.cli import main
from digon.records import Diagnosis, UnitCard
from digon.store.runs import Run
from digon.store.shards import ActivationStore

KILLS = int(os.environ.get("DIGON_KILLS", "3"))
TIMES = {"stages.json", "facts.json", "metrics.jsonl", "page.html"}  # they hold wall-clock seconds


def command(tiny, texts, settings_file, out):
    return ["audit", str(tiny), "--data", str(texts), "--config", str(settings_file), "--out", str(out)]


@pytest.fixture(scope="session")
def audited(tmp_path_factory, tiny, texts, settings_file):
    out = tmp_path_factory.mktemp("audit") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # sums differ in the last bits with the number of threads
        assert main(command(tiny, texts, settings_file, out)) == 0
    torch.set_num_threads(threads)
    return out


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in TIMES
    }


def test_every_stage_leaves_its_records(audited):
    run = Run.open(audited)
    units = run.query("select kind, count(*) as n, sum(has_card::int) as cards from units group by kind order by kind")
    assert units["kind"].tolist() == ["latent", "neuron"]
    assert units["n"].tolist() == [96, 48]
    assert units["cards"].tolist() == [6, 12]
    diagnoses = run.read_json("diagnoses", list[Diagnosis])
    assert [d.site for d in diagnoses] == ["layers.0.mlp.act", "layers.1.mlp.act"]
    cards = run.read_json("cards/layers.1.mlp.act", list[UnitCard])
    assert {e.explainer for c in cards for e in c.explanations} == {"token look-up", "n-grams"}
    facts = run.read_json("facts", dict)
    assert facts["data"]["undecodable"] == 1
    assert facts["data"]["empty"] == 1
    assert facts["data"]["tokens"] == 12000


def test_table_agrees_with_the_activations(audited):
    store = ActivationStore.open(audited / "activations")
    table = Run.open(audited).query("select * from units where site = 'layers.1.mlp.act' order by \"index\"")
    values = store.values("layers.1.mlp.act")
    np.testing.assert_allclose(table["density"], (values > 0).double().mean(0).numpy())
    np.testing.assert_allclose(table["mean"], values.double().mean(0).numpy(), rtol=1e-5, atol=1e-9)
    card = Run.open(audited).read_json("cards/layers.1.mlp.act", list[UnitCard])[0]
    assert card.histogram is not None
    assert sum(card.histogram.counts) == len(store)


def test_splits_of_a_card_are_honest(audited):
    from digon.explain import split_of

    for card in Run.open(audited).read_json("cards/layers.0.mlp.act", list[UnitCard]):
        assert all(e.split == split_of(e.document) for e in card.exemplars)


def test_hostile_corpus_is_escaped(audited):
    html = (audited / "page.html").read_text()
    assert "<script>alert" not in html


def test_a_second_call_reuses_everything(audited, tiny, texts, settings_file, capsys):
    before = contents(audited)
    started = time.perf_counter()
    assert main([*command(tiny, texts, settings_file, audited), "--json"]) == 0
    assert time.perf_counter() - started < 20
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert Path(result["page"]).is_file()
    assert result["sentences"]
    assert "harvest" not in captured.err
    assert contents(audited) == before


def test_decode_and_runs_and_page_verbs(audited, capsys):
    words = ["decode", str(audited), "--site", "layers.0.mlp.act", "--l0", "3", "6", "--latents", "32", "--steps", "5"]
    assert main([*words, "--activation", "jumprelu", "--prefixes", "8"]) == 0
    for l0 in (3, 6):
        assert (audited / f"sae/layers.0.mlp.act.jumprelu-nested-32-l0-{l0}/sae_weights.safetensors").is_file()
    assert main(["page", str(audited)]) == 0
    assert main(["runs", str(audited.parent), "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"][0]
    assert row["verdicts"] == "undecided"
    assert row["tokens"] == 12000
    assert main(["runs", str(audited.parent)]) == 0


def test_harvest_verb(tmp_path, tiny, texts, capsys):
    out = tmp_path / "acts"
    assert (
        main(
            ["harvest", str(tiny), "--data", str(texts), "--tokens", "2000", "--out", str(out), "--site", "layers.0.*"]
        )
        == 0
    )
    assert "2,000 tokens" in capsys.readouterr().out
    assert len(ActivationStore.open(out)) == 2000


def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path, audited, tiny, texts, settings_file):
    """SIGKILL, restart, and so on; `DIGON_KILLS=20` for the long version."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    undisturbed = {k: v for k, v in contents(audited).items() if not k.startswith("sae/layers.0.mlp.act.jumprelu")}
    moments = random.Random(0)
    killed, number, finished = 0, 0, True
    while killed < KILLS or not finished:
        out = tmp_path / f"killed{number}"
        run = [sys.executable, "-m", "digon.cli", *command(tiny, texts, settings_file, out)]
        with subprocess.Popen(run, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                # torch needs seconds to start; the kill should fall into the work
                process.wait(moments.uniform(2.5, 7) if killed < KILLS else None)
                finished = True
                assert process.returncode == 0
                assert contents(out) == undisturbed
                number += 1
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed, finished = killed + 1, False


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--site", "layers.*.mlp.akt"], 2, "layers.*.mlp.akt"),
        (["--data", "/no/such/text"], 2, "/no/such/text"),
        (["--decode-site", "layers.9.mlp.act"], 2, "layers.9.mlp.act"),
        (["--config", "/no/such.toml"], 2, "/no/such.toml"),
    ],
)
def test_wrong_requests_are_one_clear_error(tmp_path, tiny, texts, settings_file, capsys, change, code, message):
    words = command(tiny, texts, settings_file, tmp_path / "run")
    for flag, value in zip(change[::2], change[1::2], strict=True):
        words = (
            [*words, flag, value]
            if flag not in words
            else [value if words[i - 1] == flag else w for i, w in enumerate(words)]
        )
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_missing_model_suggests_its_neighbors(tmp_path, tiny, capsys):
    assert main(["audit", str(tiny.parent / "tinny"), "--out", str(tmp_path / "r")]) == 2
    assert "tiny" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_junk_text_pickled_and_broken_models(tmp_path, tiny, capsys):
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "a.txt").write_bytes(b"\x00\xff\xfe" * 100)
    assert main(["audit", str(tiny), "--data", str(junk), "--out", str(tmp_path / "r1")]) == 2
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "bert"}')
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    assert main(["audit", str(model), "--out", str(tmp_path / "r2")]) == 2
    errors = capsys.readouterr().err
    assert "safetensors" in errors
    assert "Traceback" not in errors


def test_a_damaged_shard_is_named(tmp_path, audited, tiny, texts, settings_file, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(audited, copy)
    shard = next((copy / "activations/sites/layers.0.mlp.act").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8] + b"deadbeef")
    assert main(command(tiny, texts, settings_file, copy)) == 1
    assert f"sites/layers.0.mlp.act/{shard.name}" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_half_written(tmp_path, tiny, texts, settings_file, capsys, monkeypatch):
    written = Path.write_bytes

    def full(self, data):
        if len(data) > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / "run"
    assert main(command(tiny, texts, settings_file, out)) == 1
    assert "No space left" in capsys.readouterr().err
    assert not list(out.rglob("*.part"))
