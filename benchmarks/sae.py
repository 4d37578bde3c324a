"""Tokens per second of the sparse training step against the same step written densely with autograd.

Both do the whole step: forward, backward, gradient projection, clipping, Adam, unit-norm atoms, threshold. They take
turns on the same batches, so that other load on the machine hits both; the ratio is the median over rounds.

    OMP_NUM_THREADS=2 python benchmarks/sae.py
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from digon import rng
from digon.coders.sae import SAE, SAEConfig
from digon.coders.train import Calibration, TrainConfig, Trainer


def dense_reconstruction(sae: SAE, x: Tensor) -> Tensor:
    """Every product dense, every gradient by autograd: what most trainers do."""
    z = torch.nn.functional.linear(x - sae.b_dec, sae.W_enc, sae.b_enc)
    assert sae.config.l0 is not None
    if sae.config.activation == "topk":
        kept = z.topk(sae.config.l0, dim=1, sorted=False)
        codes = torch.zeros_like(z).scatter(1, kept.indices, kept.values.relu())
    else:
        kept = z.flatten().topk(sae.config.l0 * len(x), sorted=False)
        codes = torch.zeros_like(z).flatten().scatter(0, kept.indices, kept.values.relu()).view_as(z)
    sae.update_threshold(kept.values.detach().min())
    return codes @ sae.W_dec + sae.b_dec


def dense_stepper(config: SAEConfig) -> Callable[[Tensor], None]:
    sae = SAE(config)
    optimizer = torch.optim.Adam(sae.parameters(), lr=4e-4, fused=True)

    def step(x: Tensor) -> None:
        loss = (dense_reconstruction(sae, x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        sae.free_gradient()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.normalize_atoms()

    return step


def sparse_stepper(config: SAEConfig) -> Callable[[Tensor], None]:
    data = Calibration(torch.zeros(config.d_in), 1.0, "", torch.zeros(2, config.d_in))
    return Trainer(config, TrainConfig(steps=10**6, l0_start=1.0), data).advance


def seconds(step: Callable[[Tensor], None], x: Tensor) -> float:
    start = time.perf_counter()
    step(x)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    print(f"{args.d_in} -> {args.width}, l0 {args.l0}, batch {args.batch}, {torch.get_num_threads()} threads")
    print(f"{'activation':<10} {'dense tok/s':>12} {'sparse tok/s':>13} {'ratio':>6}  range of the ratio")
    for activation in ("topk", "batchtopk"):
        config = SAEConfig(args.d_in, args.width, args.l0, activation, revival="auxiliary")
        steps = dense_stepper(config), sparse_stepper(config)
        batches = [torch.randn(args.batch, args.d_in, generator=rng.stream(0, i)) for i in range(args.rounds + 2)]
        times = [[seconds(step, x) for step in steps] for x in batches][2:]
        dense, sparse = (args.batch / statistics.median(t[i] for t in times) for i in (0, 1))
        ratios = sorted(d / s for d, s in times)
        middle = statistics.median(ratios)
        print(f"{activation:<10} {dense:12,.0f} {sparse:13,.0f} {middle:6.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
