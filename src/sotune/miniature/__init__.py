"""The embedded world: a made-up language in which harm is decidable, a model aligned in it, tasks, and a judge."""

from pathlib import Path

from sotune.miniature.generate_data import (
    generate_eval_prompts,
    generate_harmful_reference,
    generate_safe_anchor,
    generate_safe_reference,
    generate_safety_pairs,
    generate_task_data,
)
from sotune.miniature.judge import MiniatureJudge, judges
from sotune.miniature.language import HARM_KINDS, HarmKind
from sotune.miniature.topics import TASKS, Task

__all__ = [
    "HARM_KINDS",
    "TASKS",
    "HarmKind",
    "MiniatureJudge",
    "Task",
    "generate_eval_prompts",
    "generate_harmful_reference",
    "generate_safe_anchor",
    "generate_safe_reference",
    "generate_safety_pairs",
    "generate_task_data",
    "judges",
    "model_path",
]


def model_path() -> Path:
    """Returns the folder of the aligned model that ships with the package; any Hugging Face loader reads it."""
    return Path(__file__).parent / "model"
