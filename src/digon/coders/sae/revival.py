"""What brings dead latents back. One setting, for every activation:

    auxiliary         dead latents learn to reconstruct what the others leave over (a loss of its own)
    resample          dead latents start again as the residual of rows that are reconstructed badly
    forced            every latent is active at least on the row of a batch that suits it best
    straight_through  latents that just miss the cut learn as well (see `activations`)
    none              nothing

Sources: Gao et al. 2024 (auxiliary loss); Bricken et al. 2023 (resampling).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ... import rng
from .. import sparse
from ..parallel import WHOLE
from .config import SAEConfig
from .model import SAE

SHARE = 0.7
"""Largest share of a batch's codes that forced ones may take."""
QUIET = 0.1
"""Share of the steps, at the end, that nothing is forced in: thresholds settle then."""
ENCODER = 0.2
"""Norm of a resampled encoder row, relative to the mean norm of the rows that are alive."""


def auxiliary_loss(
    sae: SAE, x: Float[Tensor, "n d_in"], residual: Float[Tensor, "n d_out"], dead: Int[Tensor, " m"]
) -> Float[Tensor, ""]:
    """How badly the dead latents, up to d/2 of them per row, reconstruct the residual.

    Range: 0 to about 1, relative to the variance of the residual.
    """
    rows, across = sae.group.rows, sae.group.latents
    z = sae.preactivations(x, dead)
    # ReLU, with the gradient of the identity: a latent that is negative everywhere has to learn, too.
    codes = z.relu() + torch.where(z > 0, 0.0, z - z.detach())
    count = max(sae.config.d_in // 2, 1)
    if count < len(dead) or not across.alone:
        # A process may have no dead latents while others do.
        top = sparse.rowwise_top(z.detach(), min(count, len(dead))) if len(dead) else (z.detach(), z.long())
        values, chosen = top
        inside, _ = sae.group.contest_by_row(values, count, count) if not across.alone else (None, None)
        kept = codes.gather(1, chosen)
        codes = torch.zeros_like(z).scatter(1, chosen, kept if inside is None else kept * inside)
    miss = (across.merged(codes @ sae.W_dec[dead]) - residual).square().sum()
    mean = rows.add(residual.mean(0)) / rows.size
    spread = rows.add((residual - mean).square().sum())
    return miss / spread.clamp_min(torch.finfo(spread.dtype).tiny)


def eligible(config: SAEConfig, step: int, steps: int, rows: int, device: torch.device) -> Bool[Tensor, " k"] | None:
    """Latents that are forced in a step: all of them in turn, so many at once that the others keep room."""
    if config.rescue != "forced" or config.l0 is None or step >= (1 - QUIET) * steps:
        return None
    turns = max(-(-config.width // max(int(rows * config.l0 * SHARE), 1)), 1)
    return torch.arange(config.width, device=device) % turns == step % turns


@torch.no_grad()
def resample(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    x: Float[Tensor, "n d_in"],
    residual: Float[Tensor, "n d_out"],
    dead: Int[Tensor, " m"],
    step: int,
) -> None:
    """Start dead latents again: the atom is the residual of a row, drawn with a chance in proportion to its square.

    `dead` are those that this process holds; `x` and `residual` its rows.
    """
    rows, across = sae.group.rows, sae.group.latents
    x, residual = rows.gather(x), rows.gather(residual)
    weight = residual.square().sum(1).double().cpu().clamp_min(1e-30)
    counts = across.stack(torch.tensor(len(dead), device=x.device)).tolist()
    source = rng.stream(sae.config.seed, "rows", step)
    drawn = torch.multinomial(weight, sum(counts), replacement=True, generator=source)
    drawn = drawn.split(counts)[across.index].to(x.device)
    atoms = F.normalize(residual[drawn], dim=1)
    alive = torch.ones(sae.held, dtype=torch.bool, device=x.device).index_fill(0, dead, False)
    norms = sae.W_enc.norm(dim=1)
    norm = across.add(torch.where(alive, norms, 0).sum()) / across.add(alive.sum()).clamp_min(1)
    sae.W_dec[dead] = atoms
    if sae.config.target is not None:
        sae.W_enc[dead] = ENCODER * norm * F.normalize(x[drawn] - sae.b_in, dim=1)
    elif not sae.config.tied:
        sae.W_enc[dead] = ENCODER * norm * atoms
    sae.b_enc[dead] = 0
    for name, value in sae.activation.learned.items():
        getattr(sae, name)[dead] = value
    sae.balance(x, dead)
    for name, parameter in sae.named_parameters():
        if name not in WHOLE:
            for part in ("exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][part][dead] = 0
