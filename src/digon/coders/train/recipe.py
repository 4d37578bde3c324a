"""The sparse autoencoder that we recommend: what finds most features in worlds where they are known, from width and l0 alone, where
features form trees and are far more than latents.

1. BatchTopK, twice the target l0 at first, falling to two thirds of it over the first half of the steps; the target itself
   in the last tenth.
2. Eight nested prefixes that are drawn anew for every step, of latents sorted by how often they fire; each latent learns
   only from the smallest prefix that it is in, so that general features are not swallowed by special ones.
3. Every latent is active at least on the row of a batch that suits it best, until a tenth of the steps is left.
4. The root of the squared error of a row, so that rows with something unknown in them do not make latents for mixtures.
5. A large learning rate that falls to zero over the second half: a small one stays with the mixtures it starts from.

In a flat world, without trees and with a latent for every feature, it is behind the plain activations: prefixes have nothing to
keep apart there, and `flat` leaves them out (F1 .77 → .87, MCC .93 → 1.00 in a flat world, .20 → .13 and .79 → .72 in one
with trees). No mixture of the two was good in both: prefixes for a half, three quarters or nine tenths of the steps, or in
every other step. Either leaves more variance unexplained than BatchTopK or gated autoencoders do.

Chosen on development seeds of the decoding benchmark; every setting tried and its numbers: docs/results/decoding-settings.md.
Sources of the parts: Bussmann et al. 2024, 2025 (BatchTopK, nested prefixes); Nabeshima 2024 (sampled prefixes by frequency).
"""

import math
from dataclasses import replace

from ..sae import Nested, SAEConfig
from .config import TrainConfig

PREFIXES = 8
RATE = 1.4e-3
"""Learning rate at 2¹⁴ latents; it grows as 1/√width."""
DECAY = 0.5
LOW = 2 / 3
SETTLE = 0.05
"""Rate of the running means: fast enough for the threshold to settle in the last tenth of a short run."""


def recommended(
    d_in: int, width: int, l0: int, training: TrainConfig | None = None, seed: int = 0, *, flat: bool = False
) -> tuple[SAEConfig, TrainConfig]:
    """The autoencoder and how to train it, from its size and the active latents per row.

    `training` says how long, on what batches and where; how fast is decided here, unless it sets `lr`. `flat`: for features
    that form no trees, without prefixes.

    >>> sae, how = recommended(48, 128, 2)
    >>> sae.activation, how.robust, round(how.lr, 4)
    ('batchtopk', True, 0.0158)
    """
    training = training or TrainConfig()
    nested = None if flat or width < 2 else Nested(sampled=PREFIXES, by_frequency=True, detached=True)
    sae = SAEConfig(d_in, width, l0, "batchtopk", nested=nested, threshold_rate=SETTLE, seed=seed)
    lr = training.lr if training.lr is not None else RATE * math.sqrt(2**14 / width)
    return sae, replace(training, lr=lr, decay=DECAY, l0_low=LOW, robust=True)
