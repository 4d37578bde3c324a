"""Numbered checks: what does one test say for or against one claim about a site?

A check looks at the `Evidence` and answers for / against / silent / not applicable, in one sentence with its numbers,
and names the causes that its outcome speaks against. Silence is an answer: it never counts as evidence for the
opposite unless the check says so in `excludes`.

    P01  units respond to several kinds of context      exemplar clusters
    P02  the neurons' basis is privileged               whitened rotation test
    P03  independent linear features                    ICA residual dependence
    P04  more features than dimensions                  rank of the fourth cumulant
    P05  more isolated directions than dimensions       rows that pile up in rays
    P06  more atoms take fewer bits                     held-out code length of sparse dictionaries
    P07  the same atoms again                           a second dictionary from other rows
    P08  features that are curves                       shape of dependent blocks
    P09  variables present only through each other      main effects against products of labels        access B
    P10  what reads a label                             linear against sparse and non-linear readers   access B
    P11  atoms or a curve                               intervention between two atoms                 access C
    P12  a direction per input                          dictionary of half of the inputs               access A+
    P13  dimensions spent on inputs                     dimensionality of inputs and of directions     access A+
    P14  fine digits matter                             rounding the activations                       access C
    P15  effective features                             entropy of a sparse code, against nulls
    P16  dimensions                                     rank, participation, local dimension
    P17  unseen features                                species that were not sighted
    P18  symbols told apart by size                     a codebook that returns at smaller scales
    P19  the same without structure                     a network trained on shuffled labels           access D

To add a check: write a function from `Evidence` to `Check` in a module of its own and list it in `CHECKS`.
"""

from collections.abc import Callable, Collection

from ...records import Check
from ..evidence import Evidence
from .additivity import encoding_additivity
from .atoms import quartic, single_sources
from .basis import privileged_basis
from .blocks import dependent_blocks
from .continuity import continuity
from .decoding import decoding_gap
from .dictionary import code_length, stability
from .dimensions import dimensions
from .effective import effective_features
from .independence import independent_features
from .inputs import data_points, distinct_inputs
from .magnitudes import magnitudes
from .meanings import several_meanings
from .precision import needed_precision
from .training import random_label_control
from .unseen import unseen_features

CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "P01": several_meanings,
    "P02": privileged_basis,
    "P03": independent_features,
    "P04": quartic,
    "P05": single_sources,
    "P06": code_length,
    "P07": stability,
    "P08": dependent_blocks,
    "P09": encoding_additivity,
    "P10": decoding_gap,
    "P11": continuity,
    "P12": distinct_inputs,
    "P13": data_points,
    "P14": needed_precision,
    "P15": effective_features,
    "P16": dimensions,
    "P17": unseen_features,
    "P18": magnitudes,
    "P19": random_label_control,
}
DECIDING = tuple(id for id in CHECKS if id not in ("P01", "P10", "P15", "P16", "P17"))
"""Checks whose outcomes the probabilities are learned from; the others describe."""


def run_checks(
    evidence: Evidence, ids: Collection[str] | None = None, say: Callable[[str], None] = lambda _: None
) -> tuple[Check, ...]:
    """These checks, or all, in the order of their numbers; `say` is told what is running."""
    found: list[Check] = []
    for id, check in CHECKS.items():
        if ids is None or id in ids:
            say(f"{id} {check.__doc__.split('. ')[1] if check.__doc__ else ''}")
            found.append(check(evidence))
    return tuple(found)
