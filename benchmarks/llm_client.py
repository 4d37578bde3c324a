"""The client against a server that fails: is every result right or missing, is nothing paid twice, and how fast is it?

faults      10,000 calls, a fifth of the attempts fails in one of 14 ways
kills       ten runs are killed, an eleventh finishes; a call is paid twice only if it was under way at a kill
budgets     calls, tokens and money: how far from the limit does spending end?
sustained   64 calls at once against a server that takes two seconds for each

OMP_NUM_THREADS=1 python benchmarks/llm_client.py
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "explain" / "llm"))

from faulty_server import FaultyServer, Pace, Traits, answer
from killed import CONCURRENCY, kill_after

from digon.errors import BudgetError
from digon.explain.llm import Budget, Call, Client, Journal, Limits, Missing, Prices, Server


def questions(count: int) -> list[Call]:
    return [
        Call("chat", {"messages": [{"role": "user", "content": f"question {i}"}], "max_tokens": 8})
        for i in range(count)
    ]


def client_of(server: FaultyServer, journal: Journal, **settings) -> Client:
    return Client(Server.of("m", server.url, key="none", label="test"), journal, **settings)


def right(found) -> tuple[int, int, int]:
    """Right, missing and wrong results."""
    texts = [None if isinstance(r, Missing) else r.text for r in found]
    good = sum(t == answer(f"question {i}") for i, t in enumerate(texts))
    missing = sum(t is None for t in texts)
    return good, missing, len(texts) - good - missing


def faults(folder: Path, count: int, share: float) -> None:
    limits = Limits(base=0.02, cap=1.0, timeout=2.0, start=32)
    with FaultyServer(pace=Pace(share=share, after=0.05)) as server, Journal(folder / "faults") as journal:
        with client_of(server, journal, limits=limits) as client:
            start, cpu = time.perf_counter(), time.process_time()
            found = client.wait(client.ask_all(questions(count)))
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
        good, missing, wrong = right(found)
        log = server.log
        print(
            f"faults: {count} calls, {sum(log.faults.values())} faults in {log.requests} attempts: {dict(log.faults)}"
        )
        print(
            f"  right {good}, reported missing {missing}, wrong {wrong}; served more than once: {sum(n > 1 for n in log.served.values())}"
        )
        print(
            f"  {took:.1f} s, {count / took:.0f} calls/s, {1e3 * cpu / count:.1f} ms of CPU per call with the server's; in doubt {journal.totals().doubts}"
        )
        assert wrong == 0


def kills(folder: Path, count: int, number: int, idempotent: bool) -> None:
    path = folder / f"kills {idempotent}"
    with FaultyServer(Traits(idempotent=idempotent), Pace(latency=0.02)) as server:
        for kill in range(1, number + 1):
            kill_after(kill * count // (number + 2), server.url, path, count)
        time.sleep(0.2)
        with Journal(path) as journal, client_of(server, journal) as client:
            kept = journal.totals()
            good, missing, wrong = right(client.wait(client.ask_all(questions(count))))
            doubtful = journal.doubtful()
        twice = sum(n - 1 for n in server.log.paid.values())
    print(
        f"kills ({'knows' if idempotent else 'does not know'} repeats): {number} of {count} calls: right {good}, missing {missing}, wrong {wrong}; kept by killed runs {kept.calls - kept.doubts}"
    )
    print(f"  paid twice {twice}, noted as in doubt {len(doubtful)}, at most {number * CONCURRENCY} were under way")
    assert wrong == 0
    assert twice <= len(doubtful)
    assert twice == 0 or not idempotent


def budgets(folder: Path) -> None:
    for budget, limit in ((Budget(calls=500), 500), (Budget(tokens=5000), 5000), (Budget(usd=0.01), 0.01)):
        name = next(n for n in ("calls", "tokens", "usd") if getattr(budget, n) is not None)
        settings = {"budget": budget, "prices": Prices(1.0, 2.0)}
        with (
            FaultyServer(Traits(most_out=8)) as server,
            Journal(folder / name) as journal,
            client_of(server, journal, **settings) as client,
        ):
            try:
                client.wait(client.ask_all(questions(2000)))
            except BudgetError as error:
                spent = getattr(journal.totals(), name)
                print(f"budgets: {error.problem}; the limit is {limit}, the journal says {spent:.6g}")


def sustained(folder: Path) -> None:
    with FaultyServer(pace=Pace(latency=2.0)) as server, Journal(folder / "sustained") as journal:
        with client_of(server, journal, limits=Limits(start=64)) as client:
            start = time.perf_counter()
            client.wait(client.ask_all(questions(1024)))
            took = time.perf_counter() - start
        print(f"sustained: {2 * 1024 / took:.1f} calls under way on average (2 s each), peak {server.log.peak} of 64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--kills", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        budgets(folder)
        sustained(folder)
        for idempotent in (True, False):
            kills(folder, max(600, args.calls // 10), args.kills, idempotent)
        faults(folder, args.calls, args.share)


if __name__ == "__main__":
    main()
