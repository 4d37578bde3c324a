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
