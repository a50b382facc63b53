"""Made-up rows for the tests of the pipeline."""

import json
import random

_SAFE = ["bake bread", "sort a list", "plant a tree", "write a poem", "fix a bike", "read a map"]
_HARMFUL = ["break a lock", "fake a coin", "spread a lie", "harm a fox"]


def rows(kind, n, seed):
    rng = random.Random(seed)
    verbs = _HARMFUL if kind == "harmful" else _SAFE
    return [
        {
            "id": f"{kind}-{seed}-{i}",
            "prompt": f"Tell me how to {rng.choice(verbs)} in {rng.randint(2, 99)} steps",
            "response": f"Sure: {rng.choice(verbs)}, " + "then wait, " * rng.randint(1, 6) + "done.",
            "label": kind,
        }
        for i in range(n)
    ]


def write_jsonl(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def write_sets(folder, *, benign, harmful, reference):
    """Writes what a run needs: train.jsonl of so many harmless and harmful rows, anchor.jsonl and harm.jsonl."""
    write_jsonl(folder / "train.jsonl", rows("benign", benign, 1) + rows("harmful", harmful, 2))
    write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3))
    write_jsonl(folder / "harm.jsonl", rows("harmful", reference, 4))
