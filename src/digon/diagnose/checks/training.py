"""P19. Does the site look the same when the network is trained on shuffled labels?

Shuffled labels leave nothing to learn but single inputs. A site that looks the same with them spends its dimensions on
data points, unless it shows what is in the inputs anyway: then both share directions, and nothing follows.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...measures.inputs import FEWEST_INPUTS, Sharing, sharing
from ...records import Cause, Check, Measurement, Verdict
from ...tensors import Activations
from ..evidence import Evidence, not_applicable

FEWEST_ROWS = 100
SHARED = 2.5
"""Standard errors of the held-out kurtosis from which inputs share sparse directions."""
APART = 4.0
"""Standard errors between the two networks from which they look different."""
RELATIVE = 0.15
"""Difference of spreads, relative to their size, up to which they are the same whatever the errors say."""
_ID, _TITLE, _CLAIM = "P19", "random-label control", "dimensions are spent on data points, as with shuffled labels"


def random_label_control(evidence: Evidence) -> Check:
    """P19. The same site of a network trained on shuffled labels looks the same, and inputs share no directions."""
    control = evidence.control
    if control is None:
        reason = (
            f"No network trained on shuffled labels is given (access {evidence.access}). With one (access D) this check "
            "could settle whether dimensions are spent on single data points."
        )
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    if control.d != evidence.activations.d:
        reason = f"The control has {control.d} units and the site {evidence.activations.d}: not the same site."
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    sites = [(evidence.activations.values, evidence.inputs), (control.values, _inputs(control, evidence))]
    found: list[Sharing] = []
    for values, inputs in sites:
        names = torch.arange(len(values), device=values.device) if inputs is None else inputs
        varies = bool((values != values[:1]).any())
        if len(values) < FEWEST_ROWS or len(names.unique()) < FEWEST_INPUTS or not varies:
            reason = (
                f"{len(values)} rows are too few, or do not differ: {FEWEST_ROWS} of {FEWEST_INPUTS} inputs are needed."
            )
            return not_applicable(_ID, _TITLE, _CLAIM, reason)
        found.append(_profile(values.float(), names, evidence.seed))
    apart, name = _difference(found[0], found[1])
    statistic = Measurement(
        "control_difference", apart, n=min(found[0].inputs, found[1].inputs), method="largest difference of spread of lengths "
        "and held-out kurtosis, in standard errors over inputs", seed=evidence.seed,
        source="after Zhang et al. 2017", null=0.0,
    )  # fmt: skip
    verdict, sentence, gone = _read(found[0], found[1], apart, name)
    return Check(_ID, _TITLE, _CLAIM, verdict, sentence, statistic, APART, gone)


def _inputs(control: Activations, evidence: Evidence) -> Int[Tensor, " n"] | None:
    """Inputs of the control: its own, or those of the site if rows correspond."""
    if evidence.inputs is None:
        return None
    if control.tokens is not None:
        return control.tokens
    return evidence.inputs if len(control) == len(evidence.inputs) else None


def _profile(values: Float[Tensor, "n d"], inputs: Int[Tensor, " n"], seed: int) -> Sharing:
    return sharing(values, inputs, rng.stream(seed, "P19"))


def _difference(site: Sharing, control: Sharing) -> tuple[float, str]:
    """Standard errors between the two, the larger of both statistics, and which it is."""
    both = (
        ("spread of lengths", site.spread, control.spread, site.spread_error, control.spread_error),
        ("held-out kurtosis", site.sparse, control.sparse, site.sparse_error, control.sparse_error),
    )
    worst, which = 0.0, both[0][0]
    for name, a, b, error, other in both:
        if abs(a - b) <= RELATIVE * max(abs(a), abs(b), 1.0):
            continue
        z = abs(a - b) / max((error**2 + other**2) ** 0.5, 1e-9)
        if z > worst:
            worst, which = z, name
    return worst, which


def _read(site: Sharing, control: Sharing, apart: float, name: str) -> tuple[Verdict, str, tuple[Cause, ...]]:
    """Verdict, sentence and excluded causes."""
    shares = [f.sparse > SHARED * f.sparse_error and f.spread > 1 + 2 * f.spread_error for f in (site, control)]
    numbers = (
        f"Lengths spread {site.spread:.2f} and {control.spread:.2f} times as much as a Gaussian's at the site and at the "
        f"control, held-out kurtosis exceeds chance by {site.sparse:.2f} and {control.sparse:.2f}"
    )
    if apart > APART and shares[0]:
        gone: tuple[Cause, ...] = () if shares[1] else ("lookup",)
        return "against", f"{numbers}: they differ in {name} ({apart:.0f} standard errors).", gone
    if apart > APART:
        return "silent", f"{numbers}: they differ in {name}, but at the site no directions are shared either.", ()
    if any(shares):
        return "silent", f"{numbers}: both share directions, which they may take from the inputs.", ()
    if site.spread > 1 - 2 * site.spread_error:
        return "silent", f"{numbers}: they look the same, and like noise.", ()
    return "for", f"{numbers}: they look the same, and inputs share no directions.", ("superposition",)
