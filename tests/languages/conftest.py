"""A whole suite of real processes, and what other languages need to speak to it.

Run by `make test`, which sets up the virtual environment and says where the binaries are.
"""

import os
import pathlib
import random
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60


def free_port() -> int:
    """A port below the range that outgoing connections draw from."""
    while True:
        port = random.randrange(31_000, 32_500)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(what: str, look):
    """Looks until `look` gives something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    last = None
    while time.monotonic() < deadline:
        try:
            found = look()
            if found:
                return found
        except Exception as error:  # noqa: BLE001 - it is told below
            last = error
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_SECONDS} s for {what}; last: {last}")


class Suite:
    """Orchestrator, worker host and monitor."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        binaries = pathlib.Path(os.environ.get("MULTIAGENTS_BINARIES", ROOT / "target/debug"))
        self.processes = []
        self.orchestrator, host, self.monitor = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.host = host
        workflows = ROOT / "config/workflows"
        self._start(
            binaries / "multiagents-orchestrator",
            self.orchestrator,
            ["--data-dir", "orchestrator", "--workflows-dir", str(workflows)],
        )
        dial = ["--orchestrator", self.orchestrator]
        self._start(binaries / "multiagents-worker-host", host, dial)
        self._start(
            binaries / "multiagents-monitor", self.monitor, ["--data-dir", "monitor", *dial]
        )

    def _start(self, binary: pathlib.Path, address: str, arguments: list[str]):
        assert binary.exists(), f"{binary} is missing; run `cargo build --workspace --bins`"
        output = (self.directory / f"{binary.name}.out").open("wb")
        process = subprocess.Popen(
            [binary, "--listen", address, *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        self.processes.append(process)

        def ready():
            assert process.poll() is None, f"{binary.name} ended"
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
                return answer.status == 200

        try:
            until(f"{binary.name} to be ready", ready)
        except AssertionError:
            self.stop()
            print((self.directory / f"{binary.name}.out").read_text(), file=sys.stderr)
            raise

    def stop(self):
        """In order, as `multiagents up` does: host, orchestrator, monitor."""
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    suite = Suite(tmp_path_factory.mktemp("suite"))
    yield suite
    suite.stop()


@pytest.fixture(scope="session")
def wire(tmp_path_factory):
    """The contracts' modules, generated as any Python user would, on the path."""
    from grpc_tools import protoc

    out = tmp_path_factory.mktemp("wire")
    proto = ROOT / "proto"
    files = sorted(str(path) for path in (proto / "multiagents/v1").glob("*.proto"))
    assert files, "no contracts"
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = [f"-I{proto}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main(["protoc", *arguments, *files]) == 0
    sys.path.insert(0, str(out))
    yield out
    sys.path.remove(str(out))
