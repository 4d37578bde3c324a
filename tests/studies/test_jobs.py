"""Jobs in processes: a line per finished one, and what a kill, a failure or a damaged file leaves."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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


ENDLESS = """
import os, sys, time
from digon.studies.jobs import spread

def told(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    return path

if __name__ == "__main__":
    for _ in spread(told, sys.argv[1:], 1):
        time.sleep(60)
"""


def test_workers_end_when_the_run_is_killed(tmp_path):
    script, told = tmp_path / "endless.py", tmp_path / "pid"
    script.write_text(ENDLESS)
    run = subprocess.Popen([sys.executable, str(script), str(told)])
    try:
        assert soon(lambda: told.is_file() and told.read_text() != "")
        worker = int(told.read_text())
        assert alive(worker)
    finally:
        run.kill()
        run.wait()
    assert soon(lambda: not alive(worker))


def soon(so, seconds=60):
    end = time.monotonic() + seconds
    while not so() and time.monotonic() < end:
        time.sleep(0.1)
    return so()


def alive(process):
    """Whether it runs; one that nobody has waited for does not."""
    state = Path(f"/proc/{process}/stat")
    if not state.parent.parent.joinpath("self").exists():
        pytest.skip("no /proc on this system")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
