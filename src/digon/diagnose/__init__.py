"""Why are units polysemantic? Numbered checks, and a verdict that is a set of causes."""

from .checks import Evidence as Evidence
from .checks import run_checks as run_checks
from .verdict import diagnose as diagnose
