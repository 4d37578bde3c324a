"""Worlds whose truth is known: sparse features, toy networks trained on them, activations of known cause."""

from .features import Features as Features
from .features import FeatureSet as FeatureSet
from .features import features as features
from .fit import Fit as Fit
from .fit import FitConfig as FitConfig
from .fit import fit as fit
from .population import expected_loss as expected_loss
from .toys import Toy as Toy
from .tree import TreeConfig as TreeConfig
from .tree import TreeWorld as TreeWorld
