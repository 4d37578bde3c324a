"""Nine published numbers that a tool for superposition must be able to read again.

    sticky       features of uniform superposition gather at the dimensionalities of polytopes
    neurons      densities at which ten features in five ReLU neurons change their code
    collisions   n²/(4m) neurons with two features although there are neurons enough
    memory       few examples share the dimensions evenly, many are replaced by a pentagon of features
    circles      circles of days, months and years rank high among clusters of latents
    kurtosis     no privileged basis: the kurtosis of rotated rows is that of Gaussians
    recovery     sparse features that ℓ1 finds again: Donoho–Tanner against linear programs
    reads        dimensions from which one threshold reads features: formula against simulation
    effective    the effective-features index of a sparse autoencoder reads 2 where there are no features

Every anchor measures quantities from at least three seeds and knows nothing of what is expected of them: that stands in
`anchors.toml`, which was written before anything was measured. A number that comes out otherwise is reported as it is.
"""

import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from ... import config as configs
from ...errors import ConfigError, did_you_mean
from ...records import Claim, to_json
from ...store import files
from ..toys.base import Outcome, Say
from ..toys.claims import Statement, judge
from ..toys.verbs import to_stderr

Measure = Callable[[int, Say], Outcome]
MODULES = {
    "sticky": "networks", "neurons": "networks", "collisions": "networks", "memory": "networks",
    "circles": "circles", "kurtosis": "readings", "recovery": "limits", "reads": "limits", "effective": "readings",
}  # fmt: skip
"""Anchor → module with a function of the same name, in the order of the claims."""
FAST = ("kurtosis", "reads", "effective")
"""Anchors that take a few seconds."""
TITLES = {
    "sticky": "Dimensionalities at which features stick",
    "neurons": "Codes of ten features in five neurons",
    "collisions": "Features that meet in one neuron by chance",
    "memory": "Examples first, features later",
    "circles": "Circles among clusters of latents",
    "kurtosis": "Kurtosis of a rotated basis",
    "recovery": "Sparse recovery by ℓ1",
    "reads": "Reading features with one threshold",
    "effective": "Effective features of noise",
}


def expectations() -> dict[str, list[Statement]]:
    """Anchor → what is expected of it."""
    text = (resources.files(__package__ or __name__) / "anchors.toml").read_text(encoding="utf-8")
    rows = [configs.from_dict(Statement, row) for row in tomllib.loads(text)["claim"]]
    return {name: [row for row in rows if row.study == name] for name in MODULES}


def run(seed: int, say: Say, names: Iterable[str] | None = None) -> tuple[list[Claim], dict[str, float]]:
    """Measure and judge; without `names`, all nine. Returns the claims and the seconds of every anchor.

    Raises: ConfigError for an unknown name.
    """
    wanted = list(MODULES if names is None else names)
    for name in wanted:
        if name not in MODULES:
            raise ConfigError(f"no anchor {name!r}", expected=" | ".join(MODULES), hint=did_you_mean(name, MODULES))
    expected, claims, seconds = expectations(), list[Claim](), dict[str, float]()
    for number, name in enumerate(wanted, 1):
        say(f"[{number}/{len(wanted)}] {TITLES[name]}")
        start = time.perf_counter()
        measure: Measure = getattr(import_module(f".{MODULES[name]}", __package__), name)
        outcome = measure(seed, say)
        seconds[name] = time.perf_counter() - start
        claims += [judge(row, outcome, "paper") for row in expected[name]]
    return claims, seconds


def anchors(seed: int, say: Say) -> list[Claim]:
    """All claims of the nine anchors, measured and judged. Cost: about five minutes on two cores."""
    return run(seed, say)[0]


def section(claims: Sequence[Claim], seconds: Mapping[str, float] | None = None) -> str:
    """The verdicts as a section of Markdown: one table, one row per claim, grouped by anchor."""
    owner = {row.id: name for name, rows in expectations().items() for row in rows}
    held = sum(claim.verdict == "holds" for claim in claims)
    lines = [
        "## Published anchors", "",
        f"{held} of {len(claims)} statements hold. *Published* is what the source says, *exact* what calculation gives, "
        "*measured* comes from at least three seeds with its 95 % interval (for trained networks of which the one with the "
        "lowest loss is read: the range over seeds). What was expected, and how near, was written down before measuring; rows "
        "that were added later say so.",
        "",
        "| id | anchor | statement | published | exact | measured | tolerance | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for claim in claims:
        cells = (
            claim.id, TITLES[owner[claim.id]], f"{claim.statement} ({claim.source})", claim.stated_text, claim.exact_text,
            claim.measured_text, f"{claim.tolerance:.3g}", claim.verdict,
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if seconds:
        spent = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        lines += ["", f"Seconds: {spent}; {sum(seconds.values()):.0f} together."]
    return "\n".join(lines) + "\n"


def write(out: Path, report: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Measure all anchors; claims as records and their section of Markdown in a folder, and the section in `report`.

    Raises: ConfigError if the report is no Markdown file.
    """
    if report is not None and report.suffix != ".md":
        raise ConfigError(f"cannot write a report to {report}", expected="a file that ends in .md")
    claims, seconds = run(seed, to_stderr)
    text = (
        "# Published anchors\n\nRegenerate: `digon benchmark anchors --report docs/results/anchors.md`\n\n"
        + section(claims, seconds).removeprefix("## Published anchors\n\n")
    )
    files.write_text(out / "claims.json", to_json(claims, indent=1))
    for path in (out / "anchors.md", report):
        if path is not None:
            files.write_text(path, text)
    held = sum(claim.verdict == "holds" for claim in claims)
    return {"run": str(out), "claims": claims, "sentences": [f"{held} of {len(claims)} statements hold."]}
