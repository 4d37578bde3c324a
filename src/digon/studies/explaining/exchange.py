"""`digon exchange`: units and explanations from a run to the files of another tool, or from these to a run with a page.

What a format does not hold, and what of a file was not understood, is said in a sentence each; nothing is dropped in silence.
Scores of others are shown as they wrote them: digon has not measured them again.
"""

import fnmatch
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import ConfigError, PathError, SiteError
from ...explain import formats
from ...explain.formats import LatentCache, delphi_texts, neuronpedia, openai
from ...hosts.load import load_host
from ...records import Explanation, Measurement, UnitCard
from ...store.runs import Run
from . import choice, summary
from .bill import NAME
from .settings import ExchangeConfig
from .work import CHUNK, counted

TOOLS = {"openai": "neuron-explainer", "neuronpedia": "Neuronpedia", "delphi": "delphi"}
SAMPLE = "sample:50"
MOST_NOTES = 12
"""Notes that are told one by one."""
Brought = Iterator[tuple[list[UnitCard], tuple[str, ...]]]
"""Cards, and what of their files was not understood."""


def run_exchange(config: ExchangeConfig, out: Path) -> dict[str, Any]:
    """Write a run's units as files of another tool, or read such files into a run; returns what the command prints.

    Raises: PathError if the source is neither, or `out` holds something else; ConfigError, SiteError; CorruptError.
    """
    source = Path(config.source).expanduser()
    if config.to is not None:
        return _give(config, Run.open(source), out)
    if (source / "config.toml").is_file():
        raise ConfigError(f"{source} is a run of digon", expected=f"--to {', '.join(TOOLS)}")
    return _take(config, source, formats.recognized(source), out)


def _give(config: ExchangeConfig, run: Run, out: Path) -> dict[str, Any]:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PathError(f"{out} is there already", expected="a new or empty folder")
    known = Counter((card.site, card.sign) for card in _cards(run))
    sites = list(dict.fromkeys(site for site, _ in known if fnmatch.fnmatchcase(site, config.site)))
    if not known:
        raise PathError(f"the run {run.path} has no cards of units", expected="a run of `digon explain` or `audit`")
    if not sites:
        names = ", ".join(dict.fromkeys(site for site, _ in known))
        raise SiteError(f"no site with cards fits {config.site!r}", expected=f"a glob over {names}")
    rising = (card for card in _cards(run) if card.site in sites and card.sign > 0)
    written = {"openai": _to_openai, "neuronpedia": _to_neuronpedia, "delphi": _to_delphi}
    assert config.to is not None, "a format is asked for"
    lost = _merged(written[config.to](config, run, rising, sites, out))
    count, falling = (sum(known[site, sign] for site in sites) for sign in (1, -1))
    tool = TOOLS[config.to]
    lines = [f"{count} units of {', '.join(sites)} are written as {tool} reads them."]
    lines += [f"Left behind, as {tool} has no place for it: {note}." for note in lost]
    if falling:
        lines.append(f"{falling} cards about how far a unit falls are left out: {tool} would take them for the unit.")
    return {"sentences": lines, "out": str(out)}


def _merged(notes: Sequence[str]) -> list[str]:
    """Notes on what is left behind, those about equally many units in one.

    >>> _merged(["bits are not held (2 units)", "sign is not held (1 units)", "bits are not held (1 units)"])
    ['bits (3 units)', 'sign (1 unit)']
    """
    counts: Counter[str] = Counter()
    for note in notes:
        text, _, count = note.removesuffix(" units)").rpartition(" (")
        counts[re.sub(r",? (is|are) not held$", "", text)] += int(count)
    groups: dict[int, list[str]] = {}
    for text, count in counts.items():
        groups.setdefault(count, []).append(text)
    return [f"{'; '.join(group)} ({count} unit{'s' * (count > 1)})" for count, group in groups.items()]


def _cards(run: Run) -> Iterator[UnitCard]:
    for path in sorted(run.path.glob("cards/**/*.json")):
        yield from run.read_json(str(path.relative_to(run.path).with_suffix("")), list[UnitCard])


