"""What the documents say is true: the code in them runs, the terms they define are the ones in use."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_python_in_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert abs(float(capsys.readouterr().out.split()[0])) < 6


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ("01_pentagon", "pentagon"),
        ("02_why_polysemantic", "after the best unmixing"),
        ("03_diagnose", "what would decide"),
    ],
)
def test_examples_run_and_say_what_they_promise(example, says, capsys):
    runpy.run_path(str(ROOT / "examples" / f"{example}.py"))
    assert says in capsys.readouterr().out


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {
        "01_pentagon",
        "02_why_polysemantic",
        "03_diagnose",
    }


def test_the_tree_in_the_readme_is_the_tree():
    tree = (ROOT / "README.md").read_text().split("src/digon/\n")[1].split("```")[0]
    listed = set(re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE))
    found = {p.name + ("/" if p.is_dir() else "") for p in (ROOT / "src/digon").iterdir() if not p.name.startswith("_")}
    assert listed == found


def test_every_local_link_leads_somewhere():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_makefile_and_ci_hold_the_promised_commands():
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test", "check", "bench", "clean"):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    script = (ROOT / ".ci/run").read_text()
    assert "make check" in script
    assert "make test" in script
