"""What a search for directions found, beside other units and beside chance: numbers, sentences, cards, tables."""

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import __version__, rng
from ... import config as configs
from ...explain.directions import Found, judge
from ...explain.moments import correlations
from ...measures import selectivity
from ...records import Explanation, Measurement, Score, UnitCard
from ...store import weights
from ...store.runs import Run
from .. import report
from ..commands import command
from ..explaining.desk import Found as Explained
from ..sources import Directions
from . import baselines
from .place import Judged, Place

DRAWS = 1000
CHUNK = "all"
PER_UNIT = {
    "rho_population": "all tokens of unseen documents",
    "rho_top_and_random": "5 + 5 excerpts of unseen documents",
}


@dataclass(frozen=True)
class Table:
    """A number per direction and its meaning."""

    columns: dict[str, Float[Tensor, " k"]]
    bare_tokens: list[str]

    def row(self, place: int) -> dict[str, float]:
        """Numbers of one direction."""
        return {name: float(column[place]) for name, column in self.columns.items()}


def population(scores: Sequence[Score]) -> np.ndarray:
    """ρ on all tokens of unseen documents."""
    return np.array([math.nan if s.population is None else s.population.value for s in scores], float)


def top_and_random(scores: Sequence[Score]) -> np.ndarray:
    """ρ on top and random excerpts of unseen documents."""
    return np.array([s.top_and_random.value for s in scores], float)


def mean(
    name: str,
    values: np.ndarray,
    seed: int,
    of: Callable[[np.ndarray], np.ndarray] = lambda v: v.mean(-1),
    null: float = math.nan,
    method: str = "mean",
) -> Measurement:
    """A statistic of units, their mean if nothing is said, with its interval over units."""
    draw = rng.numpy_stream(seed, "directions", name)
    return report.over_units(name, values, of, draw, method, DRAWS, seed=seed, null=null)


def ratio(name: str, above: np.ndarray, below: np.ndarray, seed: int, method: str) -> Measurement:
    """Ratio of the means of two independent groups of units, with a bootstrap over both."""
    groups = [v[np.isfinite(v)] for v in (above, below)]
    if not all(len(v) for v in groups):
        return Measurement(name, math.nan, method=method)
    draw = rng.numpy_stream(seed, "directions", name)
    top, bottom = (v[draw.integers(len(v), size=(DRAWS, len(v)))].mean(1) for v in groups)
    low, high = np.quantile(top / bottom, [0.025, 0.975])
    value = float(groups[0].mean() / groups[1].mean())
    return Measurement(name, value, float(low), float(high), len(groups[0]), "", method, seed)


def write(
    run: Run,
    place: Place,
    found: Sequence[Found],
    chance: tuple[Sequence[Found], Int[Tensor, " n"]],
    others: dict[str, list[Score]],
) -> None:
    """Write directions.safetensors, cards, units, measurements, curves, overview and facts."""
    theta = torch.stack([f.theta for f in found])
    judged = place.judged(_activations(place, theta), [f.explanation for f in found])
    table = _table(place, found, theta, judged, chance[1])
    source = _source(run, place, theta)
    cards = _cards(place, source, found, judged, table)
    run.write_json(f"cards/{source.site}/{CHUNK}", cards)
    run.write_table("units", _index(cards, table))
    curve = judge.truncation(place.space, theta, place.rows, judged.simulated, place.split("fit"), place.split("test"))
    measured = {source.site: _measured(place, judged, table, theta, curve)}
    if chance[0]:
        measured["shuffled text"] = _shuffled(place, *chance)
    measured |= {kind: _against(kind, scores, judged.scores, place.config.seed) for kind, scores in others.items()}
    report.write_measurements(run, measured)
    run.write_json("curves", [])
    run.write_json("overview", {"sentences": _sentences(place, measured, source.site)})
    run.write_json("facts", _facts(run, place, source.site))


