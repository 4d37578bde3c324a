"""A client in a process of its own that is killed in the middle of its work.

python killed.py URL JOURNAL COUNT      asks COUNT questions, and prints how many are done
"""

import signal
import subprocess
import sys
import types
from pathlib import Path

CONCURRENCY = 16


def kill_after(done: int, url: str, path: Path, count: int) -> None:
    """Start it and send SIGKILL once `done` questions are answered."""
    command = [sys.executable, __file__, url, str(path), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= done:
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the work was over before the kill, or failed"


def main() -> None:
    url, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    import digon

    # The client needs no torch: it is entered past the other explainers, which do.
    package = types.ModuleType("digon.explain")
    package.__path__ = [str(Path(digon.__file__).parent / "explain")]
    sys.modules["digon.explain"] = package
    from digon.explain.llm import Call, Client, Journal, Limits, Server

    assert not {"torch", "openai"} & sys.modules.keys(), "the client imports the SDK only to send"
    body = {"max_tokens": 8}
    calls = [Call("chat", {"messages": [{"role": "user", "content": f"question {i}"}], **body}) for i in range(count)]
    limits = Limits(concurrency=CONCURRENCY, start=CONCURRENCY)
    with (
        Journal(path) as journal,
        Client(Server.of("m", url, key="none", label="test"), journal, limits=limits) as client,
    ):
        client.wait(client.ask_all(calls, lambda now: print(now.done, flush=True)))


if __name__ == "__main__":
    main()
