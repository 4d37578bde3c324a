"""What does the network lose when it reads a dictionary's reconstruction? On contexts that were not harvested."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ... import rng
from ...coders.sae import SAE
from ...hosts.contexts import cut
from ...hosts.corpus import Corpus
from ...hosts.load import Host
from ...hosts.sites import Site
from ...hosts.taps import edited, replace
from ...measures import patching, stats
from ...records import Measurement
from ...store.runs import Run
from ...store.shards import ActivationStore

TOKENS = 16_384
"""Tokens that are read, under every condition."""
DRAWN = 8
"""Times as many are drawn: those that were harvested go."""
BATCH = 16
"""Contexts per forward pass."""
CONDITIONS = ("clean", "sae", "zero", "mean", "random")
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Text:
    """Contexts to read: token ids with their frame, and the document of each."""

    ids: list[np.ndarray]
    documents: np.ndarray
    places: list[tuple[str, int]]
    """Document id and number of the context in it."""
    fresh: bool
    """Whether none of them was harvested."""


def write_host(run: Run, sae: SAE, store: ActivationStore, host: Host, corpus: Corpus, site: Site, seed: int) -> None:
    """Write `host.json`: an empty list for a network that predicts no tokens."""
    text = fresh_text(host, corpus, store, seed)
    sums, spread = measure(host, text, site, changes(sae, store, site.name, seed))
    if sums is None:
        run.write_json("host", [])
        return
    run.write_json("host", _measurements(sums, spread, text, rng.stream(seed, "host", site.name)))


def fresh_text(host: Host, corpus: Corpus, store: ActivationStore, seed: int) -> Text:
    """Contexts of the corpus that the store does not hold; if it holds all, contexts that it does hold."""
    tokenizer = host.tokenizer
    assert tokenizer is not None, "a harvested host has a tokenizer"
    settings = store.plan.settings
    room = int(settings.get("context", 128)) - len(tokenizer.prefix) - len(tokenizer.suffix)
    keys = (store.documents * 2**32 + store.positions // room).unique()
    held = {(store.document_ids[key >> 32], key % 2**32) for key in keys.tolist()}
    contexts = cut(corpus, tokenizer, room, BATCH, DRAWN * TOKENS, seed + 1)
    order = rng.numpy_stream(seed, "fresh").permutation(len(contexts.lengths))
    order = [i for i in order.tolist() if contexts.lengths[i] > 1]
    place = {i: (contexts.document_ids[contexts.documents[i]], int(contexts.positions[i]) // room) for i in order}
    new = [i for i in order if place[i] not in held]
    chosen = new or order
    total = np.cumsum([contexts.lengths[i] for i in chosen])
    chosen = chosen[: int(np.searchsorted(total, TOKENS)) + 1]
    chosen.sort(key=lambda i: int(contexts.lengths[i]))  # less padding
    ids = [np.array([*tokenizer.prefix, *contexts.ids(i), *tokenizer.suffix]) for i in chosen]
    owner = np.unique([contexts.documents[i] for i in chosen], return_inverse=True)[1]
    return Text(ids, owner, [place[i] for i in chosen], bool(new))


def changes(sae: SAE, store: ActivationStore, site: str, seed: int) -> dict[str, Change]:
    """What the site's rows are replaced by, under every condition but the clean one."""
    mean = store.moments(site)[1].float().to(sae.W_dec.device)
    guess = random_dictionary(sae, store, site, seed)
    return {
        "sae": lambda x: sae.decode(sae.encode(x)),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
        "random": guess,
    }


