"""Settings of autoencoders, tried on a development world: what the recommended ones and the baselines' rates rest on.

The world has the law of the decoding benchmark's medium world and another seed, and so have the trainings. One line per
setting: F1 (one latent per feature, mean over latents), MCC, l0. Names of settings as in docs/results/decoding-settings.md.

    OMP_NUM_THREADS=1 python benchmarks/decoding_settings.py [--world medium | flat] [--only WORDS] [--l0 2] [--seed 100]
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from digon.coders.base import Coder
from digon.coders.sae import Nested, SAEConfig
from digon.coders.train import TrainConfig, recommended, train
from digon.measures.recovery import Recovery, report
from digon.studies.decoding_benchmark.trials import ARENAS
from digon.worlds.tree import TreeWorld

PLACES = {
    "medium": (ARENAS["medium"], replace(ARENAS["medium"].world, seed=1000)),
    "flat": (ARENAS["small"], replace(ARENAS["small"].world, seed=1)),
}
ROWS = 50_000
FIXED = Nested((4, 16, 64))
SORTED = replace(FIXED, by_frequency=True)
DETACHED = replace(SORTED, detached=True)
SAMPLED = {n: Nested(sampled=n, by_frequency=True, detached=True) for n in (4, 8)}
CONSTANT = {"warmup": 0.0, "decay": 0.0, "l0_start": 1.0}
FALLING = {"decay": 0.2, "l0_start": 1.0}

Settings = tuple[str, dict, dict]
"""Name, what differs in SAEConfig, what differs in TrainConfig."""


def baselines() -> Iterator[Settings]:
    """The grid of rates of every recipe."""
    recipes = {
        "standard": {"activation": "relu", "revival": "none"},
        "topk": {"activation": "topk", "revival": "auxiliary"},
        "batchtopk": {"activation": "batchtopk", "revival": "auxiliary"},
        "jumprelu": {"activation": "jumprelu", "revival": "none"},
        "gated": {"activation": "gated", "revival": "none"},
        "matryoshka": {"activation": "batchtopk", "revival": "auxiliary", "nested": FIXED},
    }
    for name, sae in recipes.items():
        for lr in (3e-4, 1e-3, 3e-3, 1e-2):
            yield f"{name}, {lr:g} constant", sae, {"lr": lr, **CONSTANT}
        for lr in (1e-2, 3e-2):
            yield f"{name}, {lr:g} falling", sae, {"lr": lr, **FALLING}


def ours() -> Iterator[Settings]:
    """From the former default to the recommended one."""
    half = {"decay": 0.5}
    for name, nested in {"fixed": FIXED, "sorted": SORTED, "detached": DETACHED, "4 sampled": SAMPLED[4]}.items():
        for lr in (4e-3, 8e-3, 1.6e-2):
            yield f"{name}, {lr:g}", {"nested": nested}, {"lr": lr, **half}
    for low in (1.0, 2 / 3, 0.5):
        for rate in (0.01, 0.05):
            how = {"lr": 1.6e-2, "robust": True, "l0_low": low, **half}
            yield f"8 sampled, robust, low {low:.2g}, {rate:g}", {"nested": SAMPLED[8], "threshold_rate": rate}, how
    for changed in ({"l0_start": 1.0}, {"l0_start": 4.0}):
        yield f"8 sampled, robust, {changed}", {"nested": SAMPLED[8]}, {"lr": 1.6e-2, "robust": True, **half, **changed}
    for sae in ({"revival": "none"}, {"revival": "auxiliary"}, {"tied": True}):
        yield f"8 sampled, robust, {sae}", {"nested": SAMPLED[8], **sae}, {"lr": 1.6e-2, "robust": True, **half}
    yield "8 sampled, squares", {"nested": SAMPLED[8]}, {"lr": 1.6e-2, **half}


def without() -> Iterator[Settings]:
    """The recommended one without each of its parts."""
    for name, sae in {"": {}, "no prefixes, ": {"nested": None}}.items():
        for low in (2 / 3, 1.0):
            for robust in (True, False):
                yield (
                    f"recommended, {name}low {low:.2g}, {'roots' if robust else 'squares'}",
                    sae,
                    {"l0_low": low, "robust": robust},
                )


@torch.no_grad()
def line(name: str, coder: Coder, world: TreeWorld, seed: int) -> str:
    """What was found, on fresh rows."""
    found = Recovery(world.dictionary, coder.dictionary)
    stream = world.samples(4096, 3 * seed + 2)
    for _ in range(-(-ROWS // 4096)):
        sample = next(stream)
        found.update(sample.codes, coder.encode(sample.x))
    scores = report(found, world.density).scores
    return f"{name:48} F1 {scores['latent_f1']:.3f}  MCC {scores['mcc']:.3f}  l0 {scores['l0']:.2f}"


def main() -> None:
    """Train and judge every setting whose name holds the words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=PLACES, default="medium")
    parser.add_argument("--only", default="")
    parser.add_argument("--l0", type=int, default=2)
    parser.add_argument("--seed", type=int, default=100)
    given = parser.parse_args()
    arena, law = PLACES[given.world]
    world, how = TreeWorld(law), TrainConfig(steps=arena.steps, seed=given.seed)
    plain = SAEConfig(law.d, arena.width, given.l0, "batchtopk", seed=given.seed)
    wanted = [(name, replace(plain, **sae), replace(how, **more)) for name, sae, more in (*baselines(), *ours())]
    best, pace = recommended(law.d, arena.width, given.l0, how, given.seed)
    wanted += [(name, replace(best, **sae), replace(pace, **more)) for name, sae, more in without()]
    for name, sae, training in (each for each in wanted if given.only in each[0]):
        with tempfile.TemporaryDirectory() as folder:
            coder = train(sae, world.batches(arena.batch, 3 * given.seed), training, Path(folder) / "sae")
        print(line(name, coder, world, given.seed), flush=True)


if __name__ == "__main__":
    main()
