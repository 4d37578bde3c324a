"""A language model small enough to train on the spot: what does a real transformer look like inside?

    x   = embed(tokens)
    x  += attn.out(heads(norm(x)))            causal, rotary positions
    x  += mlp.down(act(mlp.up(norm(x))))      act = gelu | relu | solu | topk | topk_relu, one per block of `layers`
    logits = unembed(norm(x))

`mlp.act` (the input of `mlp.down`) holds the neurons. Three activations change how polysemantic they become:

    solu        LayerNorm(x · softmax(x))                     Elhage et al. 2022, "Softmax Linear Units"
    topk        gelu(x) on the k largest x of a token, else 0   after Bills et al. 2023, "Language models can explain
    topk_relu   relu(x) on the k largest x of a token, else 0   neurons in language models", on sparse activations

Sources: pre-norm decoder as in Radford et al. 2019 (GPT-2); rotary positions by Su et al. 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .. import records, rng
from ..errors import ConfigError, CorruptError, ModelError, PathError
from ..records import Measurement
from ..store import files, weights
from .tinylm_tokens import load_tokenizer

Activation = Literal["gelu", "relu", "solu", "topk", "topk_relu"]

RECORD, WEIGHTS, TOKENIZER = "tinylm.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class TinyLMConfig:
    """The shape of the network."""

    vocabulary: int = 2048
    """Number of tokens, the 256 bytes and the end token included."""
    context: int = 128
    """Most tokens the network reads at once."""
    width: int = 192
    """Width of the residual stream."""
    layers: int = 3
    """Number of blocks."""
    heads: int = 4
    """Attention heads per block; they share the width equally."""
    mlp_width: int = 512
    """Neurons per block."""
    activation: Activation = "gelu"
    """Nonlinearity of the neurons."""
    density: float = 0.1
    """Share of neurons kept per token, at least one of them; for `topk` and `topk_relu` only."""
    tied: bool = True
    """Whether embedding and unembedding are one matrix."""
    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        sizes = ("context", "width", "layers", "heads", "mlp_width")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"setting {name!r}: {getattr(self, name)} is too small", expected="at least 1")
        if self.vocabulary < 257:
            raise ConfigError(
                f"setting 'vocabulary': {self.vocabulary} is too small", expected="at least 257: 256 bytes and the end"
            )
        if self.width % (2 * self.heads):
            raise ConfigError(
                f"setting 'heads': {self.heads} heads do not share a width of {self.width} in pairs of dimensions",
                expected="width divisible by 2 · heads, as rotary positions turn pairs",
            )
        if not 0 < self.density <= 1:
            raise ConfigError(f"setting 'density': {self.density} is no share", expected="0 < density ≤ 1")


@dataclass(frozen=True)
class TinyLMRecord:
    """What is kept beside the weights; its file, written last, marks a folder as finished."""

    digest: str
    """Hash of the settings and texts."""
    model: TinyLMConfig
    """Shape of the network."""
    training: dict[str, int | float | str]
    """Settings of the training."""
    files: dict[str, str]
    """File name → SHA-256."""
    report: tuple[Measurement, ...]
    """Loss on held-out documents beside the baselines."""


class SoLU(nn.Module):
    """x · softmax(x) over the neurons of a token, then a LayerNorm (Elhage et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Apply it."""
        return self.norm(x * x.softmax(dim=-1))


class TopK(nn.Module):
    """gelu (or `act`) on the k = round(density · width) largest pre-activations of a token, zero elsewhere; k ≥ 1.

    The choice is made before the gelu, which is monotone only above −0.75: strongly negative
    units never count as large.
    """

    def __init__(self, width: int, density: float, act: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.k = max(1, round(density * width))
        self.act = act

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Apply it."""
        values, indices = x.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(x).scatter(-1, indices, self.act(values))


class MLP(nn.Module):
    """down(act(up(x))); the neurons are the input of `down`."""

    def __init__(self, config: TinyLMConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.mlp_width)
        self.act = nonlinearity(config)
        self.down = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Float[Tensor, "b t w"]) -> Float[Tensor, "b t w"]:
        """What the block adds to the residual stream."""
        return self.down(self.act(self.up(x)))


class Attention(nn.Module):
    """Causal self-attention with rotary positions; the input of `out` is the concatenated heads."""

    def __init__(self, config: TinyLMConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x: Float[Tensor, "b t w"], turn: Float[Tensor, "2 t half"], hidden: Bool[Tensor, "m 1 t t"]
    ) -> Float[Tensor, "b t w"]:
        """What attention adds to the residual stream; `hidden` marks what may not be read."""
        b, t, w = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, turn), rotate(k, turn)
        # Written out: at these sizes the fused CPU kernel's backward pass makes training a third slower.
        scores = q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5
        pattern = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1).to(v.dtype)
        return self.out((pattern @ v).transpose(1, 2).reshape(b, t, w))


class Block(nn.Module):
    """One layer: attention and neurons, each reading a normalized residual stream and adding to it."""

    def __init__(self, config: TinyLMConfig) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(
        self, x: Float[Tensor, "b t w"], turn: Float[Tensor, "2 t half"], hidden: Bool[Tensor, "m 1 t t"]
    ) -> Float[Tensor, "b t w"]:
        """The residual stream after this block."""
        x = x + self.attn(self.attn_norm(x), turn, hidden)
        return x + self.mlp(self.mlp_norm(x))


