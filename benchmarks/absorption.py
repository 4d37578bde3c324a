"""Are suspects of absorption absorbed? Autoencoders on tree worlds whose truth says so, none of them the one of the thresholds.

The thresholds of `measures.absorption` were chosen on one world. Here are others: other seeds of directions, densities and
correlations, and one with another load. Per world: suspects of one-sided silence among latents that fire; how many of them the
truth calls absorbed (`measures.recovery`), beside what as many latents picked at random would give; how many absorbed latents
are found. A latent may have several faults and carries one label, absorbed among them last: a suspect with another label
counts as a false one.

    python benchmarks/absorption.py [--worlds 5] [--steps 3000]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from scipy.stats import hypergeom

from digon import rng
from digon.coders.sae import SAE, SAEConfig
from digon.coders.train import TrainConfig, train
from digon.measures.absorption import Firings, one_sided_silence
from digon.measures.recovery import LABELS, Recovery, report
from digon.worlds.tree import TreeConfig, TreeWorld

FIRST = 100
"""Seed of the first world."""
LATENTS = 256
ROWS = 50_000
BATCH = 512
PIECE = 5000
TRAIN, JUDGE = 0, 1


def law(seed: int, features: int) -> TreeConfig:
    """A world of trees in 64 dimensions."""
    return TreeConfig(features=features, d=64, roots=16, most=0.22, least=0.001, seed=seed)


def trained(world: TreeWorld, steps: int) -> SAE:
    """BatchTopK with as many active latents as the world has active features: the coder that absorbs."""
    l0 = max(1, round(float(world.density.sum())))
    sae = SAEConfig(world.config.d, LATENTS, l0, "batchtopk", seed=world.config.seed)
    with tempfile.TemporaryDirectory() as folder:
        return train(sae, world.batches(BATCH, TRAIN), TrainConfig(steps=steps), Path(folder) / "sae")


@torch.no_grad()
def judge(world: TreeWorld, sae: SAE) -> tuple[int, int, int, int]:
    """Latents that fire, those that are absorbed, suspects, and suspects that are absorbed."""
    recovery, rows, latents = Recovery(world.dictionary, sae.dictionary), list[torch.Tensor](), list[torch.Tensor]()
    stream = world.samples(PIECE, JUDGE)
    for start in range(0, ROWS, PIECE):
        sample = next(stream)
        codes = sae.encode(sample.x)
        recovery.update(sample.codes, codes)
        row, latent = codes.dense().nonzero(as_tuple=True)
        rows.append(row + start)
        latents.append(latent)
    firings = Firings.of(torch.cat(latents), torch.cat(rows), LATENTS, ROWS)
    draw = rng.stream(world.config.seed, "suspects")
    silence = one_sided_silence(firings, sae.W_dec, torch.zeros(ROWS, dtype=torch.int64), 1, draw)
    label = report(recovery, world.density).failures.label
    absorbed = label == LABELS.index("absorbed")
    suspects = torch.zeros(LATENTS, dtype=torch.bool)
    suspects[silence.child[silence.silent]] = True
    alive = int((label != LABELS.index("dead")).sum())
    return alive, int(absorbed.sum()), int(suspects.sum()), int((absorbed & suspects).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    print("world           latents that fire  absorbed  suspects  of these absorbed  by chance  p")
    sums = [0, 0, 0]
    for seed in range(FIRST, FIRST + args.worlds):
        features = 512 if seed == FIRST + args.worlds - 1 else 256
        world = TreeWorld(law(seed, features))
        alive, absorbed, suspects, right = judge(world, trained(world, args.steps))
        chance = suspects * absorbed / max(alive, 1)
        p = float(hypergeom.sf(right - 1, alive, absorbed, suspects))
        print(
            f"{features} in 64, {seed:<4} {alive:>17} {absorbed:>9} {suspects:>9} {right:>18} {chance:>10.1f}  {p:.2g}",
            flush=True,
        )
        sums = [a + b for a, b in zip(sums, (absorbed, suspects, right), strict=True)]
    print(f"together: {sums[2]} of {sums[1]} suspects absorbed, {sums[2]} of {sums[0]} absorbed ones found")


if __name__ == "__main__":
    main()
