import inspect
import re

from digon import errors


def test_docstring_is_the_tree():
    listed = set(re.findall(r"[A-Z]\w*Error", errors.__doc__))
    defined = {n for n, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.DigonError)}
    assert listed == defined


def test_usage_exits_with_2_and_failure_with_1():
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.DigonError):
            assert kind.exit_code == (2 if issubclass(kind, errors.UsageError) else 1)


def test_message_has_problem_expectation_and_hint():
    text = str(errors.PathError("no x", expected="a file", hint="make one"))
    assert text.splitlines() == ["no x", "Expected: a file", "Hint: make one"]
