"""What an installation of the wheel takes: size and CPU seconds, light and with all extras, in fresh environments.

    python benchmarks/install.py --extras sentence,judge,trl,serve --demo

Builds the wheel, installs it outside the repository with the versions of constraints.txt, and says what is largest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_SCRIPTS = "Scripts" if os.name == "nt" else "bin"


def main() -> None:
    """Prints one JSON object for each installation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--extras", default="", help="Extras of the second installation, by commas; none: only a light one."
    )
    parser.add_argument("--demo", action="store_true", help="Run `sotune demo` in the light one, from an empty folder.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
        (wheel,) = folder.glob("*.whl")
        print(json.dumps(_install(wheel, "", folder / "light", demo=given.demo)), flush=True)
        if given.extras:
            print(json.dumps(_install(wheel, given.extras, folder / "full", demo=False)), flush=True)


def _install(wheel: Path, extras: str, folder: Path, *, demo: bool) -> dict[str, Any]:
    _run(sys.executable, "-m", "venv", str(folder))
    python = folder / _SCRIPTS / "python"
    pip = (str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"))
    wanted = f"{wheel}[{extras}]" if extras else str(wheel)
    cpu_s, wall_s = _run(*pip, "torch", wanted)
    sizes = _sizes(folder)
    found = {
        "extras": extras,
        "cpu_s": round(cpu_s),
        "wall_s": round(wall_s),
        "mb": round(sum(sizes.values())),
        "wheel_kb": wheel.stat().st_size // 1000,
        "largest_mb": dict(sorted(((k, round(v)) for k, v in sizes.items()), key=lambda item: -item[1])[:8]),
    }
    if demo:
        empty = folder.parent / "empty"
        empty.mkdir()
        cpu_s, wall_s = _run(str(python), "-m", "sotune", "demo", "--seeds", "1", "--quiet", cwd=empty)
        found |= {"demo_cpu_s": round(cpu_s), "demo_wall_s": round(wall_s)}
    return found


def _sizes(folder: Path) -> dict[str, float]:
    """Returns megabytes by top folder of the packages, without compiled bytecode."""
    (packages,) = [*folder.glob("lib/python*/site-packages"), *folder.glob("Lib/site-packages")]
    sizes: dict[str, float] = {}
    for file in packages.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            top = file.relative_to(packages).parts[0]
            sizes[top] = sizes.get(top, 0) + file.stat().st_size / 1e6
    return sizes


def _run(*command: str, cwd: Path | None = None) -> tuple[float, float]:
    """Returns CPU and wall seconds of a command, which must succeed."""
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, cwd=cwd, env=outside)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, time.perf_counter() - started


if __name__ == "__main__":
    main()
