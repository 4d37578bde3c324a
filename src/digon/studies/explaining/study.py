"""The stages of `digon explain`.

1. target      the rows; of a network, its sites are harvested first       -> activations/
2. survey      numbers of all units, where the choice of units needs them  -> survey/<site>.parquet
3. explain     chunk by chunk: explanations without a language model       -> cards/<site>/<chunk>.json, chosen/…, chance/…
4. words       chunk by chunk: a language model explains and is judged     -> the same cards, words/<site>/<chunk>.json
5. report      index, numbers by site, curve, bill, sentences              -> *.parquet, *.json

Whatever a language model does or fails to do, stages 1 to 3 are written before it is asked, and every answer is in the
journal before it is used. Chunks that lack answers are tried again by the next call.
"""

import time
from pathlib import Path
from typing import Any

from ... import config as configs
from . import choice, explained, summary, words
from .desk import ladder
from .settings import ExplainConfig, ExplainRun, Spending, WordsConfig
from .work import Say, Work


def run_explain(
    config: ExplainConfig, asked: WordsConfig, spending: Spending, out: Path | None = None, say: Say | None = None
) -> dict[str, Any]:
    """Explain units into a run folder; returns what the command prints at its end.

    Raises: any DigonError of target and settings, before any work; what a language model refuses is reported instead.
    """
    say = say or _to_stderr
    choice.check(config.units)
    ladder(config.rungs)  # names that there are not are refused before any work
    settings = ExplainRun(config, asked)
    folder = out or Path("runs") / f"explain-{Path(config.target).name}-{configs.digest(settings)[:6]}"
    started = time.perf_counter()
    work = Work.open(settings, folder, say)
    notes = work.notes
    for note in notes:
        say(note)
    chunks = work.chunks()
    explained.write(work, chunks, spending.workers)
    heard = words.ask(work, chunks, spending) if asked.asked and chunks else None
    summary.write(work, chunks, heard, notes)
    say(f"done in {time.perf_counter() - started:.0f} s")
    return summary.told(work.run, heard)


def _to_stderr(sentence: str) -> None:
    import sys

    print(f"• {sentence}", file=sys.stderr, flush=True)
