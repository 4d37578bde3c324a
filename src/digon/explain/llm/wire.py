"""What goes over the wire: a model behind an address, a call, its identity, and a reply in one form.

The identity of a call is the hash of the canonical JSON of all that can change its answer: which server and model, which
endpoint, the whole body, the number of the sample, and the version of this scheme. Canonical: keys sorted, no blanks,
1.0 written as 1. The key of the server and the place of the journal change no answer and are not part of it.

Replies of servers differ in how they write log probabilities; `Reply.steps` and `Reply.echoed` give all of them as
(token, its candidates with log probabilities). What a server leaves out is None here, never zero.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from ...errors import AccessError, ConfigError

SCHEMA = 1
"""Part of every identity: raised when the meaning of a journaled reply changes."""
OPENAI = "https://api.openai.com/v1"
PATHS = {"chat": "/chat/completions", "completions": "/completions"}
Endpoint = Literal["chat", "completions"]


@dataclass(frozen=True)
class Step:
    """One token of a text with the candidates that stood in its place."""

    token: str
    candidates: Mapping[str, float] | None
    """Token → log probability; None where the server says nothing."""


@dataclass(frozen=True)
class Server:
    """One model behind one address."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    label: str = ""
    """Name under which answers are kept; two addresses of one label hold the same model."""

    def __post_init__(self) -> None:
        _parts(self.base_url)
        if not self.key.isascii() or any(c.isspace() for c in self.key):
            raise AccessError("the key holds blanks or characters that no key has", hint="copy it again")

    @classmethod
    def of(cls, model: str, base_url: str = OPENAI, key: str | None = None, label: str = "") -> "Server":
        """A server with its key: as given, or from the environment.

        OPENAI_API_KEY is for api.openai.com and is sent nowhere else; DIGON_API_KEY is for any other host. Servers on
        this machine need none.

        Raises: AccessError without a key for a server elsewhere; ConfigError for a bad address.
        """
        host = _parts(base_url).hostname or ""
        name = "OPENAI_API_KEY" if host == urlsplit(OPENAI).hostname else "DIGON_API_KEY"
        found = key if key is not None else os.environ.get(name, "")
        local = host in ("localhost", "::1") or host.startswith("127.")
        if not found and not local:
            raise AccessError(
                f"no key for {host}", expected=f"a key in the environment variable {name}",
                hint="pass key='none' to a server that wants none",
            )  # fmt: skip
        return cls(base_url, model, found, label)

    @property
    def identity(self) -> str:
        """Label, or the address without anything secret in it."""
        if self.label:
            return self.label
        parts = urlsplit(self.base_url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        place = f"{host}:{parts.port}" if parts.port else host
        return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not reach a disk or a message, longest first."""
        parts = urlsplit(self.base_url)
        known = {self.key, parts.password or "", parts.query, *(value for _, value in parse_qsl(parts.query))}
        return tuple(sorted((s for s in known if len(s) > 3), key=len, reverse=True))


@dataclass(frozen=True)
class Call:
    """One request; `sample` tells repeats of the same body apart."""

    endpoint: Endpoint
    body: Mapping[str, Any]
    """JSON of the request without the model."""
    sample: int = 0

    @property
    def prompt(self) -> str:
        """All text that the model is to read."""
        if self.endpoint == "completions":
            return str(self.body.get("prompt", ""))
        return "\n".join(str(message.get("content", "")) for message in self.body.get("messages", ()))

    @property
    def most_out(self) -> int:
        """Most tokens that the reply may have."""
        return int(self.body.get("max_tokens") or self.body.get("max_completion_tokens") or 1024)


@dataclass(frozen=True)
class Usage:
    """Tokens read and written."""

    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Reply:
    """What a server said, once and for all."""

    raw: Mapping[str, Any]
    """JSON of the response."""
    usage: Usage
    usd: float = 0.0
    latency: float = 0.0
    """Seconds of the attempt that succeeded."""
    attempts: int = 1
    cached: bool = False

    @property
    def _choice(self) -> Mapping[str, Any]:
        choices = self.raw.get("choices") or [{}]
        return choices[0] if isinstance(choices[0], Mapping) else {}

    @property
    def text(self) -> str | None:
        """The answer; None where the server gave none, as some do after thinking."""
        message = self._choice.get("message")
        found = message.get("content") if isinstance(message, Mapping) else self._choice.get("text")
        return found if isinstance(found, str) else None

    @property
    def thought(self) -> bool:
        """Whether the server reports thinking apart from its answer."""
        message = self._choice.get("message")
        return isinstance(message, Mapping) and bool(message.get("reasoning_content") or message.get("reasoning"))

    @property
    def cut(self) -> bool:
        """Whether the answer ended because it reached its length."""
        return self._choice.get("finish_reason") == "length"

    @property
    def steps(self) -> tuple[Step, ...]:
        """Tokens with log probabilities; none where the server left them out."""
        return _steps(self._choice.get("logprobs"))

    def echoed(self, prompt: str) -> tuple[Step, ...]:
        """The tokens of the prompt with log probabilities; none unless they spell the prompt exactly.

        A server that ignores `echo`, or whose tokens cannot be put side by side with the text, gives nothing here.
        """
        listed = self._choice.get("prompt_logprobs") or self.raw.get("prompt_logprobs")
        steps = _prompt_steps(listed) if isinstance(listed, list) else self.steps
        for skipped in (0, 1):  # a first token may stand for the beginning of a text
            found = _spelling(steps[skipped:], prompt)
            if found:
                return found
        return ()


def canonical(value: Any) -> str:
    """JSON that is the same for the same value.

    >>> canonical({"b": 1.0, "a": [True, None]})
    '{"a":[true,null],"b":1}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def identity(server: Server, call: Call) -> str:
    """The identity of a call: 32 hexadecimal digits. Raises: ConfigError if the body is not JSON."""
    whole = {
        "schema": SCHEMA, "server": server.identity, "model": server.model, "endpoint": call.endpoint,
        "body": call.body, "sample": call.sample,
    }  # fmt: skip
    try:
        text = canonical(whole)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the body of a call is not JSON: {error}", expected="finite numbers, text, lists") from None
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def usage_of(raw: Mapping[str, Any]) -> Usage | None:
    """Tokens that a response says it used; None if it does not say."""
    usage = raw.get("usage")
    if not isinstance(usage, Mapping) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    return Usage(usage["prompt_tokens"], int(usage.get("completion_tokens") or 0))


def _parts(base_url: str) -> SplitResult:
    """The parts of an address. Raises: ConfigError; the message shows nothing that could be a password."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = base_url.rpartition("@")[2].partition("?")[0]
        raise ConfigError(
            f"{shown!r} is no address of a server", expected="http://… or https://…, mostly ending in /v1"
        )
    return parts


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _steps(listed: Any) -> tuple[Step, ...]:
    """Both ways of the protocol to write log probabilities."""
    if not isinstance(listed, Mapping):
        return ()
    content = listed.get("content")
    if isinstance(content, list):  # chat: a list of tokens, each with a list of candidates
        return tuple(_chat_step(item) for item in content if isinstance(item, Mapping))
    tokens, tops = listed.get("tokens"), listed.get("top_logprobs")
    if not isinstance(tokens, list):
        return ()
    tops = tops if isinstance(tops, list) and len(tops) == len(tokens) else [None] * len(tokens)
    own = listed.get("token_logprobs")
    own = own if isinstance(own, list) and len(own) == len(tokens) else [None] * len(tokens)
    return tuple(Step(str(t), _with_own(t, _candidates(top), p)) for t, top, p in zip(tokens, tops, own, strict=True))


def _chat_step(item: Mapping[str, Any]) -> Step:
    token = str(item.get("token", ""))
    tops = item.get("top_logprobs")
    found = (
        {str(top["token"]): top.get("logprob") for top in tops if "token" in top} if isinstance(tops, list) else None
    )
    return Step(token, _with_own(token, _candidates(found), item.get("logprob")))


def _candidates(found: Any) -> dict[str, float] | None:
    if not isinstance(found, Mapping):
        return None
    return {str(token): float(p) for token, p in found.items() if _finite(p)} or None


def _with_own(token: str, candidates: dict[str, float] | None, own: Any) -> dict[str, float] | None:
    return candidates if not _finite(own) else {**(candidates or {}), token: float(own)}


def _prompt_steps(listed: Sequence[Any]) -> tuple[Step, ...]:
    """The list of vLLM: token id → {logprob, decoded_token}; the token of the prompt itself stands first."""
    steps = []
    for entry in listed:
        if not isinstance(entry, Mapping) or not entry:
            steps.append(Step("", None))  # the first token has no probability, and its text is not told
            continue
        found = {str(e.get("decoded_token")): e.get("logprob") for e in entry.values() if isinstance(e, Mapping)}
        steps.append(Step(next(iter(found)), _candidates(found)))
    return tuple(steps)


def _spelling(steps: Sequence[Step], prompt: str) -> tuple[Step, ...]:
    """The steps that spell the prompt; an untold first token takes what is missing at the start."""
    if not steps:
        return ()
    if steps[0].token == "" and steps[0].candidates is None:
        rest = "".join(step.token for step in steps[1:])
        if not rest or not prompt.endswith(rest):
            return ()
        return (Step(prompt[: len(prompt) - len(rest)], None), *steps[1:])
    length = 0
    for count, step in enumerate(steps, 1):
        if not prompt.startswith(step.token, length):
            return ()
        length += len(step.token)
        if length == len(prompt):
            return tuple(steps[:count])
    return ()
