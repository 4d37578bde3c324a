"""Units in the bulk files of Neuronpedia: a folder per source, rows of JSON in gzipped batches.

    features/batch-N.jsonl.gz       a row per unit: density, largest activation, histogram, promoted tokens, neighbors
    activations/batch-N.jsonl.gz    a row per excerpt; its bin says the stratum
    explanations/batch-N.jsonl.gz   a row per explanation
    release, model, sourceset, source (.jsonl)    what the import of a source wants to know

Bins: the top has binMin = binContains = −1; a band lies between binMin and binMax; 0, 0, 0 is random. `dataIndex` holds document
and start of an excerpt, `dataSource` the corpus. Writing returns what the format does not hold; reading returns which fields
were not understood.

Source: SAEDashboard and Neuronpedia's own exports.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from ...errors import CorruptError, PathError
from ...records import Excerpt, Explanation, Histogram, Measurement, Neighbor, Promotion, Provenance, Stratum, UnitCard
from ..splits import split_of
from .reading import Row, document_of, read_lines, unheld, write_lines

BATCH = 1024
"""Units per file, as Neuronpedia's own exports have them."""
METHOD = "Neuronpedia"
_PLACE = re.compile(r"(.+):(-?[0-9]+)")


@dataclass(frozen=True)
class Origin:
    """What a bulk export says of itself."""

    model: str
    """Neuronpedia's name of the network."""
    source: str
    """Layer and set, such as `6-res-jb`."""
    release: str
    description: str = ""
    creator: str = ""
    url: str = ""
    created: str = "1970-01-01T00:00:00"
    """Time of the export; fixed, so that equal cards give equal files."""


def write(folder: Path, cards: Iterable[UnitCard], origin: Origin) -> tuple[str, ...]:
    """Write cards of one site below folder/model/source, and return what the format does not hold. Raises: StorageError."""
    place = folder / origin.model / origin.source
    lost: Counter[str] = Counter()
    rest = iter(cards)
    for number, some in enumerate(iter(lambda: list(islice(rest, BATCH)), [])):
        name = f"batch-{number}.jsonl.gz"
        write_lines(place / "features" / name, (_feature(card, origin) for card in some))
        write_lines(place / "activations" / name, (row for card in some for row in _activations(card, origin)))
        write_lines(place / "explanations" / name, (row for card in some for row in _explanations(card, origin)))
        for card in some:
            lost.update(list(dict.fromkeys(_lost(card))))
    for name, row in _described(origin).items():
        write_lines(place / f"{name}.jsonl", [row])
    return tuple(f"{note} ({count} units)" for note, count in lost.items())


def found_sources(folder: Path) -> list[Path]:
    """The folders of sources: the folder itself, or those in it or in its folders."""
    places = [folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    return [place for place in places if _files(place / "features")]


def units(folder: Path) -> dict[str, list[int]]:
    """Site → numbers of its units, in a source. Raises: PathError if there are none; CorruptError."""
    found: dict[str, list[int]] = {}
    for row in (row for path in _features(folder) for row in read_lines(path)):
        found.setdefault(_site(row), []).append(_key(row)[2])
    return found


def read(
    folder: Path, wanted: Callable[[str, int], bool] = lambda site, index: True
) -> Iterator[tuple[list[UnitCard], tuple[str, ...]]]:
    """The cards of each batch of a source, and which fields were not understood; `wanted` chooses by site and number.

    Raises: PathError if there are no features; CorruptError that names the file and the line.
    """
    names = _features(folder)
    explained = _by_unit(folder / "explanations", [p.name for p in _files(folder / "explanations")])
    for path in names:
        shown, unknown = _by_unit(folder / "activations", [path.name]), Counter[str]()
        cards = []
        for row in read_lines(path):
            key = _key(row)
            rows, said = shown.pop(key, []), explained.pop(key, [])
            if wanted(_site(row), key[2]):
                cards.append(_card(row, rows, said, unknown))
        notes = [f"{path}: {name} is not understood ({count} rows)" for name, count in unknown.items()]
        if shown:
            notes.append(f"{path.name}: activations of {len(shown)} units without a feature are left out")
        if path == names[-1] and explained:
            notes.append(f"{folder}: explanations of {len(explained)} units without a feature are left out")
        yield cards, tuple(notes)


def _features(folder: Path) -> list[Path]:
    names = _files(folder / "features")
    if not names:
        raise PathError(f"no features in {folder}", expected="features/batch-0.jsonl.gz")
    return names


def _site(row: Row) -> str:
    return row.text("hookName", "") or row.text("layer")


def _files(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("batch-*.jsonl*") if re.fullmatch(r"batch-\d+\.jsonl(\.gz)?", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1].split(".")[0]))


