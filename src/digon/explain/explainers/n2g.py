"""N2G in its published simple form: short patterns copied from loud rows, matched at the first end.

For each of some rows, the loudest and others drawn in proportion to their activation, one per run of text:
1. The shortest suffix whose activation at its last token is half of the row's or more.
2. A token of it is a literal if the activation falls by half or more with the token replaced; any token will do otherwise.
3. The start of the text ends the path if the activation falls by half or more with something before the suffix.
4. The end holds the activation of the suffix; rows that match nothing take the mean of all rows.

With a network at hand (`probe`) activations are those of the changed texts. Without one they are means over the fit rows that
end so, the replaced token left free; a pattern that fewer than `SHOWN_BY` rows show counts as silent, and a row without any
other pattern is passed over.
Activations are measured from the mean. Bits: those of `automaton`.

Source: Gao et al. 2024 (their variant), after Foote et al. 2023; means of the corpus in place of the network are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ... import rng
from .automaton import ANY, START, Automaton, Path
from .base import smallest
from .rung import Rung
from .scene import Scene
from .shared import Shared

LOUDEST, DRAWN = 16, 16
"""Rows that patterns are copied from."""
LONGEST = 8
"""Tokens of a suffix."""
HALF = 0.5
SHOWN_BY = 3
"""Rows that a mean of the corpus needs."""

Probe = Callable[[Sequence[Sequence[int]]], Float[Tensor, " texts"]]
"""Activation at the last token of every text."""


@dataclass(frozen=True)
class CopiedAutomaton(Rung[Automaton]):
    """Fits automata as published (N2G)."""

    probe: Probe | None = None
    """The network, for one unit."""
    pad: int = 0
    """Token that replaces others, for the probe."""
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return "N2G"

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Automaton]:
        """Automata copied from fit rows; the select rows are not looked at."""
        assert self.probe is None or values.shape[1] == 1, "a probe is for one unit"
        names = np.unique(shared.contexts.text[0].tokens.numpy())
        found = []
        for a in shared.columns(values)[0]:
            rest = float(a.mean())
            texts = _Texts(shared.scene, a - rest, names)
            leaves: dict[Path, list[float]] = {}
            for row in self._rows(texts):
                copied = self._copied(texts, row, rest)
                if copied:
                    leaves.setdefault(copied[0], []).append(copied[1])
            heights = tuple(rest + float(np.mean(h)) for h in leaves.values())
            found.append(Automaton(self.name, rest, tuple(leaves), heights, shared.contexts.vocabulary, greedy=True))
        return found

    def _rows(self, texts: "_Texts") -> list[int]:
        """Loud rows, and rows drawn by how loud they are, each from another run."""
        loud = np.maximum(texts.shift, 0)
        if not loud.any():
            return []
        draw = rng.numpy_stream(self.seed, "n2g")
        # exponential races: the first ones are a draw without replacement
        raced = np.divide(draw.exponential(size=len(loud)), loud, out=np.full(len(loud), np.inf), where=loud > 0)
        kept: list[int] = []
        seen: set[int] = set()
        for first, count in ((-loud, LOUDEST), (raced, DRAWN)):
            goal = len(kept) + count
            for row in smallest(first, 20 * count).tolist():
                begin = int(texts.begins[row])
                if len(kept) < goal and loud[row] > 0 and begin not in seen:
                    seen.add(begin)
                    kept.append(row)
        return kept

    def _copied(self, texts: "_Texts", row: int, rest: float) -> tuple[Path, float] | None:
        """Path and height of one row; None if no suffix is active enough."""
        whole = texts.before(row)
        own = float(texts.shift[row])
        suffixes = [tuple(whole[len(whole) - k :]) for k in range(1, len(whole) + 1)]
        heights = self._heights(texts, suffixes, rest)
        enough = [k for k, h in enumerate(heights) if h >= HALF * own]
        if not enough:
            return None
        suffix, height = suffixes[enough[0]], heights[enough[0]]
        changed = [(*suffix[:k], ANY, *suffix[k + 1 :]) for k in range(len(suffix) - 1)]
        *rest_of, padded = self._heights(texts, [*changed, (ANY, *suffix)], rest)
        literal = [h <= (1 - HALF) * height for h in rest_of]
        path = [suffix[-1], *(t if keep else ANY for t, keep in zip(suffix[-2::-1], literal[::-1], strict=True))]
        if len(suffix) == texts.depth(row) + 1 and padded < HALF * own:
            return (*path, START), height
        while path[-1] == ANY:
            path.pop()
        return tuple(path), height

    def _heights(self, texts: "_Texts", patterns: Sequence[tuple[int, ...]], rest: float) -> list[float]:
        """Activation beyond rest of every pattern, by the network or on average over the rows that show it."""
        if self.probe is None:
            return [texts.mean(pattern) for pattern in patterns]
        filled = [[self.pad if step == ANY else step for step in pattern] for pattern in patterns]
        return [float(v) - rest for v in self.probe(filled)]


class _Texts:
    """The fit rows of one unit and what comes before them."""

    def __init__(self, scene: Scene, shift: NDArray[np.float64], names: NDArray[np.int64]) -> None:
        self.scene, self.shift, self.names = scene, shift, names
        text = scene.text
        self.tokens, self.places, self.begins = text.tokens, text.places, text.begins

    def depth(self, row: int) -> int:
        return int(self.places[row] - self.begins[row])

    def before(self, row: int) -> list[int]:
        """Tokens up to and with the row's own."""
        place = int(self.places[row])
        return self.names[self.tokens[max(int(self.begins[row]), place - LONGEST + 1) : place + 1]].tolist()

    def mean(self, pattern: tuple[int, ...]) -> float:
        """Mean over the rows that end in a pattern; 0 if there are too few."""
        literals = [(lag, step) for lag, step in enumerate(reversed(pattern)) if step != ANY]
        numbers = np.searchsorted(self.names, [step for _, step in literals]).tolist()
        # the rarest token first: few rows are looked at
        known = sorted(
            (self.scene.places_of(number), lag, number) for (lag, _), number in zip(literals, numbers, strict=True)
        )
        rows = self.scene.rows_behind(known[0][2], known[0][1])
        rows = rows[self.scene.steps_back[rows] >= len(pattern) - 1]
        for _, lag, number in known[1:]:
            if len(rows) < SHOWN_BY:
                return 0.0
            rows = rows[self.tokens[self.places[rows] - lag] == number]
        return float(self.shift[rows].mean()) if len(rows) >= SHOWN_BY else 0.0
