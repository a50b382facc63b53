"""Models that answer behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp and the like.

The server applies its model's own chat template and decodes greedily. Each answer is kept as soon as it is there, so
that a server that dies costs those under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import sha256_json
from sotune.evaluation.batching import Progress
from sotune.evaluation.candidates import BASE, Candidate
from sotune.evaluation.endpoint import Answer, AnswerCache, ChatEndpoint, read_api_key
from sotune.evaluation.protocol import EvalPrompt, Response
from sotune.records import as_turns
from sotune.settings import EvaluationSettings, JudgeSettings, RenderingSettings

_FOLDER = "served"
_LENGTH = "length"


@dataclass(frozen=True)
class Server:
    """A server of models.

    Attributes:
        settings: Where it is, what it calls the models, how it is asked.
        rendering: What its chat templates are given besides the turns.
    """

    settings: EvaluationSettings
    rendering: RenderingSettings

    def name_of(self, candidate: Candidate) -> str:
        """Returns what the server calls a model: what the settings say, else the base's name, or our own."""
        default = candidate.spec.name if candidate.name == BASE else candidate.name
        return self.settings.served_names.get(candidate.name, default)

    def answer(
        self, prompts: Sequence[EvalPrompt], candidate: Candidate, answers_dir: Path, on_progress: Progress
    ) -> list[Response]:
        """Returns a model's answer to each prompt: those in the folder, and those that the server gives now.

        Raises:
            ConfigError: The server refuses the key, the address, the model or a parameter.
            SotuneError: It leaves a prompt unanswered; the other answers are kept.
        """
        endpoint = self._endpoint(candidate)
        cache = AnswerCache(answers_dir / _FOLDER, setting="answers_dir")
        asked = {prompt.id: as_turns(prompt.messages) for prompt in prompts}
        about = [self.settings.server_base_url, endpoint.model, candidate.fingerprints, endpoint.parameters]
        keys = {id: sha256_json([about, self._extra, turns]) for id, turns in asked.items()}
        questions = {keys[id]: turns for id, turns in asked.items() if cache.get(keys[id]) is None}
        n_known = len(set(keys.values())) - len(questions)
        if questions:
            endpoint.ask_all(
                questions,
                keep=cache.put,
                on_progress=lambda done, _: on_progress(n_known + done, n_known + len(questions)),
                all_needed=True,
            )
        return [_response(prompt.id, cache.get(keys[prompt.id])) for prompt in prompts]

    @property
    def _extra(self) -> dict[str, Any]:
        given = self.rendering.chat_template_kwargs
        return {"chat_template_kwargs": dict(given)} if given else {}

    def _endpoint(self, candidate: Candidate) -> ChatEndpoint:
        chosen = self.settings
        settings = JudgeSettings(
            judge_base_url=chosen.server_base_url,
            judge_model=self.name_of(candidate),
            judge_max_tokens=chosen.max_new_tokens,
            judge_concurrency=chosen.server_concurrency,
            judge_max_retries=chosen.server_max_retries,
            judge_timeout=chosen.server_timeout,
        )
        return ChatEndpoint(settings, read_api_key(chosen.server_key_env), who="server", extra=self._extra)


def _response(id: str, answer: Answer | None) -> Response:
    assert answer is not None  # all were needed
    return Response(
        id, answer.text.strip(), n_tokens=answer.output_tokens or 0, finished=answer.finish_reason != _LENGTH
    )
