"""Which directions of a site can be explained, where its units cannot?"""

from . import judge as judge
from .classes import Phrases as Phrases
from .classes import Words as Words
from .search import Explainers as Explainers
from .search import Found as Found
from .search import Ground as Ground
from .search import OneByOne as OneByOne
from .search import SearchConfig as SearchConfig
from .search import search as search
from .space import Space as Space
