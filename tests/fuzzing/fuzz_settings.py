"""Files that a person writes: settings and rubrics."""

from __future__ import annotations

from typing import Any

from fuzz_targets import ROOT, Target, any_text

from sotune.evaluation.protocol import EvalPrompt, Response
from sotune.evaluation.rubrics.rubric import parse_rubric
from sotune.records import Message
from sotune.settings.run import make_config
from sotune.settings.yaml_text import parse_yaml


def _run_yaml(data: bytes) -> None:
    make_config(_mapping(data))


def _mapping(data: bytes) -> dict[str, Any]:
    content = parse_yaml(any_text(data), "configuration a.yaml")
    return content if isinstance(content, dict) and all(isinstance(key, str) for key in content) else {}


def _compare_yaml(data: bytes) -> None:
    from sotune.comparison.compare_settings import CompareSettings

    settings = CompareSettings.of(_mapping(data))
    for variant in settings.methods:
        variant.variant()


def _yaml_seeds() -> list[bytes]:
    return [
        b"data: a.jsonl\nsafe_anchor: b.jsonl\nharmful_reference: c.jsonl\nmodel: m\nout: o\nk: 3\n",
        b"model: m\npreset: paper\nharmful_reference_where: [label=1]\nmethod_settings: {a: 1}\nlearning_rate: 1e-4\n",
        b"a: &a [1, 2]\nb: *a\nc: !!int '3'\n<<: {d: 2001-01-01}\ne: 0x1F\nf: 1_000.5\n",
        *[path.read_bytes() for path in sorted((ROOT / "examples").glob("*.yaml"))],
    ]


def _compare_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "experiments").glob("*.yaml"))]


def _rubric(data: bytes) -> None:
    rubric = parse_rubric("own", any_text(data))
    prompt, response = EvalPrompt("a", "harmful", (Message("user", "q"),)), Response("a", "b", 1, True)
    rubric.render(prompt, response, rubric.fence(prompt, response, secret=b"s"))
    rubric.read("{}", canary="c")


def _rubric_seeds() -> list[bytes]:
    folder = ROOT / "src" / "sotune" / "evaluation" / "rubrics"
    short = b"---\nmenu: {verdict: [bad, good]}\nscore: {verdict: {bad: 1, good: 0}}\n---\n{{exchange}} {{form}}\n"
    return [short, *[path.read_bytes() for path in sorted(folder.glob("*.md"))]]


TARGETS = {
    "run_yaml": Target(_run_yaml, _yaml_seeds),
    "compare_yaml": Target(_compare_yaml, _compare_seeds),
    "rubric": Target(_rubric, _rubric_seeds),
}
