"""What delphi says of latents: a run folder `results/<name>` with a file per latent.

    latents/<hook point>/                                shards of activations, which `delphi` reads
    explanations/<hook point>_latent<i>.txt              a JSON text
    scores/<scorer>/<hook point>_latent<i>.txt           a JSON list: a row per text that was judged

Of the scores, detection and fuzzing are read: `activating` is the truth, `prediction` what the judge said, null where nobody
could read it. They become balanced accuracies, whose ends say how much the unreadable could matter.

Source: EleutherAI/delphi.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from ...errors import CorruptError, PathError
from ...records import Explanation, Measurement, Score
from ...store import files
from .. import choices
from ..choices import Answer
from .delphi import METHOD, NAME
from .reading import dumped, read_value

SCORERS = {"detection": "detection", "fuzz": "fuzzing"}
"""Folder of a scorer → name of the score."""
_LATENT = re.compile(r"(.+)_latent(\d{1,18})\.txt")


def hook_points(folder: Path) -> dict[str, Path]:
    """Hook point → folder of its shards, in a run folder, in its `latents`, or in the folder of one hook point."""
    for place in (folder, folder / "latents"):
        found = {p.name: p for p in sorted(place.iterdir()) if _has_shards(p)} if place.is_dir() else {}
        if found:
            return found
    return {folder.resolve().name: folder} if _has_shards(folder) else {}


def explained(folder: Path) -> dict[str, dict[int, Path]]:
    """Hook point → latent → file with its explanation."""
    found: dict[str, dict[int, Path]] = {}
    for path in (folder / "explanations").glob("*.txt"):
        if name := _LATENT.fullmatch(path.name):
            found.setdefault(name[1], {})[int(name[2])] = path
    return {site: dict(sorted(found[site].items())) for site in sorted(found)}


def read_explanation(folder: Path, path: Path) -> Explanation:
    """The explanation in a file of `explained`, with its scores. Raises: CorruptError that names the file."""
    text = read_value(path)
    if not isinstance(text, str):
        raise CorruptError(f"{path} holds no text", expected="a JSON text, as delphi writes it")
    judged = {name: folder / "scores" / scorer / path.name for scorer, name in SCORERS.items()}
    found = tuple(_judged(name, place) for name, place in judged.items() if place.is_file())
    nothing = lambda name: Measurement(name, math.nan, method="delphi did not simulate it")  # noqa: E731
    score = Score(nothing("rho_top_and_random"), nothing("rho_random_only"), nothing("rho_other_unit"), choices=found)
    return Explanation(METHOD, text, math.nan, score if found else None)


def write_explanations(folder: Path, texts: Mapping[tuple[str, int], str]) -> None:
    """Write the texts of latents, by hook point and number. Raises: PathError for a name that is none; StorageError."""
    for (site, index), text in texts.items():
        name = f"{site}_latent{index}.txt"
        if "/" in name or "\0" in name:
            raise PathError(f"{site!r} cannot be part of a file name", expected="a site such as layers.3.mlp.act")
        files.write_text(folder / "explanations" / name, dumped(text))


def _has_shards(folder: Path) -> bool:
    return folder.is_dir() and any(NAME.fullmatch(path.name) for path in folder.iterdir())


def _judged(name: str, path: Path) -> Measurement:
    rows = read_value(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CorruptError(f"{path} holds no rows", expected="a JSON list of objects, as delphi writes it")
    answers: list[Answer] = []
    for number, row in enumerate(rows):
        truth, said = row.get("activating"), row.get("prediction")
        if truth not in (True, False) or said not in (True, False, None):
            raise CorruptError(
                f"{path}, row {number}: activating {truth!r}, prediction {said!r}", expected="true or false; or null"
            )
        answers.append((bool(truth), None if said is None else bool(said)))
    return choices.measured(name, answers, choices.balanced, "Paulo et al. 2024", "answers that delphi kept")
