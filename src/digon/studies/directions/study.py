"""The stages of `digon directions`.

1. place       the rows; of a network, its site is harvested first               -> activations/
2. search      direction after direction                                         -> search/<number>.safetensors
3. shuffled    the same search on the text of other documents                    -> shuffled/<number>.safetensors
4. against     units of other kinds, explained and scored likewise               -> against/<kind>.json, sae/
5. report      numbers, cards, tables                                            -> directions.safetensors, *.parquet, *.json

Each is a stage of the run folder; a restart skips what is finished, and a search goes on after its last direction.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ... import __version__, rng
from ... import config as configs
from ...explain.directions import Found, Ground, judge, search
from ...records import Score
from ...store.runs import Run
from ..settings import DirectionsConfig
from . import baselines, kept, report
from .place import Place

Say = Callable[[str], None]


def run_directions(config: DirectionsConfig, out: Path | None = None, say: Say | None = None) -> dict[str, Any]:
    """Find explainable directions into a run folder; returns what the command prints at its end.

    Raises: any DigonError of target and settings before any work; what was finished stays, and the same call resumes.
    """
    say = say or _to_stderr
    folder = out or Path("runs") / f"directions-{Path(config.target).name}-{configs.digest(config)[:6]}"
    started = time.perf_counter()
    place = Place.of(config, lambda: Run.create(folder, config).path)
    place.explainer.check(place.desk.contexts.vocabulary)
    run = Run.create(folder, config)
    key = "/".join([__version__, configs.digest(config), place.target.fingerprint])
    for note in place.target.notes:
        say(note)
    say(f"{len(place.rows):,} rows of {config.site}: rank {place.space.rank}, shrinkage {place.space.shrinkage:.2g}")
    found = _searched(run, "search", key, place, place.ground, config.count)
    moved = judge.displaced(place.desk.excerpts, rng.stream(config.seed, "displaced"))
    chance: list[Found] = []
    if config.controls:
        ground = place.on(place.desk.contexts.take(moved))
        chance = _searched(run, "shuffled", key, place, ground, min(config.controls, place.space.rank))
    for kind in dict.fromkeys(config.against):
        with run.stage(f"against {kind}", key) as needed:
            if needed:
                say(f"explain {kind}")
                scores = place.explained(baselines.values(kind, place, run)).scores
                run.write_json(f"against/{kind.replace(' ', '-')}", scores)
    with run.stage("report", key) as needed:
        if needed:
            say("score, draw cards, write tables")
            others = {
                kind: run.read_json(f"against/{kind.replace(' ', '-')}", list[Score])
                for kind in dict.fromkeys(config.against)
            }
            report.write(run, place, found, (chance, moved), others)
    say(f"done in {time.perf_counter() - started:.0f} s")
    return report.told(run)


def _searched(run: Run, name: str, key: str, place: Place, ground: Ground, count: int) -> list[Found]:
    """Directions of a search, those on disk first."""
    folder, vocabulary = run.path / name, ground.contexts.vocabulary
    with run.stage(f"{name} begun", key) as fresh:
        if fresh:  # what another version or another harvest has left
            for old in folder.glob("*.safetensors"):
                old.unlink()
    paths = [folder / f"{i:03d}.safetensors" for i in range(count)]
    done = []
    for path in paths:
        if not path.is_file():
            break
        done.append(kept.load(path, place.explainer.name, vocabulary))
    with run.stage(name, key) as needed, _bar(f"{name}: directions", count, len(done)) as step:
        if not needed:
            return done
        number = iter(range(len(done), count))

        def keep(found: Found) -> None:
            kept.save(paths[next(number)], found)
            step()

        return search(ground, place.explainer, place.search(count), done, keep)


class _bar:
    """A bar with the time that is left, on a terminal."""

    def __init__(self, name: str, total: int, done: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=total, completed=done)

    def __enter__(self) -> Callable[[], None]:
        self._bar.start()
        return lambda: self._bar.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _to_stderr(sentence: str) -> None:
    print(f"• {sentence}", file=sys.stderr, flush=True)
