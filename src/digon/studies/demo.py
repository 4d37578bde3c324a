"""The demo: a transformer trained here and now on the text that every Python carries, audited like any other.

The model goes to a folder beside the run, so that the audit treats it exactly as it would treat a stranger's.
"""

from pathlib import Path
from typing import Any

from ..hosts.corpus import python_corpus, split
from ..hosts.tinylm import TinyLMConfig
from ..hosts.tinylm_train import LMTrainConfig, train
from .audit import Say, _to_stderr, run_audit
from .settings import AuditConfig


def train_demo_model(folder: Path, seed: int, say: Say = _to_stderr) -> Path:
    """Train tinylm on Python's own source and documentation; resumes, and returns at once when it is done."""
    say(f"train a small transformer on Python's own text in {folder}")
    documents, held_out = split(list(python_corpus()), held_out=0.02, seed=seed)
    shape, settings = TinyLMConfig(seed=seed), LMTrainConfig(seed=seed)
    return train([d.text for d in documents], [d.text for d in held_out], shape, settings, folder)


def run_demo(out: Path, *, seed: int, tokens: int, say: Say = _to_stderr) -> dict[str, Any]:
    """Train the model, then audit it; a second call reuses what is done."""
    model = train_demo_model(out.parent / f"{out.name}-tinylm", seed, say)
    return run_audit(AuditConfig(model=str(model), tokens=tokens, seed=seed), out, say)
