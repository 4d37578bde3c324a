"""What does a unit respond to? Exemplars, explanations that simulate it, and honest scores for them."""

from .exemplars import Excerpts as Excerpts
from .explainers import LookUp as LookUp
from .explainers import NGrams as NGrams
from .scorers import score as score
from .splits import split_of as split_of
