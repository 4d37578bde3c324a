"""P01. Do units respond to several kinds of context?"""

import math

from ...records import Check
from ..evidence import Evidence, not_applicable


def several_meanings(evidence: Evidence) -> Check:
    """P01. Exemplars of the units fall into groups that the rest of the layer tells apart."""
    id, title, claim = "P01", "several meanings", "some units respond to several kinds of context"
    share = evidence.polysemantic
    if share is None or share.n == 0:
        return not_applicable(id, title, claim, "No unit has enough exemplars in different documents; use more text.")
    level = share.null if math.isfinite(share.null) else 0.05
    found = f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}] of {share.n} units"
    if share.low > level:
        sentence = f"The exemplars of {found} fall into separate groups; at most {100 * level:.0f} % would by chance."
        return Check(id, title, claim, "for", sentence, share, level, ("none",))
    sentence = f"The exemplars of {found} fall into separate groups, no more than chance explains; few or many faint "
    return Check(id, title, claim, "silent", sentence + "meanings would look the same.", share, level)
