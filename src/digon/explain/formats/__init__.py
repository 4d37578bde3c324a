"""Units and explanations in the formats of others.

    openai        files of neuron-explainer: records of neurons, scored explanations            read, written
    neuronpedia   bulk files of Neuronpedia: features, activations, explanations                read, written
    delphi        shards of EleutherAI's delphi: where latents are active, and on which tokens  read

A format that does not hold all of a card says so: writing returns what was left out, one sentence each.
"""

from .delphi import LatentCache as LatentCache
