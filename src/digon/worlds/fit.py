"""Train toy networks.

    sampled     Adam, AdamW or SGD on fresh samples, as in the papers: for learning dynamics and for any toy
    exact       minimizes the expected loss itself, where `worlds/population` knows it; of the settings it reads `steps`
                (most iterations of a descent) and `init_scale`, and progress counts instances

Instances are independent: every instance has its own data, loss and optimum; `Fit.best` names the best one.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import rng
from ..errors import ConfigError, NonFiniteError
from .features import Features
from .fit_exact import check_fit, descend
from .population import expected_loss, has_numba
from .recipe import Checkpoint, Recipe, annealed, check_match, learning_rates
from .toys import Toy, loss

Engine = Literal["sampled", "exact"]
Penalty = Callable[[Toy, Float[Tensor, "i b m"]], Float[Tensor, " i"]]
"""Extra loss per instance from the network and its hidden activations."""
Perturbation = Callable[[Toy, Float[Tensor, "i b n"], torch.Generator], Float[Tensor, "i b n"]]
"""Changed inputs (the target stays that of the clean ones): adversarial training, noise."""


@dataclass(frozen=True)
class FitConfig:
    """How to train."""

    engine: Engine = "sampled"
    steps: int = 10_000
    batch: int = 1024
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = 0.0
    seed: int = 0
    leak: float = 0.0
    """Slope of the output's negative side at the start, annealed to 0 over the first half of training."""
    init_scale: float = 1.0
    """Factor on the initial weights."""
    device: str = "cpu"


@dataclass(frozen=True)
class Snapshot:
    """A network on its way."""

    step: int
    W: Float[Tensor, "i n m"]
    b: Float[Tensor, "i n"]
    loss: Float[Tensor, " i"]
    """Loss on the batch of that step."""


@dataclass(frozen=True)
class Fit:
    """Trained networks."""

    toy: Toy
    loss: Float[Tensor, " i"]
    """Final loss of every instance, summed over features: exact where it is known, else on 160,000 fresh rows."""
    snapshots: list[Snapshot] = field(default_factory=list)
    engine: str = "torch"
    """What did the training: "numba" (`worlds/sampled`), "torch" or "exact"."""
    checkpoint: Checkpoint | None = None
    """Where training stands; `fit(..., resume=checkpoint)` goes on from here, bit by bit as if it had never stopped."""

    @property
    def best(self) -> int:
        """The instance with the lowest loss."""
        return int(self.loss.argmin())

    @property
    def share(self) -> float:
        """Share of instances whose loss is within 1 % of the best: how hard the problem is, if all have one law."""
        return float(best_of(self, len(self.loss)).share)


@dataclass(frozen=True)
class Best:
    """The best start of every group of instances."""

    index: Int[Tensor, " g"]
    """Its number among all instances."""
    loss: Float[Tensor, " g"]
    share: Float[Tensor, " g"]
    """Share of the group's starts that came as low."""


def best_of(fit: Fit, starts: int, *, within: float = 0.01) -> Best:
    """The best of every `starts` consecutive instances, and the share of them that came `within` of its loss, relatively.

    Raises: ConfigError if the instances do not divide into groups of that size.
    """
    if starts < 1 or len(fit.loss) % starts:
        raise ConfigError(f"{len(fit.loss)} instances in groups of {starts}", expected="a divisor")
    losses = fit.loss.view(-1, starts)
    least, at = losses.min(1)
    share = (losses <= least[:, None] + within * least[:, None].abs()).double().mean(1)
    return Best(torch.arange(len(at)) * starts + at, least, share)


def fit(
    toy: Toy,
    law: Features,
    config: FitConfig | None = None,
    *,
    penalty: Penalty | None = None,
    perturb: Perturbation | None = None,
    snapshots: Iterable[int] = (),
    progress: Callable[[int, int], None] | None = None,
    until: int | None = None,
    resume: Checkpoint | None = None,
) -> Fit:
    """Train `toy` in place on features of the given law; `snapshots` are the steps to remember (0 = before the first).

    `until` stops at an earlier step; `resume` goes on from the checkpoint of such a run.

    Raises: ConfigError; NonFiniteError if the loss is not finite.
    """
    config = config or FitConfig()
    if config.engine == "exact":
        if penalty is not None or perturb is not None or list(snapshots) or until is not None or resume is not None:
            raise ConfigError(
                "penalties, perturbations, snapshots and checkpoints need samples", hint="train with engine='sampled'"
            )
        return _exactly(toy, law, config, progress)
    check_match(toy, law)
    recipe = Recipe(
        config.batch, learning_rates(config.steps, config.learning_rate, config.schedule), annealed(config.steps, config.leak),
        config.optimizer, config.weight_decay, config.seed,
    )  # fmt: skip
    end, wanted, key = config.steps if until is None else until, set(snapshots), _key(toy, law, config)
    if resume is not None and resume.key != key:
        raise ConfigError("the checkpoint is of another training", expected=key, hint=f"it is of {resume.key}")
    if not (0 if resume is None else resume.step) <= end <= config.steps:
        raise ConfigError(f"setting 'until': {end}", expected=f"a step from the checkpoint's to {config.steps}")
    if resume is None:
        with torch.no_grad():
            for p in {toy.W, toy.V}:
                p.mul_(config.init_scale)
    if penalty is None and perturb is None and config.device == "cpu" and has_numba():
        from . import sampled

        if sampled.supports(toy, law):
            run = sampled.Run(toy, law, recipe)
            if resume is not None:
                run.restore(resume)
            run.advance(end, snapshots=wanted, progress=progress)
            run.write()
            kept = [Snapshot(step, *values) for step, values in sorted(run.kept.items())]
            return Fit(toy, final_loss(toy, law, config.seed), kept, "numba", run.checkpoint(key))
    return _by_torch(toy, law, config, recipe, penalty, perturb, wanted, progress, (end, resume))


