"""Makes the world smol: its rows, its model, and the alignment, which takes most of an hour on a CPU.

``python experiments/smol/align.py [--data DIR]``: DIR holds the public data sets. A call that was killed goes on where
it stood. Prints how often the aligned model refuses on prompts held out for it, and where it lies.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sotune.artifacts import read_json
from sotune.worlds import SmolWorld


class Lines:
    """A monitor that prints lines."""

    def stage(self, name: str, status: str) -> None:
        """Prints that a stage begins."""
        print(f"{name}: {status}", flush=True)

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Prints how far some work is."""
        print(f"{label}: {done} of {total}", flush=True)

    def warn(self, message: str) -> None:
        """Prints what the user should know."""
        print(message, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of public data sets; not needed once it was read")
    world = SmolWorld()
    world.prepare(parser.parse_args().data, Lines())
    print(json.dumps(read_json(world.folder / "aligned" / "alignment.json"), indent=1))
    print(world.model())


if __name__ == "__main__":
    main()
