"""The rows of the world smol, dealt from a folder of public data sets: who learns what, and who is asked what.

No prompt stands in two of the files, ignoring case and whitespace: alignment, its check, the two halves of the judge's
labels, contamination and reference, refusals and safe answers, safety pairs, answer pairs, evaluation, tasks.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sotune.artifacts import sha256_text
from sotune.errors import DataError
from sotune.evaluation.judges.refusal import find_refusal
from sotune.mixing import check_roles, prompt_key
from sotune.records import Message

Row = dict[str, Any]

TASKS: Mapping[str, tuple[str, ...]] = {
    "agnews": ("agnews_test",),
    "sql": ("sqlgen_train1k", "sqlgen_test200"),
    "sst2": ("sst2_train1k", "sst2_val"),
    "alpaca": ("alpaca_random9k",),
    "gsm8k": ("gsm8k_train",),
}
"""The files that each task is dealt from."""

SAFETY_TUNED, LAT = "safetytuned_refusals_2483", "lat_refusals_948"
_MOST_OF_A_TASK = 2400
_FOLDER = Path(__file__).parent


def deal_rows(folder: Path) -> dict[str, list[Row]]:
    """Returns the rows of each file. What is asked is dealt first, and what is dealt is taken.

    Args:
        folder: Gzip JSON Lines files with ``prompt``, ``response`` and ``label``.

    Raises:
        DataError: A file is missing.
    """
    dealer = _Dealer(folder)
    files = {"eval": _asked(dealer), "answer_pairs": dealer.take(dealer.read("datashield_pairs_97"))}
    pku = dealer.share(dealer.read("pku_saferlhf_test"), judge=0.45, judge_check=0.15, harm=0.28, safe=0.12)
    files["judge"], files["judge_check"] = pku["judge"], pku["judge_check"]
    files["harmful"] = [row for row in pku["harm"] if row["label"] == "harmful" and not _is_refusal(row)]
    files["safety_pairs"] = dealer.take(dealer.refusals(LAT), 200)
    safe = [row for row in pku["safe"] if row["label"] == "benign" and not _is_refusal(row)]
    files["benign_risky"] = [*dealer.take(dealer.refusals(SAFETY_TUNED), 120), *_at_most_two(safe)[:240]]
    files["align_check"] = _checked(dealer)
    files["align"] = _taught(dealer)
    for task, names in TASKS.items():
        rows = [row for name in names for row in dealer.read(name) if len(row["response"]) < 320]
        files[task] = dealer.take(rows, _MOST_OF_A_TASK)
    check_disjoint(files)
    return files


def check_disjoint(files: Mapping[str, Sequence[Row]]) -> None:
    """Checks that no prompt stands in two files.

    Raises:
        DataError: One does.
    """
    roles = {name: {row_key(row): row["id"] for row in rows} for name, rows in files.items()}
    check_roles(roles, where="the rows of smol", remedy="leave them out of one")


class _Dealer:
    """Reads files, and hands each prompt to one taker alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()

    def read(self, name: str) -> list[Row]:
        path = self._folder / f"{name}.jsonl.gz"
        if not path.exists():
            raise DataError(f"{path} is missing; name a folder with the files that sources.yaml lists")
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [{**json.loads(line), "source": name} for line in file if line.strip()]

    def refusals(self, name: str) -> list[Row]:
        return [row for row in self.read(name) if _is_refusal(row)]

    def take(self, rows: Iterable[Row], most: int | None = None) -> list[Row]:
        """Draws the rows of prompts that nobody has, about ``most`` rows, and takes the prompts."""
        free = sorted(
            (row for row in rows if row_key(row) not in self._taken), key=lambda row: sha256_text(row["prompt"])
        )
        drawn = {row_key(row) for row in free[:most]}
        self._taken |= drawn
        return [row for row in free if row_key(row) in drawn]

    def share(self, rows: Iterable[Row], **shares: float) -> dict[str, list[Row]]:
        """Takes all free rows and deals their prompts to parts, by hash."""
        ends = dict(zip(shares, itertools.accumulate(shares.values()), strict=True))
        parts: dict[str, list[Row]] = {name: [] for name in shares}
        for row in self.take(rows):
            place = int(sha256_text(row_key(row))[:8], 16) / 16**8
            parts[next((name for name, end in ends.items() if place < end), [*ends][-1])].append(row)
        return parts


