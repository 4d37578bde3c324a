"""Units and explanations in the formats of others.

    openai        files of neuron-explainer: records of neurons, scored explanations            read, written
    neuronpedia   bulk files of Neuronpedia: features, activations, explanations                read, written
    delphi        shards of EleutherAI's delphi: where latents are active, and on which tokens  read
    delphi_texts  its explanations and what its judges said of them                             read; texts written

A format that does not hold all of a card says so: writing returns what was left out, one sentence each.
"""

from pathlib import Path
from typing import Literal

from ...errors import PathError
from . import delphi_texts, neuronpedia, openai
from .delphi import LatentCache as LatentCache

Format = Literal["openai", "neuronpedia", "delphi"]
LOOKS = {
    "openai": f"{openai.ACTIVATIONS}/<layer>/<neuron>.json",
    "neuronpedia": "features/batch-0.jsonl.gz, in the folder or in <model>/<source> of it",
    "delphi": "<first>_<last>.safetensors per hook point in latents/, or explanations/<hook point>_latent<i>.txt",
}
"""What lies in a folder of each format."""


def recognized(folder: Path) -> Format:
    """The format of a folder, by what lies in it. Raises: PathError if it is none that we read."""
    if any((folder / openai.ACTIVATIONS).glob("*/*.json")):
        return "openai"
    if neuronpedia.found_sources(folder):
        return "neuronpedia"
    if delphi_texts.hook_points(folder) or delphi_texts.explained(folder):
        return "delphi"
    there = "holds units in no format that is known" if folder.is_dir() else "is no folder"
    raise PathError(f"{folder} {there}", expected="; or ".join(f"{name}: {looks}" for name, looks in LOOKS.items()))
