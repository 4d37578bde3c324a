"""Explanations that need no language model: fitted on rows, simulated exactly, rendered in words, priced in bits."""

from .base import SHRINK as SHRINK
from .base import VALUE_BITS as VALUE_BITS
from .base import Explainer as Explainer
from .base import Fitted as Fitted
from .lookup import LookUp as LookUp
from .ngrams import NGrams as NGrams
from .patterns import Level as Level
from .patterns import Patterns as Patterns
from .trie import Trie as Trie