def _name(card: UnitCard) -> str:
    """The network, first part of a unit's address."""
    return card.unit.removesuffix(f"/{card.site}#{card.index}")


def _to_openai(
    config: ExchangeConfig, run: Run, cards: Iterator[UnitCard], sites: Sequence[str], out: Path
) -> Sequence[str]:
    layers: dict[int, str] = {}
    for site in sites:
        layer = openai.layer_of(UnitCard(site, site, 0, "neuron", ()))
        if layer in layers:
            raise ConfigError(
                f"{layers[layer]} and {site} are both in layer {layer}, of which neuron-explainer knows one site",
                expected="--site with one of them",
            )
        layers[layer] = site
    return openai.write(out, cards)


def _to_neuronpedia(
    config: ExchangeConfig, run: Run, cards: Iterator[UnitCard], sites: Sequence[str], out: Path
) -> Sequence[str]:
    if len({_source_name(site) for site in sites}) < len(sites):
        raise ConfigError(f"two of {', '.join(sites)} have one name as a source", expected="--site with one of them")
    lost: list[str] = []
    for site in sites:
        own = (card for card in _cards(run) if card.site == site and card.sign > 0)
        first = next(own, None)
        if first is None:
            continue
        model = _plain(config.model or _name(first))
        title = f"units of {site}, explained by digon {__version__}"
        origin = neuronpedia.Origin(model, _source_name(site), f"{model}-digon", title, "digon")
        lost.extend(neuronpedia.write(out, (c for part in ([first], own) for c in part), origin))
    return lost


def _to_delphi(
    config: ExchangeConfig, run: Run, cards: Iterator[UnitCard], sites: Sequence[str], out: Path
) -> Sequence[str]:
    units = run.read_table("units") if (run.path / "units.parquet").is_file() else {}
    first = dict(zip(units["unit"], units["explainer"], strict=True)) if "explainer" in units else {}
    texts: dict[tuple[str, int], str] = {}
    others = 0
    for card in cards:
        told = _told(card.explanations, first.get(card.unit, ""))
        if told is not None:
            texts[card.site, card.index] = told.text
        others += len(card.explanations) > 1
    if not texts:
        raise PathError(f"the run {run.path} explains no unit", expected="a run of `digon explain`")
    delphi_texts.write_explanations(out, texts)
    parts = "activations and exemplars; bits; scores; where a text comes from"
    return [f"{parts} ({len(texts)} units)", f"all explanations but the one in words, or told first ({others} units)"]


def _told(explanations: Sequence[Explanation], first: str) -> Explanation | None:
    for name in (NAME, first):
        found = next((e for e in explanations if e.explainer == name), None)
        if found is not None:
            return found
    return explanations[-1] if explanations else None


