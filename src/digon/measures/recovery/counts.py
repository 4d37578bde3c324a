"""What a stream of true and predicted codes says about every pair of feature and latent that matters.

A latent is compared with its *candidates*: the six features nearest in direction, the feature that it is matched with, and the
one of largest |cos|. For every row on which it is active, the candidates that are active too form a pattern of eight bits.
Counting patterns keeps everything that can be asked later (one candidate without another, any of them, none), in 256
numbers per latent. Nothing of the size rows × features is ever stored, and of the size features × latents only the cosines,
while dictionaries are matched.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import ConfigError, NonFiniteError
from ...tensors import Codes, Dictionary
from .matching import Matching, match, nearest, unit

NEAR = 6
"""Features nearest in direction that are candidates of a latent."""
COLUMNS = NEAR + 2
PIECE = 2**18
"""Codes that are looked at together."""


@dataclass(frozen=True)
class Candidates:
    """Features that each latent is compared with."""

    feature: Int[Tensor, "k c"]
    """−1 in columns that are not used."""
    cosine: Float[Tensor, "k c"]
    gram: Float[Tensor, "k c c"]
    """Cosines between the candidates of a latent."""
    matching: Matching
    """From features to latents."""
    matched: Int[Tensor, " k"]
    """Column of the matched feature; −1 if there is none."""
    public: Int[Tensor, " k"]
    """Column of the feature with the largest |cos|."""


class Recovery:
    """Accumulates true and predicted codes batch by batch; `report` reads it at any time."""

    def __init__(self, truth: Dictionary, learned: Dictionary) -> None:
        if truth.atoms.shape[1] != learned.atoms.shape[1]:
            raise ConfigError(
                f"features in {truth.atoms.shape[1]} dimensions, atoms in {learned.atoms.shape[1]}",
                expected="one space",
            )
        self.truth, self.learned = truth.atoms.float(), learned.atoms.float().to(truth.atoms.device)
        if not (self.truth.isfinite().all() and self.learned.isfinite().all()):
            raise NonFiniteError("a dictionary holds NaN or infinity", expected="finite atoms")
        self.candidates = choose(self.truth, self.learned)
        g, k, device = len(truth), len(learned), self.truth.device
        self.scale = self.truth.norm(dim=1).double(), self.learned.norm(dim=1).double()
        whole = lambda *shape: torch.zeros(shape, dtype=torch.int64, device=device)  # noqa: E731
        self.rows = 0
        self.active, self.fires = whole(g), whole(k)
        self.patterns = whole(k, 2**COLUMNS)
        self.covered = whole(k, COLUMNS)
        """Rows on which latent and candidate are active, and the latent that is matched with the candidate is too."""
        self.reached = whole(g)
        """Rows on which a feature is active and some latent whose nearest feature it is."""
        self.strength = torch.zeros(g, 2, dtype=torch.float64, device=device)
        """Σ g and Σ g² of every feature."""
        self.products = torch.zeros(k, 3, dtype=torch.float64, device=device)
        """Σ f g, Σ f², Σ g² over the rows on which a latent and its matched feature are active."""

    def update(self, true: Codes, found: Codes) -> None:
        """Add rows. A latent counts as active where its code is not 0.

        Raises: ConfigError if the codes do not fit; NonFiniteError if they hold NaN.
        """
        if len(true) != len(found) or true.width != len(self.truth) or found.width != len(self.learned):
            raise ConfigError(
                f"codes {len(true)} × {true.width} and {len(found)} × {found.width}",
                expected=f"equally many rows, {len(self.truth)} features and {len(self.learned)} latents",
            )
        if not (true.values.isfinite().all() and found.values.isfinite().all()):
            raise NonFiniteError("codes hold NaN or infinity", expected="finite codes")
        size = max(1, PIECE // max(found.values.shape[1], 1))
        for start in range(0, len(true), size):
            self._add(*(rows_of(codes, slice(start, start + size)) for codes in (true, found)))
        self.rows += len(true)

    def _add(self, true: Codes, found: Codes) -> None:
        g, k, device = len(self.truth), len(self.learned), self.truth.device
        row_t, feature, strength = active(true, device)
        row_p, latent, code = active(found, device)
        strength, code = strength * self.scale[0][feature], code * self.scale[1][latent]
        self.active += torch.bincount(feature, minlength=g)
        self.fires += torch.bincount(latent, minlength=k)
        self.strength.index_add_(0, feature, torch.stack([strength, strength.square()], 1))
        keys, order = (row_t * g + feature).sort()
        wanted = self.candidates.feature[latent]
        hit, place = find(keys, row_p[:, None] * g + wanted)
        hit &= wanted >= 0
        self._patterns(latent, hit)
        self._covered(row_p, latent, wanted, hit)
        near = (row_p * g + wanted[:, 0])[hit[:, 0]].unique()
        self.reached += torch.bincount(near % g, minlength=g)
        column = self.candidates.matched[latent]
        both = (column >= 0) & hit.gather(1, column.clamp(min=0)[:, None]).squeeze(1)
        own = strength[order[place.gather(1, column.clamp(min=0)[:, None]).squeeze(1)[both]]]
        sums = torch.stack([code[both] * own, code[both].square(), own.square()], 1)
        self.products.index_add_(0, latent[both], sums)

    def _patterns(self, latent: Int[Tensor, " a"], hit: Bool[Tensor, "a c"]) -> None:
        size = self.patterns.shape[1]
        bits = (hit * 2 ** torch.arange(COLUMNS, device=hit.device)).sum(1)
        self.patterns += torch.bincount(latent * size + bits, minlength=self.patterns.numel()).view(-1, size)

    def _covered(
        self, row: Int[Tensor, " a"], latent: Int[Tensor, " a"], wanted: Int[Tensor, "a c"], hit: Bool[Tensor, "a c"]
    ) -> None:
        k = len(self.learned)
        at, column = hit.nonzero(as_tuple=True)
        partner = self.candidates.matching.of_first[wanted[at, column]]
        keys = (row * k + latent).sort().values
        fires = find(keys, row[at] * k + partner)[0] & (partner >= 0)
        counted = (latent[at] * COLUMNS + column)[fires]
        self.covered += torch.bincount(counted, minlength=self.covered.numel()).view(k, COLUMNS)


def choose(truth: Float[Tensor, "g d"], learned: Float[Tensor, "k d"]) -> Candidates:
    """Candidates of every latent."""
    feature = nearest(learned, truth, NEAR)[1]
    short = NEAR - feature.shape[1]
    matching = match(truth, learned)
    columns = [torch.nn.functional.pad(feature, (0, short), value=-1)]
    places: list[Tensor] = []
    for wanted in (matching.of_second, nearest(learned, truth, 1, absolute=True)[1].squeeze(1)):
        known = torch.cat(columns, 1) == wanted[:, None]
        held = known.any(1)
        column = torch.where(held, known.to(torch.uint8).argmax(1), known.shape[1])
        places.append(torch.where(wanted >= 0, column, -1))
        columns.append(torch.where(held, -1, wanted)[:, None])
    feature = torch.cat(columns, 1)
    atoms = unit(truth)
    cosine = torch.empty(feature.shape, device=truth.device)
    gram = torch.empty(*feature.shape, COLUMNS, device=truth.device)
    for part in torch.arange(len(learned), device=truth.device).split(1024):
        own = atoms[feature[part].clamp(min=0)] * (feature[part] >= 0)[..., None]
        cosine[part] = (own @ unit(learned[part])[..., None]).squeeze(-1)
        gram[part] = own @ own.mT
    return Candidates(feature, cosine, gram, matching, *places)


def rows_of(codes: Codes, rows: slice) -> Codes:
    """Some rows of the codes."""
    return Codes(codes.values[rows], None if codes.indices is None else codes.indices[rows], codes.width)


def active(codes: Codes, device: torch.device) -> tuple[Int[Tensor, " a"], Int[Tensor, " a"], Float[Tensor, " a"]]:
    """Row, number and value of every code that is not 0."""
    row, place = codes.values.nonzero(as_tuple=True)
    which = place if codes.indices is None else codes.indices[row, place]
    return row.to(device), which.long().to(device), codes.values[row, place].double().to(device)


def find(keys: Int[Tensor, " n"], wanted: Int[Tensor, "*q"]) -> tuple[Bool[Tensor, "*q"], Int[Tensor, "*q"]]:
    """Which of the wanted are among ascending keys, and where."""
    if len(keys) == 0:
        return torch.zeros_like(wanted, dtype=torch.bool), torch.zeros_like(wanted)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return keys[place] == wanted, place
