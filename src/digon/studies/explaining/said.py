"""What is known of one unit while a language model is asked about it."""

from dataclasses import dataclass, field

from ...explain.llm import Simulation
from ...explain.llm.explainers import Judged, Meaning
from ...records import Measurement
from .texts import Texts


@dataclass
class Said:
    """What is known of one unit so far."""

    unit: int
    sign: int
    mean: float
    """Of the unit's activation."""
    key: str
    """What its card is found by."""
    texts: Texts
    judged: Judged | None = None
    meanings: list[Meaning] = field(default_factory=list)
    own: dict[int, Simulation] = field(default_factory=dict)
    others: list[dict[int, Simulation]] = field(default_factory=list)
    choices: tuple[Measurement, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What was done otherwise than asked."""
    problems: list[str] = field(default_factory=list)
    """What failed, and is worth another try."""
