"""One network at a time: train it, or read it on documents that it was never trained on.

What is read, per layer: scores of explanations (`scores`), η², dead units, density, share of units with several senses, the
quick checks of the diagnosis. Of the whole network: loss per document.
"""

import math
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...diagnose import Evidence
from ...explain.exemplars import Contexts, Excerpts
from ...hosts.corpus import Corpus, Document, python_corpus, read_corpus, split
from ...hosts.harvest import HarvestConfig, harvest
from ...hosts.load import Host, load_host
from ...hosts.tinylm import MLP, TinyLM, TinyLMConfig, nonlinearity, read_record
from ...hosts.tinylm_eval import evaluate
from ...hosts.tinylm_train import train
from ...measures import selectivity, similarity
from ...store.shards import ActivationStore
from .. import diagnosis
from ..jobs import Record
from ..toys.threads import one_thread
from .plan import Look, Reading, Subject, activation
from .scores import Mean, active, effective_numbers, explanations, layer_scores, mean_of, weights

SEED = 0
"""Of everything but the weights of the networks."""
LONGEST = 16
"""Characters that are encoded per token wanted: no token of a small vocabulary is so long on average."""


@cache
def texts(data: str | None, look: Look) -> tuple[list[Document], list[Document]]:
    """Documents to train on and documents to read on."""
    whole = python_corpus(look.text_bytes) if data is None else read_corpus(Path(data))
    return split(whole, look.held_out, SEED)


def train_subject(subject: Subject, folder: Path) -> Record:
    """Train into `folder`, or go on training there; seconds, and the loss of a bigram beside it."""
    started = time.perf_counter(), time.process_time()
    with one_thread():
        seen, held_out = texts(subject.data, subject.look)
        out = folder / subject.name
        train([d.text for d in seen], [d.text for d in held_out], subject.shape, subject.recipe, out, _nobody)
    report = {m.name: m.value for m in read_record(out).report}
    return {"bigram": report["bigram_nats_per_token"]} | _clock(started)


def read(reading: Reading, folder: Path) -> Record:
    """Everything about one network, read with one activation; diagnosed only as it was trained."""
    started = time.perf_counter(), time.process_time()
    with one_thread(), torch.inference_mode():
        host = _host(reading, folder)
        look, model = reading.subject.look, host.model
        assert isinstance(model, TinyLM), "trained here"
        _, held_out = texts(reading.subject.data, look)
        loss = _loss(host, model, held_out, look)
        corpus = Corpus("held out", lambda: ((d.origin, d.text) for d in held_out))
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            settings = HarvestConfig(max_tokens=look.tokens, seed=SEED)
            store = harvest(host, corpus, host.sites("layers.*.mlp.act"), Path(scratch) / "shards", settings)
            layers = [_layer(store, site, host, look) for site in store.sites]
            if reading.own:
                judged = [_diagnosed(store, site, reading) for site in store.sites]
                layers = [layer | more for layer, more in zip(layers, judged, strict=True)]
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "loss": _plain(loss), "layers": layers} | _clock(started)


def _nobody(_: Any) -> None:
    """Progress is told per network, not per step."""


def _host(reading: Reading, folder: Path) -> Host:
    """The trained network, with the activation that it is read with."""
    host = load_host(folder / reading.subject.name)
    if reading.own:
        return host
    assert isinstance(host.model, TinyLM), "trained here"
    settings: TinyLMConfig = replace(
        reading.subject.shape, activation=activation(reading.subject.base, reading.density), density=reading.density
    )
    for module in host.model.modules():
        if isinstance(module, MLP):
            module.act = nonlinearity(settings)
    return host


