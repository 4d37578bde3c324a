"""How much to spend: money, tokens and calls, with a stop that loses nothing.

A call reserves what it may cost at most before it is sent: its prompt at the most tokens per byte seen so far, its reply
at full length. It is sent if spent + reserved + its own stays within the limits; if only what is reserved stands in its
way, it waits until that is known; if what is spent does, the budget is spent. So spending ends within one call of the
limit, from below, however many calls are under way. The journal's totals count, those of earlier runs included.
"""

import asyncio
from dataclasses import dataclass, field

from ...errors import BudgetError, ConfigError
from .journal import Totals
from .wire import Call, Usage

FIRST_RATIO = 1 / 2
"""Tokens per byte of a prompt before a server has told any: English has a quarter, dense scripts and digits a half."""
OVERHEAD = 16
"""Tokens that a chat template adds."""


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens."""

    read: float = 0.0
    written: float = 0.0

    def usd(self, usage: Usage) -> float:
        """Dollars of a call.

        >>> Prices(2.0, 10.0).usd(Usage(500_000, 100_000))
        2.0
        """
        return (self.read * usage.tokens_in + self.written * usage.tokens_out) / 1e6


@dataclass(frozen=True)
class Budget:
    """The most that a journal may cost; None is no limit."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        for name in ("usd", "tokens", "calls"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise ConfigError(f"the budget for {name} is {limit}", expected="0 or more")


@dataclass
class Ledger:
    """What is spent, what is reserved, and what is left."""

    budget: Budget
    prices: Prices
    spent: Totals
    held: dict[str, tuple[int, float]] = field(default_factory=dict)
    ratio: float = FIRST_RATIO
    """Most tokens per byte of a prompt that was seen."""
    _told: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        if self.budget.usd is not None and not (self.prices.read or self.prices.written):
            raise ConfigError("a budget in money needs prices", hint="pass Prices(read=…, written=…)")

    def estimate(self, call: Call) -> Usage:
        """Tokens that a call may cost at most."""
        size = len(call.prompt.encode("utf-8", "replace"))
        return Usage(int(size * self.ratio) + OVERHEAD, call.most_out)

    async def reserve(self, identity: str, usage: Usage) -> None:
        """Set aside what a call may cost; waits while only other calls under way are in its way.

        Raises: BudgetError once the budget is spent.
        """
        tokens, usd = usage.tokens_in + usage.tokens_out, self.prices.usd(usage)
        async with self._changed:
            while (wall := self._over(tokens, usd, with_held=True)) is not None:
                if not self.held or self._over(tokens, usd, with_held=False) is not None:
                    raise self._stop(wall)
                await self._changed.wait()
            self.held[identity] = (tokens, usd)

    async def settle(self, identity: str, usage: Usage | None, size: int = 0, *, charged: bool = False) -> None:
        """Replace what was set aside by what was used; without usage by the estimate if `charged`, else by nothing.

        `size` is the number of bytes of the prompt, from which tokens per byte are learned.
        """
        async with self._changed:
            tokens, usd = self.held.pop(identity)
            if usage is not None:
                tokens, usd = usage.tokens_in + usage.tokens_out, self.prices.usd(usage)
                self._learn(usage, size)
            if usage is not None or charged:
                was = self.spent
                self.spent = Totals(was.calls + 1, was.tokens + tokens, was.usd + usd, was.doubts + (usage is None))
            self._changed.notify_all()

    def _learn(self, usage: Usage, size: int) -> None:
        if size < 64:  # short prompts are mostly template
            return
        seen = max(0.0, usage.tokens_in - OVERHEAD) / size
        self._told += 1
        self.ratio = max(self.ratio, seen) if self._told > 1 else seen

    def _over(self, tokens: int, usd: float, *, with_held: bool) -> str | None:
        """The limit that such a call would break."""
        held = self.held.values() if with_held else ()
        new = {
            "calls": self.spent.calls + 1 + len(held),
            "tokens": self.spent.tokens + tokens + sum(t for t, _ in held),
            "usd": self.spent.usd + usd + sum(u for _, u in held),
        }
        for name, amount in new.items():
            limit = getattr(self.budget, name)
            if limit is not None and amount > limit * (1 + 1e-12):
                return name
        return None

    def _stop(self, wall: str) -> BudgetError:
        limit, used = getattr(self.budget, wall), getattr(self.spent, wall)
        return BudgetError(
            f"the budget is spent: {used:.6g} of {limit:.6g} {wall}, and one more call could exceed it",
            hint="run the same command with a larger budget: it goes on where it was, and pays for nothing twice",
        )
