"""True explanations: clauses on tokens that can be simulated exactly and put in words.

A clause fires on some tokens (or on any), if a gate opens: one of the gate's tokens came within so many tokens before (or did
not), and the place in the document is below a bound. A rule adds up its clauses, each with its strength.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .tokens import Tokens

ANYWHERE = 2**30
"""Reach of a gate that looks at all of the document before."""
SHOWN = 6
"""Tokens that a clause in words spells out."""


@dataclass(frozen=True)
class Clause:
    """One condition and the activation where it holds."""

    here: tuple[int, ...] = ()
    """Tokens it fires on; none: any."""
    gate: tuple[int, ...] = ()
    """Tokens of which one must have come before; none: no gate."""
    reach: int = 1
    """How far back the gate looks: 1 is the token right before."""
    negated: bool = False
    """True: none of the gate's tokens may have come."""
    below: int = 0
    """Only at places of a document below this; 0: anywhere."""
    strength: float = 1.0

    def fires(self, tokens: Tokens) -> Bool[Tensor, " n"]:
        """Rows on which the condition holds."""
        hit = tokens.is_in(self.here) if self.here else torch.ones(len(tokens), dtype=torch.bool)
        if self.gate:
            since = tokens.since(self.gate)
            opened = (since > 0) & (since <= self.reach)
            hit &= ~opened if self.negated else opened
        return hit & (tokens.positions < self.below) if self.below else hit

    def describe(self, texts: Sequence[str]) -> str:
        """The condition in words."""
        parts = [_named(self.here, texts) if self.here else "any token"]
        if self.gate:
            where = "right after" if self.reach == 1 else f"within {self.reach} tokens after"
            where = "anywhere after" if self.reach >= ANYWHERE else where
            parts.append(f"{'but not ' if self.negated else ''}{where} {_named(self.gate, texts)}")
        if self.below:
            parts.append(f"among the first {self.below} tokens of a document")
        return " ".join(parts)


@dataclass(frozen=True)
class Rule:
    """The sum of some clauses; without any, silence."""

    clauses: tuple[Clause, ...]

    def simulate(self, tokens: Tokens) -> Float[Tensor, " n"]:
        """Exact activation on every row."""
        value = torch.zeros(len(tokens))
        for clause in self.clauses:
            value += clause.strength * clause.fires(tokens)
        return value

    def describe(self, texts: Sequence[str]) -> str:
        """The rule in words, its strongest clause first."""
        order = sorted(self.clauses, key=lambda c: -c.strength)
        return "; ".join(clause.describe(texts) for clause in order) or "nothing in the text"

    def with_clause(self, index: int, clause: Clause | None) -> "Rule":
        """The rule with one clause exchanged, or left out."""
        kept: Iterable[Clause | None] = (clause if i == index else c for i, c in enumerate(self.clauses))
        return Rule(tuple(c for c in kept if c is not None))


def near_misses(rule: Rule, tokens: Tokens, spare: Sequence[tuple[int, ...]]) -> dict[str, Rule]:
    """Rules that are wrong in one respect; `spare` holds token sets that the rule does not use."""
    found: dict[str, Rule] = {}
    first = rule.clauses[0]
    if len(rule.clauses) > 1:
        found["a part is missing"] = rule.with_clause(len(rule.clauses) - 1, None)
        last = rule.clauses[-1]
        found["a part is another"] = rule.with_clause(len(rule.clauses) - 1, replace(last, here=spare[0]))
    elif first.here:
        found["other tokens"] = Rule((Clause(spare[0]),))
    if len(first.here) > 1:
        often = sorted(first.here, key=lambda t: -int((tokens.ids == t).sum()))
        found["half of the tokens"] = rule.with_clause(0, replace(first, here=tuple(often[1::2])))
    if first.gate:
        found["without the gate"] = rule.with_clause(0, replace(first, gate=()))
        found["the gate turned round"] = rule.with_clause(0, replace(first, negated=not first.negated))
        common = torch.bincount(tokens.ids).argsort(descending=True, stable=True).tolist()
        other = tuple(t for t in common if t not in first.gate)[: len(first.gate)]
        found["another gate"] = rule.with_clause(0, replace(first, gate=other))
    if first.below:
        found["twice as far"] = rule.with_clause(0, replace(first, below=2 * first.below))
        found["half as far"] = rule.with_clause(0, replace(first, below=max(1, first.below // 2)))
    extra = Clause(spare[1], strength=first.strength)
    found["a part too many"] = Rule((*rule.clauses, extra))
    return found


def _named(members: Sequence[int], texts: Sequence[str]) -> str:
    shown = ", ".join(f"“{texts[t]}”" for t in members[:SHOWN])
    return shown + (f" and {len(members) - SHOWN} like them" if len(members) > SHOWN else "")
