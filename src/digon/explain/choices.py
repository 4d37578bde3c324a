"""What do right answers to yes-or-no questions mean? As little as a constant answer that reaches the same.

    accuracy            share of right answers; "none of them" is right for every quiet text, so 10 quiet of 14 give .7143
    balanced accuracy   mean of the shares of right answers on both kinds; every constant answer gives ½

An answer that could not be read is None: it is left out, and the ends say what the value would be if all of them were wrong, or
right.

Source: the constant answer's share after Karvonen et al. 2025 (SAEBench), whose 14 texts hold 10 quiet ones.
"""

import math
from collections.abc import Callable, Sequence

from ..records import Measurement

Answer = tuple[bool, bool | None]
"""Whether yes was right, and whether yes was said; None if nobody knows."""


def accuracy(answers: Sequence[tuple[bool, bool]]) -> float:
    """Share of right answers. Range: [0, 1]; NaN without any."""
    return sum(said == truth for truth, said in answers) / len(answers) if answers else math.nan


def balanced(answers: Sequence[tuple[bool, bool]]) -> float:
    """Mean of the shares of right answers on both kinds. Range: [0, 1]; NaN if a kind is missing."""
    kinds = [[pair for pair in answers if pair[0] is kind] for kind in (True, False)]
    return (accuracy(kinds[0]) + accuracy(kinds[1])) / 2


def always_none(answers: Sequence[Answer], rule: Callable[[Sequence[tuple[bool, bool]]], float] = accuracy) -> float:
    """What saying "none of them" would reach on the same texts.

    >>> texts = [(True, None)] * 4 + [(False, None)] * 10
    >>> round(always_none(texts), 4), always_none(texts, balanced)
    (0.7143, 0.5)
    """
    return rule([(truth, False) for truth, _ in answers])


def measured(
    name: str,
    answers: Sequence[Answer],
    rule: Callable[[Sequence[tuple[bool, bool]]], float],
    source: str,
    method: str = "answers of a language model",
) -> Measurement:
    """The value over the answers that could be read, the ends if the others were wrong or right, and the constant answer's."""
    known = [(truth, said) for truth, said in answers if said is not None]
    low = rule([(truth, not truth if said is None else said) for truth, said in answers])
    high = rule([(truth, truth if said is None else said) for truth, said in answers])
    missing = len(answers) - len(known)
    method += f"; low and high if the {missing} that cannot be read were all wrong, or right; null: always none"
    return Measurement(name, rule(known), low, high, len(known), "", method, None, source, always_none(answers, rule))
