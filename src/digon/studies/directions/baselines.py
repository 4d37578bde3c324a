"""What explainable directions are compared with: as many units of other kinds, on the same rows.

neurons       units of the site, drawn at random among those that vary
random        directions drawn uniformly from the sphere of white coordinates
pca           principal axes of the scaled units, of largest variance first
ica           independent components (coders.classic), fitted to rows of the fit split
latents       latents of a sparse autoencoder that is trained on the fit split, drawn at random among those that fire there
bare tokens   directions that read one of the most frequent tokens
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...coders import classic
from ...coders.sae import SAEConfig
from ...coders.train import TrainConfig, from_rows, train
from ...explain.directions import judge
from ...explain.directions.objective import covariance
from ...store.runs import Run
from ..settings import Kind
from ..sources import Latents, columns
from .place import Place

ICA_ROWS = 20_000
WIDTH, L0, BATCH = 2, 32, 2048
"""Latents per unit; active ones per row; rows per step."""


def values(kind: Kind, place: Place, run: Run) -> Float[Tensor, "n k"]:
    """Activations of up to `count` units of a kind on all rows."""
    count, space, draw = place.config.count, place.space, rng.stream(place.config.seed, "baseline", kind)
    if kind == "neurons":
        varying = (space.deviation > 0).nonzero()[:, 0]
        return place.rows[:, varying[torch.randperm(len(varying), generator=draw)[:count]]]
    if kind == "random":
        theta = torch.nn.functional.normalize(torch.randn(count, space.rank, generator=draw), dim=1)
        return place.white @ theta.T.to(place.white)
    if kind == "pca":
        return place.white[:, :count]
    fit = place.split("fit")
    if kind == "ica":
        chosen = fit.nonzero()[:, 0][torch.randperm(int(fit.sum()), generator=draw)[:ICA_ROWS]]
        coder = classic.ica(place.rows[chosen], min(count, space.rank), place.config.seed)
        return coder.encode(place.rows).values
    if kind == "bare tokens":
        bare = tokens(place)
        return place.white @ bare.most_frequent(count).T.to(place.white)
    return _latents(place, run, draw)


def tokens(place: Place) -> judge.Tokens:
    """Directions that read one token, of all tokens with enough rows in the fit split."""
    fit = place.split("fit")
    white = place.white[fit]
    return judge.Tokens.of(white, place.target.store.tokens[fit], covariance(white))


def _latents(place: Place, run: Run, draw: torch.Generator) -> Float[Tensor, "n k"]:
    config, d = place.config, place.rows.shape[1]
    rows = place.rows[place.split("fit")]
    shape = SAEConfig(d, WIDTH * d, min(L0, max(1, d // 4)), activation="batchtopk", seed=config.seed)
    settings = TrainConfig(steps=config.sae_steps, batch=min(BATCH, len(rows)), seed=config.seed, device=config.device)
    sae = train(shape, from_rows(rows, settings), settings, run.path / "sae")
    with torch.inference_mode():
        found = Latents.encode(sae, place.target.store, config.site, config.device)
    fires = torch.zeros(found.width).index_add_(
        0,
        torch.arange(found.width).repeat_interleave(found.starts.diff()),
        place.split("fit")[found.rows.long()].float(),
    )
    alive = (fires > 0).nonzero()[:, 0]
    chosen = alive[torch.randperm(len(alive), generator=draw)[: config.count]]
    return columns(found, chosen.tolist())
