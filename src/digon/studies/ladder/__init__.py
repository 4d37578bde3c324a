"""How do explanations and polysemanticity change with size, depth and sparsity? A ladder of small transformers.

1. plan      which networks, and which of them are read a second time with another activation
2. train     every network on the same tokens in the same order, with exact resume
3. measure   loss, scores of explanations, η², dead units, senses and diagnosis, per layer, on documents never trained on
4. analyze   slopes per decade of parameters and per layer, tax of sparsity, with intervals over documents, units, seeds
5. report    tables, pictures, and the published slopes beside ours

Source: after Bills et al. 2023, "Language models can explain neurons in language models", sections on model size and on
sparse activations.
"""