def told(run: Run) -> dict[str, Any]:
    """What the command prints when it ends."""
    overview = run.read_json("overview", dict[str, Any])
    sentences = [entry["text"] for entry in overview["sentences"]]
    return {"sentences": sentences, "run": str(run.path), "directions": str(run.path / "directions.safetensors")}


def _activations(place: Place, theta: Float[Tensor, "k r"]) -> Float[Tensor, "n k"]:
    return place.white @ theta.T.to(place.white)


def _source(run: Run, place: Place, theta: Float[Tensor, "k r"]) -> Directions:
    """Keep the directions: weights that read them (`directions`), what they write, θ, and the way to white coordinates."""
    space, site = place.space, place.config.site
    reads, writes = space.reads(theta).float(), space.writes(theta).float()
    tensors = {"directions": reads, "writes": writes, "theta": theta}
    tensors |= {"mean": space.mean, "deviation": space.deviation, "spectrum": space.spectrum}
    about = {"site": site, "shrinkage": str(space.shrinkage), "floor": str(space.floor)}
    weights.write_tensors(run.path / "directions.safetensors", tensors, about)
    return Directions(place.target.store, site, f"{site}.directions", reads, writes=writes)


def _table(
    place: Place, found: Sequence[Found], theta: Float[Tensor, "k r"], judged: Judged, moved: Int[Tensor, " n"]
) -> Table:
    tokens, fit, test = place.target.store.tokens, place.split("fit"), place.split("test")
    bare, token = baselines.tokens(place).nearest(theta)
    shares = judge.token_shares(judged.values, tokens, fit, test)
    explained = torch.from_numpy(population(judged.scores)).square()
    columns = {
        "rho_fit": torch.tensor([f.fitted for f in found], dtype=torch.float64),
        "rho_select": torch.tensor([f.selected for f in found], dtype=torch.float64),
        "rho_other_directions": judge.crossed(judged.values, judged.simulated, test),
        "rho_displaced": correlations(judged.values[test], judged.simulated[moved][test]).nan_to_num(0.0),
        "one_token_share": (shares.one / explained).clamp(max=1),
        "token_share": (shares.table / explained).clamp(max=1),
        "eta2_unseen": shares.table,
        "bare_token_cosine": bare,
        "participation": judge.participation(place.space, theta),
        "iterations": torch.tensor([len(f.trace) - 2.0 for f in found], dtype=torch.float64),
    }
    return Table(columns, [place.desk.token_text(t) for t in token.tolist()])


ABOUT = {
    "rho_fit": "ρ on the fit split",
    "rho_select": "ρ on the select split, by which starts and steps were chosen",
    "rho_other_directions": "mean ρ with the explanations of the other directions, test split",
    "rho_displaced": "ρ with its own simulated values of displaced excerpts, over all tokens of the test split",
    "one_token_share": "ρ² of the best single token over ρ² of the explanation, test split",
    "token_share": "ρ² of the full table of tokens over ρ² of the explanation, at most 1, test split",
    "eta2_unseen": "ρ² of the full table of tokens, fitted on the fit split, on the test split",
    "bare_token_cosine": "largest |cosine| under Σ with a direction that reads one token by ridge regression",
    "participation": "participation ratio of the units' contributions: how many units make up the direction",
    "iterations": "explanations until nothing was gained",
}


def _cards(place: Place, source: Directions, found: Sequence[Found], judged: Judged, table: Table) -> list[UnitCard]:
    desk, seed, n = place.desk, place.config.seed, len(place.rows)
    store = place.target.store
    ceiling = selectivity.context_free_ceiling(
        judged.values, store.tokens, store.documents, rng.stream(seed, "ceiling")
    )
    cards = []
    for i, one in enumerate(found):
        explanation = Explanation(
            one.explanation.name,
            one.explanation.render(desk.token_text),
            round(one.explanation.bits, 1),
            judged.scores[i],
        )
        known = [Measurement(k, v, n=n, method=ABOUT[k], seed=seed) for k, v in table.row(i).items()]
        eta2 = Measurement(
            "eta2", float(ceiling.value[i]), float(ceiling.low[i]), float(ceiling.high[i]), n, "",
            "same token in different documents, jackknife over groups of documents", seed, "correlation ratio", 0.0,
        )  # fmt: skip
        told = Explained(
            (explanation,), {explanation.explainer: judged.simulated[:, i]}, {explanation.explainer: one.selected}
        )
        cards.append(desk.card(source, i, judged.values[:, i], told, (eta2, *known)))
    return cards


