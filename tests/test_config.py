from dataclasses import dataclass, field, replace

import pytest

from digon import config
from digon.errors import ConfigError, PathError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Outer:
    steps: int = 3
    name: str | None = None
    inner: Inner = field(default_factory=Inner)


def test_toml_round_trip(tmp_path):
    path = tmp_path / "c.toml"
    asked = Outer(steps=5, inner=Inner(rate=0.25))
    path.write_text(config.to_toml(asked))
    assert config.load(Outer, path) == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes = 1", r"'stpes'.*\n.*\n?.*did you mean steps"),
        ('steps = "many"', "'steps'"),
        ("[inner]\nrat = 1", "'inner.rat'"),
        ("steps = ", "not TOML"),
    ],
)
def test_wrong_settings_are_named(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(Outer, path)


def test_missing_file():
    from pathlib import Path

    with pytest.raises(PathError, match="no config file"):
        config.load(Outer, Path("/nowhere/c.toml"))


def test_digest_changes_with_any_value_and_only_then():
    base = Outer()
    assert config.digest(base) == config.digest(Outer(steps=3))
    assert config.digest(base) != config.digest(replace(base, inner=Inner(rate=0.2)))
