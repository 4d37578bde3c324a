"""The tree world: thousands of features in trees, far more than dimensions, sampled at the cost of the active ones."""

from .law import FULL as FULL
from .law import SMALL as SMALL
from .law import Law as Law
from .law import TreeConfig as TreeConfig
from .world import TreeSample as TreeSample
from .world import TreeWorld as TreeWorld
