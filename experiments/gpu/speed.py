"""Measures sotune on one GPU with random weights and nothing from the network; see README.md beside this file.

Parts run in a worker process, one after the other. A worker that dies, hangs or breaks its CUDA context is replaced by
a fresh one for the parts that are left.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench import Bench, failure

PARTS = {"checks": 130, "solver": 90, "extraction": 150, "training": 150, "table7": 10, "suite": 600}
"""Each part in its order of importance, with the most seconds that it may take."""
_LEAST = 8  # seconds under which no part is begun
_BROKEN = 3  # exit status of a worker whose CUDA context is of no more use


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json")
    parser.add_argument("--deadline", type=float, default=235, help="seconds after which the script ends")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, in which order")
    parser.add_argument("--layers", type=int, default=32, help="layers of the large shape; 32 is Llama-3.1-8B")
    parser.add_argument("--tiny", action="store_true", help="rehearse at a tiny shape")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in args.parts.split(",") if part]
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown parts {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    bench = Bench(args.out, args.worker or time.time() + args.deadline, args.tiny, args.layers)
    if args.worker:
        work(bench, parts)
    else:
        (args.out / "results.json").unlink(missing_ok=True)
        drive(bench, parts)


def drive(bench: Bench, parts: list[str]) -> None:
    """Starts workers until all parts are done or the time is up."""
    left = list(parts)
    while left and bench.left > _LEAST:
        command = [sys.executable, __file__, "--out", str(bench.folder), "--parts", ",".join(left)]
        command += ["--worker", str(bench.ends), "--layers", str(bench.layers), *(["--tiny"] if bench.tiny else [])]
        process = subprocess.Popen(command, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=bench.left + 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it started itself
        process.wait()
        done = bench.results().get("parts", {})
        for part in left:
            if done.get(part) == "running":
                done[part] = f"worker ended with status {process.returncode}"
        bench.note("parts", **done)
        before, left = left, [part for part in left if part not in done]
        if left == before:
            break  # it did not even begin
    skipped = {part: "no time left" for part in left}
    bench.note("parts", **skipped)
    print(f"results: {bench.folder / 'results.json'}", flush=True)


def work(bench: Bench, parts: list[str]) -> None:
    """Runs parts in this process."""
    if "machine" not in bench.results():
        bench.attempt("machine", "facts", lambda: machine(bench))
    for part in parts:
        if bench.left < _LEAST:
            return
        bench.note("parts", **{part: "running"})
        limit = min(PARTS[part] * (4 if bench.tiny else 1), bench.left + 3)
        faulthandler.dump_traceback_later(limit, exit=True)
        started = time.time()
        try:
            importlib.import_module(part).run(bench)
            status = f"done in {time.time() - started:.0f} s"
        except BaseException as error:  # noqa: BLE001 - the other parts must run
            bench.note(part, failed=failure(error))
            status = "failed"
        faulthandler.cancel_dump_traceback_later()
        bench.note("parts", **{part: status})
        if not usable():
            sys.exit(_BROKEN)


def usable() -> bool:
    """Returns whether CUDA still answers: an illegal access breaks it for the whole process."""
    import torch

    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.zeros(1, device="cuda").item()
    except Exception as error:  # noqa: BLE001 - whatever it is, the context is of no use
        print(f"CUDA is broken: {error}", flush=True)
        return False
    return True


def machine(bench: Bench) -> dict[str, object]:
    """Returns what the figures were measured on, with the two ceilings of the card."""
    from importlib import metadata

    import torch

    found: dict[str, object] = {"cpus": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}
    for name in ("sotune", "torch", "transformers", "peft", "accelerate", "huggingface_hub", "datasets"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    if not torch.cuda.is_available():
        return {**found, "gpu": None}
    found["gpu"] = torch.cuda.get_device_name()
    found["gpu_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    big = torch.empty(1 << 30, device="cuda", dtype=torch.uint8).random_()
    found["bf16_tflops"] = round(2 * 8192**3 / _seconds(lambda: a @ a) / 1e12)
    found["copy_tb_per_s"] = round(2 * big.numel() / _seconds(big.clone) / 1e12, 2)
    return found


def _seconds(operation: object) -> float:
    import torch

    for _ in range(3):
        operation()  # type: ignore[operator]
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        operation()  # type: ignore[operator]
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / 10


if __name__ == "__main__":
    main()
