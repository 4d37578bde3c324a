"""Rows of a world of known truth in a store like any other, so that everything runs on them that runs on a network."""

import json
from pathlib import Path
from typing import Any

import torch

from ... import config as configs
from ...errors import ConfigError
from ...store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter
from ...worlds.tree import TreeConfig, TreeWorld

WORLD = "world:"
SITE = "world"
"""The only site of a world."""
SETTING = "world"
"""Setting of a store's plan that holds the world's own settings."""
SHARD = 2**16
DOCUMENT = 64
"""Rows of a document: they are independent, so any number will do."""


def harvest_world(out: Path, name: str, rows: int, seed: int) -> dict[str, Any]:
    """Draw rows of a tree world into a folder of shards; the same call resumes.

    Raises: ConfigError for a world or a setting that there is not, or fewer rows than one.
    """
    if rows < 1:
        raise ConfigError(f"{rows} rows", expected="at least 1")
    law = parse(name)
    text = json.dumps(configs.to_dict(law), sort_keys=True)
    settings: dict[str, int | float | str | bool] = {SETTING: text, "rows": rows, "seed": seed}
    plan = HarvestPlan({SITE: law.d}, "float32", WORLD + configs.digest(law), "none", settings)
    writer = ShardWriter(out, plan)
    if not writer.done:
        world = TreeWorld(law)
        for step in range(writer.cursor, -(-rows // SHARD)):
            start, stop = step * SHARD, min((step + 1) * SHARD, rows)
            x = next(iter(world.samples(SHARD, 2 * seed, step))).x[: stop - start]
            row = torch.arange(start, stop)
            first, last = -(-start // DOCUMENT), -(-stop // DOCUMENT)
            ids = [f"rows from {DOCUMENT * i}" for i in range(first, last)]
            writer.append(Rows({SITE: x}, row, row // DOCUMENT, row % DOCUMENT), ids, step + 1)
        writer.finish()
    about = f"{rows:,} rows of {law.features:,} features in {law.d} dimensions"
    return {"sentences": [about], "store": str(out), "next": f"digon decode {out} --site {SITE}"}


def parse(text: str) -> TreeConfig:
    """The settings of a tree world in a name such as `world:tree?features=256&d=64`.

    Raises: ConfigError for another world, or a setting that it does not have.

    >>> parse("world:tree?features=64&d=16&roots=4").d
    16
    """
    name, _, options = text.removeprefix(WORLD).partition("?")
    if name != "tree":
        raise ConfigError(f"cannot harvest the world {name!r}", expected="world:tree?features=256&d=64, or a network")
    values: dict[str, Any] = {}
    for pair in filter(None, options.split("&")):
        key, _, value = pair.partition("=")
        try:
            values[key] = json.loads(value)
        except ValueError:
            raise ConfigError(f"{pair!r} in {text!r}", expected="a number, true or false") from None
    return configs.from_dict(TreeConfig, values)


def world_of(store: ActivationStore) -> TreeWorld | None:
    """The world that a store was drawn from; None for a network's activations."""
    text = store.plan.settings.get(SETTING)
    return None if text is None else TreeWorld(configs.from_dict(TreeConfig, json.loads(str(text))))


def judged_stream(store: ActivationStore) -> int:
    """A stream of rows that no harvest draws: harvests have the even ones."""
    return 2 * int(store.plan.settings["seed"]) + 1
