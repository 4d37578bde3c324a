"""A server of the OpenAI-compatible protocol that lies and fails in the ways of real ones.

Its model is a law: a token is given, and the probabilities of the numbers 0 to 10 follow. So what a simulation has to
find is known in closed form. Every other prompt is answered with a hash of itself, so that a reply that belongs to another
prompt, or to none, is found out. All faults are drawn from a hash of seed, body and number of the attempt.

    python faulty_server.py --port 8000 --faults 0.2
"""

import argparse
import asyncio
import hashlib
import json
import math
import re
import threading
from collections import Counter
from dataclasses import dataclass, field

FAULTS = (
    "429", "429 after", "429 date", "500", "502 page", "503 after", "truncated", "disconnect", "drop", "slow", "page",
    "null", "no choices", "error in 200",
)  # fmt: skip
UNPAID = {"429", "429 after", "429 date", "500", "502 page", "503 after", "page", "error in 200", "drop"}
PIECES = re.compile(r"10|\d|[A-Za-z]+|\s|[^\w\s]|\w")


def law(token: str) -> dict[str, float]:
    """Probabilities of the numbers after a token: what is left to 1 goes to a word."""
    draw = hashlib.blake2b(token.encode(), digest_size=3).digest()
    first, second, share = draw[0] % 10, draw[1] % 10, 0.55 + draw[2] / 1280
    p = {str(first): share}
    p[str(second)] = p.get(str(second), 0.0) + 0.9 - share
    return p


def mean(token: str) -> float:
    """The closed form of a simulation."""
    p = law(token)
    return sum(int(d) * q for d, q in p.items()) / sum(p.values())


def mode(token: str) -> int:
    """What a server without probabilities writes."""
    return int(max(law(token), key=lambda d: law(token)[d]))


def answer(prompt: str) -> str:
    """The only right reply to a prompt that is none of ours."""
    return hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).hexdigest()


@dataclass
class Traits:
    """What the server can do, and what it only pretends to do."""

    chat: bool = True
    completions: bool = True
    echo: str = "honest"  # honest | ignored | zeros | refused | vllm
    logprobs: bool = True
    most: int = 20
    ten: bool = True
    constraint: str = "regex"  # regex | grammar | schema | ""
    temperature: bool = True
    new_names: bool = False
    thinks: bool = False
    context: int = 100_000
    key: str = ""
    reflect: bool = False
    usage: bool = True
    idempotent: bool = False  # charges once for a key that comes again
    most_out: int = 10**9  # what it claims to have written at most
    brain: object = None  # callable: prompt -> text


@dataclass
class Pace:
    """How often which fault comes, and how long a reply takes."""

    share: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    seed: int = 0
    latency: float = 0.0
    after: float = 0.05
    slow: float = 30.0
    burst: tuple[int, int] = (0, 0)  # requests that all get 500
    tolerates: int = 10**9  # more at once get 429


@dataclass
class Log:
    """What happened."""

    served: Counter = field(default_factory=Counter)  # body → whole replies
    paid: Counter = field(default_factory=Counter)  # body → replies and what broke on the way
    faults: Counter = field(default_factory=Counter)
    attempts: Counter = field(default_factory=Counter)
    requests: int = 0
    active: int = 0
    peak: int = 0
    last: dict = field(default_factory=dict)


def steps_of(text: str, tops: list[dict[str, float]] | None = None) -> list[tuple[str, dict[str, float]]]:
    pieces = PIECES.findall(text)
    return (
        [(piece, {piece: 0.9, "~": 0.05}) for piece in pieces] if tops is None else list(zip(pieces, tops, strict=True))
    )