def _by_unit(folder: Path, names: Sequence[str]) -> dict[tuple[str, str, int], list[Row]]:
    found: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for path in (folder / name for name in names):
        for row in read_lines(path) if path.is_file() else ():
            found[_key(row)].append(row)
    return found


def _key(row: Row) -> tuple[str, str, int]:
    return row.text("modelId"), row.text("layer"), row.whole("index")


def _card(row: Row, shown: Sequence[Row], explained: Sequence[Row], unknown: Counter[str]) -> UnitCard:
    model, _, index = _key(row)
    site = _site(row)
    bands: dict[tuple[float, float], int] = {}
    excerpts = tuple(_excerpt(one, bands) for one in shown)
    corpora = sorted({one.text("dataSource", "") for one in shown})
    density, largest = row.number("frac_nonzero"), row.number("maxActApprox")
    neighbors = zip(row.numbers("topkCosSimIndices"), row.numbers("topkCosSimValues"), strict=False)
    card = UnitCard(
        f"{model}/{site}#{index}", site, index, "latent",
        (Measurement("density", density, method=METHOD), Measurement("max", largest, method=METHOD)),
        _histogram(row), excerpts, tuple(map(_explanation, explained)),
        neighbors=tuple(Neighbor(f"{model}/{site}#{int(u)}", c) for u, c in neighbors if math.isfinite(u)),
        promotions=_promotions(row), corpus=corpora[0] if len(corpora) == 1 else "",
        levels=tuple(low for low, _ in bands),
    )  # fmt: skip
    if any(low != high for low, high in bands):
        unknown["the upper end of bands"] += 1
    if len(corpora) > 1:
        unknown["that excerpts come from several corpora"] += 1
    known = {"creatorId", "createdAt", "sourceSetName", "id", "authorId", "maxValue", "maxValueTokenIndex", "minValue", "hasVector",
             "vectorDefaultSteerStrength", "qualifyingTokenIndex"}  # fmt: skip
    for one in (row, *shown, *explained):
        unknown.update(name for name in one.unknown() if name not in known and one.values[name] is not False)
    return card


def _excerpt(row: Row, bands: dict[tuple[float, float], int]) -> Excerpt:
    tokens = row.texts("tokens")
    low, high, share = (row.number(name) for name in ("binMin", "binMax", "binContains"))
    stratum: Stratum = "random"
    level = None
    if low == -1 and share == -1:
        stratum = "top"
    elif not math.isnan(low) and (low, high, share) != (0, 0, 0):
        stratum, level = "quantile", bands.setdefault((low, high), len(bands))
    place = _PLACE.fullmatch(row.text("dataIndex", ""))
    document, start = (place[1], int(place[2])) if place else (document_of(tokens), -1)
    return Excerpt(
        document, start, tokens, row.numbers("values", len(tokens)), stratum, split_of(document), level=level
    )


def _explanation(row: Row) -> Explanation:
    model = row.text("explanationModelName", "")
    said = Provenance(model, "", "", 0) if model else None
    return Explanation(row.text("typeName", METHOD), row.text("description"), math.nan, provenance=said)