def _index(cards: Sequence[UnitCard], table: Table) -> dict[str, np.ndarray]:
    """A row per direction, in the columns of the page's index."""
    first = [card.explanations[0] for card in cards]
    scores = [e.score for e in first if e.score is not None]
    text = {
        "unit": [card.unit for card in cards],
        "site": [card.site for card in cards],
        "kind": [card.kind for card in cards],
        "explainer": [e.explainer for e in first],
        "text": [e.text[:200] for e in first],
        "bare_token": table.bare_tokens,
    }
    numbers = {
        "index": np.arange(len(cards)),
        "sign": np.ones(len(cards), np.int64),
        "bits": np.array([e.bits for e in first], float),
        "rho": top_and_random(scores),
        "rho_random": np.array([s.random_only.value for s in scores], float),
        "rho_population": population(scores),
        "eta2": np.array([card.measurements[0].value for card in cards], float),
    }
    columns = {name: np.array(column, dtype=object) for name, column in text.items()}
    return columns | numbers | {name: column.numpy() for name, column in table.columns.items()}


def _scores(scores: Sequence[Score], seed: int, about: str) -> list[Measurement]:
    rho, mixed = population(scores), top_and_random(scores)
    return [
        mean(f"{about}: population", rho, seed, null=0.0),
        mean(f"{about}: top_and_random", mixed, seed, null=0.0),
        mean(f"{about}: random_only", np.array([s.random_only.value for s in scores], float), seed, null=0.0),
        mean(f"{about}: baseline", np.array([s.baseline.value for s in scores], float), seed, null=0.0),
        mean(f"{about}: permuted", np.array([math.nan if s.permuted is None else s.permuted.value for s in scores], float), seed, null=0.0),
        mean(f"{about}: unexplained", 1 - rho**2, seed),
    ]  # fmt: skip


def _measured(
    place: Place,
    judged: Judged,
    table: Table,
    theta: Float[Tensor, "k r"],
    curve: dict[int, Float[Tensor, " k"]],
) -> list[Measurement]:
    seed, space, n = place.config.seed, place.space, int(place.split("fit").sum())
    found = _scores(judged.scores, seed, place.explainer.name)
    found.append(mean(f"{place.explainer.name}: bits", np.array([e.bits for e in judged.explanations], float), seed))
    found += [
        mean(name, column.numpy(), seed, method=f"mean of: {ABOUT[name]};") for name, column in table.columns.items()
    ]
    cosines = judge.cosines(theta) - torch.eye(len(theta), dtype=torch.float64)
    reads = judge.cosines(space.reads(theta)) - torch.eye(len(theta), dtype=torch.float64)
    found += [
        Measurement("cosine_max", float(cosines.abs().max()), n=len(theta), method="largest |cosine| of two directions under Σ", null=0.0),
        Measurement("weights_cosine_max", float(reads.abs().max()), n=len(theta), method="the same of the weights that read them"),
        Measurement("shrinkage", space.shrinkage, n=n, method="δ of Ledoit and Wolf, fit split", source="Ledoit & Wolf 2004"),
        Measurement("shrinkage_floor", space.floor, n=n, method="ε = δ μ, of scaled units", source="Ledoit & Wolf 2004"),
        Measurement("rank", float(space.rank), n=n, method="dimensions in which rows of the fit split vary"),
        Measurement("effective_rank", space.effective_rank, n=n, method="participation ratio of the spectrum of scaled units"),
    ]  # fmt: skip
    whole = curve[max(curve)]
    found += [
        mean(f"kept_by_{size}_units", (rho / whole).numpy(), seed, method="share of ρ that the units keep, mean")
        for size, rho in curve.items()
    ]
    return found


