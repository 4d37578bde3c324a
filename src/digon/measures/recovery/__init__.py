"""Were the features found? A report against the truth that cannot be gamed, and stability where there is no truth."""

from .counts import Recovery as Recovery
from .failures import LABELS as LABELS
from .failures import Failures as Failures
from .matching import Matching as Matching
from .matching import Stability as Stability
from .matching import match as match
from .matching import stability as stability
from .report import Report as Report
from .report import over_seeds as over_seeds
from .report import report as report
