"""The stages of `digon explain`.

1. target      the rows; of a network, its sites are harvested first       -> activations/
2. survey      numbers of all units, where the choice of units needs them  -> survey/<site>.parquet
3. explain     chunk by chunk: explanations without a language model       -> cards/<site>/<chunk>.json, chosen/…
4. words       chunk by chunk: a language model explains and is judged     -> the same cards, words/<site>/<chunk>.json
5. report      index, numbers by site, curve, bill, sentences              -> *.parquet, *.json

Whatever a language model does or fails to do, stages 1 to 3 are written before it is asked, and every answer is in the
journal before it is used. Chunks that lack answers are tried again by the next call.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import __version__, rng
from ... import config as configs
from ...errors import PathError
from ...explain.signs import expanded, sides
from ...store.runs import Run
from .. import survey
from ..sources import Source
from . import chance, choice, summary, words
from .desk import Desk, columns, key_of, ladder, measurements, neighbors, side_of
from .network import Network
from .settings import ExplainConfig, ExplainRun, Spending, WordsConfig
from .target import Target, read_target, sources, stamp
from .work import CHUNK, Chunk, Say, Table, Work, counted


def run_explain(
    config: ExplainConfig, asked: WordsConfig, spending: Spending, out: Path | None = None, say: Say | None = None
) -> dict[str, Any]:
    """Explain units into a run folder; returns what the command prints at its end.

    Raises: any DigonError of target and settings, before any work; what a language model refuses is reported instead.
    """
    say = say or _to_stderr
    choice.check(config.units)
    ladder(config.rungs)  # names that there are not are refused before any work
    settings = ExplainRun(config, asked)
    folder = out or Path("runs") / f"explain-{Path(config.target).name}-{configs.digest(settings)[:6]}"
    started = time.perf_counter()
    target = read_target(config, lambda: Run.create(folder, settings).path)
    found = sources(config, target, lambda: Run.create(folder, settings).path)
    _check(config, folder, target, found)
    run = Run.create(folder, settings)
    desk = Desk.of(target.name, target.store, target.host, config.seed)
    parts = [__version__, configs.digest(config), target.fingerprint, stamp(config.latents), stamp(config.directions)]
    network = Network(target.host, desk) if target.host is not None else None
    work = Work(run, settings, target, desk, network, "/".join(parts), say)
    notes = [*target.notes, *([desk.missing] if desk.missing else [])]
    for note in notes:
        say(note)
    chunks = [chunk for source in found for chunk in _chunks(work, source)]
    for chunk in chunks:
        with run.stage(f"explain {chunk.name}", work.key) as needed:
            if needed:
                say(f"explain {counted(len(chunk.units), 'unit')} of {chunk.source.site}")
                _explain(work, chunk)
    heard = words.ask(work, chunks, spending) if asked.asked and chunks else None
    summary.write(work, chunks, heard, notes)
    say(f"done in {time.perf_counter() - started:.0f} s")
    return summary.told(run, heard)


def _check(config: ExplainConfig, folder: Path, target: Target, found: Sequence[Source]) -> None:
    """Refuse what cannot be done before anything is written.

    Raises: PathError if the results would go into the run that is explained; ConfigError for units that there are not.
    """
    if target.audited is not None and folder.resolve() == target.audited.path.resolve():
        raise PathError(f"{folder} is the run that is explained", expected="another --out")
    for source in found:
        if choice.wants_table(config.units):
            choice.check_column(config.by, _surveyed(target, source))
        else:
            choice.choose(config.units, source.width, source.site, config.seed)


def _chunks(work: Work, source: Source) -> Iterator[Chunk]:
    config = work.settings.explain
    table = _table(work, source) if choice.wants_table(config.units) else None
    units = choice.choose(config.units, source.width, source.site, config.seed, table, config.by)
    count = -(-len(units) // CHUNK)
    for number, part in enumerate(np.array_split(units, count) if count else []):
        yield Chunk(source, number, part.tolist())


def _table(work: Work, source: Source) -> Table:
    """Numbers of all units of a site: those of an audit, else measured now."""
    name = f"survey/{source.site}"
    known = _surveyed(work.target, source)
    if known is not None:
        return known
    with work.run.stage(name, work.key) as needed:
        if needed:
            work.say(f"measure {source.width} units of {source.site}, to choose among them")
            survey.write_measured(work.run, source, work.target.store, work.settings.explain.seed)
    return work.run.read_table(name)


def _surveyed(target: Target, source: Source) -> Table | None:
    """What the audit that the rows come from says of these very units."""
    if target.audited is None or source.kind != "neuron":
        return None
    name = f"survey/{source.site}"
    return target.audited.read_table(name) if (target.audited.path / f"{name}.parquet").is_file() else None


def _explain(work: Work, chunk: Chunk) -> None:
    """Write the cards of a chunk, and how every explanation does on the select split, by which one is chosen among several."""
    source, store, config = chunk.source, work.target.store, work.settings.explain
    values = columns(source, chunk.units)
    table = _surveyed(work.target, source)
    if table is None:
        draw = rng.stream(config.seed, "explained", source.site, chunk.number)
        table = survey.measure(values, store, draw)
    else:
        table = {name: column[chunk.units] for name, column in table.items()}
    near = neighbors(source, store, chunk.units, work.target.name)
    places, signs = (side.tolist() for side in expanded(sides(values)))
    real = torch.stack([side_of(values[:, place], sign) for place, sign in zip(places, signs, strict=True)], 1)
    found = work.desk.explain(real, config.rungs, coverage=config.coverage, first=chunk.number * CHUNK)
    cards, chosen, draws, network = [], {}, {}, work.network
    for column, (place, sign) in enumerate(zip(places, signs, strict=True)):
        unit = chunk.units[place]
        if config.ablation and network is not None:
            found[column] = network.ablated(source, unit, values[:, place], real[:, column], sign, found[column])
        promoted = network.promoted(source, unit) if network is not None else ()
        row = {name: float(numbers[place]) for name, numbers in table.items() if numbers.dtype.kind in "fib"}
        known = measurements(row, len(store), config.seed)
        card = work.desk.card(source, unit, real[:, column], found[column], known, near[place], sign, promoted)
        cards.append(card)
        chosen[key_of(card)] = found[column].select
        if (by_chance := found[column].chance) is not None:
            draws[key_of(card)] = by_chance
    chance.keep(work.run, chunk.name, draws)
    work.run.write_json(f"chosen/{chunk.name}", chosen)
    work.run.write_json(f"cards/{chunk.name}", cards)


def _to_stderr(sentence: str) -> None:
    import sys

    print(f"• {sentence}", file=sys.stderr, flush=True)
