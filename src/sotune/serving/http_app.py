"""The HTTP side of the service: who may ask, how much, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sotune.artifacts import library_versions
from sotune.errors import ArtifactError, DataError, SotuneError
from sotune.pipeline import Scorer
from sotune.serving.audit_log import AuditLog
from sotune.serving.counters import Counters
from sotune.serving.job_queue import Busy, Job, JobQueue
from sotune.settings import ServeSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_STATUS: tuple[tuple[type[SotuneError], int], ...] = ((Busy, 503), (DataError, 422), (ArtifactError, 503))


class Refused(Exception):
    """A request that is answered with an error: its status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Service:
    """A loaded run and its routes.

    Args:
        scorer: The run.
        settings: Limits.
        token: What a client must send; empty: nothing.
        audit: Where jobs are noted.
    """

    def __init__(self, scorer: Scorer, settings: ServeSettings, token: str, audit: AuditLog) -> None:
        self._settings, self._token = settings, token
        self._digests = dict(scorer.digests)
        self._scorer = scorer
        self.counters = Counters()
        self._audit = audit
        self._queue: JobQueue | None = None
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/score", self._score, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={404: _missing, 405: _missing})

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._queue = JobQueue(self._scorer, self._settings, self._audit.note)
        self._queue.start()
        yield
        await self._queue.stop()
        self._audit.close()

    async def _health(self, request: Request) -> Response:
        version = library_versions("sotune")["sotune"]
        return JSONResponse({"status": "ok", "version": version, "waiting_rows": self._n_waiting})

    async def _metrics(self, request: Request) -> Response:
        try:
            self._check_caller(request)
        except Refused as refused:
            return _told(refused.status, refused.reason)
        return PlainTextResponse("\n".join(self.counters.lines(n_waiting=self._n_waiting)) + "\n")

    async def _score(self, request: Request) -> Response:
        started, job_id = time.monotonic(), uuid.uuid4().hex
        try:
            self._check_caller(request)
            rows = self._rows(await self._body(request))
            client = request.client.host if request.client else ""
            job = Job(job_id, rows, client, asyncio.get_running_loop().create_future())
            assert self._queue is not None  # noqa: S101 - there is one while the application runs
            scored = await self._queue.weigh(job)
        except Refused as refused:
            return self._refuse(refused.status, refused.reason, started, job_id)
        except SotuneError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
            return self._refuse(status, str(error), started, job_id)
        n_kept = sum(row.would_keep for row in scored)
        self.counters.note(200, time.monotonic() - started, n_rows=len(scored), n_kept=n_kept)
        return JSONResponse({"job": job_id, "scores": [asdict(row) for row in scored]})

    def _refuse(self, status: int, reason: str, started: float, job_id: str) -> Response:
        self.counters.note(status, time.monotonic() - started)
        return _told(status, reason, job=job_id, headers={"Retry-After": "1"} if status == 503 else None)

    @property
    def _n_waiting(self) -> int:
        return 0 if self._queue is None else self._queue.n_waiting

    def _check_caller(self, request: Request) -> None:
        """Refuses who has not the token, and, where none is needed, pages of the web that a browser sends here."""
        if self._token:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self._token.encode()):
                raise Refused(401, "send the token of this service as Authorization: Bearer TOKEN")
        elif (host := _host_of(request)) not in LOOPBACK:
            raise Refused(421, f"this service answers on this machine alone. Got the host {host[:100]!r}")

    async def _body(self, request: Request) -> bytes:
        """Reads the body, and no more of it than may be sent."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send JSON, with Content-Type: application/json")
        most = self._settings.max_body
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > most:
            raise Refused(413, f"the body has {int(declared):,} bytes, over {most:,}; send fewer rows at a time")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refused(413, f"the body has over {most:,} bytes; send fewer rows at a time")
        except ClientDisconnect:
            raise Refused(400, "the caller hung up before the body's end") from None
        return bytes(body)

    def _rows(self, body: bytes) -> list[Mapping[str, Any]]:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON ({str(error)[:200]})") from None
        rows = value.get("rows") if isinstance(value, dict) else None
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise Refused(422, 'send {"rows": [ROW, …]} with at least one row, each an object of its columns')
        if len(rows) > self._settings.max_rows:
            raise Refused(
                413, f"the job has {len(rows):,} rows, over {self._settings.max_rows:,}; send fewer at a time"
            )
        for number, row in enumerate(rows, start=1):
            if (n_chars := _n_chars(row, most=self._settings.max_chars)) > self._settings.max_chars:
                raise Refused(
                    413, f"rows:{number} has over {self._settings.max_chars:,} characters of text ({n_chars:,} or more)"
                )
        return rows


def _n_chars(value: Any, *, most: int) -> int:
    """Counts the characters of text in a JSON value, keys apart; stops where there are more than so many."""
    total, stack = 0, [value]
    while stack and total <= most:
        one = stack.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, dict):
            stack += one.values()
        elif isinstance(one, list):
            stack += one
    return total


def _host_of(request: Request) -> str:
    host = request.headers.get("host", "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _told(status: int, reason: str, *, job: str = "", headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason, **({"job": job} if job else {})}, status, headers)


async def _missing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _told(status, "there are POST /score, GET /health and GET /metrics")
