"""Fuzzes everything that reads bytes of others, guided by coverage where atheris is installed.

    pip install atheris
    python benchmarks/fuzz.py --seconds 600 --json fuzz.json                  # each target for its share of the time
    python benchmarks/fuzz.py --targets judge_reply,parquet --seconds 60
    python benchmarks/fuzz.py --targets rubric --replay finds/rubric/ab12.bin

The targets are those of tests/fuzzing. Each runs in a process of its own, which goes on after an
exception: a find is kept once for each place that it comes from, as the shortest input. What ends the process, takes
over 2 s of CPU or over 512 MiB more memory is a find too. Without atheris inputs are mutated blindly.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_SLOW_S = 2.0
_GROWN_MB = 512
_STATS_EVERY_S = 2.0
_LONGEST = {"parquet": 400, "arrow": 400, "received_run": 64, "continued_run": 64, "compare_yaml": 8192, "rubric": 8192}
"""Bytes of an input; 4,096 where nothing is said."""


@dataclass
class Tally:
    """What a process tried.

    Attributes:
        n: Executions.
        n_refused: Of them those that ended in a SotuneError.
        cpu_s: CPU seconds.
        slowest_s: Of one execution.
        peak_mb: Resident memory.
        finds: Place to what was found there.
    """

    n: int = 0
    n_refused: int = 0
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    peak_mb: float = 0.0
    finds: dict[str, str] = field(default_factory=dict)


class Watch:
    """Runs a target and notes what it did.

    Args:
        target: The target.
        seconds: After so many of CPU the process ends.
        stats: Where the tally is written now and then.
        finds: The folder of finds.
    """

    def __init__(self, target: Any, seconds: float, stats: Path, finds: Path) -> None:
        self._target, self._stats, self._finds = target, stats, finds
        self.tally = Tally()
        self._sizes: dict[str, int] = {}
        self._ends = seconds
        self._told = 0.0
        self._peak = _peak_mb()
        finds.mkdir(parents=True, exist_ok=True)

    def __call__(self, data: bytes) -> None:
        """Runs the target on one input."""
        before = time.process_time()
        try:
            self.tally.n_refused += self._target.tried(data)
        except Exception as error:  # noqa: BLE001 - whatever a target raises is a find
            self._keep(_place(error), data, "".join(traceback.format_exception(error)))
        took, self.tally.n = time.process_time() - before, self.tally.n + 1
        self.tally.slowest_s = max(self.tally.slowest_s, took)
        if took > _SLOW_S:
            self._keep("slow", data, f"{took:.1f} s of CPU")
        if self.tally.n % 16 == 0 or took > 0.01:
            self._look_around(data)

    def warm(self) -> None:
        """Has the target import what it imports late, and make what it reads."""
        with contextlib.suppress(Exception):
            self._target.tried(self._target.seeds()[0])
        self._ends += time.process_time()

    def _look_around(self, data: bytes) -> None:
        peak, now = _peak_mb(), time.process_time()
        if peak > self._peak + _GROWN_MB:
            self._keep("memory", data, f"{peak - self._peak:.0f} MB more")
        self._peak = peak
        if now - self._told > _STATS_EVERY_S or now > self._ends:
            self._told = now
            self.write()
        if now > self._ends:
            _clean_up()
            os._exit(0)  # libFuzzer would go on

    def write(self) -> None:
        """Writes the tally."""
        self.tally.cpu_s, self.tally.peak_mb = round(time.process_time(), 1), round(self._peak)
        self._stats.write_text(json.dumps(asdict(self.tally)), encoding="utf-8")

    def _keep(self, place: str, data: bytes, told: str) -> None:
        if self._sizes.get(place, len(data) + 1) <= len(data):
            return
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        self._sizes[place], self.tally.finds[place] = len(data), f"{name}.bin"
        (self._finds / f"{name}.bin").write_bytes(data)
        (self._finds / f"{name}.txt").write_text(f"{place}\n{told}", encoding="utf-8", errors="replace")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "sotune" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{type(error).__name__} at {where}"


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _clean_up() -> None:
    import fuzz_targets

    fuzz_targets.clean_up()


def _guided(name: str, given: argparse.Namespace) -> None:
    """Fuzzes one target by atheris."""
    import atheris

    hook = atheris.instrument_imports(include=["sotune", "yaml"], enable_loader_override=False)
    hook.__enter__()  # for good: what is imported late counts too
    watch = _watch(name, given)
    watch.warm()
    options = [
        f"-max_len={_LONGEST.get(name, 4096)}", "-timeout=900", "-rss_limit_mb=4096", "-detect_leaks=0",
        f"-artifact_prefix={given.finds / name}/", f"-dict={given.work / 'words.dict'}", f"-seed={given.seed}",
    ]  # fmt: skip
    folders = [given.work / name / "found", given.work / name / "seeds"]
    atheris.Setup([sys.argv[0], *options, *map(str, folders)], watch)
    atheris.Fuzz()


def _blind(name: str, given: argparse.Namespace) -> None:
    """Fuzzes one target by changing its seeds at random."""
    rng, watch = random.Random(given.seed), _watch(name, given)
    watch.warm()
    seeds = [path.read_bytes() for path in sorted((given.work / name / "seeds").iterdir())]
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            at, other = rng.randint(0, len(data)), rng.choice(seeds)
            piece = rng.choice([rng.randbytes(rng.randint(1, 4)), other[rng.randrange(len(other) + 1) :][:40], b""])
            data[at : at + rng.choice([0, len(piece), 1])] = piece
        watch(bytes(data))


def _watch(name: str, given: argparse.Namespace) -> Watch:
    sys.path[:0] = [str(ROOT / "tests" / "fuzzing"), str(ROOT / "tests")]
    os.environ |= {"HF_HUB_OFFLINE": "1", "SOTUNE_CACHE": str(given.work / "cache")}
    import fuzz_targets

    return Watch(fuzz_targets.find_target(name), given.seconds, given.work / name / "stats.json", given.finds / name)


def _prepare(names: list[str], work: Path) -> None:
    """Writes seeds, mended finds and words for the mutations."""
    import fuzz_rows
    import fuzz_targets

    for name in names:
        folder = work / name / "seeds"
        folder.mkdir(parents=True, exist_ok=True)
        (work / name / "found").mkdir(exist_ok=True)
        kept = [path.read_bytes() for path in sorted((fuzz_targets.CORPUS / name).glob("*"))]
        for number, seed in enumerate([*fuzz_targets.find_target(name).seeds(), *kept]):
            (folder / f"{number:04d}").write_bytes(seed)
    words = [word for word in {*fuzz_rows.TEXTS, *fuzz_rows.KEYS} if word and "\ud800" not in word]
    quoted = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in sorted(words))
    (work / "words.dict").write_text("".join(f'"{word}"\n' for word in quoted), encoding="ascii")


def _fuzz(name: str, seconds: float, given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Fuzzes one target for some time, in as many processes as end before it is over; returns what was tried."""
    total, crashes, coverage = Tally(), 0, 0
    stats = work / name / "stats.json"
    while (left := seconds - total.cpu_s) > 1:
        stats.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--one", name, "--seconds", str(left), "--seed", str(given.seed + crashes)]
        command += ["--work", str(work), "--finds", str(given.finds), *(["--blind"] if given.blind else [])]
        with (work / name / "log").open("w+", errors="replace") as log:
            ended = subprocess.run(command, stdout=log, stderr=log, check=False)
            log.seek(0)
            told = log.read()
        coverage = max([coverage, *map(int, re.findall(r"cov: (\d+)", told))])
        if stats.exists():
            found = Tally(**json.loads(stats.read_text(encoding="utf-8")))
            total = Tally(
                total.n + found.n, total.n_refused + found.n_refused, total.cpu_s + found.cpu_s,
                max(total.slowest_s, found.slowest_s), max(total.peak_mb, found.peak_mb), total.finds | found.finds,
            )  # fmt: skip
        if ended.returncode:
            crashes += 1
            (given.finds / name).mkdir(parents=True, exist_ok=True)
            (given.finds / name / f"ended-{crashes}.log").write_text(told[-20_000:], encoding="utf-8")
            if not stats.exists():
                sys.exit(f"{name} does not start:\n{told[-3000:]}")
    return {"target": name, **asdict(total), "cpu_s": round(total.cpu_s), "ended": crashes, "edges": coverage}