def _exactly(toy: Toy, law: Features, config: FitConfig, progress: Callable[[int, int], None] | None) -> Fit:
    check_fit(toy, law)
    with torch.no_grad():
        for p in {toy.W, toy.V}:
            p.mul_(config.init_scale)
    return Fit(toy, descend(toy, law, steps=config.steps, progress=progress), engine="exact")


def _by_torch(
    toy: Toy, law: Features, config: FitConfig, recipe: Recipe, penalty: Penalty | None, perturb: Perturbation | None,
    wanted: set[int], progress: Callable[[int, int], None] | None, span: tuple[int, Checkpoint | None],
) -> Fit:  # fmt: skip
    """The readable reference, and the path of everything that the kernel does not know."""
    toy.to(config.device)
    data, kept, (end, resume) = rng.stream(config.seed, "data", device=config.device), list[Snapshot](), span
    optimizer, first = _optimizer(toy, config), 0
    if resume is not None:
        first = _restore(toy, optimizer, data, resume)
    before = data.get_state()
    for step in range(first, end + 1):
        before = data.get_state()
        x = law.sample(config.batch, data, len(toy.b))
        h = toy.embed(x if perturb is None else perturb(toy, x, data))
        each = loss(_leaky(toy, h, float(recipe.leaks[step])), toy.target(x), law.importance)
        if step in wanted:
            kept.append(Snapshot(step, toy.W.detach().clone(), toy.b.detach().clone(), each.detach()))
        if step == end:
            break
        total = each.sum() if penalty is None else (each + penalty(toy, h)).sum()
        if not total.isfinite():
            raise NonFiniteError(f"the loss became {total.item()} at step {step}", hint="lower the learning rate")
        optimizer.zero_grad()
        total.backward()
        for group in optimizer.param_groups:
            group["lr"] = float(recipe.rates[step])
        optimizer.step()
        if progress is not None:
            progress(step + 1, config.steps)
    point = _checkpoint(toy, optimizer, before, (end, _key(toy, law, config)))
    return Fit(toy, final_loss(toy, law, config.seed), kept, "torch", point)


def _key(toy: Toy, law: Features, config: FitConfig) -> str:
    """What is trained, and how, in words that tell two trainings apart."""
    numbers = hashlib.blake2b(
        law.density.cpu().numpy().tobytes() + law.importance.cpu().numpy().tobytes(), digest_size=8
    )
    kinds = f"{toy.hidden} {toy.output} {toy.target_name} {'tied' if toy.tied else 'untied'}"
    return f"{tuple(toy.W.shape)} {kinds} {law.values} {law.sets} {numbers.hexdigest()} {config}"


def _checkpoint(toy: Toy, optimizer: torch.optim.Optimizer, generator: Tensor, where: tuple[int, str]) -> Checkpoint:
    tensors = {"generator": generator} | {name: p.detach().clone() for name, p in toy.named_parameters()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{name}": v.clone() for name, v in state.items() if isinstance(v, Tensor)}
    return Checkpoint(where[0], tensors, where[1])


def _restore(toy: Toy, optimizer: torch.optim.Optimizer, data: torch.Generator, resume: Checkpoint) -> int:
    if "generator" not in resume.tensors:
        raise ConfigError(
            "the checkpoint is of the compiled engine", hint="resume with the same penalty, perturbation and device"
        )
    with torch.no_grad():
        for name, p in toy.named_parameters():
            p.copy_(resume.tensors[name])
    state: dict[int, dict[str, Tensor]] = {}
    for name, v in resume.tensors.items():
        number, _, key = name.partition(".")
        if key:
            state.setdefault(int(number), {})[key] = v.clone()
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    data.set_state(resume.tensors["generator"])
    return resume.step


@torch.no_grad()
def final_loss(toy: Toy, law: Features, seed: int) -> Float[Tensor, " i"]:
    """The expected loss where it is known and fast, else the loss on 160,000 fresh rows; float64."""
    try:
        check_fit(toy, law)
    except ConfigError:
        return sampled_loss(toy, law, 160_000, seed)
    if not has_numba():
        return sampled_loss(toy, law, 160_000, seed)
    V = None if toy.tied else toy.V.cpu()
    return expected_loss(toy.W.cpu(), toy.b.cpu(), law, V=V, output="linear" if toy.output == "linear" else "relu")


@torch.no_grad()
def sampled_loss(toy: Toy, law: Features, rows: int, seed: int) -> Float[Tensor, " i"]:
    """Loss on fresh rows, the same for equal seeds."""
    data, count = rng.stream(seed, "evaluation", device=toy.b.device), len(toy.b)
    piece = max(1, min(8192, 2**24 // (count * law.n)))
    total = torch.zeros(count, dtype=torch.float64, device=toy.b.device)
    for start in range(0, rows, piece):
        x = law.sample(min(piece, rows - start), data, count)
        total += x.shape[1] * loss(toy(x), toy.target(x), law.importance)
    return total / rows


def _optimizer(toy: Toy, config: FitConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(toy.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(toy.parameters(), config.learning_rate, weight_decay=config.weight_decay)


def _leaky(toy: Toy, h: Tensor, slope: float) -> Tensor:
    if slope == 0:
        return toy.read(h)
    return torch.nn.functional.leaky_relu(h @ toy.W.mT + toy.b[:, None], slope)
