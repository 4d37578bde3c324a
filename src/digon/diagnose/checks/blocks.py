"""P08. Do linear parts hang together in blocks, and does a block look like axes, atoms or a curve?

Limit: corners that lie nearer to each other than the noise reaches pass for a curve (24 corners at 14 dB, 48 at 20 dB).
"""

import math

from ... import rng
from ...measures.blocks import AWAY, Blocks, ShapeOfBlock, separability, shape_of_block
from ...records import Cause, Check, Measurement, Verdict
from ..evidence import Evidence, not_applicable
from .independence import DEPENDENT, why_not_unmixed

LARGEST_BLOCK = 4
"""Parts of a block whose shape is looked at; more of them hang together for many reasons."""
ONE_SIZE = 0.25
"""Scatter of the length up to which a block is a curve of one size; a filled square reads 0.3 to 0.4."""
SAME_SIZE, BOTH_SIGNS = 0.15, 0.2
"""Scatter of the sizes of a part, and share of its rarer sign, that make its values two points."""
LISTED = 12
"""Blocks whose sizes are named."""
FEWEST_ROWS = 200
"""Rows of a plane whose separability is reported."""
_ID, _TITLE, _CLAIM = "P08", "blocks", "features that are curves: directions without gaps, in blocks of a few parts"


def dependent_blocks(evidence: Evidence) -> Check:
    """P08. Some blocks of dependent parts are curves: no isolated directions, and one size."""
    found = evidence.blocks
    if found is None:
        return not_applicable(_ID, _TITLE, _CLAIM, why_not_unmixed(evidence))
    if found.spherical:
        return _check(
            evidence, found, [], "silent", "Once whitened, rows differ only in length: no parts to group.", ()
        )
    if not found.members:
        return _without_blocks(evidence, found)
    generator = rng.stream(evidence.seed, "P08")
    small = [block for block in found.members if len(block) <= LARGEST_BLOCK]
    shapes = [shape_of_block(found.parts[:, list(block)], generator) for block in small]
    return _shaped(evidence, found, shapes, len(found.members) - len(small))


def _without_blocks(evidence: Evidence, found: Blocks) -> Check:
    noise = 3 * math.sqrt(24 / len(found.parts))
    if float((found.kurtosis.abs() < noise).double().mean()) > 0.9:
        return _check(evidence, found, [], "silent", "The parts are Gaussian: nothing to group.", ())
    if found.excess >= DEPENDENT:
        sentence = (
            f"No two parts hang together clearly, but all of them together depend on each other {found.excess:.1f} times "
            "as much as independent ones would: too many features, or curves in too few dimensions."
        )
        return _check(evidence, found, [], "silent", sentence, ("none",))
    sentence = (
        f"No two parts hang together: their energies correlate by at most {float(found.correlations.abs().max()):.2f}, "
        "no more than in an independent model."
    )
    if _two_sided_of_one_size(found) > 1:
        return _check(
            evidence,
            found,
            [],
            "silent",
            f"{sentence} But parts of one size and both signs are corners of squares.",
            (),
        )
    return _check(evidence, found, [], "against", sentence, ("manifold",))


def _two_sided_of_one_size(found: Blocks) -> int:
    """Number of parts that take a value and its opposite: two of them could be a circle that is sampled at four points."""
    count = 0
    for part in (found.parts - found.parts.median(0).values).T:
        size = part.abs()
        active = size > AWAY * (size.pow(4).mean() / size.square().mean().clamp(min=1e-300)).sqrt()
        if int(active.sum()) < 2:
            continue
        positive = float((part[active] > 0).double().mean())
        one_size = float(size[active].std() / size[active].mean()) < SAME_SIZE
        count += one_size and min(positive, 1 - positive) > BOTH_SIGNS
    return count


