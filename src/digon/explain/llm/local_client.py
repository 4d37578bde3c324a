"""A language model inside this process, behind the face of a client: journal, budget and single flight as for any server.

A model whose tokenizer has a chat template is talked to in that form, any other one in plain text. It writes one token after
the other, each from the softmax of its logits at the asked temperature, or the likeliest at 0; the draws belong to the
identity of the call, so that a repeat gives the same text. It stops at a special token, at the length asked for, and in
plain text at an empty line. Simulation goes the better way of `local`: all texts that are asked for in one
turn of the loop for one description are read together.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ContextError, RequestError
from ...hosts import Host
from .budget import Budget
from .client import Client
from .faults import Fault
from .journal import Journal
from .local import LocalSimulator
from .pacing import Limits
from .probe import Capabilities
from .simulate import Simulation
from .wire import Call, Reply, Server, Usage

_PLAIN = "a model whose chat template takes a question"
ADDRESS = "http://localhost"
"""Stands where a server's address stands; nothing is sent there."""


class LocalClient(Client):
    """A client whose server is a host that is a language model.

    Raises: ModelError if it reads no text, or does not write the numbers 0 to 9 as one token each.
    """

    def __init__(self, host: Host, journal: Journal, *, budget: Budget | None = None, offline: bool = False) -> None:
        self._simulator = LocalSimulator(host)
        self._chat = host.chat if host.chat is not None and host.chat.works else None
        label = f"this process, weights {host.fingerprint[:16]}"
        if self._chat is not None:  # another template makes other prompts of the same messages
            label += f", template {hashlib.blake2b(self._chat.sample().encode(), digest_size=4).hexdigest()}"
        server = Server(ADDRESS, host.name, label=label)
        super().__init__(server, journal, limits=Limits(start=1, concurrency=1), budget=budget, offline=offline)
        self._host = host
        self._waiting: dict[str, list[tuple[Sequence[str], asyncio.Future[Simulation]]]] = {}
        self.simulates_here = self._simulate

    @property
    def can(self) -> Capabilities:
        """What it can do: no probe is needed."""
        return Capabilities(chat=self._chat is not None, completions=True, ten=self._simulator.scale == 10)

    def _connection(self) -> Any:
        return None

    async def _send(self, sdk: Any, name: str, call: Call, attempt: int, expected: Usage) -> Reply:
        """One answer. Raises: Fault with a ContextError if prompt and answer are longer than the model reads."""
        tokenizer = self._host.tokenizer
        assert tokenizer is not None, "the simulator has asked for one"
        ids = self._asked(call)
        room = self._host.max_context - len(ids)
        if room < 1:
            raise Fault(
                ContextError(
                    f"{len(ids)} tokens and an answer are more than the {self._host.max_context} that {self._host.name} reads",
                    hint="fewer or shorter excerpts",
                ),
                again=False,
            )
        temperature = float(call.body.get("temperature", 0.0))
        written, cut = self._write(ids, min(call.most_out, room), temperature, name, plain=call.endpoint != "chat")
        text = "".join(tokenizer.token_text(token) for token in written)
        choice: dict[str, Any] = {
            "text": text,
            "message": {"content": text},
            "finish_reason": "length" if cut else "stop",
        }
        usage = Usage(len(ids), len(written))
        return Reply({"choices": [choice]}, usage, attempts=attempt + 1)

    def _asked(self, call: Call) -> list[int]:
        """Token ids of what the model is to continue. Raises: Fault if its template does not take the messages."""
        tokenizer = self._host.tokenizer
        assert tokenizer is not None, "the simulator has asked for one"
        if call.endpoint != "chat":
            return [*tokenizer.prefix, *tokenizer.encode_batch([call.prompt])[0]]
        ids = self._chat.encode(call.body["messages"]) if self._chat is not None else None
        if ids is None:
            raise Fault(RequestError(f"{self._host.name} does not take this conversation", hint=_PLAIN), again=False)
        return ids

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer: special ones, and those that the model itself names."""
        settings = (getattr(self._host.model, name, None) for name in ("generation_config", "config"))
        named = [getattr(some, "eos_token_id", None) for some in settings]
        listed = [i for some in named for i in (some if isinstance(some, list) else [some])]
        return self._host.special_ids | {i for i in listed if isinstance(i, int)}

    @torch.inference_mode()
    def _write(
        self, ids: list[int], most: int, temperature: float, name: str, *, plain: bool
    ) -> tuple[list[int], bool]:
        """Tokens of an answer, and whether it ended at its length."""
        assert self._host.tokenizer is not None, "the simulator has asked for one"
        draw, written, said = rng.stream(0, "local answer", name), list[int](), ""
        memory = _Memory(self._host)
        for _ in range(most):
            token = _drawn(memory.read([*ids, *written]), temperature, draw)
            if token in self._ends:
                return written, False
            written.append(token)
            said += self._host.tokenizer.token_text(token)
            if plain and said.strip() and "\n\n" in said.lstrip():
                return written, False
        return written, True

    async def _simulate(self, explanation: str, tokens: Sequence[str]) -> Simulation:
        """One simulation; all that are asked for before the loop turns are read together."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Simulation] = loop.create_future()
        group = self._waiting.setdefault(explanation, [])
        group.append((tokens, future))
        if len(group) == 1:
            loop.call_soon(self._read_together, explanation)
        return await future

    def _read_together(self, explanation: str) -> None:
        group = self._waiting.pop(explanation)
        try:
            found = self._simulator.simulate(explanation, [tokens for tokens, _ in group])
        except ContextError as error:
            scale = self._simulator.scale
            nothing = [(float("nan"),) * len(tokens) for tokens, _ in group]
            found = [Simulation("local", v, (0.0,) * len(v), scale, (f"local: {error.problem}",)) for v in nothing]
        except BaseException as error:
            for _, future in group:
                future.set_exception(error)
            return
        for (_, future), simulation in zip(group, found, strict=True):
            future.set_result(simulation)


class _Memory:
    """Next-token logits of a text that grows, with what the model remembers of its beginning where it can."""

    def __init__(self, host: Host) -> None:
        self._host, self._past, self._seen = host, None, 0
        self._remembers = bool(getattr(getattr(host.model, "config", None), "use_cache", False))

    def read(self, ids: list[int]) -> Float[Tensor, " vocabulary"]:
        """Logits behind the last token; `ids` begins with what was read before."""
        new = torch.tensor([ids[self._seen :]], device=self._host.device)
        if not self._remembers:
            return self._host.forward(new)[0, -1].float()
        out = self._host.model(input_ids=new, past_key_values=self._past, use_cache=True)
        self._past, self._seen = out.past_key_values, len(ids)
        return out.logits[0, -1].float()


def _drawn(logits: Float[Tensor, " vocabulary"], temperature: float, draw: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1).cpu(), 1, generator=draw))
