"""One generator per cause: what do activations look like when we know why the units are polysemantic?

    null             Gaussian or elliptical noise, no features at all
    monosemantic     h = f,        one sparse feature per unit
    rotated          h = f Q,      at most as many features as units, mixed linearly
    superposition    h = f W,      more features than dimensions
    manifold         circles, arcs, tori, spheres behind gates
    polygon          exclusive features at the corners of polygons: also a sampled circle
    magnitude        h = Σ γᵗ E[xₜ], symbols told apart by size
    relational       variables that are present only through each other
    lookup           a code per distinct input
    mixed            several of these side by side
    skip_trigrams    attention heads that share what they know
    trained          networks, trained or built, whose cause tests on known inputs have found
    projected        a world seen through fewer dimensions

Rows are grouped into documents of twenty; every row is an input of its own, except in a look-up table. `observed` adds
what observation does to every cause alike.

Source: the ontology of Chan 2024, "Superposition is not "just" neuron polysemanticity".
"""

from .base import Block as Block
from .base import Truth as Truth
from .base import World as World
from .codes import lookup as lookup
from .codes import magnitude as magnitude
from .codes import relational as relational
from .curved import manifold as manifold
from .curved import polygon as polygon
from .heads import skip_trigrams as skip_trigrams
from .linear import monosemantic as monosemantic
from .linear import rotated as rotated
from .linear import superposition as superposition
from .mixed import mixed as mixed
from .nothing import null as null
from .nuisances import NUISANCES as NUISANCES
from .nuisances import observed as observed
from .projected import projected as projected
from .trained import TRAINED as TRAINED
