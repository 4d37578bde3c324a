"""What is true of a network whose inputs we control? Tests on known inputs, with thresholds that were fixed beforehand.

    encoding       direction of feature i: the response to feature i alone, less the response to nothing
    additivity     share of the activations' variance that the sum of the active features' directions explains
    represented    features whose values a sparse decoder reads from the activations, knowing the directions: R² > 1/2;
                   features that share a direction can only be told together, and count as one
    rank           dimensions that the represented features span
    blocks         features whose directions meet, together: more features than dimensions is superposition; as many,
                   one to a unit, is monosemantic; as many, not along the units, is rotated
    predictable    share of the codes' variance, on half of the inputs, that a fit to the other half predicts

A network with one cause in four fifths of its dimensions, and no superposition in the rest, has that cause; others are
mixed, and their blocks say how. Where a test fails that should have passed, there is no world: `unclear` is raised.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....errors import RunError
from ....measures.geometry import cosines
from ....records import Cause
from ..base import Block, Truth

REPRESENTED = 0.5
"""Least R² of a sparse decoder for a feature that counts."""
ADDITIVE = 0.9
"""Least share of variance that directions of single features explain."""
ALIGNED = 0.95
"""Least cosine with a unit of a feature that is along it."""
MEETS = 0.2
"""Cosine from which two features share a block."""
COLLINEAR = 0.95
"""Cosine from which two features have one direction, and are one."""
COVERED = 0.75
"""Least share of the variance that the represented features explain."""
RANK = 0.01
"""Singular values below this share of the largest span nothing."""
ANTIPODAL = 0.98
"""Cosine below its negative: two features on one line."""
PURE = 0.8
"""Least share of the dimensions for a cause to be the cause."""
UNPREDICTED = 0.1
"""Most share of the codes of a table that a fit to other inputs may predict."""
SMALL = 0.1
"""Features shorter than this share of the longest are not represented."""
PENALTY = 0.02
"""L1 penalty of the decoder, relative to a feature of value 1."""
PROBES = 2000
"""Most rows on which encodings are judged."""
DECODER_STEPS = 300


@dataclass(frozen=True)
class Encoding:
    """How a network writes its features down."""

    atoms: Float[Tensor, "k d"]
    """Unit directions; features that share one are one atom."""
    owner: Int[Tensor, " n"]
    """The atom of every feature."""
    size: Float[Tensor, " n"]
    """How far a feature of value 1 goes along its atom."""
    additivity: float
    represented: Bool[Tensor, " k"]

    def coefficients(self, f: Float[Tensor, "rows n"]) -> Float[Tensor, "rows k"]:
        """What the features put on the atoms."""
        return f.new_zeros(len(f), len(self.atoms)).index_add_(1, self.owner, f * self.size)


def unclear(what: str, seen: float, expected: str) -> RunError:
    """The error for a network that fails a test on known inputs."""
    return RunError(
        f"the network's cause is unclear: {what} is {seen:.3g}", expected=expected, hint="train with another seed"
    )


@torch.no_grad()
def encoding(embed: Callable[[Tensor], Tensor], x: Float[Tensor, "rows n"]) -> Encoding:
    """Directions of n nonnegative features from inputs with one feature each, judged on the rows of x."""
    offset = embed(x.new_zeros(1, x.shape[1]))[0]
    return judged(embed(torch.eye(x.shape[1])) - offset, embed(x) - offset, x)


def judged(directions: Float[Tensor, "n d"], h: Float[Tensor, "rows d"], f: Float[Tensor, "rows n"]) -> Encoding:
    """Directions of features, judged on rows of activations (relative to the response to nothing) and features."""
    size = directions.norm(dim=1)
    large = size >= SMALL * size.amax()
    near = (cosines(directions) > COLLINEAR) & large & large[:, None]
    atoms, owner = [], torch.zeros(len(directions), dtype=torch.long)
    for atom, members in enumerate(_components(near)):
        owner[members] = atom
        atoms.append(directions[members].sum(0))
    unit = torch.nn.functional.normalize(torch.stack(atoms), dim=1)
    found = Encoding(unit, owner, size, explained(h, f @ directions), torch.zeros(len(unit)).bool())
    read = found.represented.index_put((owner[large],), torch.tensor(True))
    read[read.clone()] = decoded(h, found.coefficients(f)[:, read], unit[read]) > REPRESENTED
    return replace(found, represented=read)


def explained(actual: Float[Tensor, "rows d"], predicted: Float[Tensor, "rows d"]) -> float:
    """R²: share of the variance over rows, all columns together. Range: at most 1."""
    spread = (actual - actual.mean(0)).square().sum()
    return 1.0 - float((actual - predicted).square().sum() / spread.clamp_min(1e-30))


def decoded(h: Float[Tensor, "rows d"], f: Float[Tensor, "rows k"], atoms: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """R² of every coefficient as read by a sparse decoder: the nonnegative code of least error and small L1 norm."""
    f, h = f[:PROBES], h[:PROBES]
    gram, target = atoms @ atoms.T, h @ atoms.T
    step = 1 / torch.linalg.eigvalsh(gram)[-1].clamp_min(1e-12)
    code = ahead = torch.zeros_like(f)
    momentum = 1.0
    for _ in range(DECODER_STEPS):  # FISTA
        after = (ahead - step * (ahead @ gram - target + PENALTY * f.amax(0))).clamp_min(0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, code, momentum = after + (momentum - 1) / following * (after - code), after, following
    centered_code, centered = code - code.mean(0), f - f.mean(0)
    both = (centered_code * centered).sum(0).square()
    return both / (centered_code.square().sum(0) * centered.square().sum(0)).clamp_min(1e-30)


def span(directions: Float[Tensor, "k d"]) -> Float[Tensor, "r d"]:
    """An orthonormal basis of what unit directions span."""
    _, size, axes = torch.linalg.svd(directions, full_matrices=False)
    return axes[size > RANK * size[0]]


def additive_truth(found: Encoding, f: Float[Tensor, "rows n"]) -> Truth:
    """The truth about a network that adds up directions of sparse features.

    Raises: RunError if it does not add them up, or represents none.
    """
    if found.additivity < ADDITIVE:
        raise unclear("the share that single features explain", found.additivity, f"at least {ADDITIVE}")
    kept = found.represented
    if not kept.any():
        raise unclear("the number of represented features", 0, "at least 1")
    atoms, coefficients = found.atoms[kept], found.coefficients(f)
    sums = coefficients @ found.atoms
    covered = explained(_centered(sums), _centered(coefficients[:, kept] @ atoms))
    if covered < COVERED:
        raise unclear("the share that features explain that can be read", covered, f"at least {COVERED}")
    basis, blocks = span(atoms), blocks_of(atoms)
    cause = cause_of(blocks)
    if sum(len(block.basis) for block in blocks) > len(basis):
        blocks = (Block("superposition", len(atoms), basis),)  # blocks that overlap are none
        cause = cause_of(blocks)
    return Truth(
        cause, len(atoms), len(basis), atoms, coefficients[:, kept], _alike(cause, atoms, len(basis)),
        blocks if cause == "mixed" else (),
    )  # fmt: skip


def _centered(x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
    return x - x.mean(0)


def blocks_of(atoms: Float[Tensor, "k d"]) -> tuple[Block, ...]:
    """One block per cause: sets of features that meet, by whether they have dimensions enough, and along units."""
    groups: dict[Cause, list[Tensor]] = {}
    for members in _components(cosines(atoms).abs() > MEETS):
        own = atoms[members]
        groups.setdefault(_cause(own), []).append(own)
    parts: list[tuple[Cause, Tensor]] = [(cause, torch.cat(several)) for cause, several in groups.items()]
    return tuple(Block(cause, len(part), span(part)) for cause, part in parts)


def _cause(atoms: Float[Tensor, "k d"]) -> Cause:
    if len(atoms) > len(span(atoms)):
        return "superposition"
    return "monosemantic" if bool((atoms.abs().amax(1) >= ALIGNED).all()) else "rotated"


def cause_of(blocks: tuple[Block, ...]) -> Cause:
    """The cause of `PURE` of the dimensions, if nothing else is in superposition; else mixed."""
    total = sum(len(block.basis) for block in blocks)
    largest = max(blocks, key=lambda block: len(block.basis))
    crowded = any(block.cause == "superposition" for block in blocks if block is not largest)
    return largest.cause if len(largest.basis) >= PURE * total and not crowded else "mixed"


def table_truth(codes: Float[Tensor, "t d"], rows: Tensor) -> Truth:
    """The truth about a table: `rows` says which of the codes every row shows."""
    size = codes.norm(dim=1, keepdim=True)
    f = torch.zeros(len(rows), len(codes))
    f[torch.arange(len(rows)), rows] = size[rows, 0]
    atoms = codes / size.clamp_min(1e-12)
    rank = len(span(atoms))
    other: Cause = "superposition" if len(codes) > rank else "rotated"
    return Truth("lookup", len(codes), rank, atoms, f, frozenset({other, "lookup"}))


def predicted(x: Float[Tensor, "t p"], codes: Float[Tensor, "t d"], ridge: float = 1e-2) -> float:
    """Of the codes of every other input, the share of variance that a fit to the remaining inputs predicts.

    A ridge regression on the inputs and their positive parts relative to the mean, in dual form; negative values count
    as zero. Range: 0 to 1.
    """
    wide = torch.cat([x, (x - x.mean(0)).relu()], 1).double()
    wide, codes = wide - wide[::2].mean(0), codes.double()
    middle = codes[::2].mean(0)
    near = wide[::2] @ wide[::2].T
    weight = torch.linalg.solve(near + ridge * near.diagonal().mean() * torch.eye(len(near)), codes[::2] - middle)
    return max(0.0, explained(codes[1::2], wide[1::2] @ wide[::2].T @ weight + middle))


def _components(linked: Bool[Tensor, "k k"]) -> list[Tensor]:
    """Sets of features that are linked, directly or through others."""
    reach = linked | torch.eye(len(linked), dtype=torch.bool)
    for _ in range(len(linked).bit_length()):
        reach = (reach.float() @ reach.float()) > 0
    first = reach.long().argmax(1)
    return [(first == member).nonzero()[:, 0] for member in first.unique()]


def _alike(cause: Cause, atoms: Float[Tensor, "k d"], rank: int) -> frozenset[Cause]:
    """Two rare features on one line look like one feature with a sign; a table of its inputs looks like either."""
    if cause != "superposition":
        return frozenset()
    lines = len(atoms) - int((cosines(atoms).triu(1) < -ANTIPODAL).any(1).sum())
    alone: Cause = "monosemantic" if bool((atoms.abs().amax(1) >= ALIGNED).all()) else "rotated"
    return frozenset[Cause](("superposition", "lookup", alone) if lines <= rank else ("superposition", "lookup"))
