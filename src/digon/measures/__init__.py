"""Pure mathematics of activations, codes and dictionaries: tensors in, tensors out."""

from .basis import residual_dependence as residual_dependence
from .basis import rotation_test as rotation_test
from .basis import token_kurtosis as token_kurtosis
from .clusters import exemplar_clusters as exemplar_clusters
from .dimension import participation_interval as participation_interval
from .dimension import participation_ratio as participation_ratio
from .geometry import dimensions_per_feature as dimensions_per_feature
from .geometry import feature_dimensionality as feature_dimensionality
from .geometry import interference as interference
from .selectivity import context_free_ceiling as context_free_ceiling
from .selectivity import density as density
from .selectivity import token_means as token_means
from .similarity import monosemanticity as monosemanticity
from .sparsity import code_density as code_density
from .sparsity import dead_share as dead_share
from .sparsity import fvu as fvu
from .sparsity import l0 as l0
from .stats import benjamini_hochberg as benjamini_hochberg
from .stats import bootstrap_interval as bootstrap_interval
from .stats import jackknife_interval as jackknife_interval
from .stats import permutation_p as permutation_p