class FaultyServer:
    """Runs in a thread of its own; `with FaultyServer() as server: server.url`."""

    def __init__(self, traits: Traits | None = None, pace: Pace | None = None, port: int = 0) -> None:
        self.traits, self.pace, self.log, self.port = traits or Traits(), pace or Pace(), Log(), port
        self._charged: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=512)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connection(self, reader, writer):
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader, writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.log.requests += 1
        self.log.active += 1
        self.log.peak = max(self.log.peak, self.log.active)
        try:
            return await self._serve(lines[0].split()[1], headers, body, writer)
        finally:
            self.log.active -= 1

    async def _serve(self, path, headers, body, writer) -> bool:
        name = hashlib.blake2b(
            json.dumps([path, json.loads(body or b"{}")], sort_keys=True).encode(), digest_size=8
        ).hexdigest()
        attempt = self.log.attempts[name]
        self.log.attempts[name] += 1
        self.log.last = {"path": path, "headers": headers, "body": json.loads(body or b"{}")}
        crowd = self.log.active > self.pace.tolerates
        kind = "429" if crowd else self._fault(name, attempt)
        once = headers.get("idempotency-key", name + str(attempt))
        if self.pace.latency:
            await asyncio.sleep(self.pace.latency)
        if kind:
            self.log.faults[kind] += 1
            if kind not in UNPAID:
                self._charge(name, once)
            if kind in ("null",):
                self.log.served[name] += 1
            return await self._fail(kind, writer, self._reply(path, headers, json.loads(body)))
        status, reply = self._reply(path, headers, json.loads(body))
        await send(writer, status, json.dumps(reply).encode())
        if status == 200:
            self.log.served[name] += 1
            self._charge(name, once)
        return True

    def _charge(self, name: str, once: str) -> None:
        if not (self.traits.idempotent and once in self._charged):
            self.log.paid[name] += 1
        self._charged.add(once)

    def _fault(self, name: str, attempt: int) -> str | None:
        first, last = self.pace.burst
        if first < self.log.requests <= last:
            return "500"
        key = f"{self.pace.seed}/{name}/{attempt}".encode()
        draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
        if draw >= self.pace.share:
            return None
        return self.pace.kinds[int(draw / self.pace.share * len(self.pace.kinds))]

    async def _fail(self, kind, writer, good) -> bool:
        _status, reply = good
        data = json.dumps(reply).encode()
        error = json.dumps({"error": {"message": "try again", "type": kind}}).encode()
        page = b"<!DOCTYPE html><html><head><title>Bad gateway</title></head><body>sorry</body></html>"
        later = {"retry-after": str(self.pace.after)}
        if kind == "429 date":
            later = {
                "x-ratelimit-reset-requests": f"{int(self.pace.after * 1000)}ms",
                "x-ratelimit-remaining-requests": "0",
            }
        statuses = {"429": 429, "429 after": 429, "429 date": 429, "500": 500, "503 after": 503}
        if kind in statuses:
            await send(writer, statuses[kind], error, later if " " in kind else {})
        elif kind in ("502 page", "page"):
            await send(writer, 502 if kind == "502 page" else 200, page, kind="text/html")
        elif kind == "truncated":
            await send(writer, 200, data[: len(data) // 2])
        elif kind == "null":
            await send(writer, 200, json.dumps(_without_content(reply)).encode())
        elif kind == "no choices":
            await send(writer, 200, b'{"object": "list", "data": []}')
        elif kind == "error in 200":
            await send(writer, 200, b'{"error": {"message": "upstream failed", "code": 502}}')
        elif kind == "disconnect":
            await send(writer, 200, data, cut=len(data) // 2)
            return False
        elif kind == "drop":
            return False
        elif kind == "slow":
            await send(writer, 200, data, drip=self.pace.slow)
        return True

    def _reply(self, path, headers, body):
        t = self.traits
        if t.key and headers.get("authorization") != f"Bearer {t.key}":
            return 401, problem(
                f"Incorrect API key provided: {headers.get('authorization', '')[7:]}", "invalid_api_key"
            )
        refusal = self._refusal(path, body)
        if refusal is not None:
            return refusal
        chat = path.endswith("/chat/completions")
        prompt = "\n\n".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        if len(prompt) > t.context:
            return 400, problem(
                f"This model's maximum context length is {t.context} tokens.", "context_length_exceeded"
            )
        count = body.get("top_logprobs", 0) if chat else (body.get("logprobs") or 0)
        echoing = body.get("echo") or body.get("prompt_logprobs")
        text, tops = ("x", None) if echoing else self._write(prompt, body)
        steps = steps_of(text, tops)
        if body.get("echo") and t.echo in ("honest", "zeros"):
            told = self._told(prompt)
            steps = [(s, dict.fromkeys(c, 1.0)) if t.echo == "zeros" and c else (s, c) for s, c in told] + steps[:1]
            text = prompt + text
        reply = self._shape(chat, text, steps, count if t.logprobs else 0, prompt)
        if body.get("prompt_logprobs") and t.echo == "vllm":
            reply["choices"][0]["prompt_logprobs"] = vllm(self._told(prompt))
        if t.reflect:
            reply["debug"] = {"headers": headers}
        return 200, reply

    def _refusal(self, path, body):
        t = self.traits
        if path.partition("?")[0] == "/v1/chat/completions":
            if not t.chat:
                return 404, problem(
                    "This is not a chat model and thus not supported in the v1/chat/completions endpoint."
                )
        elif path.partition("?")[0] != "/v1/completions" or not t.completions:
            return 404, problem("Unknown request URL")
        if not t.temperature and "temperature" in body:
            return 400, problem("Unsupported parameter: 'temperature' is not supported with this model.")
        if t.new_names and "max_tokens" in body:
            return 400, problem("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if body.get("echo") and t.echo == "refused":
            return 400, problem("Setting 'echo' is not supported.")
        asked = body.get("top_logprobs") or (body.get("logprobs") if not path.endswith("/chat/completions") else 0) or 0
        if asked > t.most and not body.get("echo"):
            return 400, problem(f"top_logprobs must be at most {t.most}: logprobs")
        return None

    def _write(self, prompt, body):
        """Text and, where numbers are written, their candidates."""
        t = self.traits
        kind = next((k for k, name in (("regex", "structured_outputs"), ("grammar", "grammar"), ("schema", "response_format")) if name in body), "")  # fmt: skip
        forced = kind if kind == t.constraint else ""
        table = prompt.rpartition("\n\nTokens:\n")
        rows = re.findall(r"^(\d+)\t(.*)$", table[2], re.MULTILINE) if table[1] else []
        last = re.search(r"Activation on token (\d+):", prompt)
        if last:
            token = rows[int(last[1]) - 1][1]
            return str(mode(token)), [law(token) | {"~": 0.1}]
        if rows and (forced or not t.thinks):
            return self._rows([token for _, token in rows], forced == "schema")
        if forced:
            return ('{"values": [1, 2, 3]}', None) if forced == "schema" else ("123", None)
        if "Write the number 10" in prompt:
            return ("10", [{"10": 1.0}]) if t.ten else ("1.0", None)
        if "Greet me" in prompt:
            return "Hello there, friend!", None
        return (t.brain or answer)(prompt), None

    def _rows(self, tokens, listed):
        if listed:
            text = '{"values": [' + ", ".join(str(mode(token)) for token in tokens) + "]}"
            laws = iter([law(token) | {"~": 0.1} for token in tokens])
            return text, [next(laws) if p.isdigit() else {p: 1.0} for p in PIECES.findall(text)]
        text, tops = "", []
        for i, token in enumerate(tokens, 1):
            line = f"{i}\t{mode(token)}\n"
            number = PIECES.findall(str(i))
            tops += [{p: 1.0} for p in number] + [{"\t": 1.0}, law(token) | {"~": 0.1}, {"\n": 1.0}]
            text += line
        return text, tops

    def _told(self, prompt):
        """The tokens of a prompt with candidates: slots follow the law, words follow what came before."""
        pieces = PIECES.findall(prompt)
        if not self.traits.ten:
            pieces = [c for p in pieces for c in (p if p == "10" else [p])]
        followers: dict[tuple, Counter] = {}
        told, line = [(pieces[0], None)], pieces[0]
        for i in range(1, len(pieces)):
            before, piece = tuple(pieces[max(0, i - 4) : i]), pieces[i]
            if piece == "unknown" and pieces[i - 1] == "\t":
                told.append((piece, law(line[:-1]) | {"~": 0.1}))
            else:
                seen = followers.setdefault(before, Counter())
                p = (seen[piece] + 0.01) / (sum(seen.values()) + 1)
                told.append((piece, {piece: p, "~": 0.001}))
                seen[piece] += 1
            line = "" if piece == "\n" else line + piece
        return told

    def _shape(self, chat, text, steps, count, prompt):
        t = self.traits
        usage = {
            "prompt_tokens": len(PIECES.findall(prompt)),
            "completion_tokens": min(t.most_out, len(PIECES.findall(text))),
        }
        if chat:
            content = [{"token": s, "logprob": log(c, s), "top_logprobs": [{"token": k, "logprob": math.log(q)} for k, q in ranked(c, count)]} for s, c in steps]  # fmt: skip
            message = {"role": "assistant", "content": text}
            if t.thinks:
                message |= {"reasoning_content": "hm"}
            choice = {
                "index": 0,
                "message": message,
                "finish_reason": "stop",
                "logprobs": {"content": content} if count else None,
            }
        else:
            listed = {"tokens": [s for s, _ in steps], "token_logprobs": [log(c, s) for s, c in steps], "top_logprobs": [None if c is None else {k: math.log(q) for k, q in ranked(c, count)} for _, c in steps]}  # fmt: skip
            choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": listed if count else None}
        return {"id": "x", "object": "chat.completion", "choices": [choice]} | ({"usage": usage} if t.usage else {})


def ranked(candidates, count):
    full = dict(candidates or {})
    for i in range(count - len(full)):
        full[f"<{i}>"] = 1e-9
    return sorted(full.items(), key=lambda kv: -kv[1])[:count]


def log(candidates, token):
    p = (candidates or {}).get(token)
    return None if candidates is None else (math.log(p) if p else -20.0)


def vllm(told):
    listed = [None]
    for token, candidates in told[1:]:
        others = [(k, q) for k, q in candidates.items() if k != token]
        everyone = [(token, candidates.get(token, 1e-9)), *others]
        listed.append({str(i): {"logprob": math.log(q), "decoded_token": k} for i, (k, q) in enumerate(everyone)})
    return listed


def problem(message, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def _without_content(reply):
    changed = json.loads(json.dumps(reply))
    for choice in changed.get("choices", []):
        choice["logprobs"] = None
        if "message" in choice:
            choice["message"]["content"] = None
        choice["text"] = None
    return changed


async def send(writer, status, data, extra=None, kind="application/json", cut=None, drip=0.0):
    headers = {"content-type": kind, "content-length": str(len(data))} | (extra or {})
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    writer.write(head.encode())
    if drip:
        for i in range(0, len(data), 16):
            writer.write(data[i : i + 16])
            await writer.drain()
            await asyncio.sleep(drip * 16 / len(data))
        return
    writer.write(data if cut is None else data[:cut])
    await writer.drain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--faults", type=float, default=0.2)
    args = parser.parse_args()
    with FaultyServer(pace=Pace(share=args.faults), port=args.port) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
