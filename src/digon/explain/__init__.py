"""What does a unit respond to? Exemplars, explanations that simulate it, and honest scores for them."""

from .coverage import cover as cover
from .exemplars import Contexts as Contexts
from .exemplars import Excerpts as Excerpts
from .explainers import LookUp as LookUp
from .explainers import NGrams as NGrams
from .kinds import Surroundings as Surroundings
from .pieces import take_apart as take_apart
from .scorers import population as population
from .scorers import score as score
from .scorers import score_units as score_units
from .splits import split_of as split_of
