"""What would a unit of this description do? Ask a server, by the best way that it allows.

    prompt       all tokens at once, from the probabilities of the prompt's own tokens            1 call
    template     an answer whose form is forced, with the probabilities of every number in it     1 call
    single       one call per token with the probabilities of its number                          1 call per token
    constrained  an answer whose form is forced, numbers as written                               1 call
    free         whatever it writes, numbers as far as they can be told                           1 call

The value of a token is Σ d·p(d) / Σ p(d) over the numbers d among the candidates; Σ p(d) is the mass that was seen. No number
seen: the value is NaN, and counted, never 0. The ways are tried in this order until one sees at least half of the tokens;
the result says which one it was, what it saw, and why better ones were left.

Sources: the expected value and the all-at-once form after Bills et al. 2023; the chain of ways is ours.
"""

import asyncio
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import ContextError, DigonError, RequestError, ServerError
from . import prompts
from .client import Client
from .probe import Capabilities, pattern, write
from .wire import Call, Reply, Step

ENOUGH = 0.5
"""Share of tokens that a way has to see; also the mass at which a token counts as seen."""
PER_TOKEN = 6
"""Tokens of an answer per token of the text: number, tab, value, end of line, and some."""


_LINE = re.compile(r"^ *(\d+) *(?:[\t:|]|[.)](?=\s))(?:[^\n]*[\s:|=])?(\d+) *$", re.MULTILINE)
"""Number of a token and its value at the end of a line; neither 2.5 nor -1 is a value."""


@dataclass(frozen=True)
class Simulation:
    """Simulated activations of one text, on the scale from 0 to `scale`; NaN where nothing was seen."""

    method: str
    values: tuple[float, ...]
    mass: tuple[float, ...]
    """Probability of all numbers that were seen; 1 for numbers as written, 0 where there was none."""
    scale: int
    notes: tuple[str, ...] = ()
    """Why better ways were left."""

    @property
    def coverage(self) -> float:
        """Share of tokens of which at least half of the mass was seen."""
        return sum(m >= ENOUGH for m in self.mass) / max(1, len(self.mass))

    @property
    def missing_mass(self) -> float:
        """Mean probability that was not seen, over the tokens with a value; NaN without any."""
        seen = [m for m, v in zip(self.mass, self.values, strict=True) if not math.isnan(v)]
        return 1 - sum(seen) / len(seen) if seen else math.nan

    @property
    def failures(self) -> int:
        """Tokens without a value."""
        return sum(math.isnan(v) for v in self.values)


async def simulate(client: Client, can: Capabilities, explanation: str, tokens: Sequence[str]) -> Simulation:
    """Simulate a unit on a text by the first way that sees enough; else by the one that saw most.

    Raises: AccessError, BudgetError, StorageError. Anything else that fails is in the result.
    """
    if not tokens:
        return Simulation(can.methods[0], (), (), can.scale)
    if client.simulates_here is not None:
        return await client.simulates_here(explanation, tokens)
    best: Simulation | None = None
    notes: list[str] = []
    for method in can.methods:
        found = await by(method, client, can, explanation, tokens)
        notes += found.notes
        if found.coverage >= ENOUGH:
            return replace(found, notes=tuple(notes))
        if best is None or found.coverage > best.coverage:
            best = found
        if not found.notes:
            notes.append(f"{method}: numbers were seen on {found.coverage:.0%} of the tokens")
    assert best is not None, "the last way is always possible"
    return replace(best, notes=tuple(notes))


async def by(method: str, client: Client, can: Capabilities, explanation: str, tokens: Sequence[str]) -> Simulation:
    """Simulate by one way. A request that fails gives NaN and a note with the reason."""
    seen: list[tuple[float, float]] = [(math.nan, 0.0)] * len(tokens)
    notes: list[str] = []
    scale = can.scale if method in ("prompt", "template", "single") else 10
    try:
        if method == "single":
            seen, notes = await _single(client, can, explanation, tokens)
        elif method == "prompt":
            prompt = prompts.all_at_once(explanation, tokens, scale)
            seen = read_prompt(await client.ask(echo_call(can, prompt)), prompt, scale)
        else:
            reply = await client.ask(listing_call(method, can, explanation, tokens))
            read = read_template if method == "template" else read_written
            seen = read(reply, len(tokens), scale)
            if reply.cut:
                notes.append(f"{method}: the answer was cut at its length")
    except (RequestError, ServerError) as error:
        notes.append(f"{method}: {error.problem}")
    return Simulation(method, tuple(v for v, _ in seen), tuple(m for _, m in seen), scale, tuple(notes))


def echo_call(can: Capabilities, prompt: prompts.AllAtOnce) -> Call:
    """The call of the way `prompt`."""
    ask = {"echo": True, "logprobs": 20} if can.echo == "echo" else {"prompt_logprobs": 20}
    return Call("completions", {"prompt": prompt.text, "max_tokens": 1, "temperature": 0} | ask)


def listing_call(method: str, can: Capabilities, explanation: str, tokens: Sequence[str]) -> Call:
    """The call of the ways that write all numbers in one answer."""
    forced = method in ("template", "constrained")
    scale = can.scale if method == "template" else 10
    form = "list" if forced and can.constraint == "schema" else "lines"
    messages = prompts.numbered(explanation, tokens, scale, form)
    return write(
        can, messages, 16 + PER_TOKEN * len(tokens),
        candidates=min(can.candidates, 20) if method == "template" else 0,
        constraint=template(can, len(tokens), scale) if forced else None,
    )  # fmt: skip


