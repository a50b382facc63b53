"""Writes requirements.lock: the versions of constraints.txt with the digests of the archives that pip would install.

Usage: python .ci/lock.py report.json, from ``pip install --dry-run --ignore-installed --no-deps --report report.json``
on Linux x86-64 with CPython 3.11. torch is left out: which of its builds is right depends on the machine. The digest of
the one for CPUs is written to requirements-torch-cpu.lock by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

HEAD = """\
# The versions of constraints.txt with the SHA-256 of each archive, for CPython 3.11 on Linux x86-64: `make lock`.
# torch is in a file of its own, since its build depends on the machine. All of it, with torch's build for CPUs:
#   pip install --require-hashes --no-deps --extra-index-url https://download.pytorch.org/whl/cpu \\
#       -r requirements.lock -r requirements-torch-cpu.lock
#   pip install --no-deps --no-build-isolation .
# For a GPU leave out the second file and name torch's version instead: pip install torch==2.13.0
"""


def lines(report: Path) -> list[str]:
    """Returns one line for each archive in pip's report, by name.

    Raises:
        SystemExit: An archive has no SHA-256.
    """
    found = {}
    for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
        about, digests = item["metadata"], item["download_info"]["archive_info"].get("hashes", {})
        if "sha256" not in digests:
            sys.exit(f"pip's report gives no SHA-256 of {about['name']}; ask an index that does")
        pin = f"{about['name']}=={about['version']}"
        found[canonicalize_name(about["name"])] = f"{pin} --hash=sha256:{digests['sha256']}"
    return [found[name] for name in sorted(found)]


def main() -> None:
    """Writes the file."""
    Path("requirements.lock").write_text(HEAD + "\n".join(lines(Path(sys.argv[1]))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