def _shuffled(place: Place, chance: Sequence[Found], moved: Int[Tensor, " n"]) -> list[Measurement]:
    theta = torch.stack([f.theta for f in chance])
    judged = place.judged(_activations(place, theta), [f.explanation for f in chance], moved)
    seed = place.config.seed
    return [
        *_scores(judged.scores, seed, "shuffled"),
        mean("rho_fit", np.array([f.fitted for f in chance], float), seed),
        mean("rho_select", np.array([f.selected for f in chance], float), seed),
    ]


def _against(kind: str, scores: Sequence[Score], ours: Sequence[Score], seed: int) -> list[Measurement]:
    rho, mine = population(scores), population(ours)
    said = "over units of both kinds, bootstrap over both"
    return [
        *_scores(scores, seed, kind),
        ratio("unexplained_ratio", 1 - mine**2, 1 - rho**2, seed, f"unexplained share of directions over that of {kind}, {said}"),
        ratio("rho_ratio", mine, rho, seed, f"mean ρ of directions over that of {kind}, {said}"),
    ]  # fmt: skip


def _sentences(place: Place, measured: dict[str, list[Measurement]], site: str) -> list[dict[str, str]]:
    own = {m.name: m for m in measured[site]}
    name = place.explainer.name
    lines = [
        f"{len(place.rows):,} tokens: {own[f'{name}: population'].n} directions of {place.config.site}, each explained by "
        f"{name}, have a mean ρ = {own[f'{name}: population']} on all tokens of unseen documents "
        f"({own[f'{name}: top_and_random']} on top and random excerpts); {own[f'{name}: unexplained']} of their variance "
        f"is left unexplained, with {own[f'{name}: bits'].value:.0f} bits each."
    ]
    for kind, found in measured.items():
        by = {m.name: m for m in found}
        if kind in (site, "shuffled text"):
            continue
        lines.append(
            f"{kind}: mean ρ = {by[f'{kind}: population']}, {by[f'{kind}: unexplained']} unexplained; directions leave "
            f"{by['unexplained_ratio']} times as much, with {by['rho_ratio']} times the ρ."
        )
    lines.append(
        f"Bare tokens: one token alone reaches {own['one_token_share']} of the explained variance, the table of tokens "
        f"{own['token_share']}; the nearest direction that reads a single token is at a cosine of {own['bare_token_cosine']}."
    )
    chance = (
        f"Chance: explanations of other directions reach ρ = {own['rho_other_directions']}, those of a direction itself on "
        f"displaced excerpts {own['rho_displaced']}"
    )
    if "shuffled text" in measured:
        by = {m.name: m for m in measured["shuffled text"]}
        rho = by["shuffled: population"]
        said = f"ρ = {rho}" if rho.n else "no explanation that says anything"
        chance += f"; the same search on shuffled text finds {said} on unseen documents"
    return [{"about": "explanation", "text": text} for text in [*lines, chance + "."]]


def _facts(run: Run, place: Place, site: str) -> dict[str, Any]:
    target, store = place.target, place.target.store
    return {
        "kind": "explained",
        "title": f"{target.name}: which directions of {place.config.site} can be explained?",
        "model": {"name": target.name, "path": target.network or "not known"},
        "data": {
            "path": target.data or "that of the harvest",
            "tokens": len(store),
            "documents with tokens": len(store.document_ids),
        },
        "seed": place.config.seed,
        "sites": [site],
        "settings": configs.to_dict(place.config),
        "versions": {"digon": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "commands": [command("directions", place.config, out=run.path), f"digon page {run.path}"],
        "seconds": {name: stage["seconds"] for name, stage in run.stages().items()},
    }
