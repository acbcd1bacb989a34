"""The socket of a reward server: uvicorn, with limits where it has none, on connections that say nothing."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds in which the line and the headers of a request must arrive; connections at a time.
HEAD_S, CONNECTIONS = 20.0, 512


class HurriedProtocol(H11Protocol):
    """Connections whose requests begin in time; a client that opens one and falls silent is cut off.

    Where there are nearly as many as are taken, the one that has been silent for longest gives way to the new one:
    whoever opens hundreds and says nothing keeps nobody out. Those with a request in work stay.
    """

    _late: asyncio.TimerHandle | None = None
    _heard = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._heard = self.loop.time()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency - self.config.backlog:
            self._make_room()
        self._wait()

    def _make_room(self) -> None:
        """Cuts off the one that has been silent for longest, if there is one."""
        others = [c for c in self.connections if isinstance(c, HurriedProtocol) and c is not self and c._is_silent]
        if others:
            min(others, key=lambda c: c._heard).transport.abort()

    @property
    def _is_silent(self) -> bool:
        """True where no request is in work; half of a request's headers are none."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._heard = self.loop.time()
            self._arrived()
        elif self._late is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(HEAD_S, self.transport.close)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes any free one.

    Raises:
        ValueError: if the address cannot be taken. The message says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"--host {host} --port {port}: {reason}; choose another, --port 0 takes any free one"
        ) from None
    return listener


def most_connections() -> int:
    """Connections at a time: fewer where this process may open few files, so that half of them are left for videos."""
    try:
        import resource
    except ImportError:  # Windows
        return CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if files == resource.RLIM_INFINITY else max(2, min(CONNECTIONS, files // 2))


def server_config(app: FastAPI) -> uvicorn.Config:
    """The settings of uvicorn."""
    most = most_connections()
    return uvicorn.Config(
        app,
        http=HurriedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        limit_concurrency=most,
        # So many connections are accepted between two looks at what the others say: fewer than would cut off one that
        # has just been opened, and whose request has come but was not read yet.
        backlog=max(1, most // 4),
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        proxy_headers=False,
        server_header=False,
    )


def listen(app: FastAPI, listener: socket.socket) -> None:
    """Answers until Ctrl-C or a signal to end; requests in work may finish for ten seconds."""
    uvicorn.Server(server_config(app)).run(sockets=[listener])
