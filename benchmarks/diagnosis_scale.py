"""Seconds and memory of the estimators behind the diagnosis, and the unmixing against scikit-learn's FastICA.

Every estimator runs in a process of its own, so that its peak memory is its own; the data is counted separately. Wall
time is what a user waits; processor time over threads is what remains on a machine that others use too.

    OMP_NUM_THREADS=2 python benchmarks/diagnosis_scale.py                       # d = 128, 100,000 rows
    OMP_NUM_THREADS=2 python benchmarks/diagnosis_scale.py --d 1536 --rows 200000 --peer 0
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from digon import rng
from digon.coders.atoms_quartic import quartic_atoms
from digon.coders.atoms_rays import rays
from digon.coders.atoms_sparse import sparse_atoms
from digon.diagnose import Evidence, diagnose
from digon.diagnose.checks.basis import privileged_basis
from digon.diagnose.checks.blocks import dependent_blocks
from digon.diagnose.checks.independence import independent_features
from digon.measures.unmix import unmix
from digon.tensors import Activations

ROWS_PER_DOCUMENT = 50


def data(rows: int, d: int, load: float, active: float) -> tuple[Activations, Tensor]:
    """Sparse features in random directions, or in orthogonal ones for a load of 1; and those directions."""
    g = rng.stream(0, "scale")
    n = round(load * d)
    atoms = torch.nn.functional.normalize(torch.randn(n, d, generator=g), dim=1)
    if n == d:
        atoms = torch.linalg.qr(atoms)[0]
    h = torch.empty(rows, d)
    for at in range(0, rows, 10_000):
        size = min(10_000, rows - at)
        f = (torch.rand(size, n, generator=g) < active / n) * (0.5 + torch.rand(size, n, generator=g))
        h[at : at + size] = f @ atoms
    return Activations(h, documents=torch.arange(rows) // ROWS_PER_DOCUMENT), atoms


def recovered(directions: Tensor, atoms: Tensor) -> float:
    if not len(directions):
        return 0.0
    cosines = torch.nn.functional.normalize(directions, dim=1) @ atoms.T
    return float((cosines.abs().amax(0) > 0.95).double().mean())


def ours(activations: Activations, atoms: Tensor) -> str:
    found = unmix(activations.values, activations.documents, rng.stream(0, "unmix"))
    return f"{len(found)} parts, {100 * recovered(found.mixing, atoms):.1f} % of the directions"


def peer(activations: Activations, atoms: Tensor) -> str:
    """On the rows that ours is fit on, from one start."""
    from sklearn.decomposition import FastICA

    fit = unmix(activations.values, activations.documents, rng.stream(0, "unmix"), restarts=1).fit
    x = activations.values[fit].numpy()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = FastICA(whiten="unit-variance", max_iter=300, random_state=0).fit(x)
    seconds = time.perf_counter() - start
    mixing = torch.as_tensor(found.mixing_.T).float()
    return f"{len(mixing)} parts, {100 * recovered(mixing, atoms):.1f} % of the directions; fit alone {seconds:.1f} s"


def checks(activations: Activations, atoms: Tensor) -> str:
    evidence = Evidence(activations)
    found = [check(evidence) for check in (privileged_basis, independent_features, dependent_blocks)]
    return ", ".join(f"{check.id} {check.verdict}" for check in found)


def quartic(activations: Activations, atoms: Tensor) -> str:
    found = quartic_atoms(activations.values, rng.stream(0, "quartic"))
    more = "at least " if found.lower_bound else ""
    return f"{more}{found.rank} features, {100 * recovered(found.directions, atoms):.1f} % of the directions"


def single(activations: Activations, atoms: Tensor) -> str:
    found = rays(activations.values, rng.stream(0, "rays"))
    return f"{len(found.directions)} rays, {100 * recovered(found.directions, atoms):.1f} % of the directions"


def shortest(activations: Activations, atoms: Tensor) -> str:
    found = sparse_atoms(activations.values, rng.stream(0, "sparse"))
    return f"{len(found)} atoms, {100 * recovered(found.directions, atoms):.1f} % of the directions"


def whole(activations: Activations, atoms: Tensor) -> str:
    """Preflight, all checks, probabilities, number of features, budget; the inputs are known."""
    verdict = diagnose(Evidence(activations, inputs=torch.arange(len(activations))))
    return f"{' | '.join(verdict.causes)}, {verdict.n_features.point:.0f} features in {verdict.rank:.0f} dimensions"


ESTIMATORS: dict[str, Callable[[Activations, Tensor], str]] = {
    "unmixing": ours,
    "FastICA of scikit-learn": peer,
    "P02, P03, P08": checks,
    "T3 quartic": quartic,
    "T4 rays": single,
    "T5 shortest dictionary": shortest,
    "the whole diagnosis": whole,
}


def gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, args: argparse.Namespace) -> None:
    """Run one estimator here and print what it took as JSON."""
    activations, atoms = data(args.rows, args.d, args.load, args.active)
    before, wall, cpu = gigabytes(), time.perf_counter(), time.process_time()
    said = ESTIMATORS[name](activations, atoms)
    took = {"wall": time.perf_counter() - wall, "cpu": (time.process_time() - cpu) / torch.get_num_threads()}
    print(json.dumps({**took, "memory": gigabytes() - before, "data": before, "said": said}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--load", type=float, default=1.0, help="features per unit")
    parser.add_argument("--active", type=float, default=2.0, help="features that are active at a time")
    parser.add_argument("--peer", type=int, default=1, help="0: without scikit-learn")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        return measure(args.only, args)
    print(f"{args.rows:,} rows of {args.d} units, {args.load:g} features per unit, {torch.get_num_threads()} threads")
    print(f"{'estimator':<26}{'wall s':>8}{'cpu s/threads':>15}{'GB more':>9}")
    for name in ESTIMATORS:
        if "scikit" in name and not args.peer:
            continue
        run = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], capture_output=True, text=True)
        if run.returncode:
            print(f"{name:<26}failed: {run.stderr.strip().splitlines()[-1]}")
            continue
        took = json.loads(run.stdout)
        print(f"{name:<26}{took['wall']:8.1f}{took['cpu']:15.1f}{took['memory']:9.2f}  {took['said']}", flush=True)


if __name__ == "__main__":
    main()
