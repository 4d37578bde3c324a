"""Jobs in processes: a line per finished one, and what a kill, a failure or a damaged file leaves."""

from dataclasses import dataclass

import pytest

from digon.errors import ConfigError, CorruptError
from digon.studies.jobs import failed, read, run, spread


@dataclass(frozen=True)
class Square:
    of: int

    @property
    def key(self):
        return f"square of {self.of}"

    @property
    def head(self):
        return {"of": self.of}


JOBS = [Square(i) for i in range(8)]


def squared(job):
    return {"value": job.of**2, "nothing": [float("nan"), 0.5]}


@pytest.mark.parametrize("workers", [0, 2])
def test_lines_come_in_the_order_of_the_jobs(tmp_path, workers):
    records = run(JOBS, squared, tmp_path / "new" / "squares.jsonl", workers)
    assert [r["value"] for r in records] == [i**2 for i in range(8)]
    assert records[3] == {"key": "square of 3", "of": 3, "value": 9, "nothing": [None, 0.5]}


def test_a_run_goes_on_where_it_was(tmp_path):
    path, asked = tmp_path / "squares.jsonl", []
    first = run(JOBS[:3], squared, path, 0)
    with path.open("a") as file:
        file.write('{"key": "cut o')  # a kill
    records = run(JOBS, lambda job: asked.append(job) or squared(job), path, 0)
    assert asked == JOBS[3:]
    assert records[:3] == first
    assert read(path) == records


def test_a_job_that_fails_is_reported_and_tried_again(tmp_path):
    path = tmp_path / "squares.jsonl"

    def breaking(job):
        if job.of == 1:
            raise ValueError("too odd")
        return squared(job)

    records = run(JOBS, breaking, path, 0)
    assert [r["of"] for r in failed(records)] == [1]
    assert "ValueError in test_jobs.py" in records[1]["error"]
    assert "too odd" in records[1]["error"]
    assert not failed(run(JOBS, squared, path, 0))


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "squares.jsonl"
    path.write_text('{"key": "a"}\n{"key": \n{"key": "b"}\n')
    with pytest.raises(CorruptError, match="line 2"):
        read(path)


def refused(number):
    if number == 2:
        raise ConfigError("2 is even", expected="an odd number", hint="add one")
    return number


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_task_refuses_is_refused_in_the_same_words(workers):
    with pytest.raises(ConfigError) as error:
        list(spread(refused, [1, 2, 3], workers))
    assert (error.value.problem, error.value.expected, error.value.hint) == ("2 is even", "an odd number", "add one")
