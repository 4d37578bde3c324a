"""Run folders: what was asked, what came out, and how far it got.

    run/
      config.toml            every setting of the run
      stages.json            stages that are finished: their key, their seconds
      <table>.parquet        tables, queried with DuckDB as views of the same name
      <record>.json          records
      …                      stores, models and weights in folders of their own

A stage is finished when `stages.json` lists it with the key it was run under; a restart skips those.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from .. import config as configs
from .. import records
from ..errors import ConfigError, CorruptError, PathError, StorageError
from . import files


class Run:
    """A folder with one run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: object) -> "Run":
        """Start a run, or continue the one that is there if it was started with equal settings.

        Raises: PathError if the folder holds something else; ConfigError if it holds another run.
        """
        text = configs.to_toml(config)
        marker = path / "config.toml"
        if marker.is_file():
            if marker.read_text(encoding="utf-8") != text:
                changed = _changed_lines(marker.read_text(encoding="utf-8"), text)
                raise ConfigError(
                    f"{path} holds a run with other settings ({changed})",
                    expected="the settings in its config.toml",
                    hint="choose another --out, or delete the folder",
                )
            return cls(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise PathError(f"{path} exists and is not a run", expected="a new or empty folder")
        files.write_text(marker, text)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open an existing run.

        Raises: PathError if there is none.
        """
        if not (path / "config.toml").is_file():
            known = [str(run.path) for run in list_runs(path.parent if path.parent.is_dir() else Path())]
            raise PathError(
                f"no run at {path}",
                expected="a folder with config.toml",
                hint=f"runs here: {', '.join(known)}" if known else "start one with `digon audit` or `digon demo`",
            )
        return cls(path)

    @contextmanager
    def stage(self, name: str, key: str) -> Iterator[bool]:
        """Yield True if the stage has to run; when the block ends without error, remember it as finished."""
        if self.finished(name, key):
            yield False
            return
        started = time.perf_counter()
        yield True
        self.finish(name, key, time.perf_counter() - started)

    def finished(self, name: str, key: str) -> bool:
        """Whether a stage has been finished under this key."""
        return self.stages().get(name, {}).get("key") == key

    def finish(self, name: str, key: str, seconds: float) -> None:
        """Remember a stage as finished."""
        stages = self.stages() | {name: {"key": key, "seconds": round(seconds, 2)}}
        files.write_text(self.path / "stages.json", json.dumps(stages, indent=1) + "\n")

    def stages(self) -> dict[str, dict[str, Any]]:
        """Finished stages with their keys and seconds."""
        path = self.path / "stages.json"
        return _parse(path) if path.is_file() else {}

    def write_json(self, name: str, record: Any) -> None:
        """Write a record, a list of records or plain values as `<name>.json`."""
        files.write_text(self.path / f"{name}.json", records.to_json(record, indent=1) + "\n")

    def read_json(self, name: str, kind: Any) -> Any:
        """Read `<name>.json` as records of type `kind`.

        Raises: PathError if it is missing; CorruptError if it is damaged.
        """
        path = self.path / f"{name}.json"
        if not path.is_file():
            raise PathError(f"the run {self.path} has no {path.name}", hint="run its command again: it resumes")
        try:
            return records.from_json(kind, path.read_bytes())
        except CorruptError as error:
            raise CorruptError(f"{path}: {error.problem}", expected=error.expected, hint=error.hint) from None

    def write_table(self, name: str, columns: dict[str, np.ndarray]) -> None:
        """Write columns of equal length as `<name>.parquet`; equal columns give equal bytes."""
        table = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in columns.items()}
        with replacing_table(self.path / f"{name}.parquet") as temporary, duckdb.connect() as db:
            db.execute("set threads = 1")
            db.register("columns", table)
            options = "format parquet, compression zstd, use_tmp_file false"
            db.execute(f"copy (select * from columns) to {_quoted(temporary)} ({options})")

    def read_table(self, name: str) -> dict[str, np.ndarray]:
        """All columns of `<name>.parquet`; a missing number is NaN.

        Raises: PathError if it is missing; CorruptError if it is damaged.
        """
        path = self.path / f"{name}.parquet"
        if not path.is_file():
            raise PathError(f"the run {self.path} has no {path.name}", hint="run its command again: it resumes")
        return self.query(f"from read_parquet({_quoted(path)})")

    def query(self, sql: str) -> dict[str, np.ndarray]:
        """Answer SQL over the run's tables; a missing number is NaN.

        Raises: ConfigError if the SQL is wrong; CorruptError if a table is damaged.
        """
        with duckdb.connect() as db:
            try:
                for path in sorted(self.path.glob("*.parquet")):
                    db.execute(f'create view "{path.stem}" as from read_parquet({_quoted(path)})')
                columns = db.execute(sql).fetchnumpy()
            except duckdb.InvalidInputException as error:
                raise CorruptError(f"a table of {self.path} is damaged: {error}") from None
            except duckdb.Error as error:
                raise ConfigError(f"cannot answer {sql!r}: {error}") from None
        return {name: _filled(column) for name, column in columns.items()}


@contextmanager
def replacing_table(path: Path) -> Iterator[Path]:
    """`files.replacing` for files that DuckDB writes."""
    try:
        with files.replacing(path) as temporary:
            yield temporary
    except duckdb.IOException as error:
        raise StorageError(f"cannot write {path}: {error}", hint="free some space, then run again") from None


def list_runs(folder: Path) -> list[Run]:
    """All runs directly in a folder, by name."""
    if not folder.is_dir():
        return []
    return [Run(path.parent) for path in sorted(folder.glob("*/config.toml"))]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _filled(column: np.ndarray) -> np.ndarray:
    if not isinstance(column, np.ma.MaskedArray):
        return column
    missing = np.nan if column.dtype.kind == "f" else None
    plain = column if column.dtype.kind == "f" or not column.mask.any() else column.astype(object)
    return np.ma.filled(plain, missing) if column.mask.any() else np.asarray(column)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{path} is damaged: {error}", hint="delete it and run again") from None


def _changed_lines(old: str, new: str) -> str:
    lost = [line for line in old.splitlines() if line and line not in new.splitlines()]
    return "; ".join(lost[:3]) or "settings were added"
