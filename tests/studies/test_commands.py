"""What a run says to be made again is read back as the same settings."""

import shlex
from pathlib import Path

import pytest
import tyro

from digon.studies.commands import command
from digon.studies.explaining.settings import ExplainConfig, WordsConfig
from digon.studies.settings import AuditConfig, DiagnoseConfig, DirectionsConfig

CONFIGS = (
    AuditConfig("my model"),
    AuditConfig(
        "m", data="a b.txt", sites="layers.*", decode_site="none", cards=3, device="cuda:1", compute="bfloat16"
    ),
    DiagnoseConfig("world:lookup?d=8&points=9", ids="own", network=True, seed=3),
    DirectionsConfig("run", "layers.1.mlp.act", bits=100.0, against=("neurons", "bare tokens"), sae_steps=5),
    ExplainConfig("run", rungs=("token look-up", "N2G+"), coverage=False, ablation=True, latents=Path("a/sae 1")),
    WordsConfig(llm="http://localhost:1/v1", model="m", scorers=("detection", "fuzzing"), revise=True, best_of=3),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_a_line_is_read_back_as_the_settings_it_was_made_from(config):
    words = shlex.split(command("verb", config, out="some where"))
    assert words[:2] == ["digon", "verb"]
    assert words[-2:] == ["--out", "some where"]
    assert tyro.cli(type(config), args=words[2:-2]) == config


def test_only_what_differs_is_said_of_all_settings():
    line = command("explain", ExplainConfig("run", coverage=False), WordsConfig(local="lm", others=0), out=Path("o"))
    assert line == "digon explain run --no-coverage --local lm --others 0 --out o"
