"""Are symbols told apart by size? An onion h = Σₜ γᵗ E[xₜ] is a cloud of clouds: E, and around each of its points γE again.

1. Rows, centered, in nearly white coordinates (directions far below the typical variance are not blown up).
2. A start: V clusters of rows (Ward), V where the tree of clusters has its longest gaps; clusters much wider than the
   others are split. Their centers are E, since all deeper levels average out.
3. Fit, in turns: symbols of every row by beam search, level by level; E by least squares, one codebook for all levels; γ on a grid.
4. On rows that were not fitted: what t levels leave unexplained, u₁, u₂, u₃. It is an onion if

       misfit       uₜ falls as γ²ᵗ (with the end that T levels put to it): every level is a copy of the whole
       reuse        Σ_v min(p₀(v), p₁(v)) is near 1: the same symbols at both levels, so the same directions at both sizes
       dependence   I(x₀; x₁) / H(x₁) is near 0: a level says nothing about the next one
       dimension    log V / log(1/γ) is below the rank: the cloud has gaps

Binary digits of a single sparse feature's size fit step 3 as well, but their levels differ in use and depend on each other.
The sum of two separate codes (product tables, sets of binary features) fits with separate symbols for each level: no reuse.
Uniform cubes are copies of themselves at half the size, but have no gaps.

Sources: magnitude codes: Csordás et al. 2024; the fit is additive quantization (Babenko & Lempitsky 2014) with one codebook;
the criteria are derived here.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, ward
from torch import Tensor

from ..errors import ConfigError

ROWS, FRESH, TREE_ROWS = 3000, 2000, 1500
"""Rows that are fitted, judged, and clustered."""
WIDEST = 96
"""Directions of largest variance that are looked at."""
RIDGE = 0.02
"""Variance, relative to the typical direction's, below which directions are not blown up to equal size."""
SYMBOLS = (4, 100)
CANDIDATES = 3
"""Codebook sizes that are tried."""
LEVELS = 8
BEAM = 6
ROUNDS = 10
SHUFFLES = 5
DECAYS = (0.03, 0.9)
WIDE = 1.6
"""Variance of a cluster over the median cluster's, from which it is split."""
MISFIT, REUSE, DEPENDENCE, FULL, LARGEST = 0.16, 0.95, 0.03, 0.75, 0.72
"""Limits of the criteria; a decay above the last leaves no gaps to see."""
RESOLVED = 0.003
"""Unexplained share below which levels are not compared."""
ENDED = 0.15
"""Share of what the last level but one leaves that the last may leave."""
HOPELESS = 0.6
"""Misfit after a few turns from which a start is given up."""


@dataclass(frozen=True)
class Onion:
    """The best magnitude code for some activations, and how well it passes as one."""

    codebook: Float[Tensor, "v r"]
    """Points E of the symbols, in whitened coordinates."""
    decay: float
    """γ, the size of a level over that of the level before it."""
    levels: int
    """Levels T whose end fits best; `LEVELS` stands for at least so many."""
    unexplained: tuple[float, ...]
    """Share of the variance of fresh rows that 1, 2, … levels leave."""
    misfit: float
    """Largest |log(uₜ / expected)| over the first three levels, and log(uₜ / expected) of deeper ones. Range: [0, ∞)."""
    reuse: float
    """Shared use of symbols by the first two levels, corrected for sampling. Range: [0, about 1]."""
    dependence: float
    """I(x₀; x₁) / H(x₁), corrected for sampling. Range: about [0, 1]."""
    rank: int
    rows: int

    @property
    def symbols(self) -> int:
        """Size V of the codebook."""
        return len(self.codebook)

    @property
    def dimension(self) -> float:
        """log V / log(1/γ): the dimension of the cloud, however many directions it spans."""
        return math.log(self.symbols) / -math.log(self.decay)

    @property
    def nested(self) -> bool:
        """Whether this is a magnitude code."""
        return (
            self.misfit < MISFIT
            and self.reuse > REUSE
            and self.dependence < DEPENDENCE
            and self.dimension < FULL * self.rank
            and self.decay < LARGEST
            and self.symbols >= SYMBOLS[0]
        )


