"""Units per second of the ladder of explanations without a language model, against a plain loop over the same units.

The plain loop explains one unit at a time and shares nothing: it makes the tables of patterns and concepts again for every unit,
and simulates the hybrid's parts itself. Both give the same explanations. Units are mixtures of a look-up, a gate and noise on a
corpus with Zipf's law; half of them are rectified. Two ways share: threads of one process, and processes of one thread each,
as `digon explain` uses from some hundred units on. All take turns, so that other load hits all; the ratio counts.

    python benchmarks/explainers.py [--documents 1000] [--units 512] [--plain 4] [--rounds 3] [--workers 2]
"""

import argparse
import os
import statistics
import time
from functools import lru_cache

import torch
from torch import Tensor

from digon import rng, threads
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import LADDER, Concept, Shared, fit_all
from digon.explain.explainers.rungs import fit_shared
from digon.studies import jobs

LENGTH, VOCABULARY = 128, 4000
CHUNK = 32
"""Units that a process explains at a time."""


def corpus(documents: int) -> tuple[Contexts, Tensor, Tensor]:
    """Contexts, fit rows, select rows."""
    g = rng.stream(0, "corpus")
    n = documents * LENGTH
    tokens = torch.multinomial(1 / torch.arange(1, VOCABULARY + 1).double(), n, replacement=True, generator=g)
    owners, positions = torch.arange(n) // LENGTH, torch.arange(n) % LENGTH
    excerpts = Excerpts.of(owners, positions, [f"document {i}" for i in range(documents)])
    contexts = Contexts.of(tokens, owners, positions, VOCABULARY)
    return contexts, excerpts.row_split("fit"), excerpts.row_split("select")


def activations(contexts: Contexts, units: int) -> Tensor:
    """[n, units]: every token has a value, some after a gate only, and half of the variance is noise."""
    g = rng.stream(0, "units")
    tokens = contexts.keys[0]
    columns = []
    for unit in range(units):
        table = torch.randn(VOCABULARY, generator=g).abs() * (torch.rand(VOCABULARY, generator=g) < 0.1)
        gate = Concept(8, int(torch.randint(40, (), generator=g))).holds(contexts)
        clean = table[tokens] + 2 * (tokens < 30) * gate
        noisy = clean + clean.std() * torch.randn(len(tokens), generator=g)
        columns.append(noisy.clamp_min(0) if unit % 2 else noisy)
    return torch.stack(columns, 1)


def by_rung(contexts: Contexts, values: Tensor, fit: Tensor, select: Tensor) -> None:
    """Milliseconds of processor time per unit of every rung but the hybrid, tables at hand, on one thread."""
    shared = Shared(contexts, fit, select)
    shared.prepare()
    with threads.alone():
        for name, rung in LADDER.items():
            rung.fit_shared(shared, values[:, :1])
            start = time.thread_time()
            rung.fit_shared(shared, values)
            print(f"  {name:14s} {1e3 * (time.thread_time() - start) / values.shape[1]:7.1f} ms")


@lru_cache(maxsize=1)
def made(documents: int, units: int) -> tuple[Shared, Tensor]:
    """Tables of the text and values of all units, once per process."""
    contexts, fit, select = corpus(documents)
    return Shared(contexts, fit, select), activations(contexts, units)


def explain_some(given: tuple[int, int, int, int]) -> int:
    """Explain some of the units in a process of its own."""
    documents, units, first, last = given
    shared, values = made(documents, units)
    return len(fit_shared(values[:, first:last], shared))


def in_processes(documents: int, units: int, workers: int) -> float:
    """Units per second of processes of one thread each, their start and their tables included."""
    start = time.perf_counter()
    parts = [(documents, units, first, min(first + CHUNK, units)) for first in range(0, units, CHUNK)]
    done = sum(jobs.spread(explain_some, parts, workers))
    return done / (time.perf_counter() - start)


def main() -> None:
    """Print units per second of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("documents", 1000), ("units", 512), ("plain", 4), ("rounds", 3), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.workers)
    contexts, fit, select = corpus(given.documents)
    values = activations(contexts, max(given.plain, 4 * CHUNK))
    fit_all(values[:, :1], contexts, fit, select)  # compiles
    rates: dict[str, list[float]] = {"plain loop": [], "threads": [], "processes": []}
    for _ in range(given.rounds):
        start = time.perf_counter()
        for unit in range(given.plain):
            fit_all(values[:, unit : unit + 1], contexts, fit, select)
        rates["plain loop"].append(given.plain / (time.perf_counter() - start))
        start = time.perf_counter()
        fit_all(values[:, : 4 * CHUNK], contexts, fit, select)
        rates["threads"].append(4 * CHUNK / (time.perf_counter() - start))
        rates["processes"].append(in_processes(given.documents, given.units, given.workers))
    print(f"{len(contexts.keys[0]):,} tokens, load {os.getloadavg()[0]:.1f}, {given.workers} threads or processes")
    for name, rate in rates.items():
        ratio = statistics.median(r / p for r, p in zip(rate, rates["plain loop"], strict=True))
        print(f"  {name:14s} {statistics.median(rate):6.2f} units/s, {ratio:.1f} × the plain loop")
    print("processor time per unit, one thread, tables at hand")
    by_rung(contexts, values[:, :16], fit, select)


if __name__ == "__main__":
    main()
