"""A number with its uncertainty, and the way of all records to JSON and back."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..errors import CorruptError


def _null_to_nan(value: object) -> object:
    return math.nan if value is None else value


def _nan_to_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


Number = Annotated[float, BeforeValidator(_null_to_nan), PlainSerializer(_nan_to_null, when_used="json")]
"""A float whose NaN is `null` in JSON."""

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Measurement:
    """One number with its uncertainty and its provenance."""

    name: str
    """Identifier of the quantity, as in `docs/terms.md`."""
    value: Number
    low: Number = math.nan
    """Lower end of the interval; NaN where nothing was sampled or no interval exists."""
    high: Number = math.nan
    n: int = 0
    """Size of the sample behind the value."""
    unit: str = ""
    """Unit of the value, empty for pure numbers."""
    method: str = ""
    """How value and interval were obtained."""
    seed: int | None = None
    source: str = ""
    """Paper or derivation behind the method."""
    null: Number = math.nan
    """What the same method reads where there is nothing to find."""
    p: Number = math.nan
    """Share of null draws at least as extreme (with the +1 correction)."""

    def __str__(self) -> str:
        text = f"{self.value:.3g}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            text += f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{text} {self.unit}".rstrip()


def to_json(record: Any, *, indent: int | None = None) -> str:
    """Strict JSON of a record or a list of records.

    >>> to_json(Measurement(name="l0", value=3.5))[:40]
    '{"name":"l0","value":3.5,"low":null,"hig'
    """
    kind = record.__class__
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter.dump_json(record, indent=indent).decode()


def from_json(kind: Any, text: str | bytes) -> Any:
    """Read a record of type `kind`, such as `Measurement` or `list[UnitCard]`.

    Raises: CorruptError if the text is not such a record.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter.validate_json(text)
    except ValidationError as error:
        raise CorruptError(
            f"this is not a {getattr(kind, '__name__', kind)}: {error.errors()[0]['msg']}",
            expected="JSON as written by digon",
            hint="delete the file and run the command again; it redoes only what is missing",
        ) from None
