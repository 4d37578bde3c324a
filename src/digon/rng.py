"""Named random streams: `stream(seed, "init")` and `stream(seed, "shuffle", 3)` never overlap.

Library code never seeds torch globally. Each consumer of randomness asks for its own stream by name, so adding one
consumer never shifts the numbers that another one draws.
"""

import hashlib
import os

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under `seed`.

    >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(0, "data")
    (True, False)
    """
    key = "/".join([str(seed), *map(str, names)]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator of its own for the stream called `names`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """The same for numpy and scikit-learn."""
    return np.random.default_rng(derive(seed, *names))


def deterministic(enabled: bool = True) -> None:
    """Ask torch for deterministic kernels; call it before CUDA starts.

    Repeats on the same machine are then bit-equal; other machines and versions may differ in the last bits.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled)
