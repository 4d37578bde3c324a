import json
import subprocess
import sys

import pytest

from digon.cli import VERBS, main


def test_every_verb_has_help_that_teaches(capsys):
    for verb, function in VERBS.items():
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert (function.__doc__ or "").splitlines()[0].split(",")[0] in shown


@pytest.mark.parametrize("words", [["bogus"], ["audit"], ["page"], ["audit", "x", "--tokens", "many"]])
def test_usage_errors_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2


def test_errors_for_machines(capsys, tmp_path):
    assert main(["page", str(tmp_path / "none"), "--json"]) == 2
    error = json.loads(capsys.readouterr().err)
    assert "no run at" in error["error"]
    assert error["expected"]


def test_interrupt_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("digon.page.terminal.list_folder", interrupted)
    assert main(["runs", str(tmp_path)]) == 130
    assert "goes on where it was" in capsys.readouterr().err


def test_empty_and_missing_folders(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "digon demo" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "none")]) == 2


def test_demo_takes_out_as_the_makefile_gives_it(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "digon.studies.demo.run_demo", lambda out, **rest: asked.update(out=out, **rest) or {"run": str(out)}
    )
    monkeypatch.setattr("digon.page.build.build", lambda run, out=None: run / "page.html")
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    assert asked == {"out": tmp_path, "seed": 0, "tokens": 150_000}


def test_module_entry_point():
    done = subprocess.run([sys.executable, "-m", "digon.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("digon 0.")


CLAIM_KEYS = {
    "id", "statement", "source", "kind", "published", "exact", "measured", "low", "high", "tolerance", "verdict",
}  # fmt: skip


def test_reproduce_prints_one_list_of_claims(tmp_path, capsys):
    folder = tmp_path / "toys"
    words = ["reproduce", "pentagon", "E3.1", "--size", "smoke", "--out", str(folder)]
    assert main([*words, "--report", str(tmp_path / "r.md"), "--figures", str(tmp_path / "svg"), "--json"]) == 0
    out, err = capsys.readouterr()
    claims = json.loads(out)
    assert "E3" in {claim["id"].split(".")[0] for claim in claims}
    assert all(set(claim) == CLAIM_KEYS for claim in claims)
    assert {claim["verdict"] for claim in claims} <= {"holds", "differs", "not reached"}
    assert "pentagon: running" in err
    assert "# Toy models of superposition" in (tmp_path / "r.md").read_text()
    assert list((tmp_path / "svg").glob("E3-*.svg"))
    assert (folder / "page.html").is_file()


def test_reproduce_without_ids_lists_and_runs_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce"]) == 0
    assert "E4.1" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["E99"], ["E4", "--report", "r.txt"]])
def test_reproduce_refuses_before_any_work(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words]) == 2
    assert not list(tmp_path.iterdir())


def test_toy_draws_and_every_choice_of_settings_has_its_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["toy", "--n", "2", "--m", "1", "--starts", "4"]
    assert main(quick) == 0
    shown = capsys.readouterr().out
    assert "Geometry: digon." in shown
    assert "█" in shown
    assert main([*quick, "--density", "0.3"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert main(["runs"]) == 0
    assert "2 features in 1" in capsys.readouterr().out


def test_flags_of_an_audit_override_its_file(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "digon.studies.audit.run_audit", lambda s, out: asked.update(settings=s, out=out) or {"run": str(out)}
    )
    monkeypatch.setattr("digon.page.build.build", lambda run, out=None: run / "page.html")
    (tmp_path / "a.toml").write_text('model = "some/model"\ntokens = 7\ncards = 3\n')
    assert main(["audit", "--config", str(tmp_path / "a.toml"), "--tokens", "9", "--site", "layers.0.*", "--json"]) == 0
    assert (asked["settings"].model, asked["settings"].tokens, asked["settings"].cards) == ("some/model", 9, 3)
    assert asked["settings"].sites == "layers.0.*"
    assert main(["audit", "--config", str(tmp_path / "none.toml")]) == 2


def test_diagnose_prints_one_document(tmp_path, capsys):
    words = ["diagnose", "world:rotated?d=6&rows=3000", "--out", str(tmp_path / "run")]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["causes"]
    assert found["access"] == "A"
    assert set(found["n_features"]) == {"lower", "point", "upper"}
    assert {"posterior", "rank", "load", "active", "checks", "blocks", "undecided", "next_experiment"} <= set(found)
    assert [check["id"] for check in found["checks"]][:3] == ["P01", "P02", "P03"]
    assert "P03" in err
    assert (tmp_path / "run" / "page.html").is_file()
    assert main(words) == 0
    assert "access A" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["nowhere.npy"], ["world:rotatd"], ["world:rotated", "--ids", "nowhere.txt"], ["world:rotated", "--rows", "0"]],
)
def test_diagnose_refuses_before_any_work(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", *words, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]
    assert not list(tmp_path.iterdir())
