"""Models answer prompts; an answer that lies in a folder already is not asked for again, whoever put it there."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune import processes
from sotune.artifacts import library_versions
from sotune.cluster import Engine
from sotune.evaluation.candidates import Candidate
from sotune.evaluation.generate import generate
from sotune.evaluation.protocol import EvalPrompt, Response
from sotune.evaluation.served import Server
from sotune.evaluation.store import ResponseShards
from sotune.models import resolve_device
from sotune.rendering import load_renderer
from sotune.settings import RenderingSettings

_SHARD_SIZE = 256


@dataclass(frozen=True)
class Asking:
    """How models are asked, the same for all of them; by a server, where there is one."""

    rendering: RenderingSettings
    max_new_tokens: int
    batch_size: int
    seed: int
    server: Server | None = None


def ask_models(
    prompts: Sequence[EvalPrompt],
    candidates: Sequence[Candidate],
    *,
    asking: Asking,
    answers_dir: Path,
    on_progress: Callable[[str, int, int], None],
    engine: Engine | None = None,
) -> dict[str, list[Response]]:
    """Asks all models; returns the answers of each by its name, in the order of the prompts.

    Answers in the folder belong to the content of model, adapter and prompts, so that runs may share it.

    Args:
        prompts: What is asked.
        candidates: Who is asked; names are unique.
        asking: How.
        answers_dir: Where finished answers lie.
        on_progress: Is called with a label, how many answers are there, and how many there will be.
        engine: Asks elsewhere; ``None``: here.

    Raises:
        ConfigError: A model or adapter could not be loaded, or a server refuses what it is asked.
        SotuneError: A server leaves a prompt unanswered.
    """
    if asking.server is not None and not processes.is_main():
        return {}  # a server is asked by one process, many prompts at once
    ask = functools.partial(_ask, asking=asking, engine=engine) if asking.server is None else asking.server.answer
    return {
        c.name: ask(prompts, c, answers_dir, functools.partial(on_progress, f"asking {c.name}")) for c in candidates
    }


def _ask(
    prompts: Sequence[EvalPrompt],
    candidate: Candidate,
    answers_dir: Path,
    on_progress: Callable[[int, int], None],
    asking: Asking,
    engine: Engine | None,
) -> list[Response]:
    renderer = load_renderer(candidate.spec, asking.rendering)
    key = {
        **candidate.fingerprints,
        **renderer.description,
        "max_new_tokens": asking.max_new_tokens,
        "batch_size": asking.batch_size,
        "dtype": candidate.spec.dtype,
        "device": str(resolve_device(candidate.spec.device)),
        "libraries": library_versions("torch", "transformers", "peft"),
    }
    shards = ResponseShards(answers_dir, key, _SHARD_SIZE)
    loaded: list[Any] = []

    def answer(part: Sequence[EvalPrompt]) -> list[Response]:
        if not loaded:  # a finished evaluation never loads the model
            loaded.append(candidate.load())
        before = shards.n_done(prompts)
        return generate(
            part,
            model=loaded[0],
            renderer=renderer,
            max_new_tokens=asking.max_new_tokens,
            batch_size=asking.batch_size,
            progress=lambda done, _: on_progress(before + done, len(prompts)),
        )

    def answer_all(parts: Sequence[Sequence[EvalPrompt]]) -> Iterator[tuple[int, list[Response]]]:
        for number, answers in engine.map(functools.partial(_answering, candidate, asking), parts) if engine else ():
            yield number, answers
            on_progress(shards.n_done(prompts), len(prompts))

    responses = shards.complete(prompts, answer, answer_all=answer_all if engine else None)
    loaded.clear()
    gc.collect()
    return responses


def _answering(candidate: Candidate, asking: Asking) -> Callable[[Sequence[EvalPrompt]], list[Response]]:
    """Loads a model where an engine computes, and returns what answers prompts by it."""
    return functools.partial(
        generate,
        model=candidate.load(),
        renderer=load_renderer(candidate.spec, asking.rendering),
        max_new_tokens=asking.max_new_tokens,
        batch_size=asking.batch_size,
    )