def onion(values: Float[Tensor, "n d"], generator: torch.Generator) -> Onion | None:
    """The first magnitude code that passes as one, or the one with the least misfit; none without clusters.

    Cost: 1 s where there is one, up to 10 s where there is none, whatever n and d. Raises: ConfigError for fewer than 1000
    rows.
    """
    if len(values) < 1000:
        raise ConfigError(f"{len(values)} rows", expected="at least 1000")
    pick = torch.randperm(len(values), generator=generator)[: ROWS + FRESH].to(values.device)
    z = _nearly_white(values[pick].float())
    fitted = z[: len(z) * ROWS // (ROWS + FRESH)]
    fresh = z[len(fitted) :]
    best: Onion | None = None
    if z.shape[1] < 2:
        return None
    for start in _starts(fitted):
        found = judged(fresh, *_fit(fitted, start), generator)
        if found.nested:
            return found
        if best is None or found.misfit < best.misfit:
            best = found
    return best


def judged(
    fresh: Float[Tensor, "n r"], codebook: Float[Tensor, "v r"], decay: float, generator: torch.Generator
) -> Onion:
    """A codebook and a decay, judged on centered rows."""
    symbols, left = encode(fresh, codebook, decay, _depth(decay, 1e-3))
    total = max(float(fresh.square().sum(1).mean()), 1e-30)
    unexplained = tuple(max(0.0, x / total) for x in left)
    misfit, levels = _misfit(unexplained, decay)
    reuse, dependence = _use(symbols, len(codebook), generator)
    return Onion(codebook, decay, levels, unexplained, misfit, reuse, dependence, fresh.shape[1], len(fresh))


def encode(
    x: Float[Tensor, "n r"], codebook: Float[Tensor, "v r"], decay: float, levels: int, beam: int = BEAM
) -> tuple[Int[Tensor, "n t"], list[float]]:
    """Symbols of every level by beam search, and the mean squared error after every level."""
    gram, v = codebook @ codebook.T, len(codebook)
    along, error = (x @ codebook.T)[:, None], x.square().sum(1)[:, None]
    symbols = torch.zeros(len(x), 1, 0, dtype=torch.long, device=x.device)
    errors: list[float] = []
    for level in range(levels):
        size = decay**level
        score = error[..., None] - 2 * size * along + size**2 * gram.diagonal()
        error, flat = score.flatten(1).topk(min(beam, score[0].numel()), dim=1, largest=False)
        parent, symbol = flat // v, flat % v
        before = symbols.gather(1, parent[..., None].expand(-1, -1, level))
        symbols = torch.cat([before, symbol[..., None]], 2)
        along = along.gather(1, parent[..., None].expand(-1, -1, v)) - size * gram[symbol]
        errors.append(float(error[:, 0].clamp(min=0).mean()))
    return symbols[:, 0], errors


def _nearly_white(values: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
    x = (values - values.mean(0)).double()
    spread, axes = torch.linalg.eigh(x.T @ x / len(x))
    spread, axes = spread.flip(0)[:WIDEST].clamp(min=0), axes.flip(1)[:, :WIDEST]
    kept = spread > 1e-7 * spread[0].clamp(min=1e-300)
    spread, axes = spread[kept], axes[:, kept]
    typical = spread.square().sum() / spread.sum().clamp(min=1e-300)
    return ((x @ axes) / (spread + RIDGE * typical).sqrt()).float()


def _starts(x: Float[Tensor, "n r"]) -> list[Float[Tensor, "v r"]]:
    """Codebooks to start from: the clusters before the longest gaps of a Ward tree, as they are and with wide ones split."""
    tree = ward(x[:TREE_ROWS].double().cpu().numpy())
    height = tree[::-1, 2]
    counts = np.arange(max(3, SYMBOLS[0] - 1), min(SYMBOLS[1], len(height) - 1))
    counts = counts[height[counts - 2] > 1e-6]
    gaps = np.log(height[counts - 2] / np.maximum(height[counts - 1], 1e-9))
    starts: list[Tensor] = []
    for count in counts[np.argsort(-gaps)][:CANDIDATES]:
        label = torch.from_numpy(fcluster(tree, int(count), "maxclust")).long().to(x.device) - 1
        centers = _means(x[:TREE_ROWS], label, int(label.max()) + 1)
        starts.append(centers)
        refined = _refined(x, centers)
        if len(refined) > len(centers) and all(len(refined) != len(other) for other in starts):
            starts.append(refined)
    return starts


def _refined(x: Float[Tensor, "n r"], centers: Float[Tensor, "v r"]) -> Float[Tensor, "w r"]:
    """Clusters after wide ones were split in two, a few times over."""
    for _ in range(6):
        for _ in range(3):
            label = torch.cdist(x, centers).argmin(1)
            held = torch.bincount(label, minlength=len(centers))
            centers = _means(x, label, len(centers))[held > 0]
        label = torch.cdist(x, centers).argmin(1)
        off = x - centers[label]
        held = torch.bincount(label, minlength=len(centers)).clamp(min=1)
        spread = torch.zeros(len(centers)).to(x).index_add_(0, label, off.square().sum(1)) / held
        wide = (spread > WIDE * spread.median()).nonzero()[:, 0].tolist()
        if not wide or len(centers) + len(wide) > SYMBOLS[1]:
            break
        fresh = []
        for k in wide:
            part = off[label == k]
            axis = torch.linalg.eigh((part.T @ part).double()).eigenvectors[:, -1].to(x)
            fresh.append(centers[k] + axis * (part @ axis).abs().mean())
            centers[k] = centers[k] - axis * (part @ axis).abs().mean()
        centers = torch.cat([centers, torch.stack(fresh)])
    return centers


def _means(x: Float[Tensor, "n r"], label: Int[Tensor, " n"], count: int) -> Float[Tensor, "v r"]:
    held = torch.bincount(label, minlength=count).clamp(min=1)[:, None]
    return torch.zeros(count, x.shape[1]).to(x).index_add_(0, label, x) / held


def _fit(x: Float[Tensor, "n r"], codebook: Float[Tensor, "v r"]) -> tuple[Float[Tensor, "w r"], float]:
    """Codebook and decay by turns; symbols that no row uses are dropped."""
    left = x - codebook[torch.cdist(x, codebook).argmin(1)]
    tried = [k / 20 for k in range(1, 17)]
    errors = [float(torch.cdist(left, codebook * size).amin(1).square().mean()) for size in tried]
    decay = tried[int(np.argmin(errors))]
    for turn in range(ROUNDS):
        last = turn >= ROUNDS - 3
        levels = 3 if turn < 4 else _depth(decay, 1e-3 if last else 1e-2)
        symbols, left = encode(x, codebook, decay, levels, BEAM if last else BEAM // 2)
        if turn == 4 and abs(math.log(max(left[0], 1e-9) / float(x.square().sum(1).mean()) / decay**2)) > HOPELESS:
            break
        used = torch.bincount(symbols.flatten(), minlength=len(codebook)) > 0
        codebook = _codebook(x, symbols, len(codebook), decay)
        decay = _decay(x, symbols, codebook)
        codebook = codebook[used]
    return codebook, decay


def _depth(decay: float, share: float) -> int:
    """Levels until the next one is that small."""
    return min(LEVELS, max(3, math.ceil(math.log(share) / math.log(decay) / 2) + 1))


def _codebook(x: Float[Tensor, "n r"], symbols: Int[Tensor, "n t"], v: int, decay: float) -> Float[Tensor, "v r"]:
    weights = x.new_zeros(len(x), v)
    for level in range(symbols.shape[1]):
        weights.scatter_add_(1, symbols[:, level, None], x.new_full((len(x), 1), decay**level))
    ridge = 1e-4 * len(x) / v * torch.eye(v).to(x)
    return torch.linalg.solve(weights.T @ weights + ridge, weights.T @ x)


def _decay(x: Float[Tensor, "n r"], symbols: Int[Tensor, "n t"], codebook: Float[Tensor, "v r"]) -> float:
    """Least squares for γ, given everything else: a polynomial in it."""
    points = codebook[symbols]
    inner = torch.einsum("ntr,nsr->ts", points, points)
    onto = torch.einsum("ntr,nr->t", points, x)
    tried = torch.linspace(*DECAYS, 349).to(x)
    powers = tried[:, None] ** torch.arange(symbols.shape[1]).to(x)
    return float(tried[(((powers @ inner) * powers).sum(1) - 2 * powers @ onto).argmin()])


def _misfit(unexplained: tuple[float, ...], decay: float) -> tuple[float, int]:
    """Least misfit over the number of levels that there may be, and that number."""
    best = (math.inf, LEVELS)
    for levels in range(LEVELS, 1, -1):
        end = decay ** (2 * levels)
        off = []
        for t in range(1, min(4, levels, len(unexplained) + 1)):
            expected = (decay ** (2 * t) - end) / (1 - end)
            if expected > RESOLVED:
                off.append(abs(math.log(max(unexplained[t - 1], 1e-9) / expected)))
        for t in range(4, min(levels, len(unexplained) + 1)):
            if decay ** (2 * t) > RESOLVED:  # deep levels may end early, but what is there must keep falling
                off.append(math.log(max(unexplained[t - 1], 1e-9) / decay ** (2 * t)))
        # beyond the last level, or where levels are too small to compare, nothing may be left
        floor = unexplained[-1] > max(4 * decay ** (2 * len(unexplained)), 3 * RESOLVED)
        beyond = len(unexplained) >= levels and unexplained[levels - 1] > ENDED * unexplained[levels - 2] + RESOLVED
        if off and not floor and not (beyond and levels < LEVELS) and max(off) < best[0] - 1e-3:
            best = max(off), levels
    return best


def _use(symbols: Int[Tensor, "n t"], v: int, generator: torch.Generator) -> tuple[float, float]:
    """Reuse and dependence of the first two levels, each against what so few rows read by chance."""
    first, second = symbols[:, 0], symbols[:, 1]
    pool = torch.cat([first, second])
    shared, chance = _overlap(first, second, v), 0.0
    told, noise = _information(first, second, v), 0.0
    for _ in range(SHUFFLES):
        mixed = pool[torch.randperm(len(pool), generator=generator).to(pool.device)]
        chance += _overlap(mixed[: len(first)], mixed[len(first) :], v) / SHUFFLES
        order = torch.randperm(len(second), generator=generator).to(pool.device)
        noise += _information(first, second[order], v) / SHUFFLES
    share = torch.bincount(second, minlength=v).double() / len(second)
    entropy = -float((share * share.clamp(min=1e-300).log()).sum())
    return shared / chance, (told - noise) / max(entropy, 1e-9)


def _overlap(first: Int[Tensor, " n"], second: Int[Tensor, " n"], v: int) -> float:
    held = torch.minimum(torch.bincount(first, minlength=v), torch.bincount(second, minlength=v))
    return float(held.sum()) / len(first)


def _information(first: Int[Tensor, " n"], second: Int[Tensor, " n"], v: int) -> float:
    """Mutual information in nats, as counted."""
    joint = torch.bincount(first * v + second, minlength=v * v).view(v, v).double() / len(first)
    apart = joint.sum(1, keepdim=True) * joint.sum(0)
    return float((joint * (joint.clamp(min=1e-300) / apart.clamp(min=1e-300)).log()).sum())
