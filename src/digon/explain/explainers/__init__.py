"""Explanations that need no language model: fitted on rows, simulated exactly, rendered in words, priced in bits."""

from .backoff import BackOff as BackOff
from .base import SHRINK as SHRINK
from .base import VALUE_BITS as VALUE_BITS
from .base import Explainer as Explainer
from .base import Fitted as Fitted
from .concepts import Concept as Concept
from .concepts import Scene as Scene
from .lookup import Constant as Constant
from .lookup import LookUp as LookUp
from .ngrams import NGrams as NGrams
from .patterns import Level as Level
from .patterns import Patterns as Patterns
from .probe import Additive as Additive
from .probe import LinearProbe as LinearProbe
from .rungs import LADDER as LADDER
from .rungs import Point as Point
from .rungs import best as best
from .rungs import fit_all as fit_all
from .rungs import mean_curve as mean_curve
from .rungs import pareto as pareto
from .rungs import rate_distortion as rate_distortion
from .rungs import squared_correlations as squared_correlations
from .shared import Shared as Shared
from .trie import Trie as Trie
