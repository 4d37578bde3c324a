"""`digon toy`: one network from flags."""

import pytest

from digon.errors import ConfigError
from digon.studies.toys.settings import ToyConfig
from digon.studies.toys.single import law_of, run_toy

QUICK = {"engine": "sampled", "steps": 400, "starts": 3, "batch": 256, "learning_rate": 1e-2}


def test_two_equal_features_form_a_digon_and_a_second_call_trains_nothing(tmp_path):
    said = []
    config = ToyConfig(n=2, m=1, density=0.05, **QUICK)
    first = run_toy(config, tmp_path / "run", said.append)
    assert first["sentences"][-1] == "Geometry: digon."
    assert "2 of 2 features are represented in 1 dimensions, more than there are" in first["sentences"][0]
    count = len(said)
    assert run_toy(config, tmp_path / "run", said.append) == first
    assert len(said) == count


def test_as_many_dimensions_as_features_is_no_superposition(tmp_path):
    result = run_toy(ToyConfig(n=3, m=3, density=1.0, output="linear", **QUICK), tmp_path / "run", lambda line: None)
    assert "no superposition" in result["sentences"][0]


def test_sets_and_importances():
    law = law_of(ToyConfig(n=5, decay=0.5, sets="anticorrelated", set_size=2))
    assert [s.members for s in law.sets] == [(0, 1), (2, 3)]
    assert law.importance.tolist() == [1.0, 0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize(
    "wrong",
    [
        {"density": 0.0},
        {"density": 1.5},
        {"n": 0},
        {"decay": -1.0},
        {"decay": float("nan")},
        {"sets": "correlated", "set_size": 9},
    ],
)
def test_settings_that_make_no_sense(wrong, tmp_path):
    with pytest.raises(ConfigError):
        run_toy(ToyConfig(**{**QUICK, **wrong}), tmp_path / "run", lambda line: None)
    assert not (tmp_path / "run").exists()


def test_exact_is_chosen_where_it_is_known():
    assert ToyConfig().exact
    assert not ToyConfig(hidden="relu").exact
    assert not ToyConfig(values="lognormal").exact
    assert not ToyConfig(engine="sampled").exact
