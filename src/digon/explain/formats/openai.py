"""Neurons as neuron-explainer keeps them: `collated-activations/L/N.json` and `explanations/L/N.jsonl`.

    NeuronRecord               unit, moments, excerpts by stratum       a card without explanations
    NeuronSimulationResults    explanations and their simulations       explanations of a card

Reading and writing again gives an equal file, but for fields that may be absent and are then null. The other way round the
format does not hold all that a card does: writing returns one sentence for everything that it leaves out.
What the format does not tell: the document of an excerpt (its text stands for it), so excerpts of one document may
fall on different sides of a split; and how a score was sampled (top-and-random is what its authors used).

Source: the public data of Bills et al. 2023.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ConfigError, CorruptError, PathError
from ...records import Excerpt, Explanation, Measurement, Score, Simulation, Stratum, UnitCard
from ..splits import split_of
from .reading import Row, document_of, read_json, read_lines, unheld, write_json, write_lines

ACTIVATIONS, EXPLANATIONS = "collated-activations", "explanations"
MOMENTS = ("mean", "variance", "skewness", "kurtosis")
SCORES = {"ev_correlation_score": "rho_top_and_random", "rsquared_score": "rsquared",
          "absolute_dev_explained_score": "absolute_explained"}  # fmt: skip
SCALES = {"neuron_activations": "activation", "simulated_normalized_activations": "0 to 10"}
BANDS = "quantile_bands"
METHOD = "neuron-explainer"
EXPLAINER = "neuron-explainer"
Found = tuple[UnitCard, tuple[str, ...]]
Wanted = Callable[[str, int], bool]
"""(site, number of a unit) → whether it is read."""
NESTED = 8
"""Simulations within simulations that are followed; one, before calibration, is usual."""


def units(folder: Path) -> dict[str, dict[int, Path]]:
    """Layer → number of a neuron → its file. Raises: PathError if there are none."""
    found = sorted(
        (p for p in (folder / ACTIVATIONS).glob("*/*.json") if re.fullmatch(r"[0-9]{1,18}", p.stem)),
        key=lambda p: (p.parent.name.zfill(9), p.stem.zfill(19)),
    )
    if not found:
        raise PathError(f"no neurons in {folder}", expected=f"{ACTIVATIONS}/<layer>/<neuron>.json")
    layers: dict[str, dict[int, Path]] = {}
    for path in found:
        layers.setdefault(path.parent.name, {})[int(path.stem)] = path
    return layers


def read(folder: Path, model: str, wanted: Wanted = lambda layer, index: True) -> Iterator[Found]:
    """The units of a folder with both kinds of files, and what of each file was not understood.

    Raises: PathError if there are none; CorruptError that names the file and the field.
    """
    for path in [
        path
        for layer, neurons in units(folder).items()
        for index, path in neurons.items()
        if wanted(f"layers.{layer}.mlp.act", index)
    ]:
        card, notes = read_neuron(path, model)
        explained = folder / EXPLANATIONS / path.parent.name / f"{path.stem}.jsonl"
        if explained.is_file():
            found_explanations, more = read_explanations(explained, card)
            card, notes = replace(card, explanations=found_explanations), (*notes, *more)
        yield card, notes


def write(folder: Path, cards: Iterable[UnitCard]) -> tuple[str, ...]:
    """Write units, and return what the format does not hold.

    Raises: ConfigError for a unit outside any layer; StorageError.
    """
    lost: Counter[str] = Counter()
    for card in cards:
        place = Path(str(layer_of(card)), str(card.index))
        lost.update(write_neuron(folder / ACTIVATIONS / place.with_suffix(".json"), card))
        if card.explanations:
            lost.update(write_explanations(folder / EXPLANATIONS / place.with_suffix(".jsonl"), card))
    return tuple(f"{note} ({count} units)" for note, count in lost.items())


def read_neuron(path: Path, model: str) -> tuple[UnitCard, tuple[str, ...]]:
    """One unit without explanations. Raises: PathError; CorruptError."""
    row = read_json(path)
    layer, index = _neuron(row)
    bands = row.get("random_sample_by_quantile")
    if bands is not None and not (isinstance(bands, list) and all(isinstance(band, list) for band in bands)):
        raise row.wrong("random_sample_by_quantile", "a list of lists of records")
    samples: list[tuple[Stratum, int | None, list[Row]]] = [
        ("top", None, row.rows("most_positive_activation_records")),
        ("random", None, row.rows("random_sample")),
    ]
    for level, band in enumerate(bands or []):
        samples.append(("quantile", level, Row({"band": band}, f"{row.place}: quantile {level}").rows("band")))
    shown = tuple(_excerpt(one, stratum, level) for stratum, level, some in samples for one in some)
    moments = tuple(Measurement(name, row.number(name), method=METHOD) for name in MOMENTS)
    count = () if bands is None else (Measurement(BANDS, float(len(bands)), method=METHOD),)
    site = f"layers.{layer}.mlp.act"
    card = UnitCard(
        f"{model}/{site}#{index}", site, index, "neuron", (*moments, *count), exemplars=shown,
        levels=row.numbers("quantile_boundaries"),
    )  # fmt: skip
    return card, tuple(f"{path}: {name} is not understood" for name in row.unknown() if name != "dataclass_name")


def write_neuron(path: Path, card: UnitCard) -> tuple[str, ...]:
    """Write one unit without explanations, and return what is left out. Raises: ConfigError; StorageError."""
    value = {m.name: m.value for m in card.measurements}
    parts = {
        name: [e for e in card.exemplars if e.stratum == name] for name in ("top", "random", "quantile", "near miss")
    }
    placed = [e for e in parts["quantile"] if e.level is not None]
    count = int(value[BANDS]) if BANDS in value else max((e.level or 0 for e in placed), default=-1) + 1
    bands = [[_activations(e) for e in placed if e.level == level] for level in range(count)]
    record = {
        "dataclass_name": "NeuronRecord",
        "neuron_id": {"dataclass_name": "NeuronId", "layer_index": layer_of(card), "neuron_index": card.index},
        "random_sample": [_activations(e) for e in parts["random"]],
        "random_sample_by_quantile": bands if BANDS in value or placed else None,
        "quantile_boundaries": list(card.levels) or None,
        **{name: value.get(name, math.nan) for name in MOMENTS},
        "most_positive_activation_records": [_activations(e) for e in parts["top"]],
    }
    write_json(path, record)
    gone = [*parts["near miss"], *(e for e in parts["quantile"] if e.level is None)]
    return tuple(_lost(card, [e for e in card.exemplars if e not in gone], len(gone)))


def read_explanations(path: Path, card: UnitCard) -> tuple[tuple[Explanation, ...], tuple[str, ...]]:
    """Explanations of a unit. Raises: PathError; CorruptError, also if they are of another unit."""
    found: list[Explanation] = []
    notes: list[str] = []
    for row in read_lines(path):
        if _neuron(row) != (layer_of(card), card.index):
            raise row.wrong("neuron_id", f"neuron {card.index} of layer {layer_of(card)}")
        found += [_explanation(one) for one in row.rows("scored_explanations")]
        notes += [f"{row.place}: {name} is not understood" for name in row.unknown() if name != "dataclass_name"]
    return tuple(found), tuple(notes)


def write_explanations(path: Path, card: UnitCard) -> tuple[str, ...]:
    """Write the explanations of a unit, and return what is left out.

    Simulated values in the excerpts of the card are written as simulations. Raises: ConfigError; StorageError.
    """
    record = {
        "dataclass_name": "NeuronSimulationResults",
        "neuron_id": {"dataclass_name": "NeuronId", "layer_index": layer_of(card), "neuron_index": card.index},
        "scored_explanations": [_scored(one, _simulations(one, card)) for one in card.explanations],
    }
    write_lines(path, [record])
    held = {"explainer", "text", "bits", "score", "simulations"}
    lost: dict[str, None] = {}
    for one in card.explanations:
        if one.explainer != EXPLAINER:
            lost["explanations: the name of the explainer is not held"] = None
        if not math.isnan(one.bits):
            lost["explanations: bits are not held"] = None
        for name in unheld(one, held):
            lost[f"explanations: {name} is not held"] = None
        if one.score is not None and _rest_of_score(one.score):
            lost[f"explanations: of the score, {', '.join(_rest_of_score(one.score))} are not held"] = None
        if not one.simulations and _simulations(one, card):
            lost["explanations: simulated values of excerpts come back as simulations, without their strata"] = None
    return tuple(lost)


def _neuron(row: Row) -> tuple[int, int]:
    neuron = row.row("neuron_id")
    return neuron.whole("layer_index"), neuron.whole("neuron_index")


def layer_of(card: UnitCard) -> int:
    """The layer of a unit, which is all that the format tells of its site. Raises: ConfigError if it is in none."""
    found = re.search(r"(?:layers|blocks|h)\.(\d+)\b", card.site)
    if found is None:
        raise ConfigError(f"{card.unit} is in no layer", expected="a site such as layers.3.mlp.act")
    return int(found[1])


def _excerpt(row: Row, stratum: Stratum, level: int | None) -> Excerpt:
    tokens = row.texts("tokens")
    document = document_of(tokens)
    values = row.numbers("activations", len(tokens))
    return Excerpt(document, -1, tokens, values, stratum, split_of(document), level=level)


def _activations(excerpt: Excerpt) -> dict[str, Any]:
    return {"dataclass_name": "ActivationRecord", "tokens": excerpt.tokens, "activations": excerpt.activations}


def _explanation(row: Row) -> Explanation:
    scored = row.row("scored_simulation")
    rho, *further = _scores(scored)
    nothing = lambda name: Measurement(name, math.nan, method="not in the file")  # noqa: E731
    score = Score(rho, nothing("rho_random_only"), nothing("rho_other_unit"), further=tuple(further))
    simulations = tuple(_simulation(one) for one in scored.rows("scored_sequence_simulations"))
    return Explanation(EXPLAINER, row.text("explanation"), math.nan, score, simulations=simulations)


def _simulation(row: Row) -> Simulation:
    found = _sequence(row.row("simulation"))
    return replace(found, real=row.numbers("true_activations", len(found.tokens)), scores=_scores(row))


def _sequence(row: Row, depth: int = 0) -> Simulation:
    if depth > NESTED:
        raise CorruptError(f"{row.place}: simulations are nested too deeply", expected="one before calibration")
    tokens = row.texts("tokens")
    scale = row.text("activation_scale")
    if scale not in SCALES:
        raise row.wrong("activation_scale", " or ".join(SCALES))
    columns = []
    for name in ("distribution_values", "distribution_probabilities"):
        lists = row.get(name)
        if not isinstance(lists, list) or len(lists) not in (0, len(tokens)):
            raise row.wrong(name, f"{len(tokens)} lists, one per token")
        columns.append([Row({name: some}, f"{row.place}: token {i}").numbers(name) for i, some in enumerate(lists)])
    for i, (values, shares) in enumerate(zip(*columns, strict=False)):
        if len(values) != len(shares):
            raise CorruptError(
                f"{row.place}: token {i} has {len(values)} values", expected=f"{len(shares)}, as probabilities"
            )
    before = (
        None if row.get("uncalibrated_simulation") is None else _sequence(row.row("uncalibrated_simulation"), depth + 1)
    )
    return Simulation(
        tokens, row.numbers("expected_activations", len(tokens)), SCALES[scale],  # type: ignore[arg-type]
        distributions=tuple(tuple(zip(v, p, strict=True)) for v, p in zip(*columns, strict=True)), uncalibrated=before,
    )  # fmt: skip


def _scores(row: Row) -> tuple[Measurement, ...]:
    return tuple(Measurement(ours, row.number(theirs), method=METHOD) for theirs, ours in SCORES.items())


def _simulations(one: Explanation, card: UnitCard) -> tuple[Simulation, ...]:
    return one.simulations or tuple(
        Simulation(e.tokens, e.simulated[one.explainer], "activation", e.activations)
        for e in card.exemplars
        if e.simulated and one.explainer in e.simulated
    )


def _scored(one: Explanation, simulations: tuple[Simulation, ...]) -> dict[str, Any]:
    kept = () if one.score is None else (one.score.top_and_random, *one.score.further)
    return {
        "dataclass_name": "ScoredExplanation",
        "explanation": one.text,
        "scored_simulation": {
            "dataclass_name": "ScoredSimulation",
            "scored_sequence_simulations": [
                {
                    "dataclass_name": "ScoredSequenceSimulation",
                    "simulation": _written(simulation),
                    "true_activations": simulation.real,
                    **_numbers(simulation.scores),
                }
                for simulation in simulations
            ],
            **_numbers(kept),
        },
    }


def _written(one: Simulation) -> dict[str, Any]:
    pairs = one.distributions or ((),) * len(one.tokens)
    scale = next(theirs for theirs, ours in SCALES.items() if ours == one.scale)
    return {
        "dataclass_name": "SequenceSimulation",
        "tokens": one.tokens,
        "expected_activations": one.values,
        "activation_scale": scale,
        "distribution_values": [[v for v, _ in some] for some in pairs],
        "distribution_probabilities": [[p for _, p in some] for some in pairs],
        "uncalibrated_simulation": None if one.uncalibrated is None else _written(one.uncalibrated),
    }


def _numbers(scores: Iterable[Measurement]) -> dict[str, float]:
    value = {m.name: m.value for m in scores}
    return {theirs: value.get(ours, math.nan) for theirs, ours in SCORES.items()}


def _rest_of_score(score: Score) -> list[str]:
    gone = unheld(score, {"top_and_random", "further", "random_only", "baseline"})
    gone += [m.name for m in score.further if m.name not in SCORES.values()]
    gone += [m.name for m in (score.random_only, score.baseline) if not math.isnan(m.value)]
    return gone + (["intervals"] if not math.isnan(score.top_and_random.low) else [])


def _lost(card: UnitCard, kept: list[Excerpt], gone: int) -> Iterator[str]:
    held = {"unit", "site", "index", "kind", "measurements", "exemplars", "levels", "explanations"}
    for name in unheld(card, held):
        yield f"{name} is not held"
    if card.kind != "neuron" or not card.site.endswith("mlp.act"):
        yield f"that the unit is a {card.kind} of {re.sub(r'[.][0-9]+[.]', '.*.', card.site)} is not held"
    other = [m.name for m in card.measurements if m.name not in (*MOMENTS, BANDS)]
    if other:
        yield f"measurements {', '.join(other)} are not held"
    if any(m.n or not math.isnan(m.low) for m in card.measurements if m.name in MOMENTS):
        yield "intervals and samples of moments are not held"
    if gone:
        yield "near misses, and excerpts at no known quantile, are not held"
    names = sorted({name for e in kept for name in unheld(e, {"tokens", "activations", "stratum", "level", "split"})
                    if name not in ("document", "start", "simulated")})  # fmt: skip
    if names:
        yield f"excerpts: {', '.join(names)} are not held"
    if any(e.document != document_of(e.tokens) or e.start != -1 for e in kept):
        yield "excerpts: document, start and split are not held"