def template(can: Capabilities, count: int, scale: int) -> Mapping[str, object]:
    """The constraint that forces exactly `count` numbers."""
    number = "(10|[0-9])" if scale == 10 else "[0-9]"
    regex = "".join(rf"{i}\t{number}\n" for i in range(1, count + 1))
    rule = ' n ::= "10" | [0-9]' if scale == 10 else " n ::= [0-9]"
    rows = " ".join(rf'"{i}\t" n "\n"' for i in range(1, count + 1))
    return pattern(regex, f"root ::= {rows}\n{rule.strip()}", can.constraint, count, scale)


def expected(candidates: Mapping[str, float] | None, scale: int, before: str = "") -> tuple[float, float]:
    """Expected number and the mass of all numbers, from candidates with log probabilities.

    `before` is what stands in the token before its number, such as a tab. NaN and 0 if no candidate is a number.

    >>> p = {"0": 0.6, "5": 0.2, "10": 0.1, "unknown": 0.1}
    >>> [round(x, 4) for x in expected({t: math.log(q) for t, q in p.items()}, 10)]
    [2.2222, 0.9]
    """
    total = mass = 0.0
    for token, log_p in (candidates or {}).items():
        number = _number(token.removeprefix(before).rstrip("\n ,]"), scale) if token.startswith(before) else None
        if number is not None:
            p = math.exp(min(log_p, 0.0))
            total, mass = total + number * p, mass + p
    return (total / mass, mass) if mass > 0 else (math.nan, 0.0)


def read_prompt(reply: Reply, prompt: prompts.AllAtOnce, scale: int) -> list[tuple[float, float]]:
    """Value and mass of every token from the probabilities of the prompt; NaN where no token begins at its slot."""
    steps = reply.echoed(prompt.text)
    starts, at = {}, 0
    for step in steps:
        starts[at] = step
        at += len(step.token)
    found = [starts.get(place) for place in prompt.places]
    return [expected(step.candidates, scale) if step else (math.nan, 0.0) for step in found]


def read_template(reply: Reply, count: int, scale: int) -> list[tuple[float, float]]:
    """Value and mass of every number in an answer, from the probabilities at its place.

    A number that comes in two tokens has no probability of its own: NaN.
    """
    steps, missing = reply.steps, [(math.nan, 0.0)] * count
    text = "".join(step.token for step in steps)
    spans = _spans(text, count)
    return [_at(steps, *span, scale) if span else gone for span, gone in zip(spans, missing, strict=True)]


def read_written(reply: Reply, count: int, scale: int) -> list[tuple[float, float]]:
    """Numbers as written, by their line number or by their place in a list of the right length; NaN where none is told."""
    text = re.sub(r"<think>.*?(</think>|\Z)", "", reply.text or "", flags=re.DOTALL)
    found = [_number(text[slice(*span)], scale) if span else None for span in _spans(text, count)]
    return [(math.nan, 0.0) if number is None else (float(number), 1.0) for number in found]


async def _single(
    client: Client, can: Capabilities, explanation: str, tokens: Sequence[str]
) -> tuple[list[tuple[float, float]], list[str]]:
    async def one(end: int) -> tuple[tuple[float, float], str]:
        call = write(can, prompts.single(explanation, tokens[:end], can.scale), 2, candidates=min(can.candidates, 20))
        try:
            steps = (await client.ask(call)).steps
        except (ContextError, ServerError, RequestError) as error:
            return (math.nan, 0.0), error.problem
        step = next((s for s in steps if s.token.strip()), None)
        if step is None:
            return (math.nan, 0.0), ""
        return expected(step.candidates, can.scale, _blank(step.token)), ""

    found = await asyncio.gather(*(one(end) for end in range(1, len(tokens) + 1)), return_exceptions=True)
    for failure in found:
        if isinstance(failure, BaseException) and not isinstance(failure, DigonError):
            raise failure
    stop = next((f for f in found if isinstance(f, DigonError)), None)
    if stop is not None:
        raise stop
    pairs = [f for f in found if not isinstance(f, BaseException)]
    reasons = [reason for _, reason in pairs if reason]
    notes = [f"single: {len(reasons)} of {len(tokens)} calls failed: {reasons[0]}"] if reasons else []
    return [pair for pair, _ in pairs], notes


def _spans(text: str, count: int) -> list[tuple[int, int] | None]:
    """Where the number of each token stands in an answer: a list of exactly `count`, else lines with their numbers.

    If lines repeat, the last one counts: some models correct themselves. Numbers of a list of another length belong to
    nobody.
    """
    for listed in reversed(list(re.finditer(r"\[[\s\d,]*\]", text))):
        if _is_list(listed[0], count):
            return [(m.start(), m.end()) for m in re.compile(r"\d+").finditer(text, listed.start(), listed.end())]
    found: list[tuple[int, int] | None] = [None] * count
    for line in _LINE.finditer(text):
        place = int(line[1])
        if 1 <= place <= count:
            found[place - 1] = line.span(2)
    return found


def _is_list(text: str, count: int) -> bool:
    try:
        return len(json.loads(text)) == count
    except ValueError:
        return False


def _at(steps: Sequence[Step], start: int, end: int, scale: int) -> tuple[float, float]:
    """Expected number of the token in which a number of the answer stands, if it is the whole of it."""
    at = 0
    for step in steps:
        if at + len(step.token) > start:
            whole = at + len(step.token) >= end
            return expected(step.candidates, scale, step.token[: start - at]) if whole else (math.nan, 0.0)
        at += len(step.token)
    return math.nan, 0.0


def _number(text: str, scale: int) -> int | None:
    """A whole number from 0 to the scale, written without anything else."""
    return int(text) if re.fullmatch(r"[0-9]|10", text) and int(text) <= scale else None


def _blank(token: str) -> str:
    return token[: len(token) - len(token.lstrip())]