def _loss(host: Host, model: TinyLM, documents: list[Document], look: Look) -> Mean:
    """Nats per token over the openings of all held-out documents; draws resample the documents."""
    assert host.tokenizer is not None, "a tinylm has a tokenizer"
    openings = [d.text[: LONGEST * look.opening] for d in documents]
    ids = [torch.tensor(ids[: look.opening]) for ids in host.tokenizer.encode_batch(openings)]
    nats, sizes = evaluate(model, ids), torch.tensor([len(i) for i in ids], dtype=torch.float64)
    drawn = weights([d.id for d in documents], SEED)
    found = (drawn @ nats) / (drawn @ sizes)
    return Mean(float(nats.sum() / sizes.sum()), tuple(round(v, 6) for v in found.tolist()), len(documents))


def _layer(store: ActivationStore, site: str, host: Host, look: Look) -> Record:
    values = store.values(site, torch.arange(len(store)))
    alive = active(values)
    order = torch.randperm(values.shape[1], generator=rng.stream(SEED, "ladder units", site))
    chosen = order[alive[order]][: look.units]
    some = values[:, chosen].float()
    excerpts = Excerpts.of(store.documents, store.positions, store.document_ids, SEED)
    tokenizer = host.tokenizer
    assert tokenizer is not None, "a tinylm has a tokenizer"
    contexts = Contexts.of(store.tokens, store.documents, store.positions, len(tokenizer))
    drawn = weights(store.document_ids, SEED)
    explained = explanations(some, contexts, excerpts)
    means = layer_scores(some, explained, contexts, excerpts, drawn, SEED)
    ceiling = selectivity.context_free_ceiling(some, store.tokens, store.documents, rng.stream(SEED, "ladder", site))
    few = slice(0, look.taken_apart)
    kept = {
        "eta2": ceiling.value,
        "density": selectivity.density(some),
        "ms_excess": _alike(values, order, some, look),
        "effective": effective_numbers(some[:, few], explained["ngrams"][few], contexts, excerpts, SEED),
    }
    means |= {name: mean_of(column, column.expand(len(drawn), -1), SEED) for name, column in kept.items()}
    return {
        "site": site,
        "means": {name: _plain(mean) for name, mean in means.items()},
        "dead": 1 - float(alive.double().mean()),
    }


def _alike(
    values: Float[Tensor, "n d"], order: Int[Tensor, " d"], some: Float[Tensor, "n units"], look: Look
) -> Float[Tensor, " units"]:
    """How much more alike the contexts that fire a unit are than chance: MS less its null.

    Contexts are told apart by the standardized activations of equally many units of every layer.
    """
    rows = torch.arange(0, len(values), max(1, -(-len(values) // look.rows)))
    around = values[rows][:, order[: look.judged]].float()
    around = (around - around.mean(0)) / around.std(0).clamp_min(1e-6)
    found = similarity.monosemanticity(around, some[rows])
    return found.score - found.null


def _diagnosed(store: ActivationStore, site: str, reading: Reading) -> Record:
    """Share of units with several senses and, for the first seed, the quick checks: on as many units of every layer."""
    look, width = reading.subject.look, store.sites[site]
    units = torch.randperm(width, generator=rng.stream(SEED, "ladder units", site))[: look.judged].sort().values
    rows = torch.arange(0, len(store), max(1, -(-len(store) // look.rows)))
    whole = store.activations(site, rows)
    activations = replace(whole, values=whole.values[:, units])
    senses = diagnosis.senses(activations, SEED)
    found: Record = {"senses": math.nan if senses is None else senses.value}
    if reading.subject.shape.seed == SEED:
        verdict = diagnosis.judge(Evidence(activations, SEED, senses), site, _nobody, ids=diagnosis.QUICK)
        found |= {"causes": list(verdict.causes), "verdicts": {check.id: check.verdict for check in verdict.checks}}
    return found


def _clock(started: tuple[float, float]) -> Record:
    """Seconds on the clock, and of this processor core."""
    return {"seconds": time.perf_counter() - started[0], "cpu": time.process_time() - started[1]}


def _plain(mean: Mean) -> Record:
    return {"value": mean.value, "draws": list(mean.draws), "n": mean.n}
