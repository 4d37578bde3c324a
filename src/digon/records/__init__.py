"""The records that leave the library, and their way to JSON and back.

Every number in a report is a `Measurement`: a value with its interval, its sample and its method. Records are frozen
dataclasses; pydantic checks them when they are read. A missing number is NaN here and `null` in JSON.
"""

from .base import Measurement as Measurement
from .base import Number as Number
from .base import from_json as from_json
from .base import to_json as to_json
from .diagnosis import CAUSES as CAUSES
from .diagnosis import BlockVerdict as BlockVerdict
from .diagnosis import Cause as Cause
from .diagnosis import Check as Check
from .diagnosis import Count as Count
from .diagnosis import Diagnosis as Diagnosis
from .diagnosis import Label as Label
from .diagnosis import Verdict as Verdict
from .studies import Claim as Claim
from .studies import ClaimKind as ClaimKind
from .studies import ClaimVerdict as ClaimVerdict
from .studies import Figure as Figure
from .studies import Frame as Frame
from .studies import Grid as Grid
from .studies import Panel as Panel
from .studies import Series as Series
from .units import Arc as Arc
from .units import Coverage as Coverage
from .units import Excerpt as Excerpt
from .units import Explanation as Explanation
from .units import Histogram as Histogram
from .units import Neighbor as Neighbor
from .units import Promotion as Promotion
from .units import Provenance as Provenance
from .units import Score as Score
from .units import Sense as Sense
from .units import Simulation as Simulation
from .units import Stratum as Stratum
from .units import UnitCard as UnitCard
