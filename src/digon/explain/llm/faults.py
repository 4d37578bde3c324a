"""What went wrong with an attempt: may it be tried again, when, may it have cost money, and what to tell the user.

    again       429, 5xx, timeouts, broken connections, half a reply, a page instead of JSON
    never       400, 401, 403, 404, 413, 422 and the rest of 4xx; a quota that is used up, though it comes as 429
    in doubt    the request was read and no whole reply came: the server may charge for it
    overload    429, 5xx, timeouts: the throttle closes

A text that is too long is an error of its own, however the server words it.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import AccessError, ContextError, DigonError, RequestError, ServerError
from .journal import scrubbed
from .pacing import asked_wait
from .wire import Server

_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|context_length_exceeded|exceed_context_size|prompt is too long"
    r"|maximum (context|input|sequence)|too many (input )?tokens|longer than the (maximum )?model",
    re.IGNORECASE,
)
_NO_CHAT = re.compile(
    r"not a chat model|does not support chat|chat[ _]template|not support(ed)? .{0,40}chat|v1/chat/completions",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|credit balance", re.IGNORECASE)
_BEFORE_SENDING = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError"}
SHOWN = 200
"""Characters of a server's answer that a message quotes."""


@dataclass
class Fault(Exception):
    """One attempt failed."""

    error: DigonError
    """What to tell if it was the last attempt."""
    again: bool
    overload: bool = False
    charged: bool = False
    """Whether the server may charge for it."""
    wait: float | None = None
    """Seconds that the server asks for."""
    everyone: bool = False
    """Whether the wait holds for all calls: a rate limit is one for the whole account."""
    late: bool = False
    """Whether the attempt took all the time that it had."""


def of_status(status: int, text: str, headers: Mapping[str, str], server: Server) -> Fault:
    """A reply with an error in it."""
    said = _said(text, server)
    wait = asked_wait(headers, time.time())
    if status == 429 and not _QUOTA.search(text):
        error = ServerError(f"{_name(server)} says that it is asked too much (429): {said}", hint=_LATER)
        return Fault(error, again=True, overload=True, wait=wait, everyone=wait is not None)
    if status in (401, 403) or status in (402, 429):
        problem = f"{_name(server)} refuses the key" if status in (401, 403) else f"{_name(server)} wants to be paid"
        hint = (
            "check the key"
            if status in (401, 403)
            else "the account's quota is used up: it does not come back by waiting"
        )
        return Fault(AccessError(f"{problem} ({status}): {said}", hint=hint), again=False)
    if status == 408 or status >= 500:
        error = ServerError(f"{_name(server)} failed ({status}): {said}", hint=_LATER)
        return Fault(error, again=True, overload=True, wait=wait)
    if _TOO_LONG.search(text) or status == 413:
        error = ContextError(
            f"the text is too long for {server.model!r} ({status}): {said}",
            hint="shorter excerpts, fewer examples, or a model that reads more",
        )
        return Fault(error, again=False)
    if status in (404, 405) and _is_page(text):
        return Fault(_page_error(status, text, server), again=False)
    return Fault(
        RequestError(f"{_name(server)} refuses the request ({status}): {said}", hint=_advice(text, server)), again=False
    )


def of_exception(error: Exception, server: Server, timeout: float) -> Fault:
    """Whatever the SDK raised, when an attempt may take `timeout` seconds."""
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    if isinstance(status, int) and response is not None:
        return of_status(status, str(response.text), response.headers, server)
    names = {type(e).__name__ for e in _causes(error)}
    if names & {"ConnectError", "UnsupportedProtocol"}:
        found = ServerError(
            f"cannot reach {_name(server)}: {_said(str(_causes(error)[-1]), server)}", expected="a server that listens there",
            hint="start the server, or correct base_url",
        )  # fmt: skip
        return Fault(found, again=True)
    if isinstance(error, TimeoutError) or any("Timeout" in name for name in names):
        found = ServerError(
            f"{_name(server)} gave no whole reply within {timeout:g} s",
            hint="a larger timeout (--timeout), or fewer calls at once (--concurrency)",
        )
        return Fault(found, again=True, overload=True, charged=not names & _BEFORE_SENDING, late=True)
    if any(name.endswith(("ReadError", "WriteError", "ProtocolError", "APIConnectionError")) for name in names):
        found = ServerError(
            f"{_name(server)} broke the connection: {_said(str(_causes(error)[-1]), server)}", hint=_LATER
        )
        return Fault(found, again=True, charged=not names & _BEFORE_SENDING)
    raise error


def parsed(text: str, headers: Mapping[str, str], server: Server) -> Mapping[str, Any]:
    """The JSON of a reply with status 200. Raises: Fault if it is none, or carries an error."""
    try:
        raw = json.loads(text)
    except ValueError:
        if _is_page(text):
            raise Fault(_page_error(200, text, server), again=True) from None
        found = ServerError(f"{_name(server)} sent half a reply: {_said(text, server)}", hint=_LATER)
        raise Fault(found, again=True, charged=True) from None
    error = raw.get("error") if isinstance(raw, Mapping) else None
    if error:  # some servers between us and the model answer 200 whatever happens
        code = error.get("code") if isinstance(error, Mapping) else None
        raise of_status(int(str(code)) if str(code).isdigit() else 500, text, headers, server)
    if not isinstance(raw, Mapping) or not isinstance(raw.get("choices"), list) or not raw["choices"]:
        found = ServerError(
            f"{_name(server)} answers, but not in the protocol: {_said(text, server)}", expected="JSON with choices",
            hint="base_url mostly ends in /v1",
        )  # fmt: skip
        raise Fault(found, again=True, charged=True)
    return raw


_LATER = "run the same command later: what is paid for is kept"


def _name(server: Server) -> str:
    return server.identity


def _page_error(status: int, text: str, server: Server) -> ServerError:
    title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return ServerError(
        f"{_name(server)} answers with a web page ({status}){': ' + title[1].strip()[:80] if title else ''}",
        expected="a server of the OpenAI-compatible protocol", hint="correct base_url: it mostly ends in /v1",
    )  # fmt: skip


def _advice(text: str, server: Server) -> str:
    if _NO_CHAT.search(text):
        return f"{server.model!r} cannot chat: use a model that can, or let the probe find out what it can"
    if "model" in text.lower():
        return "check the name of the model: the server lists them under /models"
    return "the server does not know a setting of the request: probe it again"


def _is_page(text: str) -> bool:
    return text.lstrip()[:200].lower().startswith(("<!doctype", "<html", "<head", "<body"))


def _said(text: str, server: Server) -> str:
    """The message in an error, on one line, without secrets."""
    try:
        found: Any = json.loads(text)
        while isinstance(found, Mapping):
            inner = next((found[k] for k in ("error", "message", "detail") if found.get(k)), None)
            if inner is None:
                break
            found = inner
        text = found if isinstance(found, str) else json.dumps(found)
    except ValueError:
        pass
    if _is_page(text):
        text = re.sub(r"<[^>]+>", " ", text)
    flat = " ".join(scrubbed(text, server).split())
    return flat[:SHOWN] + ("…" if len(flat) > SHOWN else "") if flat else "nothing"


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain
