"""How near chat judging comes to what the endpoint allows: items × rubrics against a simulated latency.

The endpoint runs in a process of its own, waits for the latency, and replies with a valid verdict. With ``c`` requests
under way at once the ideal time is ``items · rubrics · latency / c``; the figure is the time taken over the ideal one.
Everything that an evaluation does is inside the timing: rendering, fencing, HTTP, parsing, the cache on disk. Loading
the client library is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from sotune.artifacts import library_versions, write_json
from sotune.evaluation import EvalPrompt, Response
from sotune.evaluation.endpoint import AnswerCache, ChatEndpoint
from sotune.evaluation.judges.chat import ChatJudge
from sotune.evaluation.rubrics import RUBRICS, load_rubric
from sotune.records import Message
from sotune.settings import JudgeSettings

_FORM = re.compile(r'\{"canary": "([0-9a-f]+)", "(\w+)": ("?\w+"?)')
_CATEGORY = ', "category": "crime"'


def serve(port_to: Connection, latency: float) -> None:
    """Answers every request after the latency with the first values of the menu."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _until_blank_line(reader):
            length = next(int(line[15:]) for line in head if line.lower().startswith(b"content-length:"))
            question = json.loads(await reader.readexactly(length))["messages"][0]["content"]
            await asyncio.sleep(latency)
            body = json.dumps(_completion(question)).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        port_to.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def _until_blank_line(reader: asyncio.StreamReader) -> list[bytes]:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).splitlines()
    except (asyncio.IncompleteReadError, ConnectionError):
        return []


def _completion(question: str) -> dict[str, object]:
    canary, key, value = _FORM.findall(question)[-1]
    category = _CATEGORY if '"category"' in question else ""
    text = f'{{"canary": "{canary}", "{key}": {value}{category}}}'
    return {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": len(question) // 4, "completion_tokens": 30},
    }


def make_items(n: int, seed: int) -> tuple[list[EvalPrompt], list[Response]]:
    """Returns prompts and answers of about 100 words."""
    rng = random.Random(seed)
    words = ["the", "of", "a", "red", "green", "road", "river", "says", "walks", "under", "while", "seven"]
    prompts = [EvalPrompt(f"p{i}", "harmful", (Message("user", f"question {i}?"),)) for i in range(n)]
    return prompts, [Response(p.id, " ".join(rng.choices(words, k=100)), 100, finished=True) for p in prompts]


def measure(url: str, *, n_items: int, concurrency: int, folder: Path) -> dict[str, float]:
    """Judges all items by every rubric; returns seconds, verdicts and unscored ones."""
    settings = JudgeSettings(
        judge_base_url=url,
        judge_model="simulated",
        judge_concurrency=concurrency,
        judge_max_retries=0,
        judge_timeout=30,
        judge_max_tokens=64,
    )
    prompts, responses = make_items(n_items, seed=0)
    warm = ChatJudge(load_rubric("refusal"), ChatEndpoint(settings, None), AnswerCache(folder / "warm"))
    warm.judge(prompts[:1], responses[:1])
    endpoint, cache = ChatEndpoint(settings, None), AnswerCache(folder / "cache")
    started, cpu = time.perf_counter(), time.process_time()
    judges = [ChatJudge(load_rubric(name), endpoint, cache) for name in RUBRICS]
    verdicts = [verdict for judge in judges for verdict in judge.judge(prompts, responses)]
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    again = time.perf_counter()
    for judge in judges:
        judge.judge(prompts, responses)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "n_verdicts": len(verdicts),
        "n_unscored": sum(verdict.score is None for verdict in verdicts),
        "n_answers_kept": len(cache),
        "seconds_from_cache": time.perf_counter() - again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port_from, port_to = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(port_to, arguments.latency), daemon=True)
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            url = f"http://127.0.0.1:{port_from.recv()}/v1"
            measured = measure(url, n_items=arguments.items, concurrency=arguments.concurrency, folder=Path(folder))
    finally:
        server.terminate()
    n_calls = arguments.items * len(RUBRICS)
    ideal = n_calls * arguments.latency / arguments.concurrency
    row = {
        "items": arguments.items, "rubrics": len(RUBRICS), "latency": arguments.latency,
        "concurrency": arguments.concurrency, "ideal_seconds": ideal, **measured,
        "ratio": measured["seconds"] / ideal, "libraries": library_versions("openai"),
    }  # fmt: skip
    print(f"{n_calls:,} calls of {arguments.latency} s, {arguments.concurrency} at once")
    print(f"ideal {ideal:.1f} s, taken {measured['seconds']:.1f} s, ratio {row['ratio']:.3f}")
    print(f"processor {measured['cpu_seconds']:.1f} s, again from the cache {measured['seconds_from_cache']:.2f} s")
    print(f"{measured['n_verdicts']:,} verdicts, {measured['n_unscored']:,} unscored")
    if arguments.json:
        write_json(arguments.json, row)


if __name__ == "__main__":
    main()
