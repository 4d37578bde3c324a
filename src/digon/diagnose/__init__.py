"""Why are units polysemantic? Numbered checks, and a verdict that is a set of causes."""

from .checks import run_checks as run_checks
from .evidence import Evidence as Evidence
from .statistics import statistics as statistics
from .verdict import diagnose as diagnose
