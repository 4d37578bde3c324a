"""Cards: everything about some units of a site, chosen so that extremes and the ordinary are both seen.

A third of the units are those with the clearest several senses (for latents: the densest), a third the most
context-free, the rest drawn at random among units that are ever active.
"""

import math

import numpy as np

from .. import rng
from ..explain.explainers import LookUp, NGrams
from ..hosts.load import Host
from ..store.runs import Run
from ..store.shards import ActivationStore
from .explaining.desk import Desk, measurements, neighbors
from .settings import AuditConfig
from .sources import Source, columns

RUNGS = (LookUp().name, NGrams().name)
"""Explainers of an audit; `digon explain` has all."""


def choose(table: dict[str, np.ndarray], count: int, seed: int) -> list[int]:
    """Units that get a card, by index. Fewer than `count` where fewer are ever active."""
    alive = np.flatnonzero(np.isfinite(table["eta2"]) & (table["density"] > 0))
    first = table["cluster_z"] if np.isfinite(table["cluster_z"]).any() else table["density"]
    chosen: list[int] = []
    for key in (first, table["eta2"]):
        ranked = alive[np.argsort(-np.nan_to_num(key[alive], nan=-math.inf), kind="stable")]
        chosen += [int(u) for u in ranked if u not in chosen][: count // 3]
    rest = rng.numpy_stream(seed, "cards").permutation(alive)
    chosen += [int(u) for u in rest if u not in chosen][: count - len(chosen)]
    return sorted(chosen)


def write_cards(run: Run, source: Source, store: ActivationStore, host: Host, config: AuditConfig) -> None:
    """Write `cards/<site>.json`."""
    table = run.read_table(f"survey/{source.site}")
    units = choose(table, config.cards, config.seed)
    desk = Desk.of(host.name, store, host, config.seed)
    values = columns(source, units)
    near = neighbors(source, store, units, host.name)
    cards = []
    for place, (unit, found) in enumerate(zip(units, desk.explain(values, RUNGS), strict=True)):
        row = {name: float(column[unit]) for name, column in table.items()}
        known = measurements(row, len(store), config.seed)
        cards.append(desk.card(source, unit, values[:, place], found, known, near[place]))
    run.write_json(f"cards/{source.site}", cards)
