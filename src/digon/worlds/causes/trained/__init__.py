"""Networks whose cause is known: trained or built, and then put to tests on inputs that we control.

    autoencoder    sparse features through a bottleneck        superposition; frequent ones: rotated
    rectified      rectified units, frequent features          monosemantic
    absolute       |x| by ReLUs                                monosemantic; rare ones: superposition
    collisions     an L1 penalty, and room for everything      mixed: some pairs of features share a unit
    memorizer      an autoencoder of few rows                  lookup
    product        x y by squares                              rotated before the ReLUs, manifold behind them
    parity         do two bits differ?                         relational
    clock          a + b mod p                                 manifold
    labels         random labels, or true ones                 lookup, or rotated
    copy           symbols in a recurrent state                magnitude
    extraction     digits in numbers, built                    lookup
    conjunctions   all pairs of bits, built                    superposition

Every function takes (n_rows, d, seed) and settings, and returns a `World` with the network behind the site; the truth is
what `oracle` finds, not what the training was meant to give: a network that fails its tests raises RunError, and one with
several causes is mixed, with its blocks. `TRAINED` has one entry per setting worth telling apart, with its cause.
"""

from collections.abc import Callable
from functools import partial

from ..base import World
from .arithmetic import clock as clock
from .arithmetic import parity as parity
from .arithmetic import product as product
from .built import conjunctions as conjunctions
from .built import extraction as extraction
from .labels import labels as labels
from .recurrent import copy as copy
from .sparse import absolute as absolute
from .sparse import autoencoder as autoencoder
from .sparse import collisions as collisions
from .sparse import memorizer as memorizer
from .sparse import rectified as rectified

TRAINED: dict[str, Callable[..., World]] = {
    "autoencoder": autoencoder,
    "autoencoder, digons": partial(autoencoder, load=2.0),
    "autoencoder, frequent features": partial(autoencoder, load=2.0, density=0.9, importance=0.1),
    "autoencoder, few features": partial(autoencoder, load=0.75, density=0.3),
    "rectified": rectified,
    "absolute": absolute,
    "absolute, rare features": partial(absolute, density=0.01, importance=1.0),
    "collisions": collisions,
    "memorizer": memorizer,
    "memorizer, many rows": partial(memorizer, load=2.0, points=2000),
    "product, reads": product,
    "product, units": partial(product, site="units"),
    "parity": parity,
    "clock": clock,
    "random labels": labels,
    "true labels": partial(labels, kind="true"),
    "copy, one gate": copy,
    "copy, a matrix": partial(copy, cell="matrix"),
    "packed digits": extraction,
    "index digits": partial(extraction, site="index"),
    "conjunctions": conjunctions,
}
"""Worlds by name: functions of (n_rows, d, seed)."""
