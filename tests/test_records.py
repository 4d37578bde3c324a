import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digon.errors import CorruptError
from digon.records import Excerpt, Explanation, Histogram, Measurement, Simulation, UnitCard, from_json, to_json

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(value=numbers, low=numbers, name=st.text(max_size=20))
def test_measurement_survives_json(value, low, name):
    record = Measurement(name=name, value=value, low=low, high=1.0, n=3, seed=0)
    back = from_json(Measurement, to_json(record))
    assert (back.name, back.value, back.low, back.n) == (name, value, low, 3)
    assert math.isnan(back.null)


def test_missing_numbers_are_null_and_json_is_strict():
    text = to_json([Measurement(name="a", value=math.nan)])
    assert json.loads(text, parse_constant=lambda c: pytest.fail(c))[0]["value"] is None


def test_nested_card_survives():
    card = UnitCard(
        unit="m/s#1",
        site="s",
        index=1,
        kind="latent",
        measurements=(Measurement(name="density", value=0.5),),
        histogram=Histogram((0.0, 1.0), (4,)),
        exemplars=(Excerpt("ab", 0, ("<b>",), (math.nan,), "top", simulated={"look-up": (1.0,)}),),
    )
    back = from_json(list[UnitCard], to_json([card]))[0]
    assert back.exemplars[0].tokens == ("<b>",)
    assert math.isnan(back.exemplars[0].activations[0])
    assert back.exemplars[0].simulated == {"look-up": (1.0,)}
    assert back.histogram == card.histogram


@pytest.mark.parametrize("text", ["{", "{}", '{"name":"a","value":"x"}', '{"name":"a","value":1,"extra":1}'])
def test_damaged_records_are_refused(text):
    with pytest.raises(CorruptError, match="not a Measurement"):
        from_json(Measurement, text)


def test_simulations_within_simulations_survive():
    before = Simulation(("a",), (2.5,), "0 to 10", distributions=(((0.0, 0.5), (5.0, 0.5)),))
    after = Simulation(("a",), (1.25,), "activation", real=(1.0,), uncalibrated=before)
    back = from_json(Explanation, to_json(Explanation("llm", "fires on a", 8.0, simulations=(after,))))
    assert back.simulations == (after,)
    assert back.simulations[0].uncalibrated == before
