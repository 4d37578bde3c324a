"""What a language model said goes into the cards: explanation, score, simulated values, meanings.

Bits of a description: its tokens under the subject's own tokenizer at log2(vocabulary) each, and Rissanen's code of their
number, so that it is priced in the currency of the patterns; without a tokenizer 8 per byte.
"""

import math
from dataclasses import replace
from typing import Any

from ...explain.explainers.base import integer_bits
from ...explain.llm import prompts
from ...explain.llm.explainers import examples
from ...hosts.load import Host
from ...records import Excerpt, Explanation, Provenance, Sense, UnitCard
from . import judged
from .bill import NAME, digest_of
from .desk import key_of
from .said import Said
from .voices import Voices
from .work import Chunk, Work


def write(work: Work, chunk: Chunk, said: list[Said], voices: Voices) -> None:
    """Update the cards of a chunk, the correlations on the select split, and `words/<chunk>.json` with what failed."""
    run, name = work.run, f"cards/{chunk.name}"
    cards: list[UnitCard] = run.read_json(name, list[UnitCard])
    by_key = {one.key: one for one in said}
    run.write_json(name, [_card(work, card, by_key[key_of(card)], voices) for card in cards])
    chosen: dict[str, dict[str, Any]] = run.read_json(f"chosen/{chunk.name}", dict[str, dict[str, Any]])
    for one in said:
        if one.judged is not None and math.isfinite(one.judged.score.value):
            chosen[one.key][NAME] = one.judged.score.value
    run.write_json(f"chosen/{chunk.name}", chosen)
    notes = {one.key: {"problems": one.problems, "notes": one.notes} for one in said if one.problems or one.notes}
    run.write_json(f"words/{chunk.name}", notes)


def _card(work: Work, card: UnitCard, one: Said, voices: Voices) -> UnitCard:
    if one.judged is None:
        return card
    largest = max((a for e in one.texts.records(one.texts.shown) for a in e.activations), default=0.0)
    simulated = judged.on_excerpts(one.texts, one.own, largest)
    kept = tuple(e for e in card.explanations if e.explainer != NAME)
    teller = voices.client.server.model
    senses = tuple(Sense(m.text, m.share, named_by=teller) for m in one.meanings)
    return replace(
        card,
        explanations=(*kept, _explanation(work, one, voices)),
        exemplars=_exemplars(card, one, simulated),
        senses=(*(s for s in card.senses if not s.named_by), *senses),
    )


def _explanation(work: Work, one: Said, voices: Voices) -> Explanation:
    assert one.judged is not None, "there is a description"
    seed, text = work.settings.explain.seed, one.judged.text
    score = (
        judged.scored(one.texts, one.own, one.others, one.choices, seed) if one.own else judged.unscored(one.choices)
    )
    return Explanation(
        NAME,
        text,
        round(bits(text, work.target.host), 1),
        replace(score, flags=(*score.flags, *one.notes, *one.problems)),
        provenance=_provenance(one, voices),
    )


def bits(text: str, host: Host | None) -> float:
    """Description length of a text. Range: above 0."""
    if host is None or host.tokenizer is None:
        return 8.0 * len(text.encode())
    tokens = len(host.tokenizer.encode_batch([text])[0])
    return tokens * math.log2(len(host.tokenizer)) + integer_bits(tokens + 1)


def _provenance(one: Said, voices: Voices) -> Provenance:
    """The prompt is the first one that was sent; answers are descriptions and simulations of this unit's own."""
    assert one.judged is not None, "there is a description"
    prompt = prompts.explain(examples(one.texts.records(one.texts.shown)))
    ways = list(dict.fromkeys(s.method for s in one.own.values()))
    models = dict.fromkeys((voices.client.server.model, voices.judge.server.model))
    simulations = [*one.own.values(), *one.judged.simulations]
    calls = 1 + sum(len(s.values) if s.method == "single" else 1 for s in simulations)
    return Provenance(
        ", judged by ".join(models), voices.client.server.identity, digest_of(prompt), calls, ", ".join(ways)
    )


def _exemplars(card: UnitCard, one: Said, simulated: dict[tuple[str, int], tuple[float, ...]]) -> tuple[Excerpt, ...]:
    """The card's exemplars with simulated values where there are some, and the scored excerpts that it lacked."""
    place = {(e.document, e.start): e for e in card.exemplars}
    done = [
        replace(e, simulated={**(e.simulated or {}), NAME: simulated[key]})
        if (key := (e.document, e.start)) in simulated
        else e
        for e in card.exemplars
    ]
    for stratum, ids in (("top", one.texts.top), ("random", one.texts.random)):
        for e in one.texts.records(ids):
            key = (e.document, e.start)
            if key in simulated and key not in place:
                done.append(replace(e, stratum=stratum, simulated={NAME: simulated[key]}))
    return tuple(done)