def main() -> None:
    """Fuzzes and prints one JSON object for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="all", help="By commas.")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="Of CPU for each target; 3 times as many with NAME:3."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true", help="Without atheris.")
    parser.add_argument("--work", type=Path, help="Keeps the inputs that reached something new; a temporary folder.")
    parser.add_argument("--finds", type=Path, default=Path("finds"))
    parser.add_argument("--json", type=Path, help="Adds the figures to this file.")
    parser.add_argument("--replay", type=Path, help="Runs the targets on one input and stops.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        (_blind if given.blind else _guided)(given.one, given)
    sys.path[:0] = [str(ROOT / "tests" / "fuzzing"), str(ROOT / "tests")]
    import fuzz_targets

    names = dict(one.partition(":")[::2] for one in given.targets.split(","))
    if "all" in names:
        names = dict.fromkeys(fuzz_targets.MODULES, "") | {
            name: share for name, share in names.items() if name != "all"
        }
    if given.replay:
        for name in names:
            print(name, "refused" if fuzz_targets.find_target(name).tried(given.replay.read_bytes()) else "read")
        return
    given.blind = given.blind or not _has_atheris()
    with contextlib.ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _prepare(list(names), work)
        for name, share in names.items():
            found = _fuzz(name, given.seconds * float(share or 1), given, work) | {"guided": not given.blind}
            print(json.dumps(found), flush=True)
            if given.json:
                _add(given.json, found)


def _add(path: Path, found: dict[str, Any]) -> None:
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    path.write_text(json.dumps([*before, found], indent=1) + "\n", encoding="utf-8")


def _has_atheris() -> bool:
    from importlib.util import find_spec

    return find_spec("atheris") is not None


if __name__ == "__main__":
    main()
