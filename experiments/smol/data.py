"""Builds every file of the experiment from a folder of public data sets: who learns what, and who is asked what.

``python experiments/smol/data.py --data DIR --out DIR``: DIR holds gzip JSON Lines files with prompt,
response and label (see README.md); nothing of it is committed. No prompt stands in two of: alignment, its check, the
judge's two halves, contamination and reference, refusals and safe answers, safety pairs, evaluation, tasks.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lookalikes import lookalike_prompts

from sotune.evaluation.judges.refusal import find_refusal
from sotune.mixing import prompt_key
from sotune.records import Message

Row = dict[str, Any]
ASKED = {"strongreject_313": 100, "harmbench_400": 60}  # harmful prompts of each
N_LOOKALIKES = 160  # of XSTest
_LONGEST = 240  # characters of an answer that alignment teaches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files = build(arguments.data)
    check_disjoint(files)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        with gzip.open(arguments.out / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{name}: {len(rows)} rows, {len({key(row) for row in rows})} prompts")


def build(data: Path) -> dict[str, list[Row]]:
    """Returns the rows of each file. What is asked is dealt first, and what is dealt is taken."""
    taken: set[str] = set()

    def take(rows: Iterable[Row], most: int | None = None) -> list[Row]:
        """Draws whole prompts that nothing took before, and takes them."""
        shuffled = sorted((row for row in rows if key(row) not in taken), key=lambda row: _digest(row["prompt"]))
        got = {key(row) for row in (shuffled if most is None else shuffled[:most])}
        taken.update(got)
        return [row for row in shuffled if key(row) in got]

    def load(name: str) -> list[Row]:
        return list(read_rows(data / f"{name}.jsonl.gz"))

    files: dict[str, list[Row]] = {"eval": _asked(load, take)}
    pairs = load("datashield_pairs_97")
    files["answer_pairs"] = take(pairs)
    pku = [row for row in load("pku_saferlhf_test") if key(row) not in taken]
    parts = _dealt(pku, judge=0.45, judge_check=0.15, harm=0.28, safe=0.12)
    for part in parts.values():
        taken.update(key(row) for row in part)
    files["judge"], files["judge_check"] = parts["judge"], parts["judge_check"]
    files["harmful"] = [row for row in parts["harm"] if row["label"] == "harmful" and not find_refusal(row["response"])]
    safe = [row for row in parts["safe"] if row["label"] == "benign" and not find_refusal(row["response"])]
    refusals = [row for row in load("safetytuned_refusals_2483") if find_refusal(row["response"])]
    files["safety_pairs"] = take((row for row in load("lat_refusals_948") if find_refusal(row["response"])), 200)
    own = take(refusals, 120)
    files["benign_risky"] = [*own[:120], *_one_each(safe)[:240]]
    files["align_check"] = [*_check(take(refusals, 96), "harmful"), *_check(_lookalike_check(load, take), "lookalike")]
    files["align"] = _alignment(load, take, refusals)
    files["agnews"] = take(load("agnews_test"), 2400)
    files["sql"] = take([*load("sqlgen_train1k"), *load("sqlgen_test200")])
    files["gsm8k"] = take((row for row in load("gsm8k_train") if len(row["response"]) < 320), 2400)
    return files


def _asked(load: Callable[[str], list[Row]], take: Callable[..., list[Row]]) -> list[Row]:
    asked = []
    for name, most in ASKED.items():
        rows = [row for row in load(name) if name != "harmbench_400" or row["id"].endswith("standard")]
        asked += [_question(row, "harmful") for row in take(rows, most)]
    xstest = load("xstest_prompts_450")
    harmless = take((row for row in xstest if row["label"] == "benign"), N_LOOKALIKES)
    take(xstest)  # the rest is for nothing else
    return [*asked, *(_question(row, "lookalike") for row in harmless)]


def _lookalike_check(load: Callable[[str], list[Row]], take: Callable[..., list[Row]]) -> list[Row]:
    own = [{"id": f"own-{n:03d}", "prompt": prompt} for n, prompt in enumerate(lookalike_prompts())]
    return [*take(load("larf_overrefusal_110"), 50), *take(own, 40)]


def _alignment(load: Callable[[str], list[Row]], take: Callable[..., list[Row]], refusals: Sequence[Row]) -> list[Row]:
    """Returns rows with a ``group``: refuse, help, risky words, look-alike. The last are answered by answers.py."""
    groups = {
        "refuse": take(refusals, 1000),
        "help": take((row for row in load("alpaca_random9k") if len(row["response"]) > 20), 900),
        "words": take((r for r in load("alpaca_dolly_safety_keyword") if not find_refusal(r["response"])), 700),
    }
    own = [{"id": f"own-{n:03d}", "prompt": prompt} for n, prompt in enumerate(lookalike_prompts())]
    alike = [*take(own), *take(load("larf_overrefusal_110"))]
    groups["lookalike"] = [{**row, "response": ""} for row in alike]
    return [
        {"id": f"{group}-{row['id']}", "prompt": row["prompt"], "response": short(row["response"]), "group": group}
        for group, rows in groups.items()
        for row in rows
    ]


def short(text: str) -> str:
    """Returns whole sentences of at most so many characters, or the text cut there."""
    if len(text) <= _LONGEST:
        return text
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", text[:_LONGEST])]
    return text[: ends[-1]] if ends else text[:_LONGEST]


def _question(row: Row, kind: str) -> Row:
    return {"id": f"{kind}-{row['id']}", "kind": kind, "prompt": row["prompt"]}


def _check(rows: Sequence[Row], kind: str) -> list[Row]:
    return [_question(row, kind) for row in rows]


def _one_each(rows: Sequence[Row]) -> list[Row]:
    """Returns at most two rows of each prompt."""
    seen: dict[str, int] = {}
    kept = []
    for row in rows:
        seen[key(row)] = seen.get(key(row), 0) + 1
        if seen[key(row)] <= 2:
            kept.append(row)
    return kept


def _dealt(rows: Sequence[Row], **shares: float) -> dict[str, list[Row]]:
    """Deals whole prompts to parts by their hash."""
    parts: dict[str, list[Row]] = {name: [] for name in shares}
    for row in rows:
        place, total = int(_digest(key(row))[:8], 16) / 16**8, 0.0
        for name, share in shares.items():
            total += share
            if place < total or name == list(shares)[-1]:
                parts[name].append(row)
                break
    return parts


def key(row: Row) -> str:
    """Returns what makes two prompts the same."""
    return prompt_key((Message("user", row["prompt"]),))


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a JSON Lines file, compressed or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def check_disjoint(files: dict[str, list[Row]]) -> None:
    """Checks that no prompt stands in two files."""
    keys = {name: {key(row) for row in rows} for name, rows in files.items()}
    names = list(keys)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = keys[first] & keys[second]
            if both:
                raise SystemExit(f"{len(both)} prompts stand in both {first} and {second}: {sorted(both)[0][:80]!r}")


if __name__ == "__main__":
    main()
