"""One run of `digon explain` in progress: what its stages share, and the chunks of units that it is cut into."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import __version__
from ... import config as configs
from ...errors import PathError
from ...store.runs import Run
from .. import survey
from ..sources import Source
from . import choice
from .desk import Desk
from .network import Network
from .settings import ExplainConfig, ExplainRun
from .target import Target, read_target, sources, stamp

CHUNK = 32
"""Units that are explained together: they share tables, and are each other's baseline."""
Say = Callable[[str], None]
Table = dict[str, np.ndarray]


def counted(n: int, what: str) -> str:
    """A number of things in words.

    >>> counted(1, "unit"), counted(3, "unit")
    ('1 unit', '3 units')
    """
    return f"{n:,} {what}{'s' * (n != 1)}"


@dataclass(frozen=True)
class Chunk:
    """Some units of a site, and where their records go."""

    source: Source
    number: int
    units: list[int]

    @property
    def name(self) -> str:
        """Name of its records."""
        return f"{self.source.site}/{self.number:05d}"

    @property
    def stage(self) -> str:
        """Name of the stage that explains it without a language model."""
        return f"explain {self.name}"


@dataclass(frozen=True)
class Work:
    """One run in progress: what the stages share."""

    run: Run
    settings: ExplainRun
    target: Target
    sources: Sequence[Source]
    desk: Desk
    network: Network | None
    key: str
    say: Say

    @classmethod
    def open(cls, settings: ExplainRun, folder: Path, say: Say) -> "Work":
        """Start a run or go on with it; a network is harvested first.

        Raises: any DigonError of target and settings, before anything is explained.
        """
        config = settings.explain
        target = read_target(config, lambda: Run.create(folder, settings).path)
        found = sources(config, target, lambda: Run.create(folder, settings).path)
        _check(config, folder, target, found)
        run = Run.create(folder, settings)
        desk = Desk.of(target.name, target.store, target.host, config.seed)
        network = Network(target.host, desk) if target.host is not None else None
        stamps = (stamp(config.latents), stamp(config.directions))
        key = "/".join([__version__, configs.digest(config), target.fingerprint, *stamps])
        return cls(run, settings, target, found, desk, network, key, say)

    @property
    def notes(self) -> list[str]:
        """What the user should know before any result."""
        missing = [self.desk.missing] if self.desk.missing else []
        return [*self.target.notes, *missing, *_not_ablated(self.settings.explain, self.sources)]

    def chunks(self) -> list[Chunk]:
        """All units that are asked for."""
        return [chunk for source in self.sources for chunk in _chunks(self, source)]


def _check(config: ExplainConfig, folder: Path, target: Target, found: Sequence[Source]) -> None:
    """Refuse what cannot be done before anything is written.

    Raises: PathError if the results would go into the run that is explained; ConfigError for units that there are not.
    """
    if target.audited is not None and folder.resolve() == target.audited.path.resolve():
        raise PathError(f"{folder} is the run that is explained", expected="another --out")
    for source in found:
        if choice.wants_table(config.units):
            choice.check_column(config.by, surveyed(target, source))
        else:
            choice.choose(config.units, source.width, source.site, config.seed)


def _not_ablated(config: ExplainConfig, found: Sequence[Source]) -> list[str]:
    """What --ablation cannot do."""
    return [
        f"{source.site} is not ablated: its latents do not read and write one site."
        for source in found
        if config.ablation and source.place is None
    ]


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
    known = surveyed(work.target, source)
    if known is not None:
        return known
    with work.run.stage(name, work.key) as needed:
        if needed:
            work.say(f"measure {source.width} units of {source.site}, to choose among them")
            survey.write_measured(work.run, source, work.target.store, work.settings.explain.seed)
    return work.run.read_table(name)


def surveyed(target: Target, source: Source) -> Table | None:
    """What the audit that the rows come from says of these very units."""
    if target.audited is None or source.kind != "neuron":
        return None
    name = f"survey/{source.site}"
    return target.audited.read_table(name) if (target.audited.path / f"{name}.parquet").is_file() else None
