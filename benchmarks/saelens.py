"""Do SAELens and sparsify do with our files what we do, and we with theirs? With SAELens to the last bit, in float32.

Both directions, for every architecture: one side writes random weights in general position, both encode and decode the same
rows, and the largest difference is printed:

    codes     of the same rows
    decoded   from the same codes
    summed    the reconstruction as digon makes it, which adds up the active atoms only; the others multiply all of them

The other tool runs in an environment of its own, so nothing of it is imported here.

    python benchmarks/saelens.py --peers .venv-peers/bin/python
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SIZES = ((8, 32, 100), (64, 512, 300), (512, 4096, 1500), (768, 6144, 300), (512, 4096, 1))
"""Units, latents and rows. One row alone is multiplied by another routine than several, which adds up in another order
where the encoder lies transposed in memory, as ours does: there equality is not to be had."""
OURS = ("relu", "topk", "batchtopk", "jumprelu", "gated")
THEIRS = {
    "saelens": (
        "standard",
        "topk",
        "jumprelu",
        "gated",
        "trained topk",
        "trained batchtopk",
        "not centered",
        "topk by norm",
    ),
    "sparsify": ("topk",),
}
EXACT = {"standard", "topk", "jumprelu", "gated", "trained batchtopk"}
"""What has to be equal to the last bit; the others have an option that digon folds into the weights, which rounds, and a
latent within that rounding of its threshold may then be active on one side only. sparsify adds the bias inside the product,
SAELens and digon after it."""
L0 = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=os.environ.get("DIGON_PEERS"), help="a Python that has the other tools")
    parser.add_argument("--side", choices=list(THEIRS), help="be the other tool (for its Python)")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        (saelens_side if options.side == "saelens" else sparsify_side)(options.folder)
        return 0
    if not options.peers:
        print("NOT RUN: name a Python that has sae-lens with --peers (`make peers` makes one)")
        return 0
    found = compare(options.peers)
    print(f"{'tool':9} {'written by':10} {'architecture':18} {'size':>14} {'codes':>9} {'decoded':>9} {'summed':>9}")
    for line in found:
        numbers = " ".join(f"{line[name]:9.2g}" for name in ("codes", "decoded", "summed"))
        print(f"{line['tool']:9} {line['by']:10} {line['architecture']:18} {line['size']:>14} {numbers}")
    wrong = [line for line in found if line["exact"] and (line["codes"] or line["decoded"])]
    print(f"{len(wrong)} of {sum(line['exact'] for line in found)} that have to be equal are not")
    return int(bool(wrong))


def compare(peers: str) -> list[dict[str, Any]]:
    """A line per architecture, size and direction, for every tool that the other Python has."""
    lines = list[dict[str, Any]]()
    for tool in THEIRS:
        module = {"saelens": "sae_lens"}.get(tool, tool)
        probe = subprocess.run([peers, "-c", f"import {module}"], capture_output=True, text=True)
        if probe.returncode:
            print(f"{tool} is not in that environment: {probe.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            lines += exchange(tool, peers, Path(folder))
    if not lines:
        raise SystemExit("none of the other tools could be imported, so nothing was compared")
    return lines


def exchange(tool: str, peers: str, folder: Path) -> list[dict[str, Any]]:
    """Write ours, let the other tool read them, write its own and say what both do, read those."""
    from digon.coders import formats

    written = [name for name in OURS if tool == "saelens" or name == "topk"]
    for size in SIZES:
        for name in written:
            place = folder / "digon" / label(name, size)
            sae = general(name, size)
            formats.save(sae, place, layout=tool)  # type: ignore[arg-type]
    # sparsify decodes by a GPU kernel wherever its compiler is installed, even without a GPU.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "SPARSIFY_DISABLE_TRITON": "1"}
    command = [peers, str(Path(__file__).resolve()), "--side", tool, "--folder", str(folder)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    lines = []
    for by, names in (("digon", written), (tool, THEIRS[tool])):
        for size in SIZES:
            for name in names:
                place = folder / by / label(name, size)
                line = {"tool": tool, "by": by, "architecture": name, "size": f"{size[0]}x{size[1]}, {size[2]}"}
                lines.append(
                    line
                    | {"exact": tool == "saelens" and size[2] > 1 and (by == "digon" or name in EXACT)}
                    | differences(place, size)
                )
    return lines


def differences(place: Path, size: tuple[int, int, int]) -> dict[str, float]:
    """Largest differences between what digon does with an SAE and what the other tool did."""
    from digon.coders import formats
    from digon.tensors import Codes

    sae, x, theirs = formats.load(place), inputs(size), load_file(place / "did.safetensors")
    codes = sae.encode(x)
    # sparsify sums the active atoms only, in the order in which it found them; SAELens multiplies all.
    given = Codes(theirs.get("values", theirs["codes"]), theirs.get("indices"), codes.width)
    active = float((theirs["codes"] > 0).sum(1).float().mean())
    assert active > 1, f"{place} is all but silent, so nothing is compared"
    return {
        "codes": float((codes.dense() - theirs["codes"]).abs().max()),
        "decoded": float((sae.decode(given) - theirs["decoded"]).abs().max()),
        "summed": float((sae.decode(codes) - theirs["decoded"]).abs().max()),
    }


def general(activation: str, size: tuple[int, int, int]) -> Any:
    """An SAE of ours with every weight in general position."""
    from digon.coders.sae import SAE, SAEConfig

    sae = SAE(SAEConfig(size[0], size[1], L0, activation)).requires_grad_(False)  # type: ignore[arg-type]
    for number, (name, tensor) in enumerate(sae.state_dict().items()):
        tensor.copy_(weights(tuple(tensor.shape), name, number))
    return sae


def weights(shape: tuple[int, ...], name: str, seed: int) -> Tensor:
    """Random weights; thresholds are positive, so that codes have a gap below them."""
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) == 2:
        return draws / 8
    return draws.abs() / 2 + 0.2 if name == "threshold" else draws / 4


def inputs(size: tuple[int, int, int]) -> Tensor:
    """The rows that both sides are given."""
    return 2 * torch.randn(size[2], size[0], generator=torch.Generator().manual_seed(99)) + 0.5


def label(name: str, size: tuple[int, int, int]) -> str:
    return f"layers.1.{name.replace(' ', '_')}_{size[0]}_{size[1]}_{size[2]}"


def sizes_of(place: Path) -> tuple[int, int, int]:
    d, k, n = place.name.split("_")[-3:]
    return int(d), int(k), int(n)


def saelens_side(folder: Path) -> None:
    """What SAELens does with our files, and files of its own."""
    from sae_lens import SAE  # pyright: ignore[reportMissingImports]

    for size in SIZES:
        for name in THEIRS["saelens"]:
            saelens_writes(name, size, folder / "saelens" / label(name, size))
    for place in sorted((folder / "digon").iterdir()) + sorted((folder / "saelens").iterdir()):
        sae = SAE.load_from_disk(place)
        with torch.no_grad():
            codes = sae.encode(inputs(sizes_of(place)))
            did = {"codes": codes.contiguous(), "decoded": sae.decode(codes).contiguous()}
        save_file(did, place / "did.safetensors")


def saelens_writes(name: str, size: tuple[int, int, int], place: Path) -> None:
    import sae_lens  # pyright: ignore[reportMissingImports]

    kind = {
        "standard": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE", "gated": "GatedSAE",
        "trained topk": "TopKTrainingSAE", "trained batchtopk": "BatchTopKTrainingSAE",
        "not centered": "JumpReLUSAE", "topk by norm": "TopKSAE",
    }[name]  # fmt: skip
    settings: dict[str, Any] = {"d_in": size[0], "d_sae": size[1], "apply_b_dec_to_input": name != "not centered"}
    if "topk" in name:
        settings["k"] = L0
    if name == "topk by norm":
        settings["rescale_acts_by_decoder_norm"] = True
    if name == "trained batchtopk":
        settings["rescale_acts_by_decoder_norm"] = False
    sae = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**settings))
    with torch.no_grad():
        for number, (tensor_name, tensor) in enumerate(sae.named_parameters()):
            tensor.copy_(weights(tuple(tensor.shape), tensor_name, 50 + number))
        if name == "trained batchtopk":
            sae.topk_threshold.fill_(0.75)
    if name.startswith("trained"):
        sae.save_inference_model(place)
    else:
        sae.save_model(place)


def sparsify_side(folder: Path) -> None:
    """What sparsify does with our files, and files of its own."""
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    for size in SIZES:
        sae = SparseCoder(size[0], SparseCoderConfig(num_latents=size[1], k=L0), dtype=torch.float32)
        with torch.no_grad():
            for number, (tensor_name, tensor) in enumerate(sae.named_parameters()):
                tensor.copy_(weights(tuple(tensor.shape), tensor_name, 50 + number))
        sae.save_to_disk(folder / "sparsify" / label("topk", size))
    for place in sorted((folder / "digon").iterdir()) + sorted((folder / "sparsify").iterdir()):
        sae = SparseCoder.load_from_disk(place)
        with torch.no_grad():
            found = sae.encode(inputs(sizes_of(place)))
            codes = torch.zeros(len(found.top_acts), sae.num_latents).scatter(1, found.top_indices, found.top_acts)
            decoded = sae.decode(found.top_acts, found.top_indices)
        did = {"codes": codes, "values": found.top_acts, "indices": found.top_indices, "decoded": decoded}
        save_file({name: tensor.contiguous() for name, tensor in did.items()}, place / "did.safetensors")


if __name__ == "__main__":
    raise SystemExit(main())
