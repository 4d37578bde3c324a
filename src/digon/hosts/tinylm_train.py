"""How does a tinylm come to be? Tokenizer, training with exact resume, and the report on held-out documents.

    1. byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) on a sample of the training documents
    2. AdamW (Loshchilov & Hutter 2019) on random windows of the documents joined by end tokens; warm-up, then a cosine
    3. loss on held-out documents beside unigram and bigram (see `tinylm_eval`)

Batch number i is drawn from a random stream named after i, and weights, optimizer state and step are written as one
file, so a run that was killed continues as if nothing had happened and ends in the same bytes. `tinylm.json` is
written last: it marks the folder as finished. Nothing is ever pickled.
"""

import contextlib
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from .. import config as configs
from .. import records, rng
from ..errors import ConfigError, CorpusError, CorruptError, NonFiniteError
from ..records import Measurement
from ..store import files, weights
from .tinylm import RECORD, TOKENIZER, WEIGHTS, TinyLM, TinyLMConfig, TinyLMRecord, read_record
from .tinylm_eval import byte_counts, cross_entropy, evaluate, ngram_baselines, summarize
from .tinylm_tokens import encode, join, load_tokenizer, train_tokenizer

PLAN, STATE = "checkpoint/plan.json", "checkpoint/state.safetensors"


@dataclass(frozen=True)
class LMTrainConfig:
    """How to train; the defaults take about 65 s on two cores."""

    steps: int = 1000
    """Number of updates."""
    batch: int = 16
    """Windows per update."""
    lr: float = 4e-3
    """Largest learning rate."""
    warmup: int = 100
    """Updates during which the learning rate rises."""
    weight_decay: float = 0.1
    """Decay of matrices, per unit of learning rate; vectors do not decay."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    checkpoint_every: int = 200
    """Updates between checkpoints."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products; `auto` is bfloat16 where the processor computes with it."""
    tokenizer_bytes: int = 2_000_000
    """Size of the sample on which the tokenizer is trained."""
    evaluation_bytes: int = 400_000
    """Size of the sample of held-out documents on which the report is made."""
    seed: int = 0
    """Seed of the batches and samples."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "lr", "clip", "tokenizer_bytes", "evaluation_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"setting {name!r}: {getattr(self, name)} is too small", expected="more than 0")


@dataclass(frozen=True)
class LMProgress:
    """Where training stands after an update."""

    step: int
    """Updates done."""
    steps: int
    """Updates to do."""
    loss: float
    """Loss of this update's batch in nats per token."""
    tokens_per_second: float
    """Speed since this process started training."""


def train(
    texts: Sequence[str],
    held_out_texts: Sequence[str],
    config: TinyLMConfig,
    train_config: LMTrainConfig,
    out: Path,
    progress: Callable[[LMProgress], None] | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Train into the folder `out` and return it; resumes what was interrupted, returns at once what is finished.

    Raises: ConfigError if `out` belongs to other settings or texts; CorpusError if there is too little text;
    NonFiniteError if training diverges; CorruptError if a file in `out` is damaged; StorageError.
    """
    digest = fingerprint(texts, held_out_texts, config, train_config)
    if not _finished(out, digest):
        _claim(out, digest)
        if not (out / TOKENIZER).is_file():
            sample = _sample(texts, train_config.tokenizer_bytes, train_config.seed, "tokenizer")
            files.write_text(out / TOKENIZER, train_tokenizer(sample, config.vocabulary).to_str())
        tokenizer = load_tokenizer(out / TOKENIZER)
        documents = encode(tokenizer, texts)
        model = TinyLM(config).to(device)
        _fit(model, join(documents), train_config, out, progress)
        weights.write_tensors(out / WEIGHTS, model.tensors())
        held_out = _sample(held_out_texts, train_config.evaluation_bytes, train_config.seed, "held out")
        found = measure(model, documents, encode(tokenizer, held_out), byte_counts(held_out), train_config.seed)
        files.write_text(out / RECORD, _record(out, digest, config, train_config, found))
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return out


def measure(
    model: TinyLM, train_documents: Sequence[Tensor], held_out: Sequence[Tensor], sizes: Tensor, seed: int
) -> tuple[Measurement, ...]:
    """The report: unigram, bigram and tinylm on the same tokens of the same held-out documents."""
    unigram, bigram = ngram_baselines(train_documents, held_out, model.config.vocabulary)
    nats = {"unigram": unigram, "bigram": bigram, "tinylm": evaluate(model.eval(), held_out)}
    return summarize(nats, torch.tensor([len(d) for d in held_out]), sizes, seed)


def report(folder: Path) -> tuple[Measurement, ...]:
    """The measurements stored with a finished model. Raises: as `read_record`."""
    return read_record(folder).report


def fingerprint(
    texts: Sequence[str], held_out_texts: Sequence[str], config: TinyLMConfig, train_config: LMTrainConfig
) -> str:
    """Hash of everything that decides the result: settings and texts in their order."""
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(configs.digest(config).encode() + configs.digest(train_config).encode())
    for part in (texts, held_out_texts):
        hasher.update(len(part).to_bytes(8, "big"))
        for text in part:
            data = text.encode()
            hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.hexdigest()


def learning_rate(step: int, config: LMTrainConfig) -> float:
    """Linear warm-up times half a cosine that ends at zero.

    >>> [learning_rate(s, LMTrainConfig(steps=4, lr=1.0, warmup=2)) for s in (0, 2)]
    [0.5, 0.5]
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products; `auto` falls back to float32 on processors that would emulate bfloat16."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else torch.float32


def _fit(
    model: TinyLM,
    tokens: Int[Tensor, " t"],
    config: LMTrainConfig,
    out: Path,
    progress: Callable[[LMProgress], None] | None,
) -> None:
    span = model.config.context + 1
    if len(tokens) < span:
        raise CorpusError(f"the training text has {len(tokens)} tokens", expected=f"at least {span}: context + 1")
    device = model.embed.weight.device
    dtype = precision(config.dtype, device)
    optimizer = _optimizer(model, config)
    first = _restore(model, optimizer, out / STATE)
    started = time.monotonic()
    with _shown(progress, config.steps) as show:
        for step in range(first, config.steps):
            starts = torch.randint(
                len(tokens) - span + 1, (config.batch, 1), generator=rng.stream(config.seed, "batch", step)
            )
            ids = tokens[starts + torch.arange(span)].to(device)
            loss = _update(model, optimizer, ids, dtype, learning_rate(step, config), config.clip)
            if not math.isfinite(loss):
                raise NonFiniteError(f"the loss became {loss} at step {step}", hint="lower the lr, or warm up longer")
            done = step + 1
            if done % config.checkpoint_every == 0 or done == config.steps:
                _checkpoint(model, optimizer, done, out / STATE)
            speed = (done - first) * config.batch * (span - 1) / max(time.monotonic() - started, 1e-9)
            show(LMProgress(done, config.steps, loss, speed))


def _update(
    model: TinyLM, optimizer: torch.optim.Optimizer, ids: Tensor, dtype: torch.dtype, lr: float, clip: float
) -> float:
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = cross_entropy(model, ids[:, :-1], ids[:, 1:]).mean()
    value = loss.item()
    if math.isfinite(value):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
    return value


def _optimizer(model: TinyLM, config: LMTrainConfig) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim == 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim != 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)