def _shaped(evidence: Evidence, found: Blocks, shapes: list[ShapeOfBlock], large: int) -> Check:
    """The answer where there are blocks; `large` of them are too large to look at."""
    curves = [s for s in shapes if s.shape == "continuum" and s.scatter < ONE_SIZE]
    filled = [s for s in shapes if s.shape == "continuum" and s.scatter >= ONE_SIZE]
    atoms = [s for s in shapes if s.shape == "atoms"]
    axes = [s for s in shapes if s.shape == "axes"]
    listed = ", ".join(str(len(b)) for b in found.members[:LISTED]) + ", …" * (len(found.members) > LISTED)
    words = f"{len(found.members)} blocks of dependent parts, of {listed} parts: "
    if curves:
        around = sum(s.open < 0.5 for s in curves)
        words += (
            f"in {len(curves)} of them directions have no gaps and lengths scatter by only "
            f"{100 * max(s.scatter for s in curves):.0f} %: curves or surfaces, or corners finer than the noise, "
            f"{around} of them around the origin. "
            f"Separability: {_separabilities(evidence, found)}."
        )
        gone: tuple[Cause, ...] = ("none", "monosemantic", "rotated")
        if len(curves) == len(found.members):
            gone = (*gone, "superposition", "lookup")
        return _check(evidence, found, curves, "for", words, gone)
    if atoms:
        words += (
            f"in {len(atoms)} of them {_counts(atoms)} directions in {len(found.members[0])} dimensions are isolated. "
        )
        words += (
            "They are exclusive features, points of a sampled curve, or codes of single inputs; activations cannot say."
        )
        more = any(s.lines > len(b) for s, b in zip(shapes, _small(found), strict=True) if s.shape == "atoms")
        return _check(
            evidence, found, atoms, "silent", words, ("none", "monosemantic", "rotated") if more else ("none",)
        )
    if filled:
        words += (
            f"in {len(filled)} of them directions have no gaps, but lengths scatter by "
            f"{100 * min(s.scatter for s in filled):.0f} % or more: features that are active together, each with a size "
            "of its own, or surfaces that are not of one size; not decided."
        )
        return _check(evidence, found, filled, "silent", words, ("none",))
    if axes and len(axes) == len(found.members):
        words += "all directions are isolated, no more than one per dimension: features of one direction that depend."
        return _check(evidence, found, axes, "against", words, ("none", "manifold"))
    rest = f"{large} of them too large to have a shape" if large else "of no clear shape"
    words += f"{rest}. Too many features, correlated ones or curves in superposition would do that."
    return _check(evidence, found, shapes, "silent", words, ("none",))


def _small(found: Blocks) -> list[tuple[int, ...]]:
    return [block for block in found.members if len(block) <= LARGEST_BLOCK]


def _counts(shapes: list[ShapeOfBlock]) -> str:
    low, high = min(s.atoms for s in shapes), max(s.atoms for s in shapes)
    return str(low) if low == high else f"{low} to {high}"


def _separabilities(evidence: Evidence, found: Blocks) -> str:
    """Z1 of the blocks of two parts, on active rows."""
    generator, bits = rng.stream(evidence.seed, "P08 separability"), []
    for block in (b for b in found.members if len(b) == 2):
        plane = found.parts[:, list(block)]
        plane = plane - plane.median(0).values
        length = plane.norm(dim=1)
        plane = plane[length > AWAY * (length.pow(4).mean() / length.square().mean()).sqrt()]
        if len(plane) >= FEWEST_ROWS:
            bits.append(separability(plane, generator))
    if not bits:
        return "not measured"
    return f"rotations leave at least {min(bits):.2f} bits in common in every plane"


def _check(
    evidence: Evidence,
    found: Blocks,
    shapes: list[ShapeOfBlock],
    verdict: Verdict,
    sentence: str,
    gone: tuple[Cause, ...],
) -> Check:
    share = sum(s.rows > 0 for s in shapes) / max(1, len(found.members))
    statistic = Measurement(
        "block_share", share, n=len(found.parts), method="share of the dependence blocks that have the shape named; energy "
        "correlations of ICA parts on unseen documents", seed=evidence.seed, source="derived; after Engels et al. 2024",
        null=0.0,
    )  # fmt: skip
    return Check(_ID, _TITLE, _CLAIM, verdict, sentence, statistic, ONE_SIZE, gone)