def _promotions(row: Row) -> tuple[Promotion, ...]:
    found = []
    for side in ("pos", "neg"):
        tokens = row.texts(f"{side}_str")
        found += [Promotion(t, v) for t, v in zip(tokens, row.numbers(f"{side}_values", len(tokens)), strict=True)]
    return tuple(sorted(found, key=lambda p: -abs(p.logit)))


def _histogram(row: Row) -> Histogram | None:
    """Bars of equal width around their centers, if they hold counts."""
    heights, centers = row.numbers("freq_hist_data_bar_heights"), row.numbers("freq_hist_data_bar_values")
    if len(heights) != len(centers):
        raise CorruptError(
            f"{row.place}: {len(heights)} heights of bars at {len(centers)} values", expected="one height per value"
        )
    if len(centers) < 2 or not all(math.isfinite(h) and h == round(h) for h in heights):
        return None
    half = (centers[-1] - centers[0]) / (len(centers) - 1) / 2
    edges = (centers[0] - half, *((a + b) / 2 for a, b in pairwise(centers)), centers[-1] + half)
    return Histogram(edges, tuple(int(h) for h in heights))


def _feature(card: UnitCard, origin: Origin) -> dict[str, Any]:
    value = {m.name: m.value for m in card.measurements}
    largest = max((a for e in card.exemplars for a in e.activations if math.isfinite(a)), default=0.0)
    bars = card.histogram or Histogram((), ())
    sides = [[p for p in card.promotions if p.logit > 0], [p for p in card.promotions if p.logit <= 0]]
    near = [(int(n.unit.rpartition("#")[2]), n.cosine) for n in card.neighbors if _near(card, n)]
    return _named(card, origin) | {
        "maxActApprox": value.get("max", largest),
        "hasVector": False,
        "hookName": card.site,
        "topkCosSimIndices": [u for u, _ in near],
        "topkCosSimValues": [c for _, c in near],
        "neg_str": [p.token for p in sides[1]],
        "neg_values": [p.logit for p in sides[1]],
        "pos_str": [p.token for p in sides[0]],
        "pos_values": [p.logit for p in sides[0]],
        "frac_nonzero": value.get("density", math.nan),
        "freq_hist_data_bar_heights": bars.counts,
        "freq_hist_data_bar_values": [(a + b) / 2 for a, b in zip(bars.edges, bars.edges[1:], strict=False)],
        "sourceSetName": origin.source.partition("-")[2] or origin.source,
    }


def _activations(card: UnitCard, origin: Origin) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(_kept(card)):
        values = [v for v in one.activations if math.isfinite(v)]
        largest = max(values, default=math.nan)
        low = {"top": -1.0, "random": 0.0}.get(
            one.stratum, card.levels[one.level] if one.level is not None else math.nan
        )
        yield _named(card, origin) | {
            "id": _identity(card.unit, "activation", number),
            "tokens": one.tokens,
            "values": one.activations,
            "maxValue": largest,
            "maxValueTokenIndex": one.activations.index(largest) if values else 0,
            "minValue": min(values, default=math.nan),
            "binMin": low,
            "binMax": largest if one.stratum == "top" else low,
            "binContains": {"top": -1.0, "random": 0.0}.get(one.stratum, math.nan),
            "dataIndex": f"{one.document}:{one.start}",
            "dataSource": card.corpus,
        }


def _explanations(card: UnitCard, origin: Origin) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(card.explanations):
        named = _named(card, origin)
        yield named | {
            "id": _identity(card.unit, "explanation", number),
            "authorId": named["creatorId"],
            "description": one.text,
            "typeName": one.explainer,
            "explanationModelName": one.provenance.model if one.provenance else None,
        }


