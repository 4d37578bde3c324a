"""Coders: activations to codes and back through a dictionary (neuron basis, random, PCA, ICA, sparse autoencoder)."""

from . import formats as formats  # gives SAEs their `save_pretrained` and `from_pretrained`
