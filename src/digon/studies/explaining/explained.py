"""Chunks of units explained without a language model, here or in processes of their own.

Threads share the compiled parts of the work only; processes share all of it, but each of them has to start and to make the
tables of the text. So many chunks are given to processes, few are explained here.
"""

import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch

from ... import rng
from ...explain.signs import expanded, sides
from .. import jobs, survey
from ..sources import columns
from . import chance
from .desk import key_of, measurements, neighbors, side_of
from .settings import ExplainRun
from .work import CHUNK, Chunk, Work, surveyed

MANY = 8
"""Chunks from which processes are worth their start."""


def write(work: Work, chunks: Sequence[Chunk], workers: int | None) -> None:
    """Write the cards of all chunks; those that an earlier call has written stay.

    `workers`: processes; 0: none but this one; None: one per core from `MANY` chunks on. Raises: RunError if one dies.
    """
    left = [chunk for chunk in chunks if not work.run.finished(chunk.stage, work.key)]
    if workers is None:
        workers = torch.get_num_threads() if len(left) >= MANY else 0
    with jobs.progress("explain", len(chunks), len(chunks) - len(left)) as step:
        if workers == 0:
            for chunk in left:
                with work.run.stage(chunk.stage, work.key):
                    explain(work, chunk)
                step()
            return
        task = partial(_elsewhere, work.settings, work.run.path)
        for stage, seconds in jobs.spread(task, [chunk.name for chunk in left], min(workers, len(left))):
            work.run.finish(stage, work.key, seconds)
            step()


def explain(work: Work, chunk: Chunk) -> None:
    """Write the cards of a chunk, and how every explanation does on the select split, by which one is chosen among several."""
    source, store, config = chunk.source, work.target.store, work.settings.explain
    values = columns(source, chunk.units)
    table = surveyed(work.target, source)
    if table is None:
        draw = rng.stream(config.seed, "explained", source.site, chunk.number)
        table = survey.measure(values, store, draw)
    else:
        table = {name: column[chunk.units] for name, column in table.items()}
    near = neighbors(source, store, chunk.units, work.target.name)
    places, signs = (side.tolist() for side in expanded(sides(values)))
    real = torch.stack([side_of(values[:, place], sign) for place, sign in zip(places, signs, strict=True)], 1)
    first = chunk.number * CHUNK
    found = work.desk.explain(real, config.rungs, coverage=config.coverage, first=first, owners=places)
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


def _elsewhere(settings: ExplainRun, folder: Path, name: str) -> tuple[str, float]:
    """Explain a chunk in another process; its stage, and how long it took."""
    work, chunks = _work(settings, folder)
    started = time.perf_counter()
    explain(work, chunks[name])
    return chunks[name].stage, time.perf_counter() - started


@lru_cache(maxsize=1)
def _work(settings: ExplainRun, folder: Path) -> tuple[Work, dict[str, Chunk]]:
    work = Work.open(settings, folder, lambda _: None)
    return work, {chunk.name: chunk for chunk in work.chunks()}