class TinyLM(nn.Module):
    """A decoder-only transformer: `embed`, `layers[i].attn`, `layers[i].mlp`, `norm`, `unembed`."""

    turn: Tensor

    def __init__(self, config: TinyLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.unembed = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.unembed.weight = self.embed.weight
        self.register_buffer("turn", rotations(config.context, config.width // config.heads), persistent=False)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        # Each weight draws from a stream of its own name; maps into the residual stream start smaller the deeper the
        # network is, so that its variance does not grow with depth (Radford et al. 2019).
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("attn.out.weight", "mlp.down.weight"))
                scale = 0.02 / (2 * self.config.layers) ** 0.5 if into_residual else 0.02
                parameter.normal_(0.0, scale, generator=rng.stream(self.config.seed, "init", name))
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self, token_ids: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"] | Int[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t v"]:
        """Logits of the next token at every position; `mask` is true (or 1) on tokens that may be read."""
        return self.unembed(self.stream(token_ids, mask))

    def stream(
        self, token_ids: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"] | Int[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t w"]:
        """The normalized residual stream that `unembed` reads."""
        t = token_ids.shape[1]
        assert t <= self.config.context, f"{t} tokens exceed the context of {self.config.context}"
        if mask is None:
            mask = torch.ones(1, t, dtype=torch.bool, device=token_ids.device)
        hidden = unreadable(mask)
        x = self.embed(token_ids)
        for layer in self.layers:
            x = layer(x, self.turn[:, :t], hidden)
        return self.norm(x)

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, a tied matrix once."""
        state = dict(self.state_dict())
        if self.config.tied:
            del state["unembed.weight"]
        return state

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over weights written by `tensors`. Raises: CorruptError if names or shapes differ."""
        own = self.tensors()
        wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
        if wrong:
            raise CorruptError(
                f"the weights do not fit the model: {wrong[0]} is missing, unknown or of another shape",
                expected=f"{len(own)} tensors as described by {RECORD}",
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "tuple[TinyLM, tokenizers.Tokenizer]":
        """A trained model and its tokenizer, every file checked against its recorded checksum.

        Raises: PathError if there is no such folder; ModelError if it holds no finished model; CorruptError if damaged.
        """
        record = read_record(folder)
        for name in (WEIGHTS, TOKENIZER):
            if not (folder / name).is_file() or files.sha256(folder / name) != record.files.get(name):
                raise CorruptError(
                    f"{folder / name} is damaged or missing: it is not the file that training wrote",
                    hint="delete the folder and train again",
                )
        model = cls(record.model)
        model.load_tensors(weights.read_tensors(folder / WEIGHTS))
        if not all(tensor.isfinite().all() for tensor in model.tensors().values()):
            raise ModelError(f"{folder / WEIGHTS} holds NaN or infinite weights", expected="finite weights")
        return model.to(device).eval(), load_tokenizer(folder / TOKENIZER)


def rotations(context: int, dimensions: int) -> Float[Tensor, "2 context half"]:
    """Cosines and sines of position · 10000^(−2i/dimensions), the angles of rotary positions (Su et al. 2021)."""
    half = dimensions // 2
    speed = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(context, dtype=torch.float64)[:, None] * speed
    return torch.stack([angle.cos(), angle.sin()]).float()


def rotate(x: Float[Tensor, "b h t d"], turn: Float[Tensor, "2 t half"]) -> Float[Tensor, "b h t d"]:
    """Turn dimension i against dimension i + d/2 by the angle of its position.

    >>> float(rotate(torch.ones(1, 1, 5, 4), rotations(5, 4))[0, 0, 3].norm())  # a rotation keeps lengths
    2.0
    """
    cos, sin = turn.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def unreadable(mask: Bool[Tensor, "b t"] | Int[Tensor, "b t"]) -> Bool[Tensor, "b 1 t t"]:
    """Which token may not read which: later ones, and masked ones other than itself (a softmax over nothing is NaN).

    >>> unreadable(torch.tensor([[0, 1]]))[0, 0].int().tolist()
    [[0, 1], [1, 0]]
    """
    t = mask.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool, device=mask.device).tril()
    own = torch.eye(t, dtype=torch.bool, device=mask.device)
    return ~((causal & mask.bool()[:, None, None, :]) | own)


def read_record(folder: Path) -> TinyLMRecord:
    """What `tinylm.json` says of a finished model.

    Raises: PathError if there is no such folder; ModelError if it holds no finished tinylm; CorruptError if damaged.
    """
    if not folder.is_dir():
        raise PathError(f"no folder at {folder}", expected="a folder with a trained tinylm")
    path = folder / RECORD
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no finished tinylm: {RECORD} is missing",
            expected=f"{RECORD}, {WEIGHTS} and {TOKENIZER}",
            hint="run the training again: it resumes where it was",
        )
    try:
        return records.from_json(TinyLMRecord, path.read_bytes())
    except (CorruptError, ConfigError) as error:
        raise CorruptError(
            f"{path} is damaged: {error.problem}",
            expected="the JSON that training wrote",
            hint="delete the folder and train again",
        ) from None


def nonlinearity(config: TinyLMConfig) -> nn.Module:
    """What the neurons of these settings do with their inputs; only `solu` has weights."""
    match config.activation:
        case "gelu":
            return nn.GELU()
        case "relu":
            return nn.ReLU()
        case "solu":
            return SoLU(config.mlp_width)
        case "topk":
            return TopK(config.mlp_width, config.density)
        case "topk_relu":
            return TopK(config.mlp_width, config.density, F.relu)