def random_dictionary(sae: SAE, store: ActivationStore, site: str, seed: int) -> Change:
    """As many random directions, of which each row uses as many: its largest projections, scaled by least squares as a whole.

    The null of the dictionary: what equally many directions reach without learning anything.
    """
    k, d = sae.W_dec.shape
    atoms = torch.nn.functional.normalize(torch.randn(k, d, generator=rng.stream(seed, "random dictionary")), dim=1)
    rows = store.values(site, torch.arange(0, len(store), max(1, len(store) // 4096)))
    codes = sae.encode(rows.to(sae.W_dec.device))
    size = min(max(1, round(float((codes.values != 0).sum(1).float().mean()))), k)
    mean = store.moments(site)[1].float()

    def guess(x: Tensor) -> Tensor:
        centered = x.float() - mean.to(x.device)
        parts = []
        for part in centered.split(1024):
            top = (part @ atoms.to(x.device).T).clamp(min=0).topk(size, 1)
            back = torch.nn.functional.embedding_bag(
                top.indices, atoms.to(x.device), per_sample_weights=top.values, mode="sum"
            )
            # Overlapping directions add up to too much: one factor per row, the best there is.
            factor = (back * part).sum(1) / back.square().sum(1).clamp(min=1e-12)
            parts.append(back * factor[:, None])
        return torch.cat(parts) + mean.to(x.device)

    return guess


def measure(host: Host, text: Text, site: Site, new: dict[str, Change]) -> tuple[Tensor | None, Tensor]:
    """Per document: tokens, then loss and KL under every condition; and error and spread of the reconstruction.

    None instead of the first for a network that predicts no tokens.
    """
    docs = int(text.documents.max()) + 1
    sums = torch.zeros(docs, 1 + 2 * len(CONDITIONS), dtype=torch.float64)
    spread = torch.zeros(docs, 2, dtype=torch.float64)
    for ids, mask, keep, owner in _batches(host, text):
        costs, errors = _conditions(host, ids, mask, keep, site, new)
        if costs is None:
            return None, spread
        sums.index_add_(0, owner[_targets(keep)], torch.cat([torch.ones(len(costs), 1).double(), costs], 1))
        spread.index_add_(0, owner[keep], errors)
    return sums, spread


def _batches(host: Host, text: Text) -> Iterator[tuple[Tensor, Tensor | None, Tensor, Tensor]]:
    tokenizer = host.tokenizer
    assert tokenizer is not None, "a harvested host has a tokenizer"
    before, frame = len(tokenizer.prefix), len(tokenizer.prefix) + len(tokenizer.suffix)
    for start in range(0, len(text.ids), BATCH):
        some = text.ids[start : start + BATCH]
        width = max(len(ids) for ids in some)
        ids = torch.full((len(some), width), host.pad_id)
        real = torch.zeros(ids.shape, dtype=torch.bool)
        keep = torch.zeros(ids.shape, dtype=torch.bool)
        for row, context in enumerate(some):
            ids[row, : len(context)] = torch.from_numpy(context)
            real[row, : len(context)] = True
            keep[row, before : len(context) - frame + before] = True
        owner = torch.from_numpy(text.documents[start : start + BATCH])[:, None].expand(ids.shape)
        device = host.device
        yield ids.to(device), None if bool(real.all()) else real.to(device), keep, owner


def _targets(keep: Tensor) -> Tensor:
    """Rows whose next token is text as well: both are kept, so what is predicted depends on the edit."""
    wanted = torch.zeros_like(keep)
    wanted[:, :-1] = keep[:, :-1] & keep[:, 1:]
    return wanted


@torch.inference_mode()
def _conditions(
    host: Host, ids: Tensor, mask: Tensor | None, keep: Tensor, site: Site, new: dict[str, Change]
) -> tuple[Tensor | None, Tensor]:
    clean = host.forward(ids, mask)
    errors = torch.zeros(int(keep.sum()), 2, dtype=torch.float64)
    if host.tokenizer is None or clean.shape[-1] < len(host.tokenizer):
        return None, errors
    wanted, here = _targets(keep), keep.to(ids.device)
    where = wanted.to(ids.device)
    targets, own = ids.roll(-1, 1)[where], clean[where].float()
    costs = [patching.token_costs(own, own, targets)]
    for name in CONDITIONS[1:]:

        def change(values: Tensor, name: str = name) -> Tensor:
            rows = values[here]
            back = new[name](rows.float())
            if name in ("sae", "mean"):
                errors[:, int(name == "mean")] = (rows.float() - back).double().square().sum(1).cpu()
            changed = values.clone()
            changed[here] = back.to(values)
            return changed

        with edited(host.model, {site: replace(change)}):
            costs.append(patching.token_costs(own, host.forward(ids, mask)[where].float(), targets))
    return torch.cat(costs, 1).cpu(), errors


def _measurements(sums: Tensor, spread: Tensor, text: Text, draw: torch.Generator) -> list[Measurement]:
    """Loss, rise, shares recovered, KL and fvu, each with its interval over documents and its null."""
    column = {name: 1 + 2 * i for i, name in enumerate(CONDITIONS)}
    ce = lambda *names: sums[:, [column[n] for n in names], None]  # noqa: E731
    kl = lambda *names: sums[:, [column[n] + 1 for n in names], None]  # noqa: E731
    with_count = lambda part: torch.cat([part, sums[:, :1, None]], 1)  # noqa: E731
    tokens = int(sums[:, 0].sum())
    place = "contexts that were not harvested" if text.fresh else "harvested contexts, as there are no others"
    base = f"{len(sums)} documents, {place}; bootstrap over documents"
    found: list[Measurement] = []

    def add(
        name: str, part: Tensor, statistic: stats.Statistic, null: Tensor | float, method: str, unit: str = ""
    ) -> None:
        interval = stats.bootstrap_interval(part, statistic, draw)
        reads = float(statistic(null.sum(0))) if isinstance(null, Tensor) else null
        value = statistic(part.sum(0))
        found.append(
            stats.to_measurement(name, value, interval, tokens, unit=unit, method=f"{method}; {base}", null=reads)
        )

    guess = "null: as many random directions, as many active"
    add("ce_clean", with_count(ce("clean")), patching.per_token_of, float("nan"), "the network as it is", "nats/token")
    rise = lambda name: with_count(ce(name) - ce("clean"))  # noqa: E731
    add("ce_rise", rise("sae"), patching.per_token_of, rise("random"), guess, "nats/token")
    for kind in ("mean", "zero"):
        add(
            f"ce_recovered_{kind}", ce("clean", "sae", kind), patching.ce_recovered_of, ce("clean", "random", kind),
            f"against {kind} ablation; {guess}",
        )  # fmt: skip
    add("kl", with_count(kl("sae")), patching.per_token_of, with_count(kl("random")), guess, "nats/token")
    add(
        "kl_recovered",
        kl("sae", "mean"),
        patching.kl_recovered_of,
        kl("random", "mean"),
        f"against mean ablation; {guess}",
    )
    add("fvu_fresh", spread[:, :, None], patching.per_token_of, 1.0, "Σ‖x − x̂‖² over Σ‖x − mean of the harvest‖²")
    return found
