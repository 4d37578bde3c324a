"""What a language model says of units, and how good that is: the fourth stage of `digon explain`.

    1. describe   from the top excerpts of the fit split; of several descriptions the one that simulates best on the select
                  split; revised where that is asked for
    2. judge      simulated on top and random excerpts of the test split, with the descriptions of other units beside it;
                  detection, fuzzing, intruder, neighbors where they are asked for
    3. write      explanation, score, simulated values and meanings into the cards of the chunk

A unit that fails keeps what it has and is tried again by the next call; an error that would meet every unit ends the stage
with one sentence. Tokens without a simulated value are left out and counted, never taken as 0.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import torch

from ...errors import AccessError, BudgetError, ContextError, DigonError, ServerError, StorageError
from ...explain.llm import Simulation, scorers, simulate
from ...explain.llm.explainers import Judged, best_of, explain, judge, meanings, revise
from ...records import Excerpt, Measurement, UnitCard
from ..sources import Source, columns
from . import written
from .bill import Heard, Tally, heard
from .desk import key_of, side_of
from .judged import places
from .said import Said
from .settings import Spending, WordsConfig
from .texts import Texts, acting
from .voices import Voices, opened
from .work import Chunk, Work, counted

NOT_BETTER = "revised, and the first description kept: the second was no better on the select split"
WAVE = 8
"""Units that are asked about at once; the calls of all of them share the limits."""
FATAL = (AccessError, BudgetError, StorageError)
"""Errors that every other unit would meet, too."""


class _Incomplete(Exception):
    """Some units of a chunk failed: the stage is not finished."""


def ask(work: Work, chunks: Sequence[Chunk], spending: Spending) -> Heard:
    """Ask about every unit of every chunk. Nothing that a language model does is raised: it is in what is returned."""
    config, tally = work.settings.words, Tally()
    journal = spending.journal or work.run.path / "journal.sqlite"
    try:
        with opened(config, spending, journal, work.settings.explain.device) as voices:
            tally.met(voices, config)
            work.say(tally.introduction)
            try:
                for chunk in chunks:
                    _chunk(work, chunk, voices)
            finally:
                tally.closed(voices)
    except DigonError as error:
        hint = f" {error.hint[0].upper()}{error.hint[1:]}." if error.hint else ""
        tally.stopped = f"The language model was not asked further: {error.problem}.{hint}"
        work.say(tally.stopped)
    return heard(work.run, [chunk.name for chunk in chunks], config, tally)


def _chunk(work: Work, chunk: Chunk, voices: Voices) -> None:
    """Ask about the units of a chunk, unless that is done. Raises: what stops the stage, after what is known is written."""
    try:
        with work.run.stage(f"words {chunk.name}", work.key) as needed:
            if not needed:
                return
            work.say(f"ask about {counted(len(chunk.units), 'unit')} of {chunk.source.site}")
            said = _texts(work, chunk)
            fatal = voices.client.wait(_asked(work, chunk.source, said, voices))
            written.write(work, chunk, said, voices)
            if fatal is not None:
                raise fatal
            if any(one.problems for one in said):
                raise _Incomplete
    except _Incomplete:
        pass


def _texts(work: Work, chunk: Chunk) -> list[Said]:
    cards = work.run.read_json(f"cards/{chunk.name}", list[UnitCard])
    values = columns(chunk.source, [card.index for card in cards])
    return [
        Said(
            card.index,
            card.sign,
            float(values[:, place].mean()),
            key_of(card),
            Texts.of(work.desk, side_of(values[:, place], card.sign), f"{chunk.source.site}/{card.sign}", card.index),
        )
        for place, card in enumerate(cards)
    ]


async def _asked(work: Work, source: Source, said: list[Said], voices: Voices) -> DigonError | None:
    """Describe all units, then judge all; the error that ends the stage, if one does."""
    config = work.settings.words

    async def described(one: Said) -> None:
        await _describe(work, source, one, voices)

    async def judged(one: Said) -> None:
        await _judge(config, one, _others(said, one, config.others), voices, work.settings.explain.seed)

    return await _waves(said, described) or await _waves([one for one in said if one.judged], judged)


def _others(said: Sequence[Said], one: Said, count: int) -> list[str]:
    """Descriptions of the units after this one; the other side of the same unit is none of them."""
    place = next(i for i, other in enumerate(said) if other is one)
    following = [*said[place + 1 :], *said[:place]]
    texts = [other.judged.text for other in following if other.judged is not None and other.unit != one.unit]
    return [text for text in dict.fromkeys(texts) if one.judged is None or text != one.judged.text][:count]


async def _waves(said: Sequence[Said], step: Callable[[Said], Awaitable[None]]) -> DigonError | None:
    """Take a step for all units, some at a time; failures are noted at their unit.

    Ends early, with the error, if every other unit would meet it, or if none of a wave reaches the server.
    """
    for first in range(0, len(said), WAVE):
        wave = said[first : first + WAVE]
        found = await asyncio.gather(*(step(one) for one in wave), return_exceptions=True)
        for one, error in zip(wave, found, strict=True):
            if isinstance(error, BaseException) and not isinstance(error, DigonError):
                raise error
            if isinstance(error, DigonError):
                one.problems.append(error.problem)
        fatal = next((e for e in found if isinstance(e, FATAL)), None)
        if isinstance(fatal, DigonError):
            return fatal
        if found and all(isinstance(e, ServerError) for e in found):
            return next(e for e in found if isinstance(e, ServerError))
    return None


async def _describe(work: Work, source: Source, one: Said, voices: Voices) -> None:
    config, texts = work.settings.words, one.texts
    shown, select = texts.records(texts.shown), texts.records(texts.select)
    if not any(a > 0 for e in shown for a in e.activations):
        one.notes.append("the unit is never above 0 in the fit split: there is nothing to describe")
        return
    while True:  # fewer examples where the model cannot read all of them
        try:
            one.judged = await _described(config, voices, shown, select)
            break
        except ContextError:
            if len(shown) == 1:
                raise
            shown = shown[: len(shown) // 2]
            one.notes.append(f"described from {len(shown)} excerpts: more are too long for the model")
    if config.revise:
        act = acting(work.target.host, source, one.unit, one.sign, one.mean)
        if act is None:
            one.notes.append("not revised: the unit cannot be run on new texts")
        else:
            first = one.judged
            one.judged = await revise(voices.client, voices.can, first, shown, select, act, voices.simulator)
            one.notes.append("revised: better on the select split" if one.judged is not first else NOT_BETTER)
    if config.meanings:
        one.meanings = await meanings(voices.client, voices.can, shown, config.meanings)


async def _described(config: WordsConfig, voices: Voices, shown: list[Excerpt], select: list[Excerpt]) -> Judged:
    """One description; judged on the select split only where there is something to choose."""
    if config.best_of > 1:
        return (await best_of(voices.client, voices.can, shown, select, config.best_of, voices.simulator))[0]
    text = await explain(voices.client, voices.can, shown)
    if config.revise:
        return await judge(*voices.simulator, text, select)
    return Judged(text, Measurement("rho_simulated", float("nan"), method="not judged on the select split"))


async def _judge(config: WordsConfig, one: Said, others: Sequence[str], voices: Voices, seed: int) -> None:
    assert one.judged is not None, "only what was described is judged"
    texts, (client, can) = one.texts, voices.simulator
    if "simulation" in config.scorers:
        chosen = places(torch.cat([texts.top, texts.random]))
        tokens = [e.tokens for e in texts.records(torch.tensor(chosen, dtype=torch.long))]

        async def on_all(text: str) -> dict[int, Simulation]:
            found = await asyncio.gather(*(simulate(client, can, text, t) for t in tokens))
            return dict(zip(chosen, found, strict=True))

        one.own, *one.others = await asyncio.gather(*(on_all(text) for text in (one.judged.text, *others)))
        if one.own and all(s.failures == len(s.values) for s in one.own.values()):
            one.problems.append("no token got a simulated value")
    one.choices = tuple(await _choices(config, one, voices, seed))


async def _choices(config: WordsConfig, one: Said, voices: Voices, seed: int) -> list[Measurement]:
    """Scores by choice, in the order of the settings; one that lacks texts says so by NaN."""
    assert one.judged is not None, "only what was described is judged"
    texts, (client, can), text = one.texts, voices.simulator, one.judged.text
    active, quiet, near = (texts.records(e) for e in (texts.active, texts.quiet, texts.near))
    found = []
    for name in dict.fromkeys(config.scorers):
        if name == "detection":
            found.append(scorers.detection(client, can, text, active, quiet, seed))
        elif name == "neighbors":
            found.append(scorers.neighbors(client, can, text, active, near, seed))
        elif name == "fuzzing":
            found.append(scorers.fuzzing(client, can, text, active, seed))
        elif name == "intruder":
            found.append(scorers.intruder(client, can, active, quiet, seed))
    return list(await asyncio.gather(*found))
