"""The all-at-once simulator inside this process, on a language model that is loaded here.

    1. token ids piece by piece: prefix; then for every token its line up to the slot, and the slot; the places of the
       slots are known as they are laid, so nothing has to be found again in a text
    2. the prefix is read once, all texts of a batch go behind it
    3. at the place before each slot: softmax over the vocabulary; value = Σ d·p(d)/Σ p(d) over the numbers, mass = Σ p(d)

The numbers are those that are one token: 0 to 10 where "10" is one, else 0 to 9.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import ContextError, ModelError
from ...hosts import Host
from . import prompts
from .simulate import Simulation


@dataclass(frozen=True)
class Laid:
    """One text as token ids behind the prefix, and the places whose prediction is a number."""

    ids: list[int]
    places: list[int]


class LocalSimulator:
    """Simulates with a host that is a language model.

    Raises: ModelError if it reads no text, or does not write the numbers 0 to 9 as one token each.
    """

    def __init__(self, host: Host) -> None:
        if host.tokenizer is None:
            raise ModelError(f"{host.name} has no tokenizer", expected="a language model")
        self.host = host
        self._tokenizer = host.tokenizer
        codes = self._tokenizer.encode_batch([str(d) for d in range(11)])
        if any(len(code) != 1 for code in codes[:10]) or len({code[0] for code in codes[:10]}) < 10:
            raise ModelError(
                f"{host.name} does not write every digit as one token of its own", expected="one that does"
            )
        singles = {code[0] for code in codes[:10]}
        self.scale = 10 if len(codes[10]) == 1 and codes[10][0] not in singles else 9
        self._digits = torch.tensor([code[0] for code in codes[: self.scale + 1]])

    def simulate(self, explanation: str, texts: Sequence[Sequence[str]]) -> list[Simulation]:
        """Simulations of several texts for one explanation, which all are read behind one prefix.

        Raises: ContextError if prefix and text are longer than the model reads.
        """
        full = [tokens for tokens in texts if tokens]
        if not full:
            return [Simulation("local", (), (), self.scale) for _ in texts]
        laid = [self.lay(prompts.all_at_once(explanation, tokens, self.scale)) for tokens in full]
        prefix, rows = laid[0][0], [row for _, row in laid]
        longest = len(prefix) + max(len(row.ids) for row in rows)
        if longest > self.host.max_context:
            raise ContextError(
                f"{longest} tokens are more than the {self.host.max_context} that {self.host.name} reads",
                hint="shorter excerpts or a shorter explanation",
            )
        read = iter([self._read(scores) for scores in self._scores(prefix, rows)])
        return [next(read) if tokens else Simulation("local", (), (), self.scale) for tokens in texts]

    def lay(self, prompt: prompts.AllAtOnce) -> tuple[list[int], Laid]:
        """Ids of the prefix, and of the text behind it."""
        prefix, slot, *lines = self._tokenizer.encode_batch([prompt.prefix, prompt.after, *prompt.lines])
        ids: list[int] = []
        places: list[int] = []
        for line in lines:
            ids += line
            places.append(len(ids) - 1)
            ids += slot
        return [*self._tokenizer.prefix, *prefix], Laid(ids, places)

    def _read(self, scores: Float[Tensor, "slots vocabulary"]) -> Simulation:
        p = scores.double().softmax(-1)[:, self._digits.to(scores.device)]
        mass = p.sum(-1)
        numbers = torch.arange(self.scale + 1, dtype=p.dtype, device=p.device)
        values = torch.where(mass > 0, (p @ numbers) / mass, torch.nan)
        return Simulation("local", tuple(values.tolist()), tuple(mass.tolist()), self.scale)

    @torch.inference_mode()
    def _scores(self, prefix: list[int], rows: Sequence[Laid]) -> list[Float[Tensor, "_ vocabulary"]]:
        """Logits at the places of each row."""
        ids, mask = _padded([row.ids for row in rows], self.host.pad_id)
        ids, mask = ids.to(self.host.device), mask.to(self.host.device)
        head = torch.tensor([prefix], device=self.host.device)
        logits = _behind_cache(self.host, head, ids, mask) if _has_cache(self.host) else None
        if logits is None:
            whole = torch.cat([head.expand(len(ids), -1), ids], 1)
            seen = torch.cat([torch.ones_like(head, dtype=torch.bool).expand(len(ids), -1), mask], 1)
            logits = self.host.forward(whole, seen)[:, len(prefix) :]
        return [logits[i, row.places] for i, row in enumerate(rows)]


def _padded(rows: Sequence[list[int]], pad: int) -> tuple[Int[Tensor, "b t"], Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return ids, mask


def _has_cache(host: Host) -> bool:
    return bool(getattr(getattr(host.model, "config", None), "use_cache", False))


def _behind_cache(
    host: Host, head: Int[Tensor, "1 p"], ids: Int[Tensor, "b t"], mask: Tensor
) -> Float[Tensor, "b t vocabulary"] | None:
    """Logits behind a prefix that is read once; None for a model whose cache cannot be repeated."""
    past = host.model(input_ids=head, use_cache=True).past_key_values
    if not hasattr(past, "batch_repeat_interleave"):
        return None
    past.batch_repeat_interleave(len(ids))
    seen = torch.cat([mask.new_ones(len(ids), head.shape[1]), mask], 1)
    return host.model(input_ids=ids, attention_mask=seen.long(), past_key_values=past, use_cache=True).logits
