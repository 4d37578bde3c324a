"""`digon directions`: which directions of a site can be explained, where its units cannot, and what are they worth?

place       the rows, their white coordinates, the class of explanations
baselines   neurons, random directions, components, latents, bare tokens: the same explainer, the same documents
study       the stages of a run, each of which a restart skips
report      numbers, sentences, cards and tables
benchmark   several hosts and seeds, for docs/results/directions.md
"""
