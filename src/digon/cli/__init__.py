"""The command line: what was asked is parsed, done and printed.

`digon VERB --help` teaches the verb. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from .. import __version__
from ..errors import DigonError
from ..studies.settings import AuditConfig
from .verbs import VERBS, audit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    verb, rest = _parse_verb([word for word in given if word != "--json"])
    try:
        function = _with_file(rest) if verb == "audit" else VERBS[verb]
        result = tyro.cli(function, args=rest, prog=f"digon {verb}")
    except DigonError as error:
        return _fail(error, as_json)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    if result:  # of several processes, only the first one has something to say
        _print(result, as_json)
    return 1 if result.get("failed") else 0


def _parse_verb(given: list[str]) -> tuple[str, list[str]]:
    lines = [f"  {name:<10} {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
    parser = argparse.ArgumentParser(
        prog="digon",
        description="Polysemanticity and superposition in neural networks: measure, diagnose, decode, explain.",
        epilog="verbs:\n"
        + "\n".join(lines)
        + "\n\n`digon VERB --help` teaches a verb; --json makes any verb print one JSON object."
        + "\nStart with `digon demo`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"digon {__version__}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=" | ".join(VERBS))
    parsed = parser.parse_args(given[:1] or ["--help"])
    return parsed.verb, given[1:]


def _with_file(rest: Sequence[str]) -> Callable[..., Any]:
    """`audit` with the settings of its TOML file as defaults, so that flags override them."""
    from .. import config as configs

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    path = parser.parse_known_args(rest)[0].config
    return audit if path is None else functools.partial(audit, settings=configs.load(AuditConfig, path))


def _fail(error: DigonError, as_json: bool) -> int:
    if as_json:
        fields = {"error": error.problem, "expected": error.expected, "hint": error.hint}
        print(json.dumps(fields), file=sys.stderr)
    else:
        process = f" in process {os.environ.get('RANK')}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        print(f"error{process}: {error}", file=sys.stderr)
    return error.exit_code


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(_document(result))
        return
    from ..page.terminal import show

    show(result)


def _document(result: dict[str, Any]) -> str:
    """One JSON document; of claims it is their list alone, of a diagnosis the diagnosis."""
    from ..records import to_json

    if "document" in result:
        return json.dumps({**result["document"], "run": result["run"], "page": result["page"]})
    if "claims" not in result:
        return json.dumps(result)
    rows = [json.loads(to_json(claim)) for claim in result["claims"]]
    return json.dumps([{key: value for key, value in row.items() if key != "compare"} for row in rows])
