"""Attention heads in superposition: skip trigrams "a … b → c" whose answer depends on the pair, stored in two heads.

A head that attends from b to a writes V(a), whatever b is; if the answer to a depends on b in no orderly way, no head can
have the trigrams of a for itself. Two heads that attend by different amounts can: what is wrong in one is canceled by
the other. With attention αₕ(a, b) = σ(qₕ(b) · kₕ(a)), the rest going to the first token,

    logits(a, b) = direct(b) + Σₕ [αₕ(a, b) Vₕ(a) + (1 − αₕ(a, b)) Rₕ] Oₕ

Sites: the heads' outputs side by side, their queries or keys, and the pattern (one unit per head). Outputs, queries and
keys are sums of directions of tokens. The pattern is a table: every trigram has a code of one number per head.

Source: Transformer Circuits update of July 2023 (attention-head superposition); sizes are ours.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from .base import World, check_size, world
from .trained.oracle import REPRESENTED, Encoding, additive_truth, decoded, table_truth, unclear
from .trained.training import minimize

SITES = ("outputs", "queries", "keys", "pattern")
LEARNED = 0.01
"""Most cross-entropy, in nats, of a layer that knows its trigrams."""
WIDTH = 8
"""Units of a head's output, query and key where the site does not say."""
MOST = 12
"""Tokens of every kind, unless the units at the site are fewer."""
STEPS = 1500


@dataclass(frozen=True)
class Layer:
    """One attention layer that knows a table of skip trigrams, with p tokens of every kind."""

    table: Int[Tensor, "p p"]
    """Token c for every source a and destination b."""
    queries: Float[Tensor, "h p k"]
    """Of destinations."""
    keys: Float[Tensor, "h p k"]
    """Of sources."""
    values: Float[Tensor, "h p v"]
    """Of sources."""
    rest: Float[Tensor, "h v"]
    """Value of the first token."""
    out: Float[Tensor, "h v p"]
    direct: Float[Tensor, "p p"]

    def pattern(self) -> Float[Tensor, "p p h"]:
        """Attention of every head from destination b to source a, at [a, b]."""
        return torch.einsum("hbk,hak->abh", self.queries, self.keys).sigmoid()

    def outputs(self, pattern: Float[Tensor, "p p h"]) -> Float[Tensor, "p p h v"]:
        """What the heads write for every pair."""
        moved = self.values.transpose(0, 1) - self.rest
        return self.rest + pattern[..., None] * moved[:, None]

    def logits(self, outputs: Float[Tensor, "p p h v"]) -> Float[Tensor, "p p p"]:
        """Scores of tokens c for every pair."""
        return torch.einsum("abhv,hvc->abc", outputs, self.out) + self.direct

    def needs(self) -> Bool[Tensor, "p p h"]:
        """Whether a trigram's answer turns wrong when a head writes its mean over all pairs instead."""
        written = self.outputs(self.pattern())
        wrong: list[Tensor] = []
        for head in range(written.shape[2]):
            ablated = written.clone()
            ablated[:, :, head] = written[:, :, head].mean((0, 1))
            wrong.append(self.logits(ablated).argmax(2) != self.table)
        return torch.stack(wrong, 2)

    def shared(self) -> Bool[Tensor, "p p"]:
        """Trigrams in superposition across heads: those that need more than one."""
        return self.needs().sum(2) > 1

    def loss(self) -> Float[Tensor, ""]:
        """Mean cross-entropy over all pairs, in nats; the table's entropy is 0."""
        scores = self.logits(self.outputs(self.pattern()))
        return torch.nn.functional.cross_entropy(scores.flatten(0, 1), self.table.flatten())


def layer(seed: int, *, tokens: int = 12, heads: int = 2, width: int = WIDTH, keys: int = WIDTH) -> Layer:
    """A layer trained on a random table, however well it learns it."""
    g = rng.stream(seed, "heads")

    def some(*shape: int) -> Tensor:
        return 0.5 * torch.randn(*shape, generator=g)

    made = Layer(
        torch.randint(tokens, (tokens, tokens), generator=g), some(heads, tokens, keys), some(heads, tokens, keys),
        some(heads, tokens, width), some(heads, width), some(heads, width, tokens), some(tokens, tokens),
    )  # fmt: skip
    parameters = [made.queries, made.keys, made.values, made.rest, made.out, made.direct]
    minimize(parameters, made.loss, steps=STEPS, peak=0.05)
    return made


def skip_trigrams(
    n_rows: int, d: int, seed: int, *, site: str = "outputs", tokens: int | None = None, heads: int = 2
) -> World:
    """Random pairs (a, b) before a layer that knows its trigrams; d units at the site, the same number for every head.

    `tokens` sources and as many destinations (default: as many as units, from 4 to 12). Labels are a and b; rows with the same pair are the same input. Features of outputs are the sources of every head, of
    queries the destinations, of keys the sources, of the pattern the trigrams.

    Raises: ConfigError for an unknown site or units that do not divide; RunError if the layer does not know its trigrams.
    """
    check_size(n_rows, d)
    if site not in SITES or heads < 1 or d % heads or (site == "pattern" and d != heads):
        raise ConfigError(
            f"{d} units of {heads} heads at {site!r}", expected=f"{' | '.join(SITES)}; as many units for every head"
        )
    p = (MOST if site == "pattern" else min(MOST, max(4, d))) if tokens is None else tokens
    width, keys = (d // heads if site in sites else WIDTH for sites in (("outputs",), ("queries", "keys")))
    made = layer(seed, tokens=p, heads=heads, width=width, keys=keys)
    known = float(made.loss())
    if known > LEARNED:
        raise unclear("the cross-entropy of the trigrams", known, f"at most {LEARNED} nats")
    a, b = torch.randint(p, (2, n_rows), generator=rng.stream(seed, "pairs"))
    inputs, labels, pattern = a * p + b, torch.stack([a, b], 1), made.pattern()
    if site == "pattern":
        codes = pattern.flatten(0, 1)
        return replace(world(codes[inputs], table_truth(codes, inputs), inputs=inputs), labels=labels)
    one_hot = torch.nn.functional.one_hot(b if site == "queries" else a, p).float()
    if site == "outputs":
        h = made.outputs(pattern)[a, b].flatten(1)
        f = (pattern[a, b][:, :, None] * one_hot[:, None]).flatten(1)
        directions, offset = torch.block_diag(*(made.values - made.rest[:, None])), made.rest.flatten()
    else:
        directions = (made.queries if site == "queries" else made.keys).transpose(0, 1).flatten(1)
        h, f, offset = one_hot @ directions, one_hot, torch.zeros(d)
    size = directions.norm(dim=1)
    atoms = directions / size[:, None]
    # Every token is a feature of its own, however near its direction is to another one's.
    readable = decoded(h - offset, f * size, atoms) > REPRESENTED
    found = Encoding(atoms, torch.arange(len(atoms)), size, 1.0, readable)
    seen = world(h, additive_truth(found, f), inputs=inputs, labels=labels)
    out = made.out.flatten(0, 1)
    return replace(seen, network=lambda x: x @ out) if site == "outputs" else seen