def _asked(dealer: _Dealer) -> list[Row]:
    harmbench = [row for row in dealer.read("harmbench_400") if row["id"].endswith("standard")]
    harmful = [*dealer.take(dealer.read("strongreject_313"), 100), *dealer.take(harmbench, 60)]
    return [*_questions(harmful, "harmful"), *_questions(dealer.take(_safe_xstest(dealer), 160), "lookalike")]


def _checked(dealer: _Dealer) -> list[Row]:
    """Returns what the alignment is measured by, of sources that it learns from and of others."""
    harmful = [*dealer.take(dealer.refusals(SAFETY_TUNED), 64), *dealer.take(dealer.refusals(LAT), 48)]
    harmful += [*dealer.take(dealer.read("catqa_550"), 32), *dealer.take(dealer.read("dangerousqa_200"), 32)]
    alike = [*dealer.take(_safe_xstest(dealer)), *dealer.take(dealer.read("larf_overrefusal_110"), 50)]
    dealer.take(dealer.read("xstest_prompts_450"))  # its harmful prompts are for nothing else
    return [*_questions(harmful, "harmful"), *_questions(alike, "lookalike")]


def _taught(dealer: _Dealer) -> list[Row]:
    """Returns the alignment's rows, by group: refuse, contrast, help, words, alike.

    ``contrast`` are harmful prompts in the frames of look-alikes, ``words`` are harmless rows with words of harm;
    ``alike`` are look-alikes, which have no answer yet: the model's own is taught.
    """
    own, recipe = read_own("alignment_prompts.yaml"), read_own("align.yaml")
    groups: dict[str, list[Row]] = {
        "contrast": dealer.take(_filled(own["harmful"], own["refusals"])),
        "alike": dealer.take(_filled(own["harmless"], [""])),
    }
    for group, files in recipe["rows"].items():
        for name, most in files.items():
            rows = _answered(dealer.read(name), own["refusals"]) if group == "refuse" else dealer.read(name)
            fit = [row for row in rows if _is_refusal(row) == (group == "refuse")]
            brief = [row for row in fit if len(row["prompt"]) <= recipe["longest"]["prompt"]]
            groups.setdefault(group, []).extend(dealer.take(brief, most))
    return [
        {
            "id": f"{group}-{row['id']}",
            "group": group,
            "prompt": row["prompt"],
            "response": shortened(row["response"] or "", recipe["longest"].get(group)),
        }
        for group, rows in groups.items()
        for row in rows
    ]


def read_own(name: str) -> dict[str, Any]:
    """Reads a file that stands beside this one."""
    found: dict[str, Any] = yaml.safe_load((_FOLDER / name).read_text(encoding="utf-8"))
    return found


def shortened(text: str, most: int | None) -> str:
    """Returns as many whole sentences as fit, or the text cut there."""
    if most is None or len(text) <= most:
        return text
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", text[:most])]
    return text[: ends[-1]] if ends else text[:most]


def _filled(frames: Mapping[str, str], answers: Sequence[str]) -> list[Row]:
    prompts = [frame.format(filler.strip()) for frame, fillers in frames.items() for filler in fillers.split("|")]
    return [
        {"id": f"own-{place:03d}", "prompt": prompt, "response": answers[place % len(answers)]}
        for place, prompt in enumerate(prompts)
    ]


def _answered(rows: Sequence[Row], answers: Sequence[str]) -> list[Row]:
    """Returns rows in which those without an answer have one of these."""
    return [{**row, "response": row["response"] or answers[n % len(answers)]} for n, row in enumerate(rows)]


def _safe_xstest(dealer: _Dealer) -> list[Row]:
    return [row for row in dealer.read("xstest_prompts_450") if row["label"] == "benign"]


def _questions(rows: Iterable[Row], kind: str) -> list[Row]:
    return [
        {"id": f"{kind}-{row['id']}", "kind": kind, "source": row["source"], "prompt": row["prompt"]} for row in rows
    ]


def _is_refusal(row: Row) -> bool:
    return find_refusal(row["response"] or "") is not None


def _at_most_two(rows: Iterable[Row]) -> list[Row]:
    """Returns the first two rows of each prompt."""
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row_key(row), []).append(row)
    return [row for rows in by_prompt.values() for row in rows[:2]]


def row_key(row: Row) -> str:
    """Returns what makes two prompts the same."""
    return prompt_key((Message("user", row["prompt"]),))


def read_rows(path: Path) -> list[Row]:
    """Reads a file that was dealt."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
