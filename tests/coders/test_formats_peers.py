"""SAELens and sparsify themselves, in an environment of their own, on our files and we on theirs."""

import os
import runpy
from pathlib import Path

import pytest

PEERS = os.environ.get("DIGON_PEERS")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "saelens.py"


@pytest.mark.skipif(
    not PEERS,
    reason="not checked: DIGON_PEERS has to name a Python that has sae-lens; make one with `make peers` and run "
    "DIGON_PEERS=.venv-peers/bin/python pytest tests/coders/test_formats_peers.py",
)
def test_other_tools_do_the_same_to_the_last_bit():
    assert PEERS
    lines = runpy.run_path(str(BENCHMARK))["compare"](PEERS)
    assert {line["by"] for line in lines if line["tool"] == "saelens"} == {"digon", "saelens"}
    exact = [line for line in lines if line["exact"]]
    assert len(exact) >= 40
    assert [line for line in exact if line["codes"] or line["decoded"]] == []
    assert max(line["decoded"] for line in lines) < 1e-4
    rounded = [line for line in lines if line["architecture"] != "not centered"]  # there a threshold may fall between
    assert max(line["codes"] for line in rounded) < 1e-3
