"""How good is a description, without simulating every token?

    detection   which texts hold it?                        balanced accuracy; ½ for a description of nothing
    neighbors   the same, where the quiet texts hold tokens that fire the unit elsewhere
    fuzzing     in which texts are the right tokens marked? balanced accuracy; ½ likewise
    intruder    which of five texts does not belong?        share of right answers; 1/5 by chance; no description is shown

Balanced accuracy is the mean of the shares of right answers on both kinds, so that always saying "none" gains nothing, however
many texts are quiet. An answer that cannot be read is missing: it is left out, and the interval says what the value would
be if all of them were wrong, or right.

Sources: detection and fuzzing after Paulo et al. 2024; intruders after Chang et al. 2009.
"""

import asyncio
import math
import random
import re
from collections.abc import Callable, Sequence

from ...errors import ContextError, RequestError, ServerError
from ...records import Excerpt, Measurement
from .. import choices
from ..choices import Answer
from . import prompts
from .client import Client
from .probe import Capabilities, write

BATCH = 5
"""Texts per question."""
LOUD = 0.5
"""Share of a text's largest activation from which a token counts as active."""
PAULO, CHANG = "Paulo et al. 2024", "Chang et al. 2009"

Asking = Callable[[str, Sequence[str]], prompts.Messages]
"""A prompt from a description and texts."""


async def detection(
    client: Client,
    can: Capabilities,
    explanation: str,
    active: Sequence[Excerpt],
    quiet: Sequence[Excerpt],
    seed: int = 0,
) -> Measurement:
    """Does the description tell texts that fire the unit from texts that do not? Range: [0, 1]."""
    items = [("".join(e.tokens), True) for e in active] + [("".join(e.tokens), False) for e in quiet]
    return _balanced("detection", await _asked(client, can, prompts.detect, explanation, items, seed))


async def neighbors(
    client: Client,
    can: Capabilities,
    explanation: str,
    active: Sequence[Excerpt],
    near: Sequence[Excerpt],
    seed: int = 0,
) -> Measurement:
    """Detection against near misses: quiet texts that hold tokens which fire the unit elsewhere. Range: [0, 1].

    No embedding chooses them: what makes a text near is its tokens, and what the unit does on these elsewhere.
    """
    items = [("".join(e.tokens), True) for e in active] + [("".join(e.tokens), False) for e in near]
    return _balanced("neighbors", await _asked(client, can, prompts.detect, explanation, items, seed))


async def fuzzing(
    client: Client, can: Capabilities, explanation: str, active: Sequence[Excerpt], seed: int = 0
) -> Measurement:
    """Does the description tell the tokens that fire the unit from others of the same texts? Range: [0, 1].

    Of every other text the active tokens are marked, of the rest as many that are not.
    """
    draw, items = random.Random(seed), []
    for i, excerpt in enumerate(active):
        loud = _loud(excerpt)
        others = [t for t in range(len(excerpt.tokens)) if t not in loud]
        if not loud or len(others) < len(loud):
            continue
        items.append((marked(excerpt, loud if i % 2 == 0 else draw.sample(others, len(loud))), i % 2 == 0))
    return _balanced("fuzzing", await _asked(client, can, prompts.fuzz, explanation, items, seed))


async def intruder(
    client: Client, can: Capabilities, active: Sequence[Excerpt], quiet: Sequence[Excerpt], seed: int = 0
) -> Measurement:
    """Do the texts of a unit have something in common that a stranger lacks? Range: [0, 1]; 1/5 by chance.

    As many tokens are marked in the stranger as in its neighbors.
    """
    draw = random.Random(seed)

    async def one(friends: Sequence[Excerpt], stranger: Excerpt, place: int) -> bool | None:
        count = min(len(_loud(friends[0])), len(stranger.tokens))
        texts = [marked(e, _loud(e)) for e in friends]
        texts.insert(place, marked(stranger, draw.sample(range(len(stranger.tokens)), count)))
        said = await _numbers(client, can, prompts.intruder(texts), len(texts))
        return None if said is None or len(said) != 1 else said == {place + 1}

    sets = min(len(active) // (BATCH - 1), len(quiet))
    questions = [
        one(active[i * (BATCH - 1) : (i + 1) * (BATCH - 1)], quiet[i], draw.randrange(BATCH)) for i in range(sets)
    ]
    found = await asyncio.gather(*questions)
    known, right, missing = (
        sum(f is not None for f in found),
        sum(f is True for f in found),
        sum(f is None for f in found),
    )
    low, high = (right / sets, (right + missing) / sets) if sets else (math.nan, math.nan)
    value = right / known if known else math.nan
    return Measurement("intruder", value, low, high, known, "", _method(missing), seed, CHANG, 1 / BATCH)


def marked(excerpt: Excerpt, places: Sequence[int]) -> str:
    """The text with « and » around runs of some tokens.

    >>> marked(Excerpt("d", 0, ("a", "b", "c", "d"), (0.0, 1.0, 1.0, 0.0), "top"), [1, 2])
    'a«bc»d'
    """
    chosen, text = set(places), ""
    for i, token in enumerate(excerpt.tokens):
        opened = "«" if i in chosen and i - 1 not in chosen else ""
        closed = "»" if i in chosen and i + 1 not in chosen else ""
        text += opened + token + closed
    return text


def read_numbers(text: str | None, count: int) -> set[int] | None:
    """Numbers from 1 to `count`, or none of them, if an answer is that and nothing else; else None.

    >>> read_numbers("2, 5", 5), read_numbers("None.", 5), read_numbers("I think 2", 5), read_numbers("9", 5)
    ({2, 5}, set(), None, None)
    """
    plain = re.sub(r"<think>.*?(</think>|\Z)", "", text or "", flags=re.DOTALL).strip().strip("[].`").strip().lower()
    if plain == prompts.NONE:
        return set()
    if not re.fullmatch(r"\d+(\s*,\s*\d+)*", plain):
        return None
    found = {int(n) for n in plain.split(",")}
    return found if found <= set(range(1, count + 1)) else None


async def _asked(
    client: Client, can: Capabilities, prompt: Asking, explanation: str, items: Sequence[tuple[str, bool]], seed: int
) -> list[Answer]:
    """Answers to all items, shuffled and asked for in batches; a last short batch is as good as any."""
    mixed = list(items)
    random.Random(seed).shuffle(mixed)
    batches = [mixed[i : i + BATCH] for i in range(0, len(mixed), BATCH)]
    questions = [_numbers(client, can, prompt(explanation, [t for t, _ in batch]), len(batch)) for batch in batches]
    found: list[Answer] = []
    for batch, said in zip(batches, await asyncio.gather(*questions), strict=True):
        found += [(truth, None if said is None else i in said) for i, (_, truth) in enumerate(batch, 1)]
    return found


async def _numbers(client: Client, can: Capabilities, messages: prompts.Messages, count: int) -> set[int] | None:
    try:
        reply = await client.ask(write(can, messages, 4 * count + 8))
    except (ContextError, RequestError, ServerError):
        return None
    return read_numbers(reply.text, count)


def _balanced(name: str, answers: Sequence[Answer]) -> Measurement:
    return choices.measured(name, answers, choices.balanced, PAULO)


def _method(missing: int) -> str:
    return f"answers of a language model; low and high if the {missing} that cannot be read were all wrong, or right"


def _loud(excerpt: Excerpt) -> list[int]:
    largest = max(excerpt.activations, default=0.0)
    return [i for i, a in enumerate(excerpt.activations) if largest > 0 and a >= LOUD * largest]
