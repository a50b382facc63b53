"""Does the service stay as it is under steady load? Memory, open files and latency of ``sotune serve`` over time.

    python benchmarks/soak.py --minutes 360 --rate 2 --json soak.json

A run of the miniature is weighed and served on loopback by a process of its own. This one asks it at a steady rate:
jobs of some and of many rows, bad ones of every kind, health and metrics, callers that hang up, send half a request or
nothing. Every answer must be the one that is right for what was sent. It leaves with 1 if one was not, if the server
wrote a traceback, or if memory, open files or threads grew from the first quarter of the time to the last. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sotune
from serve import Server, ask
from sotune import miniature
from sotune.artifacts import write_json
from sotune.records import Record

_GROWN_SHARE, _GROWN_MB, _GROWN_FILES = 0.05, 20.0, 8
_PATIENCE = 120.0  # seconds

TASK = miniature.TASKS[0]
Row = dict[str, Any]


@dataclass
class Sample:
    """The server at one moment.

    Attributes:
        minute: Since the load began.
        rss_mb: Resident memory.
        files: Open file descriptors.
        threads: Threads.
        n: Requests sent so far.
        p50_ms: Latency of the good jobs since the last look.
        p95_ms: Likewise.
    """

    minute: float
    rss_mb: float
    files: int
    threads: int
    n: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0


@dataclass
class Load:
    """What is sent, and what came back.

    Attributes:
        address: The service.
        rows: Good rows to draw from.
        rng: Draws them.
        answers: Kind of request and status to how many there were.
        wrong: Kind of request to an answer that it must not get.
        seconds: Of the good jobs since the last sample.
    """

    address: str
    rows: Sequence[Row]
    rng: random.Random
    answers: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    async def send(self) -> None:
        """Sends one request of a kind drawn at random and checks its answer."""
        kind = self.rng.choices([*_BODIES, *_CALLS], weights=[60, 10, *[4] * (len(_BODIES) - 2), *[4] * len(_CALLS)])[0]
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE):
                if kind in _CALLS:
                    status, wanted = await _CALLS[kind](self.address), 0
                else:
                    make, wanted = _BODIES[kind]
                    status, answer = await ask(self.address, make(self))
                    if status == 200:
                        self.seconds.append(time.perf_counter() - started)
                        status = 200 if answer["scores"] else 0
        except (OSError, TimeoutError, ValueError, IndexError) as error:
            status, wanted = -1, 0
            self.wrong[kind] = f"{type(error).__name__}: {error}"
        self.answers[f"{kind}: {status}"] += 1
        if wanted and status != wanted:
            self.wrong[kind] = f"{status} in place of {wanted}"

    def job(self, most: int) -> bytes:
        """Returns a good job."""
        rows = self.rng.sample(self.rows, self.rng.randint(1, most))
        return json.dumps({"rows": rows}).encode()

    def spoilt(self) -> bytes:
        """Returns a job of which some bytes are others."""
        body = bytearray(self.job(4))
        for _ in range(3):
            body[self.rng.randrange(len(body))] = self.rng.randrange(256)
        return bytes(body[: self.rng.randrange(1, len(body))])


_BODIES: dict[str, tuple[Callable[[Load], bytes], int]] = {
    "some rows": (lambda load: load.job(8), 200),
    "many rows": (lambda load: load.job(100), 200),
    "long rows": (lambda load: _of({"prompt": "a b c " * 1_000, "response": "d e f " * 4_000}), 200),
    "no JSON": (lambda load: b"{" * load.rng.randint(1, 5_000), 400),
    "no text": (lambda load: load.rng.randbytes(400) + b"\xff", 400),
    "no rows": (lambda load: b'{"rows": []}', 422),
    "no answer": (lambda load: _of({"prompt": "a", "response": None}), 422),
    "odd columns": (lambda load: _of({f"column {load.rng.randrange(10**6)}": "x"}), 422),
    "an odd id": (lambda load: _of({"id": ["\x1b[2J"], "prompt": "a", "response": "b"}), 422),
    "too many rows": (lambda load: json.dumps({"rows": [{"prompt": "a"}] * 1_001}).encode(), 413),
    "too long": (lambda load: _of({"prompt": "a" * 100_001, "response": "b"}), 413),
    "spoilt": (lambda load: load.spoilt(), 0),
}
"""Kind of job to what makes one, and the status that it must get; 0: any."""


def _of(row: Row) -> bytes:
    return json.dumps({"rows": [row]}).encode()


async def _get(address: str, path: str) -> int:
    return await _raw(address, f"GET {path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")


async def _raw(address: str, text: str, *, read: bool = True) -> int:
    """Sends bytes as they are; returns the status, 0 where none is waited for."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(text.replace("HOST", place.netloc).encode("latin-1"))
    await writer.drain()
    answer = await reader.read() if read else b""
    writer.close()
    return int(answer.split()[1]) if answer else 0


