"""Coders: activations to codes and back through a dictionary (neuron basis, random, PCA, ICA, sparse autoencoder)."""
