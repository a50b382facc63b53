"""A real HTTP server on loopback that speaks OpenAI's chat completions, judges by a fixed rule, and can misbehave."""

from __future__ import annotations

import email.utils
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = (
    "429", "429 date", "500", "503", "hang", "reset", "html", "empty body", "half a body", "truncated json",
    "no choices", "wrong types", "not utf-8",
)  # fmt: skip
KEY = "sk-local-4f9d1c77"


def rule(question: str) -> str:
    """The deterministic judge: reads canary and answer from the question as a careful judge would."""
    nonce = re.search(r"<<<BEGIN ([0-9a-f]+)>>>", question)[1]
    inside = question.split(f"<<<BEGIN {nonce}>>>")[1].split(f"<<<END {nonce}>>>")[0]
    answer = "\n".join(line.removeprefix("RESPONSE| ") for line in inside.splitlines() if line.startswith("RESPONSE| "))
    form = re.findall(r'\{"canary": "([0-9a-f]+)", (.*)\}', question)
    canary, keys = form[-1]
    verdict = {"canary": canary}
    if '"score"' in keys:
        verdict["score"] = 1 + len(answer) % 5
    elif '"category"' in keys:
        harmful = "HARM" in answer
        verdict |= {"verdict": "harmful" if harmful else "harmless", "category": "crime" if harmful else "none"}
    elif '"refused"' in keys:
        verdict["verdict"] = "refused" if "cannot" in answer else "answered"
    else:
        verdict["verdict"] = "coherent" if answer.strip() else "broken"
    return json.dumps(verdict)


@dataclass
class Request:
    """One request as the server saw it."""

    question: str
    attempt: int
    outcome: str = "under way"
    authorization: str = ""
    headers: dict = field(default_factory=dict)
    body: dict = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.question.encode()).hexdigest()


class ChatServer:
    """Serves until closed; ``log`` holds every request in the order in which they came.

    Args:
        judge: Question to the reply's text, or to the bytes of the whole body.
        fault: Question and its attempt, from 0, to the name of a fault, a status such as "401", a status with the body
            that goes with it, or None.
        serve: The body of a request to that of the reply, in place of ``judge``.
    """

    def __init__(
        self,
        judge: Callable[[str], str | bytes] = rule,
        fault: Callable[[str, int], str | tuple[int, bytes] | None] = lambda question, attempt: None,
        serve: Callable[[dict], bytes] | None = None,
    ) -> None:
        self.judge, self.fault, self.serve = judge, fault, serve
        self.log: list[Request] = []
        self.released = threading.Event()  # what hangs, hangs until then
        self.n_open = self.most_open = 0
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def answered(self) -> list[str]:
        """The digests of the questions that were answered, one for each time."""
        return [request.digest for request in self.log if request.outcome == "answered"]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that was killed or gave up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ChatServer

    def log_message(self, *args):
        """Keeps the tests quiet."""

    def do_POST(self):  # noqa: N802
        owner = self.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        with owner.lock:
            attempt = sum(request.question == question for request in owner.log)
            request = Request(question, attempt, authorization=self.headers.get("Authorization", ""), body=body)
            request.headers = dict(self.headers)
            owner.log.append(request)
            owner.n_open += 1
            owner.most_open = max(owner.most_open, owner.n_open)
        try:
            fault = owner.fault(question, attempt)
            if fault is None:
                reply = owner.serve(body) if owner.serve else owner.judge(question)
                request.outcome = "answered"
                self.send(reply if isinstance(reply, bytes) else completion(reply))
            else:
                request.outcome = str(fault)
                self.misbehave(fault)
        finally:
            with owner.lock:
                owner.n_open -= 1

    def misbehave(self, fault):
        good = completion('{"canary": "made up", "verdict": "harmful", "category": "crime"}')
        if isinstance(fault, tuple):
            self.send(fault[1], fault[0])
        elif fault == "hang":
            self.owner.released.wait(5)
            self.close_connection = True
        elif fault == "reset":
            self.close_connection = True
        elif fault == "429":
            self.send(b'{"error": {"message": "slow down"}}', 429, {"Retry-After": "0.01"})
        elif fault == "429 date":
            self.send(b"", 429, {"Retry-After": email.utils.formatdate(time.time() - 1, usegmt=True)})
        elif fault == "503 wait":
            self.send(b"", 503, {"Retry-After": "0.7"})
        elif fault == "429 hour":
            self.send(b"{}", 429, {"Retry-After": "3600"})
        elif fault == "429 quota":
            self.send(b'{"error": {"message": "no money left", "code": "insufficient_quota"}}', 429)
        elif fault == "html":
            self.send(b"<html>502 Bad Gateway</html>", kind="text/html")
        elif fault == "empty body":
            self.send(b"")
        elif fault == "truncated json":
            self.send(good[: len(good) // 2])
        elif fault == "no choices":
            self.send(b'{"choices": []}')
        elif fault == "wrong types":
            self.send(b'{"choices": [{"message": {"content": 1}, "finish_reason": {}}]}')
        elif fault == "not utf-8":
            self.send(good.replace(b"made up", b"\xff\xfe"))
        elif fault == "half a body":
            self.send(good, length=len(good) + 1000)
            self.close_connection = True
        else:  # a status; careless servers quote the key
            quoted = self.headers.get("Authorization", "")
            self.send(json.dumps({"error": {"message": f"bad key {quoted}"}}).encode(), int(fault))

    def send(self, body, status=200, headers=(), kind="application/json", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def completion(text, finish_reason="stop"):
    return json.dumps({
        "id": "c", "object": "chat.completion", "created": 1, "model": "rule",
        "choices": [
            {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }).encode()  # fmt: skip
