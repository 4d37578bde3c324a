"""Constructed units: a rule that a recipe asks for, its activations, and what the best explanation can reach.

    values = rule + leak · f(token) + noise · ε        f ≥ 0 random on tokens that the rule does not fire on, ε ~ N(0, 1)

in standard deviations of the rule. Whoever knows rule and leak reaches ρ = √(S/(S + σ²)), S the variance of both together; the
rule in words, which leaves the leak out, a little less. Shares of a union are shares of Σ pᵢcᵢ², p a part's density and c its
strength, so that the number of parts that count is 1/Σ share².

Gates are found on the tokens themselves: those that open on about half of what the rule would fire on, so that a rule without its
gate is wrong, and worth something.

Source: the union's score and its effective number are worked out in docs/results/explanation.md.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from .rules import ANYWHERE, Clause, Rule, near_misses
from .tokens import Tokens

Kind = Literal["single", "union", "conjunction", "gated", "negated", "positional", "long-range", "noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GATES: dict[str, int] = {"conjunction": 1, "negated": 1, "gated": 8, "long-range": ANYWHERE}
"""Kinds with a gate, and how far it looks back."""
OPEN = (0.3, 0.6)
"""Share of the tokens on which a gate may be open."""
DENSITY = (0.002, 0.05)
"""Of a concept."""
GATED_TOKENS, GATE_TOKENS = 3, 3
"""Most tokens that a gated unit fires on, and of its gate."""
OPENING = 0.05
"""Share of the tokens on which a positional unit fires."""
LOOKED_AT = 4000
"""Rows on which gates are sought."""


@dataclass(frozen=True)
class Recipe:
    """What unit is wanted. Raises: ConfigError for shares that are none, or a noise below 0."""

    kind: Kind
    shares: tuple[float, ...] = (1.0,)
    """Of the parts of a union; one number otherwise."""
    noise: float = 0.4
    leak: float = 0.15

    def __post_init__(self) -> None:
        alone = self.kind == "union" or len(self.shares) == 1
        if not alone or not self.shares or min(self.shares) <= 0:
            raise ConfigError(f"shares {self.shares} of a {self.kind} unit", expected="one above 0 per part of a union")
        if not (self.noise >= 0 and self.leak >= 0):
            raise ConfigError(f"noise {self.noise}, leak {self.leak}", expected="0 or more")

    @property
    def effective(self) -> float:
        """True effective number of explanations: 1/Σ share²; NaN for noise.

        >>> Recipe("union", (0.5, 0.25, 0.25)).effective
        2.6666666666666665
        """
        total = sum(self.shares)
        return math.nan if self.kind == "noise" else 1 / sum((s / total) ** 2 for s in self.shares)


@dataclass(frozen=True)
class Unit:
    """A constructed unit."""

    recipe: Recipe
    values: Float[Tensor, " n"]
    rule: Rule
    """The true explanation."""
    reachable: float
    """Best ρ of any explanation; NaN for noise."""
    stated: float
    """ρ of the rule, which leaves the leak out."""
    foils: dict[str, Rule]
    """Rules that are wrong in one respect."""


def build(tokens: Tokens, recipe: Recipe, seed: int) -> Unit:
    """One unit on these tokens. Raises: ConfigError if they have no concepts or gates to make it from."""
    g = rng.stream(seed, "units", recipe.kind, *map(str, recipe.shares))
    if recipe.kind == "noise":
        return Unit(recipe, torch.randn(len(tokens), generator=g), Rule(()), math.nan, math.nan, {})
    density = torch.bincount(tokens.ids, minlength=tokens.vocabulary).double() / len(tokens)
    order = [tokens.concepts[i] for i in torch.randperm(len(tokens.concepts), generator=g).tolist()]
    able = [c for c in order if DENSITY[0] <= float(density[list(c)].sum()) <= DENSITY[1]]
    rule, used = _rule(tokens, recipe, able, density)
    size = max(len(c.here) for c in rule.clauses) or 1
    spare = [c[:size] for i, c in enumerate(able) if i not in used]
    if len(spare) < 2:
        raise ConfigError(f"{len(able)} concepts of usual density", expected=f"at least {len(used) + 2}")
    return _noisy(tokens, recipe, rule, near_misses(rule, tokens, spare), g)


def _rule(
    tokens: Tokens, recipe: Recipe, able: list[tuple[int, ...]], density: Float[Tensor, " v"]
) -> tuple[Rule, set[int]]:
    """The rule of a recipe, and the concepts that it uses up."""
    if recipe.kind == "positional":
        length = len(tokens) / len(tokens.document_ids)
        return Rule((Clause(below=max(2, round(OPENING * length))),)), set()
    if recipe.kind in GATES:
        for i, concept in enumerate(able):
            here = tuple(sorted(concept, key=lambda t: -float(density[t]))[:GATED_TOKENS])
            gate = _gate(tokens, here, GATES[recipe.kind])
            if gate:
                clause = Clause(here, gate, GATES[recipe.kind], recipe.kind == "negated")
                return Rule((clause,)), {i}
        raise ConfigError(f"no gate for a {recipe.kind} unit", expected="tokens that often come before others")
    if len(able) < len(recipe.shares):
        raise ConfigError(f"{len(able)} concepts of usual density", expected=f"{len(recipe.shares)} for the parts")
    parts = list(zip(able, recipe.shares, strict=False))
    strengths = [math.sqrt(share / float(density[list(c)].sum())) for c, share in parts]
    clauses = tuple(Clause(c, strength=s / max(strengths)) for (c, _), s in zip(parts, strengths, strict=True))
    return Rule(clauses), set(range(len(clauses)))


def _gate(tokens: Tokens, here: tuple[int, ...], reach: int) -> tuple[int, ...]:
    """Up to three tokens, those that come before `here` most often first, that open on a fair share of it; () if there are none."""
    rows = tokens.is_in(here).nonzero()[:, 0]
    rows = rows[:: max(1, len(rows) // LOOKED_AT)]
    near = torch.minimum(tokens.positions[rows], torch.tensor(reach))
    before = _before(tokens, rows, near)
    counts = torch.bincount(before[1], minlength=tokens.vocabulary)
    opened, gate = torch.zeros(len(rows), dtype=torch.bool), []
    for token in counts.argsort(descending=True, stable=True)[:100].tolist():
        with_it = opened.clone()
        with_it[before[0, before[1] == token]] = True
        share = float(with_it.double().mean())
        if share <= OPEN[1]:
            opened, gate = with_it, [*gate, token]
        if float(opened.double().mean()) >= OPEN[0]:
            return tuple(gate)
        if len(gate) == GATE_TOKENS:
            return ()
    return ()


def _before(tokens: Tokens, rows: Int[Tensor, " m"], near: Int[Tensor, " m"]) -> Int[Tensor, "2 pairs"]:
    """Which tokens came within reach of which of the rows, each pair once."""
    owner = torch.arange(len(rows)).repeat_interleave(near)
    back = torch.arange(len(owner)) - (near.cumsum(0) - near).repeat_interleave(near) + 1
    return torch.stack([owner, tokens.ids[rows[owner] - back]]).unique(dim=1)


def _noisy(tokens: Tokens, recipe: Recipe, rule: Rule, foils: dict[str, Rule], g: torch.Generator) -> Unit:
    clean = rule.simulate(tokens).double()
    spread = float(clean.std(correction=0))
    weights = torch.randn(tokens.vocabulary, generator=g, dtype=torch.float64).abs()
    weights[[t for clause in rule.clauses for t in clause.here]] = 0
    leak = weights[tokens.ids]
    signal = clean + recipe.leak * spread * leak / leak.std(correction=0)
    power = float(signal.var(correction=0))
    total = power + (recipe.noise * spread) ** 2
    values = signal + recipe.noise * spread * torch.randn(len(tokens), generator=g, dtype=torch.float64)
    covariance = float(((clean - clean.mean()) * (signal - signal.mean())).mean())
    stated = covariance / (spread * math.sqrt(total))
    return Unit(recipe, values.float(), rule, math.sqrt(power / total), stated, foils)
