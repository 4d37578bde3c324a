"""A unit in words: ask for them, ask several times and keep the best, show where they fail and ask again.

    explain      one description, or several meanings with their shares
    best_of      n descriptions of the same examples, each simulated on the select split; the best correlation wins
    revise       texts that the model itself writes to fit a description; what the unit truly does on them is shown, and a
                 better description asked for; it is kept only if it is better on the select split

Excerpts that explain and excerpts that judge share no document: that is asserted, not hoped.

Source: explanation, selection and revision by counter-examples after Bills et al. 2023.
"""

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import RunError
from ...records import Excerpt, Measurement
from ..splits import assert_disjoint
from . import prompts
from .bounds import score
from .client import Client
from .probe import Capabilities, write
from .simulate import Simulation, simulate
from .wire import Reply

WORDS = 96
"""Tokens of an explanation."""
SENTENCES = 8
"""Texts that are asked for in a revision."""
PER_SENTENCE = 40


@dataclass(frozen=True)
class Judged:
    """A description and how well it simulates the unit on excerpts it was not made from."""

    text: str
    score: Measurement
    simulations: tuple[Simulation, ...] = ()


@dataclass(frozen=True)
class Meaning:
    """One of several meanings, with its share of the activation as the model puts it; NaN if it gives none."""

    text: str
    share: float


Act = Callable[[Sequence[str]], Sequence[Excerpt]]
"""What the unit truly does on texts: one excerpt each."""


def examples(excerpts: Sequence[Excerpt], scale: int = 10) -> list[prompts.Example]:
    """Excerpts on one common scale: the largest activation of all of them is at its top."""
    largest = max((a for e in excerpts for a in e.activations), default=0.0)
    return [prompts.Example(e.tokens, prompts.levels(e.activations, largest, scale)) for e in excerpts]


async def explain(
    client: Client, can: Capabilities, excerpts: Sequence[Excerpt], *, temperature: float = 0.0, sample: int = 0
) -> str:
    """One description. Raises: RunError if the model gives none; what `Client.ask` raises."""
    call = write(can, prompts.explain(examples(excerpts)), WORDS, temperature=temperature, sample=sample)
    return _described(await client.ask(call))


async def meanings(client: Client, can: Capabilities, excerpts: Sequence[Excerpt], most: int = 5) -> list[Meaning]:
    """Up to `most` meanings, those with the largest share first."""
    reply = await client.ask(write(can, prompts.explain(examples(excerpts), count=most), WORDS * most))
    found = []
    for line in _described(reply).splitlines():
        parts = re.match(r"\s*(?:[-*•]|\d+[.)])?\s*(?:(\d+(?:\.\d+)?)\s*%\s*[:–-]?)?\s*(.+)", line)
        if parts:
            found.append(Meaning(parts[2].strip(), float(parts[1]) / 100 if parts[1] else math.nan))
    return sorted(found[:most], key=lambda m: -1.0 if math.isnan(m.share) else m.share, reverse=True)


async def judge(client: Client, can: Capabilities, text: str, excerpts: Sequence[Excerpt]) -> Judged:
    """Simulate a description on excerpts; one correlation over all their tokens, what is missing excluded and bounded."""
    found = await asyncio.gather(*(simulate(client, can, text, e.tokens) for e in excerpts))
    real = [a for e in excerpts for a in e.activations]
    values = [v * 10 / s.scale for s in found for v in s.values]  # ways may differ in their scale
    return Judged(text, score(real, values, 10), tuple(found))


Voice = tuple[Client, Capabilities]
"""A model, and what it can do."""


async def best_of(
    client: Client,
    can: Capabilities,
    shown: Sequence[Excerpt],
    select: Sequence[Excerpt],
    count: int = 5,
    simulator: Voice | None = None,
) -> list[Judged]:
    """`count` descriptions of the shown excerpts, best on the select excerpts first; equal ones once.

    The same model simulates them, or another one.

    Raises: RunError if a document is both shown and selected on, or if the model describes nothing.
    """
    _apart(shown, select)
    tries = [explain(client, can, shown, temperature=1.0, sample=i) for i in range(count)]
    found = await asyncio.gather(*tries, return_exceptions=True)
    texts = list(dict.fromkeys(t for t in found if isinstance(t, str)))
    failures = [e for e in found if isinstance(e, BaseException)]
    if failures and (not texts or not isinstance(failures[0], RunError)):
        raise failures[0]
    judging = simulator or (client, can)
    judged = await asyncio.gather(*(judge(*judging, text, select) for text in texts))
    return sorted(judged, key=_merit, reverse=True)


async def revise(
    client: Client,
    can: Capabilities,
    first: Judged,
    shown: Sequence[Excerpt],
    select: Sequence[Excerpt],
    act: Act,
    simulator: Voice | None = None,
) -> Judged:
    """The better of a description and its revision by counter-examples, on the select excerpts.

    Raises: RunError if a document is both shown and selected on.
    """
    _apart(shown, select)
    call = write(can, prompts.counter_examples(first.text, SENTENCES), SENTENCES * PER_SENTENCE, temperature=1.0)
    sentences = [line.strip() for line in _described(await client.ask(call)).splitlines() if line.strip()]
    tried = act(sentences[:SENTENCES])
    _apart(tried, select)
    both = examples([*shown, *tried])  # on one scale, or silence would look like firing
    messages = prompts.revise(first.text, both[: len(shown)], both[len(shown) :])
    text = _described(await client.ask(write(can, messages, WORDS)))
    second = await judge(*(simulator or (client, can)), text, select)
    return max(first, second, key=_merit)


def _merit(judged: Judged) -> float:
    value = judged.score.value
    return -math.inf if math.isnan(value) else value


def _apart(shown: Sequence[Excerpt], judged: Sequence[Excerpt]) -> None:
    assert_disjoint({e.document for e in shown}, (e.document for e in judged))


def _described(reply: Reply) -> str:
    """What a model says, without its thoughts."""
    text = re.sub(r"<think>.*?(</think>|\Z)", "", reply.text or "", flags=re.DOTALL).strip()
    if not text:
        raise RunError(
            "the model answered nothing" + (": its tokens went into thoughts" if reply.thought or reply.cut else ""),
            expected="a description", hint="another model, or more tokens",
        )  # fmt: skip
    return text
