"""The architecture, enforced: layers, cycles, sizes, the torch-free floor and the cost of `--help`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "digon"
LAYERS = {
    "errors": 0, "records": 0, "config": 0,
    "tensors": 1, "rng": 1, "threads": 1, "store": 1,
    "worlds": 2, "hosts": 2, "measures": 2,
    "coders": 3,
    "diagnose": 4, "explain": 4, "intervene": 4,
    "studies": 5,
    "page": 6,
    "cli": 7,
}  # fmt: skip
MAY_IMPORT_SIBLING = {("worlds", "measures")}
WITHIN_LAYER = {0, 1}  # the ground floor's modules build on each other
FILES = sorted(SRC.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Modules of ours that `path` imports; with `lazy`, imports inside functions too."""
    tree = ast.parse(path.read_text())
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)
    }
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if not lazy and id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {f"{module}.{a.name}" if f"{module}.{a.name}" in MODULES else module for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return {m for m in found if m.split(".")[0] == "digon"} - {name_of(path)}


def room(module: str) -> str | None:
    return module.split(".")[1] if "." in module else None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path):
    here = room(name_of(path))
    if here is None:
        return
    assert here in LAYERS, f"{here} has no layer: add it to LAYERS and to the design"
    for module in imports(path, lazy=True):
        there = room(module)
        if there is None or there == here:
            continue
        allowed = (
            LAYERS[there] < LAYERS[here]
            or (here, there) in MAY_IMPORT_SIBLING
            or (LAYERS[there] == LAYERS[here] and LAYERS[here] in WITHIN_LAYER)
        )
        assert allowed, f"{name_of(path)} (layer {LAYERS[here]}) imports {module} (layer {LAYERS[there]})"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_is_imported_from_ourselves_exists(path):
    assert imports(path, lazy=True) <= MODULES.keys()


def test_no_cycles():
    graph = {name: imports(path, lazy=True) & MODULES.keys() for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for module in graph[name]:
                visit(module, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= 400, "a file past 400 lines is two ideas"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines: it is two ideas"
            if room(name_of(path)) == "cli":
                continue  # a verb has a parameter per flag
            assert len(node.args.args) + len(node.args.kwonlyargs) <= 9, f"{node.name} has too many parameters"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_global_seeds_and_no_pickles(path):
    text = path.read_text()
    for forbidden in ("torch.manual_seed", "np.random.seed", "import pickle", " torch.save("):
        assert forbidden not in text
    for call in [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]:
        if ast.unparse(call.func) == "torch.load":
            assert name_of(path) == "digon.coders.formats.reading", "one place opens pickles, where a user asks for it"
            assert "weights_only=True" in ast.unparse(call), "a pickle could run code"


def python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)


def test_the_floor_is_free_of_torch():
    code = """
import sys, digon, digon.errors, digon.records, digon.config, digon.cli, digon.page.build, digon.store.runs
assert "torch" not in sys.modules, "torch was imported"
try: digon.cli.main(["--help"])
except SystemExit: pass
assert "torch" not in sys.modules, "--help imports torch"
"""
    python(code)


def test_help_imports_in_under_300_ms():
    """Import time as Python itself accounts it, the best of three: noise only ever adds."""
    code = "import digon.cli"

    def milliseconds() -> float:
        lines = python(code, "-X", "importtime").stderr.splitlines()
        top = [line for line in lines if line.rstrip().endswith("| digon.cli")]
        return int(top[0].split("|")[1]) / 1000

    assert min(milliseconds() for _ in range(3)) < 300


def test_every_module_says_what_it_is_for():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no docstring"
