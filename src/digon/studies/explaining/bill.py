"""What asking a language model came to: calls, tokens, money, what the journal knew, what failed, what was seen."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...explain.llm.journal import Totals
from ...explain.llm.wire import canonical
from ...records import UnitCard
from ...store.runs import Run
from .desk import key_of
from .settings import WordsConfig
from .voices import Voices
from .work import counted

NAME = "words"
"""The explainer's name in cards and tables."""
WAYS = {
    "prompt": "from the probabilities of the prompt's own tokens",
    "template": "from the probabilities of the numbers in an answer whose form is forced",
    "single": "from the probabilities of one answer per token",
    "constrained": "as numbers written in a forced form",
    "free": "as numbers that it writes",
    "local": "from the model's own logits",
}
"""How simulated values come about, by the way of `explain.llm.simulate`."""
TOLD = 3
"""Kinds of notes that are told; the page lists more."""


@dataclass(frozen=True)
class Heard:
    """What the stage came to."""

    sentences: tuple[str, ...]
    facts: dict[str, Any]
    stopped: str = ""
    """Why the stage ended before all units were done; empty if it did not."""
    failed: int = 0
    """Units that lack something, which another call may bring."""


@dataclass
class Tally:
    """What the clients did in this process, and the bill of the journal."""

    totals: Totals = field(default_factory=Totals)
    hits: int = 0
    retries: int = 0
    replies: int = 0
    introduction: str = ""
    """Who is asked, and what it can do."""
    priced: bool = False
    """Whether prices are known."""
    stopped: str = ""

    def met(self, voices: Voices, config: WordsConfig) -> None:
        """Note who is asked."""
        way = WAYS[voices.judge_can.methods[0] if voices.judge.simulates_here is None else "local"]
        first, second, place = voices.client.server, voices.judge.server.model, voices.client.server.identity
        who = (
            f"{first.model} explains and judges"
            if first.model == second
            else f"{first.model} explains, {second} judges"
        )
        where = "at" if voices.client.simulates_here is None else "in"
        self.introduction = f"{who}, {where} {place}" + f"; simulated values come {way}" * config.simulates
        if voices.client.simulates_here is not None:
            self.introduction += f"; it is asked in {'its own chat template' if voices.can.chat else 'plain text'}"
        prices = voices.client.ledger.prices
        self.priced = bool(prices.read or prices.written)
        self.totals = voices.client.journal.totals()

    def closed(self, voices: Voices) -> None:
        """Note what was done."""
        counts = [client.counts for client in {id(c): c for c in (voices.client, voices.judge)}.values()]
        self.hits, self.retries = sum(c.hits + c.shared for c in counts), sum(c.retries for c in counts)
        self.replies = sum(c.replies for c in counts)
        self.totals = voices.client.journal.totals()


def digest_of(value: Any) -> str:
    """Hash of plain values."""
    return hashlib.blake2b(canonical(value).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def heard(run: Run, chunks: Sequence[str], config: WordsConfig, tally: Tally) -> Heard:
    """The outcome over all chunks, those of earlier calls included."""
    units, shares, failures, notes = 0, [], list[tuple[str, str]](), Counter[str]()
    explained = 0
    for chunk in chunks:
        cards = run.read_json(f"cards/{chunk}", list[UnitCard])
        units += len(cards)
        names = {key_of(card): card.unit for card in cards}
        own = [e for card in cards for e in card.explanations if e.explainer == NAME]
        explained += len(own)
        shares += [
            e.score.simulated_share for e in own if e.score is not None and math.isfinite(e.score.top_and_random.value)
        ]
        if (run.path / f"words/{chunk}.json").is_file():
            found = run.read_json(f"words/{chunk}", dict[str, dict[str, list[str]]])
            failures += [(names[unit], p) for unit, said in found.items() for p in said["problems"]]
            notes.update(n for said in found.values() for n in said["notes"])
    counted = Counter(problem for _, problem in failures)
    example = {problem: unit for unit, problem in reversed(failures)}
    listed = [{"times": n, "problem": problem, "unit": example[problem]} for problem, n in counted.most_common(20)]
    coverage = sum(shares) / len(shares) if shares else math.nan
    facts = {
        "who": tally.introduction or "nobody could be asked",
        "tiles": _tiles(tally, units, explained, len(failures), coverage),
        "failures": listed,
        "notes": [f"{n} × {note}" for note, n in notes.most_common(20)],
        "stopped": tally.stopped,
        "scorers": list(config.scorers),
    }
    return Heard(
        _sentences(tally, units, explained, listed, notes, coverage),
        facts,
        tally.stopped,
        len({u for u, _ in failures}),
    )


def _tiles(tally: Tally, units: int, explained: int, failures: int, coverage: float) -> list[list[str]]:
    bill = tally.totals
    doubts = f"{bill.doubts} in doubt: charged perhaps, answered not" if bill.doubts else ""
    return [
        ["units in words", f"{explained} of {units}", ""],
        ["calls paid", f"{bill.calls:,}", doubts],
        ["tokens", f"{bill.tokens:,}", "read and written, by all runs of this journal"],
        ["dollars", *([f"{bill.usd:.4f}", "at the prices given"] if tally.priced else ["–", "no prices were given"])],
        ["known already", f"{tally.hits:,}", "answered by the journal in the last call"],
        ["tried again", f"{tally.retries:,}", "in the last call"],
        ["failures", f"{failures:,}", ""],
        ["coverage", "–" if math.isnan(coverage) else f"{100 * coverage:.1f} %", "of the scored tokens got a value"],
    ]


def _sentences(
    tally: Tally, units: int, explained: int, failures: Sequence[dict[str, Any]], notes: Counter[str], coverage: float
) -> tuple[str, ...]:
    lines = []
    if tally.introduction:
        bill = tally.totals
        seen = "" if math.isnan(coverage) else f" {100 * coverage:.1f} % of the scored tokens got a simulated value."
        spent = [counted(bill.calls, "call"), counted(bill.tokens, "token"), *([f"${bill.usd:.4f}"] * tally.priced)]
        lines.append(
            f"{tally.introduction}. {explained} of {units} units are in words, for {', '.join(spent[:-1])} and {spent[-1]}."
            + seen
        )
    others = [f for f in failures if f["problem"] not in tally.stopped]  # what ended the stage is told by itself
    if others:
        first = others[0]
        total = sum(f["times"] for f in others)
        lines.append(
            f"{total} requests about units failed, {first['times']} of them so: {first['problem'].rstrip('.')}. The same "
            "command tries them again."
        )
    lines += [f"{n} × {note}." for note, n in notes.most_common(TOLD)]
    return (*lines, *([tally.stopped] if tally.stopped else []))
