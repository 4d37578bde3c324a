"""`digon explain`: what do the units of a harvest respond to, in words and patterns, and how far do these go?

settings   the flags of the verb
target     what to explain: a run, shards or a network; its neurons, latents or directions
choice     which units
desk       the text as explainers see it, and the one seam between values of units and explanations
words      a language model explains, simulates, judges; budget, failures, coverage
study      the stages of a run, each of which a restart skips
chance     how many units are explained well, and how many would be by chance
exchange   `digon exchange`: the files of other tools
summary    index, numbers by site, rate–distortion curve, bill, sentences
"""
