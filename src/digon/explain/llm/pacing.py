"""How fast to ask: as fast as the server allows, and no faster.

    bucket      rate·t tokens drip in, at most a burst of them stay; a request takes its estimate at once and waits until
                the level is back at 0; when the reply tells its true size, the difference is given back or taken
    throttle    after every window of as many outcomes as may run at once:
                limit ← limit·(1 − s/2) + step while s < ½, limit·(1 − s/2) above; s = share of overload in the window
                before the first overload the limit doubles per window
    retry       wait U(0, min(cap, base·2^attempt)); at least as long as the server asks for
    allowance   retries of all calls together: a constant and a share of the calls

A throttle that halves at every loss starves under random faults: at a share s of them its limit settles near 1.2/√s.
This one settles near 2·step/s, and still falls to 1 when the server fails half of the time.

Sources: proportional decrease after Alizadeh et al. 2010 (DCTCP); full jitter after Brooker 2015, "Exponential backoff
and jitter"; retry allowance after the retry budget of Google's SRE book, chapter 21.
"""

import asyncio
import email.utils
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

BURST = 1 / 12
"""A bucket holds what drips in during this share of a minute."""
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Limits:
    """How hard a server may be driven."""

    concurrency: int = 64
    """Most calls under way at once."""
    start: int = 8
    """Calls under way at once before anything is known about the server."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempts: int = 8
    """Most attempts of one call."""
    timeout: float = 120.0
    """Seconds that one attempt may take in all, however the bytes trickle."""
    base: float = 0.5
    """Seconds: mean of the first wait is half of it."""
    cap: float = 60.0
    """Seconds: no wait that we choose is longer. What a server asks for is granted up to `patience`."""
    patience: float = 600.0
    """Seconds: a server that wants to be left alone for longer is not waited for."""


@dataclass
class Bucket:
    """A token bucket whose clock is told from outside."""

    per_minute: float | None
    level: float = field(init=False)
    seen: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    @property
    def burst(self) -> float:
        """Most that can be taken at once without waiting."""
        return max(1.0, (self.per_minute or 0) * BURST)

    def take(self, amount: float, now: float) -> float:
        """Take an amount. Returns: seconds to wait before it may be used.

        >>> bucket = Bucket(60.0)  # one per second, five at once
        >>> [round(bucket.take(1.0, 0.0), 6) for _ in range(7)]
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0]
        """
        if self.per_minute is None:
            return 0.0
        rate = self.per_minute / 60
        self.level = min(self.burst, self.level + rate * max(0.0, now - self.seen)) - amount
        self.seen = max(self.seen, now)
        return max(0.0, -self.level / rate)

    def correct(self, difference: float) -> None:
        """Give back (positive) or take (negative) what the estimate was off by."""
        if self.per_minute is not None:
            self.level = min(self.burst, self.level + difference)


@dataclass
class Throttle:
    """How many calls may be under way: grows by steps, shrinks in proportion to the share of overload."""

    most: int
    limit: float
    active: int = 0
    peak: int = 0
    """Most calls that were under way at once."""
    _good: int = 0
    _bad: int = 0
    _calm: bool = True
    _free: asyncio.Condition = field(default_factory=asyncio.Condition)

    def outcome(self, overloaded: bool) -> None:
        """Learn how one attempt ended."""
        self._good, self._bad = self._good + (not overloaded), self._bad + overloaded
        window = self._good + self._bad
        if window < max(4, int(self.limit)):
            return
        share = self._bad / window
        self._good = self._bad = 0
        if share == 0 and self._calm:
            self.limit = min(self.most, 2 * self.limit)
            return
        self._calm = False
        step = self.most / 10 if share < 0.5 else 0.0
        self.limit = min(float(self.most), max(1.0, self.limit * (1 - share / 2) + step))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a place among the calls under way, and leave it at the end."""
        async with self._free:
            await self._free.wait_for(lambda: self.active < int(self.limit))
            self.active += 1
            self.peak = max(self.peak, self.active)
        try:
            yield
        finally:
            async with self._free:
                self.active -= 1
                self._free.notify(1 + max(0, int(self.limit) - self.active))


@dataclass
class Allowance:
    """Retries of all calls together, so that a server on its knees is not kicked."""

    constant: int = 64
    share: float = 1.0
    calls: int = 0
    retries: int = 0

    def spend(self) -> bool:
        """Take one retry. Returns: whether there was one left."""
        if self.retries >= self.constant + self.share * self.calls:
            return False
        self.retries += 1
        return True


def backoff(attempt: int, asked: float | None, limits: Limits, draw: random.Random) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0); `asked` is what the server wants."""
    jitter = draw.uniform(0, min(limits.cap, limits.base * 2.0**attempt))
    return jitter if asked is None else asked + min(jitter, limits.base)


def asked_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the headers of a refusal ask for; None if they do not. `now` is the time of day, from 1970.

    >>> asked_wait({"retry-after": "3"}, 0.0), asked_wait({"x-ratelimit-reset-requests": "1m2.5s"}, 0.0)
    (3.0, 62.5)
    """
    low = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(low.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    after = low.get("retry-after")
    if after is not None:
        seconds = _number(after)
        if seconds is not None:
            return max(0.0, seconds)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - now)
        except (TypeError, ValueError):
            pass
    return exhausted_wait(low)


def exhausted_wait(headers: Mapping[str, str], *, told: bool = False) -> float | None:
    """Seconds until a limit that is used up is reset; None if none is, or the headers do not say.

    Where a header tells how much is left, only a limit with nothing left counts; with `told`, one must tell.
    """
    waits = []
    for kind in ("requests", "tokens", ""):
        suffix = f"-{kind}" if kind else ""
        left = _number(headers.get(f"x-ratelimit-remaining{suffix}"))
        wait = duration(headers.get(f"x-ratelimit-reset{suffix}"))
        if wait is not None and (left <= 0 if left is not None else not told):
            waits.append(wait)
    return max(waits) if waits else None


def duration(text: str | None) -> float | None:
    """Seconds of a text such as 1m2.5s, 20ms or 7; None if it is none.

    >>> duration("1h1m1s"), duration("20ms"), duration("7"), duration("soon")
    (3661.0, 0.02, 7.0, None)
    """
    if text is None:
        return None
    plain = _number(text)
    if plain is not None:
        # some servers give the time of day of the reset: that is no duration
        return plain if 0 <= plain < 1e6 else None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if not parts or "".join(n + u for n, u in parts) != text.strip():
        return None
    return sum(float(n) * _UNITS[u] for n, u in parts)


def _number(text: str | None) -> float | None:
    try:
        found = float(text) if text is not None else None
    except ValueError:
        return None
    return found if found is not None and abs(found) < float("inf") else None
