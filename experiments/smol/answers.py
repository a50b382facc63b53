"""Lets the model answer the look-alike prompts before it is aligned, which it does: what alignment teaches it to keep.

``python experiments/smol/answers.py MODEL ALIGN.jsonl.gz OUT.jsonl``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data import read_rows

from sotune.evaluation import EvalPrompt, generate
from sotune.models import ModelSpec, load_causal_lm
from sotune.records import Message
from sotune.rendering import load_renderer
from sotune.settings import RenderingSettings


def main() -> None:
    model, rows, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    asked = [row for row in read_rows(rows) if row["group"] == "lookalike"]
    spec = ModelSpec(model, dtype="float32")
    prompts = [EvalPrompt(row["id"], "lookalike", (Message("user", row["prompt"]),)) for row in asked]
    answers = generate(
        prompts,
        model=load_causal_lm(spec, frozen=True),
        renderer=load_renderer(spec, RenderingSettings(template="chat")),
        max_new_tokens=56,
        batch_size=160,
    )
    lines = [
        json.dumps({"prompt": row["prompt"], "response": answer.text}, ensure_ascii=False)
        for row, answer in zip(asked, answers, strict=True)
    ]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
