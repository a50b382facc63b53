"""Starts the service of a run."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sotune.errors import ConfigError
from sotune.settings import ServeSettings

if TYPE_CHECKING:
    import uvicorn

_LEAST_TOKEN = 16
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass
class Prepared:
    """A loaded service that listens already.

    Attributes:
        server: Answers when it is run; ends when its ``should_exit`` is set.
        listener: Its socket.
        address: As a client writes it.
    """

    server: uvicorn.Server
    listener: socket.socket
    address: str

    def run(self) -> None:
        """Answers jobs until it is told to stop; those that wait then are answered first."""
        with self.listener:
            self.server.run(sockets=[self.listener])


def prepare(run: Path, settings: ServeSettings) -> Prepared:
    """Loads a run and listens.

    Args:
        run: The run folder.
        settings: Where it listens and what it allows.

    Raises:
        ConfigError: The extra is not installed, the address cannot be listened on, or a token is missing or too short.
        ArtifactError: The run cannot weigh new rows.
    """
    token = find_token(settings)
    try:
        import uvicorn

        from sotune.serving.http_app import Service
    except ImportError as error:
        raise ConfigError(
            f"serving needs {error.name}, which is not installed; run: pip install 'sotune[serve]'"
        ) from None
    from sotune.pipeline import Scorer
    from sotune.serving.audit_log import AuditLog

    listener = _listen(settings)
    try:
        scorer, folder = Scorer(run), run.resolve()
        audit = AuditLog(Path(settings.audit or folder.with_name(f"{folder.name}-audit.jsonl")), scorer.digests)
    except BaseException:
        listener.close()
        raise
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        Service(scorer, settings, token, audit).app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=60,
    )
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return Prepared(uvicorn.Server(config), listener, address)


def find_token(settings: ServeSettings) -> str:
    """Returns the token that clients must send; empty where none is set, which only this machine's own may do.

    Raises:
        ConfigError: It is missing for an address that others reach, or too short.
    """
    token = os.environ.get(settings.token_env, "").strip()
    if token and len(token) < _LEAST_TOKEN:
        raise ConfigError(
            f"the token in {settings.token_env} is too short; make one of at least {_LEAST_TOKEN} letters"
        )
    if not token and settings.host not in _LOOPBACK:
        raise ConfigError(
            f"host {settings.host} can be reached by others, and there is no token; put one in the environment as "
            f"{settings.token_env}, like the output of: openssl rand -hex 32"
        )
    return token


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}); choose another port or host"
        ) from None
    return listener
