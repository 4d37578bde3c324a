"""What can be read of the labels: by a linear probe, from sparse codes, by a small network?

Every probe is fitted on some inputs and scored on others, by how often it ranks a row with the label above one without:
skill = 2 AUC - 1. No monotone function of a probe changes that, so that a threshold is no gap.

    linear ~ sparse ~ network      labels have a dimension each
    linear << sparse ~ network     sparse features, more than there are dimensions
    linear << network, sparse      not linear: what is read is no sum of directions

Sparse codes: non-negative lasso by accelerated proximal gradient, then least squares on what is active.

Load. A linear probe explains of a feature the share l = Var(f) w'C^-1 w of a dimension that the feature has, and these
sum to the number of dimensions; over features the mean is dimensions per feature. A label is not its feature: what a
linear map of the sparse codes explains of it is the ceiling, and the load is the ceiling over the linear share.

Control: probes for random labels of the same densities, dealt to inputs, must read nothing on other inputs.

Sources: control tasks after Hewitt & Liang 2019; the shares sum to the rank as leverages do; proximal gradient after Beck &
Teboulle 2009.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from ..errors import ConfigError

TRAIN_ROWS, TEST_ROWS = 8000, 4000
MOST_TARGETS = 24
CONTROLS = 4
RAREST = 0.003
"""Share of the rows that a label, and its absence, must have."""
FEWEST = 8
"""Rows with a label, and without, that a score needs."""
HIDDEN = 192
EPOCHS = 30
PENALTY = 0.03
"""Of the lasso, relative to the typical length of a row."""
LASSO_STEPS = 60
"""Of the lasso, and as many of the least squares."""
CODE_WORK = 6e10
"""Multiplications that sparse codes may take; with fewer than `FEWEST_CODED` rows for them there are none."""
FEWEST_CODED = 1500
RIDGE = 1e-4


@dataclass(frozen=True)
class Decoding:
    """Skill of three probes on inputs that they have not seen; means over labels."""

    linear: float
    """Range: about 0 to 1."""
    sparse: float
    """From sparse codes; NaN without a dictionary, or with one too large (above 400 directions)."""
    network: float
    control: float
    """Largest mean skill of a probe on random labels."""
    sparse_gap: float
    """Sparse minus linear."""
    sparse_gap_error: float
    network_gap: float
    network_gap_error: float
    load: float
    """Features per dimension, from the labels; NaN where sparse codes do not read them."""
    unexplained: float
    """Share of the squared length of unseen rows that sparse codes leave; NaN without a dictionary."""
    targets: int
    rows: int


def decoding(
    values: Float[Tensor, "n d"],
    labels: Int[Tensor, "n v"],
    groups: Int[Tensor, " n"],
    atoms: Float[Tensor, "k d"],
    generator: torch.Generator,
) -> Decoding:
    """Three probes of every label. Rows relative to where nothing is active; `groups`: rows that may not be split.

    Cost: a network of `HIDDEN` units on 8,000 rows, and sparse codes of 12,000 rows: seconds for d = 128.

    Raises: ConfigError without a label that is frequent enough.
    """
    train, test = _split(groups, generator)
    coded = _affordable(atoms) if len(atoms) else 0
    test = test[: coded // 3] if coded else test
    targets = _targets(labels, train, test)
    if not targets.shape[1]:
        raise ConfigError(
            f"0 frequent labels among {labels.shape[1]} variables",
            expected=f"a value that {FEWEST} rows of either half have, and {FEWEST} have not",
        )
    dealt = _dealt(targets, groups, generator)
    every = torch.cat([targets, dealt], 1)
    x = values.double()
    linear = _ridge(x, every, train, test)
    network = _network(x, every, train, test, generator)
    sparse, unexplained = torch.full_like(linear, math.nan), math.nan
    if coded:
        seen = train[: coded - len(test)]
        rows = torch.cat([seen, test])
        codes = nonnegative_codes(values[rows].float(), atoms.float()).double()
        left = x[test] - codes[len(seen) :] @ atoms.double()
        unexplained = float(left.square().sum() / x[test].square().sum().clamp(min=1e-300))
        place = torch.arange(len(rows), device=x.device)
        sparse = _ridge(codes, every[rows], place[: len(seen)], place[len(seen) :])
    truth = every[test] > 0.5
    skills = torch.stack([skill(read, truth) for read in (linear, sparse, network)])
    count = targets.shape[1]
    of_labels, of_controls = skills[:, :count], skills[:, count:]
    gaps = of_labels[1:] - of_labels[0]
    error = gaps.std(1) / count**0.5 if count > 1 else torch.full((2,), math.nan)
    control = float(of_controls.mean(1).nan_to_num(-1.0).amax()) if of_controls.shape[1] else math.nan
    load = _load(linear[:, :count], sparse[:, :count], targets[test], of_labels[1])
    means = of_labels.mean(1)
    return Decoding(
        float(means[0]), float(means[1]), float(means[2]), control, float(gaps[0].mean()), float(error[0]),
        float(gaps[1].mean()), float(error[1]), load, unexplained, count, len(train) + len(test),
    )  # fmt: skip


def skill(read: Float[Tensor, "m t"], truth: Bool[Tensor, "m t"]) -> Float[Tensor, " t"]:
    """2 AUC - 1 of every column: 1 ranks perfectly, 0 guesses; NaN where all rows are alike or `read` is NaN.

    >>> skill(torch.tensor([[0.1], [0.2], [0.9]]), torch.tensor([[False], [False], [True]]))
    tensor([1.], dtype=torch.float64)
    """
    ranks = read.double().argsort(0).argsort(0).double() + 1
    for column in range(read.shape[1]):  # equal readings share their rank
        _, owner, counts = read[:, column].unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts), dtype=torch.float64, device=read.device)
        ranks[:, column] = (sums.index_add_(0, owner, ranks[:, column]) / counts)[owner]
    yes = truth.double().sum(0)
    no = len(truth) - yes
    above = (ranks * truth).sum(0) - yes * (yes + 1) / 2
    found = 2 * above / (yes * no) - 1
    return torch.where(read.isnan().any(0) | (yes * no == 0), math.nan, found)


def nonnegative_codes(x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    """Sparse non-negative coefficients: lasso, then least squares on what is active.

    A unit direction that occurs twice shares its coefficient.
    """
    gram = atoms @ atoms.T
    towards = x @ atoms.T
    step = 1 / float(torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12))
    penalty = PENALTY * float(x.norm(dim=1).square().mean().sqrt())
    codes = torch.zeros_like(towards)
    ahead, pace = codes, 1.0
    for _ in range(LASSO_STEPS):
        new = (ahead - step * (ahead @ gram - towards + penalty)).clamp(min=0)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead = new + (pace - 1) / faster * (new - codes)
        codes, pace = new, faster
    active, ahead, pace = codes > 0, codes, 1.0
    for _ in range(LASSO_STEPS):  # the same without penalty, on the active ones: shrinkage is undone
        new = torch.where(active, ahead - step * (ahead @ gram - towards), 0.0).clamp(min=0)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead = new + (pace - 1) / faster * (new - codes)
        codes, pace = new, faster
    return codes


def _affordable(atoms: Float[Tensor, "k d"]) -> int:
    """Rows that sparse codes may be found for; 0 if too few."""
    rows = int(min(TRAIN_ROWS + TEST_ROWS, CODE_WORK / (4 * LASSO_STEPS * len(atoms) ** 2)))
    return rows if rows >= FEWEST_CODED else 0


def _split(groups: Int[Tensor, " n"], generator: torch.Generator) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    owner = groups.unique(return_inverse=True)[1]
    half = torch.randperm(int(owner.max()) + 1, generator=generator).to(groups.device) % 3 > 0
    order = torch.randperm(len(groups), generator=generator).to(groups.device)
    seen = half[owner[order]]
    return order[seen][:TRAIN_ROWS], order[~seen][:TEST_ROWS]


def _targets(labels: Int[Tensor, "n v"], train: Int[Tensor, " a"], test: Int[Tensor, " b"]) -> Float[Tensor, "n t"]:
    """One column per frequent value of a variable (one of two values is enough), the most balanced first."""
    columns, balance = [], []
    for variable in labels.T:
        names, counts = variable.unique(return_counts=True)
        some = names[counts.argsort(descending=True)[:MOST_TARGETS]]
        for name in some[1:] if len(names) == 2 else some:
            column = (variable == name).double()
            share = min(float(column.mean()), 1 - float(column.mean()))
            enough = all(FEWEST <= float(column[rows].sum()) <= len(rows) - FEWEST for rows in (train, test))
            if share >= RAREST and enough:
                columns.append(column)
                balance.append(share)
    if not columns:
        return labels.new_zeros(len(labels), 0).double()
    best = np.argsort(-np.array(balance), kind="stable")[:MOST_TARGETS]
    return torch.stack([columns[i] for i in best.tolist()], 1)


def _dealt(
    targets: Float[Tensor, "n t"], groups: Int[Tensor, " n"], generator: torch.Generator
) -> Float[Tensor, "n c"]:
    """Random labels with the densities of the first ones, the same on all rows of a group."""
    owner = groups.unique(return_inverse=True)[1]
    share = targets[:, :CONTROLS].mean(0)
    dice = torch.rand(int(owner.max()) + 1, len(share), generator=generator, dtype=torch.float64).to(targets.device)
    return (dice < share).double()[owner]


def _ridge(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n t"], train: Int[Tensor, " a"], test: Int[Tensor, " b"]
) -> Float[Tensor, "b t"]:
    a, mean, middle = x[train], x[train].mean(0), y[train].mean(0)
    gram = (a - mean).T @ (a - mean)
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-300) * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(gram + ridge, (a - mean).T @ (y[train] - middle))
    return (x[test] - mean) @ weights + middle


def _network(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n t"],
    train: Int[Tensor, " a"],
    test: Int[Tensor, " b"],
    generator: torch.Generator,
) -> Float[Tensor, "b t"]:
    scale = x[train].std(0).clamp(min=1e-12)
    scale = scale.clamp(min=1e-6 * float(scale.amax()))
    standard = ((x - x[train].mean(0)) / scale).float().cpu().numpy()
    spread = y[train].std(0).clamp(min=1e-6).float().cpu().numpy()
    state = int(torch.randint(2**31 - 1, (1,), generator=generator))
    net = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), max_iter=EPOCHS, random_state=state, learning_rate_init=3e-3, alpha=1e-3
    )
    goal = y[train].float().cpu().numpy() / spread
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(standard[train.cpu().numpy()], goal if goal.shape[1] > 1 else goal[:, 0])
    read = np.asarray(net.predict(standard[test.cpu().numpy()])).reshape(len(test), -1)
    return torch.from_numpy(read).double().to(x.device)


def _load(
    linear: Float[Tensor, "b t"], sparse: Float[Tensor, "b t"], truth: Float[Tensor, "b t"], skills: Float[Tensor, " t"]
) -> float:
    """Ceiling over linear share of labels that sparse codes read; NaN if there is none."""
    total = (truth - truth.mean(0)).square().sum(0)
    share = lambda read: 1 - (truth - read).square().sum(0) / total  # noqa: E731
    good = skills > 0.9
    if not bool(good.any()):
        return math.nan
    return float(share(sparse)[good].sum() / share(linear)[good].sum().clamp(min=1e-6))