def _named(card: UnitCard, origin: Origin) -> dict[str, Any]:
    return {"modelId": origin.model, "layer": origin.source, "index": str(card.index), "creatorId": origin.creator,
            "createdAt": origin.created}  # fmt: skip


def _identity(unit: str, kind: str, number: int) -> str:
    """A name of 25 characters that is the same for the same row."""
    return "c" + hashlib.blake2b(f"{unit}/{kind}/{number}".encode(), digest_size=12).hexdigest()


def _kept(card: UnitCard) -> list[Excerpt]:
    """Excerpts whose stratum the format can say."""
    return [e for e in card.exemplars if e.stratum in ("top", "random") or _leveled(card, e)]


def _leveled(card: UnitCard, excerpt: Excerpt) -> bool:
    return excerpt.stratum == "quantile" and excerpt.level is not None and excerpt.level < len(card.levels)


def _near(card: UnitCard, neighbor: Neighbor) -> bool:
    place, _, index = neighbor.unit.rpartition("#")
    return place == card.unit.rpartition("#")[0] and index.isdigit()


def _described(origin: Origin) -> dict[str, dict[str, Any]]:
    by = {"creatorId": origin.creator, "createdAt": origin.created}
    kind = origin.source.partition("-")[2] or origin.source
    names = {"creatorName": origin.creator, "description": origin.description, "visibility": "PUBLIC",
             "urls": [origin.url] if origin.url else []}  # fmt: skip
    return {
        "release": by | names | {"name": origin.release, "descriptionShort": origin.description},
        "model": by | {"id": origin.model, "displayName": origin.model, "displayNameShort": origin.model,
                       "instruct": False, "visibility": "PUBLIC", "updatedAt": origin.created},
        "sourceset": by | names | {"modelId": origin.model, "name": kind, "releaseName": origin.release, "hasDashboards": True},
        "source": by | {"id": origin.source, "modelId": origin.model, "setName": kind, "hasDashboards": True,
                        "visibility": "PUBLIC"},
    }  # fmt: skip


def _lost(card: UnitCard) -> Iterator[str]:
    held = {"unit", "site", "index", "kind", "measurements", "histogram", "exemplars", "explanations", "neighbors", "promotions",
            "corpus", "levels"}  # fmt: skip
    for name in unheld(card, held):
        yield f"{name} is not held"
    if card.kind != "latent":
        yield f"that the unit is a {card.kind} is not held"
    other = [m.name for m in card.measurements if m.name not in ("density", "max")]
    if other:
        yield f"measurements {', '.join(other)} are not held"
    if any(m.n or not math.isnan(m.low) for m in card.measurements if m.name == "density"):
        yield "interval and sample of the density are not held"
    if len(_kept(card)) < len(card.exemplars):
        yield "near misses, and excerpts at no known quantile, are not held"
    names = sorted({name for e in card.exemplars for name in unheld(
        e, {"document", "start", "tokens", "activations", "stratum", "split", "level"})})  # fmt: skip
    if names:
        yield f"excerpts: {', '.join(names)} are not held"
    if any(e.split != split_of(e.document) for e in card.exemplars):
        yield "excerpts: splits of another seed are not held"
    names = sorted({name for e in card.explanations for name in unheld(e, {"explainer", "text", "provenance"})})
    if names:
        yield f"explanations: {', '.join(names)} are not held"
    if any(e.provenance and e.provenance != Provenance(e.provenance.model, "", "", 0) for e in card.explanations):
        yield "explanations: of their provenance only the model is held"
    if not all(_near(card, n) for n in card.neighbors):
        yield "neighbors at other sites are not held"
    bars = card.histogram
    if bars and any(abs((bars.edges[i + 1] - bars.edges[i]) * len(bars.counts) - (bars.edges[-1] - bars.edges[0])) > 1e-6 *
                    (bars.edges[-1] - bars.edges[0]) for i in range(len(bars.counts))):  # fmt: skip
        yield "the unequal edges of the histogram are not held"
