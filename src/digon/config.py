"""Configs: frozen dataclasses that come from TOML or from the command line and have a digest.

A config is strict (an unknown key is an error that names the nearest known one) and complete (its TOML holds every
value, defaults included), so a run folder says exactly what was asked.
"""

import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import ConfigError, PathError, did_you_mean

C = TypeVar("C")


def load(kind: type[C], path: Path) -> C:
    """Read a config of type `kind` from a TOML file.

    Raises: PathError if there is no such file; ConfigError if it is not TOML or not such a config.
    """
    if not path.is_file():
        raise PathError(f"no config file at {path}", expected="a TOML file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", expected="a TOML file in UTF-8") from None
    return from_dict(kind, values)


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """Build a config of type `kind` from plain values, strictly.

    Raises: ConfigError that names the first wrong setting.
    """
    try:
        return TypeAdapter(_strict(kind)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        fields = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        raise ConfigError(
            f"setting {where!r}: {first['msg']} (got {first.get('input')!r})",
            expected=f"a setting of {kind.__name__}: {', '.join(fields)}",
            hint=did_you_mean(where, fields),
        ) from None


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a config; settings that are None are left out, as TOML has no null."""
    kind = config.__class__
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return _without_none(adapter.dump_python(config, mode="json"))


def to_toml(config: Any) -> str:
    """The config as TOML, every value spelled out."""
    return tomli_w.dumps(to_dict(config))


def digest(config: Any) -> str:
    """Hash of the config's values: equal configs, and only they, have equal digests."""
    canonical = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}  # type: ignore[misc]
    return value


def _strict(kind: type[C]) -> type[C]:
    # Stdlib dataclasses ignore unknown keys in pydantic unless they carry this attribute.
    for nested in [kind, *(f.type for f in dataclasses.fields(kind))]:  # type: ignore[arg-type]
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            nested.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return kind