def _checkpoint(model: TinyLM, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    state = {f"weights/{name}": tensor for name, tensor in model.tensors().items()}
    for name, parameter in model.named_parameters():
        state |= {f"{key}/{name}": optimizer.state[parameter][key] for key in ("step", "exp_avg", "exp_avg_sq")}
    weights.write_tensors(path, state | {"done": torch.tensor(step)})


def _restore(model: TinyLM, optimizer: torch.optim.Optimizer, path: Path) -> int:
    """Take over a checkpoint if there is one; the number of updates already done."""
    if not path.is_file():
        return 0
    state = weights.read_tensors(path)
    try:
        model.load_tensors({n.removeprefix("weights/"): t for n, t in state.items() if n.startswith("weights/")})
        for name, parameter in model.named_parameters():
            kept = {key: state[f"{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
            assert all(tensor.shape == parameter.shape for tensor in kept.values())
            kept["step"] = state[f"step/{name}"]
            optimizer.state[parameter] = {key: t.clone().to(parameter.device) for key, t in kept.items()}
        return int(state["done"])
    except (KeyError, AssertionError, CorruptError):
        raise CorruptError(f"{path} is no checkpoint of this model", hint="delete the folder and train again") from None


def _finished(out: Path, digest: str) -> bool:
    if not (out / RECORD).is_file():
        return False
    if read_record(out).digest != digest:
        raise _foreign(out)
    return True


def _claim(out: Path, digest: str) -> None:
    """Mark an unfinished folder as belonging to these settings and texts."""
    plan = out / PLAN
    if not plan.is_file():
        (out / TOKENIZER).unlink(missing_ok=True)
        files.write_text(plan, json.dumps({"digest": digest}))
        return
    try:
        known = json.loads(plan.read_text(encoding="utf-8"))["digest"]
    except (ValueError, KeyError, TypeError):
        raise CorruptError(f"{plan} is damaged", hint="delete the folder and train again") from None
    if known != digest:
        raise _foreign(out)


def _foreign(out: Path) -> ConfigError:
    return ConfigError(
        f"{out} belongs to a tinylm with other settings or other texts",
        expected="the settings and texts that started it",
        hint="choose another --out, or delete the folder",
    )


def _record(
    out: Path, digest: str, config: TinyLMConfig, train_config: LMTrainConfig, found: tuple[Measurement, ...]
) -> str:
    hashes = {name: files.sha256(out / name) for name in (WEIGHTS, TOKENIZER)}
    record = TinyLMRecord(digest, config, configs.to_dict(train_config), hashes, found)
    return records.to_json(record, indent=2)


def _sample(texts: Sequence[str], size: int, seed: int, name: str) -> list[str]:
    """Whole texts in random order until `size` bytes are reached; empty ones are passed over."""
    chosen: list[str] = []
    total = 0
    for index in rng.numpy_stream(seed, name).permutation(len(texts)):
        if total >= size:
            break
        text = texts[int(index)]
        if text:
            chosen.append(text)
            total += len(text.encode())
    if not chosen:
        raise CorpusError(f"no text for {name!r}: all documents are empty", expected="at least one with text")
    return chosen


@contextlib.contextmanager
def _shown(progress: Callable[[LMProgress], None] | None, steps: int) -> Iterator[Callable[[LMProgress], None]]:
    """The caller's callback, else a progress bar if someone is watching, else nothing."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda _: None)
        return
    columns = (TextColumn("training tinylm"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=steps, state="")

        def show(at: LMProgress) -> None:
            bar.update(task, completed=at.step, state=f"loss {at.loss:.3f} · {at.tokens_per_second:,.0f} tokens/s")

        yield show
