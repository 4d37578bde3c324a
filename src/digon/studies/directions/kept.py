"""Found directions on disk, one file each, so that a search that is killed goes on after the last one."""

from pathlib import Path

import torch

from ...explain.directions import Found
from ...explain.explainers import Level, Patterns
from ...store import weights


def save(path: Path, found: Found) -> None:
    """Write one direction with its explanation."""
    patterns = found.explanation
    assert isinstance(patterns, Patterns), "explanations of the verb are patterns of tokens"
    tensors = {
        "theta": found.theta,
        "trace": torch.tensor(found.trace, dtype=torch.float64),
        "scores": torch.tensor([found.fitted, found.selected, patterns.rest], dtype=torch.float64),
    }
    for order, level in enumerate(patterns.levels, 1):
        tensors |= {f"keys{order}": level.keys, f"values{order}": level.values}
    weights.write_tensors(path, tensors, {"name": patterns.name, "vocabulary": str(patterns.vocabulary)})


def load(path: Path, name: str, vocabulary: int) -> Found:
    """Read what `save` wrote. Raises: CorruptError if the file is damaged."""
    tensors = weights.read_tensors(path)
    fitted, selected, rest = tensors["scores"].tolist()
    orders = sum(key.startswith("keys") for key in tensors)
    levels = tuple(Level(tensors[f"keys{i}"], tensors[f"values{i}"]) for i in range(1, orders + 1))
    explanation = Patterns(name, rest, levels, vocabulary)
    return Found(tensors["theta"], explanation, fitted, selected, tuple(tensors["trace"].tolist()))
