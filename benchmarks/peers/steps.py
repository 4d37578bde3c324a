"""One training step of every peer, as its own trainer makes it: forward, backward, dead latents, clipping, Adam.

    PYTHON steps.py NAME d_in width l0 batch threads        (called by benchmarks/sae.py)

Packages that a peer imports for other ends (reading models, drawing) and that are not installed are replaced by empty
ones; its trainer uses none of them.
"""

import importlib.util
import os
import sys
import types
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

import torch
from protocol import Size, Step, serve
from torch import Tensor

NOT_NEEDED = {
    "dictionary_learning": ("nnsight",),
    "overcomplete": ("torchvision", "timm", "cv2", "skimage", "matplotlib", "matplotlib.pyplot", "matplotlib.colors"),
}


def saelens(size: Size, kind: str) -> Step:
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    cfg, sae = {
        "topk": (sae_lens.TopKTrainingSAEConfig, sae_lens.TopKTrainingSAE),
        "batchtopk": (sae_lens.BatchTopKTrainingSAEConfig, sae_lens.BatchTopKTrainingSAE),
    }[kind]
    model = sae(cfg(d_in=size.d_in, d_sae=size.width, k=size.l0))
    trainer = SAETrainer(
        SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=size.batch, lr_end=3e-5),
        model,
        iter([]),
    )

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


def dictionary_learning(size: Size, kind: str) -> Step:
    from dictionary_learning.trainers import BatchTopKTrainer, TopKTrainer

    trainer = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}[kind](
        steps=10**6, activation_dim=size.d_in, dict_size=size.width, k=size.l0, layer=0, lm_name="none", device="cpu"
    )
    count = iter(range(1, 10**6))  # the first step looks for a median, which no other does
    return lambda x: trainer.update(next(count), x)


def sparsify(size: Size, kind: str) -> Step:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it is for GPUs
    from sparsify import SparseCoder, SparseCoderConfig

    assert kind == "topk"
    coder = SparseCoder(size.d_in, SparseCoderConfig(num_latents=size.width, k=size.l0), dtype=torch.float32)
    optimizer = torch.optim.Adam(coder.parameters(), lr=2e-4 / (size.width / 2**14) ** 0.5)
    since = torch.zeros(size.width, dtype=torch.long)

    def step(x: Tensor) -> None:
        # What its trainer does with the activations of one module; it has no function for that alone.
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, total_variance=(x - x.mean(0)).pow(2).sum())
        fired = torch.zeros(size.width, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since.add_(len(x))
        since[fired] = 0

    return step


def overcomplete(size: Size, kind: str) -> Step:
    from overcomplete.sae import BatchTopKSAE, TopKSAE, train_sae

    if kind == "topk":
        model = TopKSAE(size.d_in, nb_concepts=size.width, top_k=size.l0)
    else:
        model = BatchTopKSAE(size.d_in, nb_concepts=size.width, top_k=size.l0 * size.batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def error(x: Tensor, x_hat: Tensor, *rest: Tensor) -> Tensor:
        return (x - x_hat).square().mean()

    return lambda x: train_sae(model, [x], error, optimizer, nb_epochs=1, monitoring=0)


class Empty(types.ModuleType):
    """Has whatever is asked for, and does nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__, self.__path__ = ModuleSpec(name, None), []

    def __getattr__(self, name: str) -> object:
        return MagicMock()


PEERS = {f.__name__: f for f in (saelens, dictionary_learning, sparsify, overcomplete)}


def main() -> None:
    name, kind, *words = sys.argv[1:]
    for package in NOT_NEEDED.get(name, ()):
        if package.partition(".")[0] in sys.modules or importlib.util.find_spec(package) is None:
            sys.modules[package] = Empty(package)
    serve(lambda size: PEERS[name](size, kind), Size.read(words))


if __name__ == "__main__":
    main()
