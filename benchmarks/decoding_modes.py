"""What refinements, leaving out, transcoders and crosscoders find, on worlds whose features are known.

All are BatchTopK with the library's plain settings, equal width, target l0, rows and steps; deployed encoders on fresh rows;
three seeds, mean ± half of Student's interval. F1 is one latent per feature, mean over latents.

    plain            an autoencoder
    refined n        its encoder looks again n times at what its codes leave over
    left out         trained for half as many active latents again, then codes that the rest of the row makes needless are left out
                     until l0 is the target; where to cut is read off rows of their own
    transcoder       reads the world's rows and writes the same features along other directions
    crosscoder       reads and writes both

    OMP_NUM_THREADS=1 python benchmarks/decoding_modes.py [--steps 600] [--report docs/results/decoding-modes.md]
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from digon.coders.sae import SAE, LeaveOneOut, SAEConfig, Target
from digon.coders.train import TrainConfig, train
from digon.measures.recovery import Recovery, over_seeds, report
from digon.records import Measurement
from digon.store import files
from digon.studies.decoding_benchmark.trials import FLAT, MIDDLE
from digon.tensors import Codes, Dictionary
from digon.worlds.tree import TreeWorld
from digon.worlds.tree.law import directions

SEEDS = (0, 1, 2)
BATCH, PIECE, ROWS = 1024, 4096, 40_000
TRAIN, CUT, JUDGE = 0, 1, 2
WORLDS = {"flat": (FLAT, 64, 2), "trees": (MIDDLE, 128, 4)}
ABOUT = {
    "flat": "64 independent features in 32 dimensions, 64 latents, l0 = 2",
    "trees": "256 features in trees and correlated, in 64 dimensions, 128 latents, l0 = 4",
}
MODES = ("plain", "refined 1", "refined 2", "left out", "transcoder", "crosscoder")
COLUMNS = ("latent_f1", "mcc", "fvu", "l0")


class Sites:
    """A world at two sites: its own directions, and others for the same features."""

    def __init__(self, world: TreeWorld) -> None:
        self.world, self.here = world, world.dictionary
        self.there = directions(replace(world.config, seed=world.config.seed + 1000))

    def rows(self, mode: str, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Codes]]:
        """Rows as the mode is trained on them, with what made them."""
        for sample in self.world.samples(PIECE if seed % 3 else BATCH, seed, start):
            both = mode in ("transcoder", "crosscoder")
            x = torch.cat([sample.x, self.there.decode(sample.codes)], 1) if both else sample.x
            yield x, sample.codes

    def truth(self, mode: str) -> Dictionary:
        """The directions that the mode's atoms should be."""
        if mode == "transcoder":
            return self.there
        if mode == "crosscoder":
            return Dictionary(
                torch.cat([self.here.atoms, self.there.atoms], 1) / 2**0.5, torch.cat([self.here.bias, self.there.bias])
            )
        return self.here


def config(mode: str, d: int, width: int, l0: int, seed: int) -> SAEConfig:
    """The autoencoder of a mode."""
    plain = SAEConfig(d, width, l0, "batchtopk", seed=seed)
    if mode.startswith("refined"):
        return replace(plain, refinements=int(mode.split()[1]))
    if mode == "left out":
        return replace(plain, l0=round(1.5 * l0))
    if mode == "transcoder":
        return replace(plain, target=Target(d))
    return replace(plain, d_in=2 * d, sites=(d, d)) if mode == "crosscoder" else plain


@torch.no_grad()
def scores(sites: Sites, mode: str, sae: SAE, encode: Callable[[Tensor], Codes], seed: int) -> dict[str, float]:
    """How well features were found, on fresh rows."""
    found, error, spread, stream = (
        Recovery(sites.truth(mode), sae.dictionary),
        0.0,
        0.0,
        sites.rows(mode, 3 * seed + JUDGE),
    )
    for _ in range(-(-ROWS // PIECE)):
        rows, truth = next(stream)
        x, y = sae.split(rows)
        codes = encode(x)
        found.update(truth, codes)
        error += float((y - sae.write(x, codes)).double().square().sum())
        spread += float((y - y.mean(0)).double().square().sum())
    told = report(found, sites.world.density).scores
    return {name: told[name] for name in COLUMNS if name != "fvu"} | {"fvu": error / spread}


def trial(world: str, mode: str, seed: int, steps: int) -> dict[str, float]:
    """Train and judge."""
    law, width, l0 = WORLDS[world]
    sites = Sites(TreeWorld(law))
    batches = lambda start: (x for x, _ in sites.rows(mode, 3 * seed + TRAIN, start))  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        how = TrainConfig(steps=steps, seed=seed)
        sae = train(config(mode, law.d, width, l0, seed), batches, how, Path(folder) / "sae")
    encode = sae.encode
    if mode == "left out":
        encode = LeaveOneOut.at(sae, next(sites.rows(mode, 3 * seed + CUT))[0], float(l0)).encode
    return scores(sites, mode, sae, encode, seed)


def brief(m: Measurement) -> str:
    """Value and half of its interval."""
    return f"{m.value:.3f} ± {(m.high - m.low) / 2:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Refinements, leaving out, transcoders, crosscoders", "", "    OMP_NUM_THREADS=1 python benchmarks/decoding_modes.py "
        f"--steps {args.steps} --report docs/results/decoding-modes.md", "", *(__doc__ or "").split("\n\n")[1].splitlines(),
        f"{args.steps * BATCH:,} rows to train on.", "", "```", (__doc__ or "").split("\n\n")[2], "```",
    ]  # fmt: skip
    for world, about in ABOUT.items():
        lines += ["", f"## {about}", "", "| | F1 | MCC | fvu | l0 |", "|---|---|---|---|---|"]
        for mode in MODES:
            found = over_seeds([trial(world, mode, seed, args.steps) for seed in SEEDS])
            lines.append(f"| {mode} | {' | '.join(brief(found[name]) for name in COLUMNS)} |")
            print(world, lines[-1], flush=True)
    if args.report:
        files.write_text(args.report, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