_POST = "POST /score HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
_CALLS: dict[str, Callable[[str], Any]] = {
    "health": lambda address: _get(address, "/health"),
    "metrics": lambda address: _get(address, "/metrics"),
    "nowhere": lambda address: _get(address, "/nothing"),
    "another host": lambda address: _raw(address, _POST.replace("HOST", "evil.example") + " " * 5000),
    "no HTTP": lambda address: _raw(address, "\x00\x01hello\r\n\r\n"),
    "hangs up in the body": lambda address: _raw(address, _POST + "{", read=False),
    "hangs up in the head": lambda address: _raw(address, "POST /score HT", read=False),
    "says nothing": lambda address: _raw(address, "", read=False),
}
"""Kind of call that is no job to what makes it."""


def _look(process: int, minute: float) -> Sample:
    status = dict(
        line.partition(":")[::2] for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    )
    files = len(list(Path(f"/proc/{process}/fd").iterdir()))
    return Sample(round(minute, 1), int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"]))


async def _soak(server: Server, load: Load, minutes: float, rate: float, every: float) -> list[Sample]:
    """Sends requests at a rate, waiting for none before the next one, and looks at the server now and then."""
    started, sent, samples, open_ones = time.monotonic(), 0, list[Sample](), set[asyncio.Task[None]]()
    looked = started
    while (now := time.monotonic()) - started < 60 * minutes:
        if now - looked >= every:
            looked = now
            samples.append(_noted(server, load, (now - started) / 60, sent))
            print(json.dumps(vars(samples[-1])), flush=True)
        task = asyncio.create_task(load.send())
        open_ones.add(task)
        task.add_done_callback(open_ones.discard)
        sent += 1
        await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
    await asyncio.gather(*open_ones)
    return samples or [_noted(server, load, minutes, sent)]


def _noted(server: Server, load: Load, minute: float, sent: int) -> Sample:
    sample, seconds = _look(server.process.pid, minute), sorted(load.seconds)
    sample.n = sent
    if seconds:
        sample.p50_ms = round(1000 * statistics.median(seconds), 1)
        sample.p95_ms = round(1000 * seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))], 1)
        load.seconds.clear()
    return sample


def _grown(samples: Sequence[Sample]) -> dict[str, str]:
    """Returns what the server has more of in the last quarter of the samples than in the first, which is no warm-up."""
    settled = samples[len(samples) // 8 :] if len(samples) >= 8 else samples
    size = max(1, len(settled) // 4)
    first, last = settled[:size], settled[-size:]
    found = {}
    for name, share, more in (
        ("rss_mb", _GROWN_SHARE, _GROWN_MB), ("files", 0.0, _GROWN_FILES), ("threads", 0.0, _GROWN_FILES),
    ):  # fmt: skip
        before, after = (statistics.median(getattr(one, name) for one in part) for part in (first, last))
        if after > before * (1 + share) + more:
            found[name] = f"{before:.0f} to {after:.0f}"
    return found


def _weigh(folder: Path, out: Path) -> list[Row]:
    """Weighs rows of the miniature; returns others of its kind."""
    data = miniature.generate_task_data(TASK, n=240, harmful_fraction=0.1, seed=1)
    sets = {
        "data": data,
        "safe_anchor": miniature.generate_safe_anchor(TASK, n=40, seed=2),
        "harmful_reference": miniature.generate_harmful_reference(n=40, seed=3),
    }
    files = {name: _write(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}
    sotune.weigh(**files, model=miniature.model_path(), out=out, device="cpu", threads=1, sentinels="off")
    return [_row(record) for record in miniature.generate_task_data(TASK, n=400, harmful_fraction=0.1, seed=4)]


def _write(path: Path, rows: Sequence[Record]) -> Path:
    path.write_text("".join(json.dumps(_row(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def _row(record: Record) -> Row:
    return {"id": record.id, "prompt": record.messages[0].content, "response": record.completion}


def main() -> None:
    """Soaks and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=2.0, help="Requests a second.")
    parser.add_argument("--every", type=float, default=30.0, help="Seconds between two looks at the server.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = _weigh(folder, folder / "run")
        server = Server(folder / "run", folder)
        try:
            load = Load(server.address, rows, random.Random(given.seed))
            asyncio.run(load.send())
            samples = asyncio.run(_soak(server, load, given.minutes, given.rate, given.every))
            alive, said = server.process.poll() is None, server.log.read_text(encoding="utf-8")
        finally:
            server.stop()
    found = {
        "minutes": given.minutes, "requests": load.answers.total(), "alive": alive,
        "tracebacks": said.count("Traceback"), "log_bytes": len(said), "grown": _grown(samples),
        "wrong": load.wrong, "answers": dict(sorted(load.answers.items())),
        "first": vars(samples[0]), "last": vars(samples[-1]), "peak_mb": max(one.rss_mb for one in samples),
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if given.json:
        write_json(given.json, {**found, "samples": [vars(one) for one in samples]})
    sys.exit(not alive or bool(found["grown"] or load.wrong or found["tracebacks"]))


if __name__ == "__main__":
    main()