def _plain(name: str) -> str:
    """A name that is one folder's, whatever it was."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".-") or "network"


def _source_name(site: str) -> str:
    """Neuronpedia's way to name a place: layer, then what it is.

    >>> _source_name("layers.3.mlp.act"), _source_name("embed"), _source_name("6-res-jb")
    ('3-mlp.act', 'embed', '6-res-jb')
    """
    found = re.fullmatch(r"(?:.*\.)?(?:layers|blocks|h)\.(\d+)\.(.+)", site)
    return _plain(f"{found[1]}-{found[2]}" if found else site)


def _take(config: ExchangeConfig, source: Path, kind: formats.Format, out: Path) -> dict[str, Any]:
    if config.units is not None:
        choice.check(config.units)
        if choice.wants_table(config.units):
            raise ConfigError(f"--units {config.units} needs numbers that {TOOLS[kind]} does not have", expected=SAMPLE)
    brought = {"openai": _of_openai, "neuronpedia": _of_neuronpedia, "delphi": _of_delphi}[kind](config, source)
    first = next(brought, None)  # what cannot be read is refused before anything is written
    run = Run.create(out, config)
    kept: dict[str, list[UnitCard]] = {}
    notes: Counter[str] = Counter()
    number = 0
    for number, (cards, said) in enumerate(_together(itertools.chain([first] if first else [], brought)), 1):
        notes.update(said)
        run.write_json(f"cards/{kind}/{number:05d}", [_beside(card) for card in cards])
        for card in cards:  # texts would fill the memory
            kept.setdefault(card.site, []).append(_slim(card))
    for path in run.path.glob(f"cards/{kind}/*.json"):  # of an earlier call, when there were more units
        if int(path.stem) > number:
            path.unlink()
    if not kept:
        raise PathError(f"{source} has no units at {config.site!r}, {config.units or 'all'}", expected="others")
    measured = summary.write_tables(run, kept, {}, config.seed)
    lines = [{"about": "explanation", "text": _sentence(site, kept[site], measured[site], kind)} for site in kept]
    lines += [{"about": "missing", "text": text} for text in _understood(notes)]
    run.write_json("overview", {"sentences": lines})
    names = {_name(card) for cards in kept.values() for card in cards}
    title = f"{', '.join(sorted(names))}: what {TOOLS[kind]} says of its units"
    run.write_json("facts", {
        "kind": "explained", "title": title, "model": {"name": ", ".join(sorted(names)), "path": "not known"},
        "data": {"path": str(source), "written by": TOOLS[kind]}, "sites": list(kept), "versions": {"digon": __version__},
    })  # fmt: skip
    return {"sentences": [line["text"] for line in lines], "run": str(run.path)}


def _together(parts: Iterable[tuple[list[UnitCard], tuple[str, ...]]]) -> Brought:
    """The same in larger parts, so that not every unit becomes a file."""
    cards: list[UnitCard] = []
    notes: list[str] = []
    for some, said in parts:
        cards, notes = cards + some, [*notes, *said]
        if len(cards) >= CHUNK:
            yield cards, tuple(notes)
            cards, notes = [], []
    if cards or notes:
        yield cards, tuple(notes)


def _slim(card: UnitCard) -> UnitCard:
    """The card without texts, its explanations of one explainer told apart."""
    said = tuple(replace(e, explainer=name, simulations=()) for name, e in _numbered(card.explanations))
    return replace(card, exemplars=(), histogram=None, explanations=said)


def _numbered(explanations: Sequence[Explanation]) -> Iterator[tuple[str, Explanation]]:
    named: Counter[str] = Counter()
    for one in explanations:
        named[one.explainer] += 1
        yield one.explainer + f" {named[one.explainer]}" * (named[one.explainer] > 1), one


def _beside(card: UnitCard) -> UnitCard:
    """The card with simulations of others put beside the exemplars of the same text, where a page shows them."""
    largest = max((a for e in card.exemplars for a in e.activations if math.isfinite(a)), default=0.0)
    shown = list(card.exemplars)
    for name, one in _numbered(card.explanations):
        for simulation in one.simulations:
            factor = 1.0 if simulation.scale == "activation" else largest / 10
            values = tuple(round(v * factor, 4) for v in simulation.values)
            for place, excerpt in enumerate(shown):
                if excerpt.tokens == simulation.tokens and repr(excerpt.activations) == repr(simulation.real):
                    shown[place] = replace(excerpt, simulated={**(excerpt.simulated or {}), name: values})
    return replace(card, exemplars=tuple(shown))


def _sentence(site: str, cards: Sequence[UnitCard], measured: Sequence[Measurement], kind: formats.Format) -> str:
    names = list(dict.fromkeys(e.explainer for card in cards for e in card.explanations))
    said = sum(bool(card.explanations) for card in cards)
    text = f"{site}: {len(cards)} units, {said} of them explained" + (f" by {', '.join(names)}" if names else "")
    scores = {m.name.removesuffix(": top_and_random"): m for m in measured if m.name.endswith(": top_and_random")}
    parts = [f"mean ρ of {n} is {m} over {counted(m.n, 'explanation')}" for n, m in scores.items() if m.n]
    choices = summary.by_choice(site, measured).removeprefix(f"{site}: ")
    scored = "; ".join([*parts, *([choices.rstrip(".")] if choices else [])])
    return f"{text}." + (f" As {TOOLS[kind]} scored them: {scored}." if scored else "")


def _understood(notes: Counter[str]) -> list[str]:
    lines = [note[0].upper() + note[1:] + "." for note in list(notes)[:MOST_NOTES]]
    rest = len(notes) - len(lines)
    return lines + ([f"{rest} more such notes are left out here."] if rest > 0 else [])


def _wanted(config: ExchangeConfig, sites: Mapping[str, Sequence[int]], default: str = "all") -> dict[str, set[int]]:
    """Numbers of the units that are asked for, site by site. Raises: ConfigError; SiteError if no site fits."""
    fitting = {site: numbers for site, numbers in sites.items() if fnmatch.fnmatchcase(site, config.site)}
    if not fitting:
        raise SiteError(f"no site fits {config.site!r}", expected=f"a glob over {', '.join(sites)}")
    text = config.units or default
    found = {s: set(choice.among(text, sorted(set(some)), s, config.seed)) for s, some in fitting.items()}
    if not any(found.values()):
        site, numbers = next(iter(fitting.items()))
        shown = ", ".join(map(str, sorted(set(numbers))[:8])) + ", …" * (len(set(numbers)) > 8)
        raise ConfigError(f"no unit of {text} is there", expected=f"units such as {shown} of {site}")
    return found


def _of_openai(config: ExchangeConfig, source: Path) -> Brought:
    known = openai.units(source)
    wanted = _wanted(config, {f"layers.{layer}.mlp.act": list(neurons) for layer, neurons in known.items()})
    for card, notes in openai.read(source, config.model or "network", lambda s, i: i in wanted.get(s, ())):
        yield [card], notes


def _of_neuronpedia(config: ExchangeConfig, source: Path) -> Brought:
    known: dict[str, list[int]] = {}
    places = neuronpedia.found_sources(source)
    for place in places:
        for site, numbers in neuronpedia.units(place).items():
            known.setdefault(site, []).extend(numbers)
    wanted = _wanted(config, known)
    for place in places:
        for cards, notes in neuronpedia.read(place, lambda s, i: i in wanted.get(s, ())):
            yield [_renamed(card, config.model) for card in cards], notes


def _renamed(card: UnitCard, model: str | None) -> UnitCard:
    return card if model is None else replace(card, unit=f"{model}/{card.site}#{card.index}")


def _of_delphi(config: ExchangeConfig, source: Path) -> Brought:
    points = {site: LatentCache.open(place) for site, place in delphi_texts.hook_points(source).items()}
    said = delphi_texts.explained(source)
    known = {site: list(said.get(site) or points[site].latents) for site in dict.fromkeys([*points, *said])}
    if config.units is not None:
        known |= {site: list(cache.latents) for site, cache in points.items()}
    some = {site: numbers for site, numbers in known.items() if site not in said}
    wanted = _wanted(config, known)
    if config.units is None and some:  # nobody wants cards of every latent of a large coder
        wanted |= {s: w for s, w in _wanted(replace(config, site="*"), some, SAMPLE).items() if s in wanted}
    tokenizer = load_host(config.host).tokenizer if config.host else None
    text = tokenizer.token_text if tokenizer else lambda token: f" <{token}>"
    lacking = (
        f"tokens are shown as numbers: name the network{'' if config.host is None else ' with a tokenizer'} by --host"
    )
    for site, numbers in wanted.items():
        cache, files = points.get(site), said.get(site, {})
        model = config.model or (cache.model if cache else "") or "network"
        bare = (UnitCard(f"{model}/{site}#{i}", site, i, "latent", ()) for i in sorted(numbers))
        cards = cache.cards(sorted(numbers), site, model, text, config.seed) if cache else bare
        notes = (lacking,) if cache and tokenizer is None else ()
        for card in cards:
            found = files.get(card.index)
            explanations = (delphi_texts.read_explanation(source, found),) if found else ()
            yield [replace(card, explanations=explanations)], notes
