import pytest

from digon.errors import RunError
from digon.explain import splits


def test_splits_are_balanced_and_depend_on_the_seed():
    names = [f"{i:032x}" for i in range(4000)]
    found = [splits.split_of(n) for n in names]
    shares = {s: found.count(s) / 4000 for s in splits.NAMES}
    assert shares == pytest.approx({"fit": 0.5, "select": 0.2, "calibrate": 0.1, "test": 0.2}, abs=0.03)
    assert found == [splits.split_of(n) for n in names]
    same = sum(a == splits.split_of(n, 1) for a, n in zip(found, names, strict=True)) / 4000
    assert same == pytest.approx(0.25 + 0.04 + 0.01 + 0.04, abs=0.03)


def test_a_shared_document_is_refused_by_name():
    with pytest.raises(RunError, match="1 documents are both explained and scored, such as b\n"):
        splits.assert_disjoint(["a", "b"], ["b", "c"])
    with pytest.raises(RunError, match=r"7 documents .* such as 0, 1, 2, 3, 4\n"):
        splits.assert_disjoint("0123456", iter("6543210"))
    splits.assert_disjoint(["a"], ["b"])
