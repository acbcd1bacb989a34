"""Serves a study to browsers until it is stopped."""

from __future__ import annotations

import io
import logging
import socket
import time
from collections.abc import Collection
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from cac_align.rating.app import RatingApp
from cac_align.rating.study import Study

log = logging.getLogger(__name__)


#: Seconds a client may leave between two bytes it sends or takes, and a request may take to arrive as a whole: each
#: connection holds a thread, which a client that stops sending would hold for ever.
IDLE_S, REQUEST_S = 30.0, 60.0


class QuietHandler(WSGIRequestHandler):
    """Requests go to the log of this package, not to the terminal the person reads; slow clients are cut off."""

    def setup(self) -> None:
        super().setup()
        # One write is one answer or one pack of pictures, which may take as long as a request.
        self.connection.settimeout(REQUEST_S)
        self.rfile.close()
        self._input = _TimedInput(self.connection, self)
        self.rfile = io.BufferedReader(self._input)

    def handle_one_request(self) -> None:
        self._input.begin()
        super().handle_one_request()

    def log(self, type: str, message: str, *args: object) -> None:
        log.debug("%s " + message, self.address_string(), *args)


class _TimedInput(io.RawIOBase):
    """Input of a client with a time limit: if it comes too slowly, the connection ends with this request."""

    def __init__(self, connection: socket.socket, handler: WSGIRequestHandler) -> None:
        self._socket, self._handler = connection, handler
        self.begin()

    def begin(self) -> None:
        """A new request may take its whole time."""
        self._deadline = time.monotonic() + REQUEST_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._socket.settimeout(max(min(IDLE_S, self._deadline - time.monotonic()), 0.001))
            return self._socket.recv_into(buffer)
        except TimeoutError:
            self._handler.close_connection = True
            raise
        finally:
            self._socket.settimeout(REQUEST_S)


def open_server(study: Study, host: str, port: int, hosts: Collection[str] = ()) -> BaseWSGIServer:
    """A threaded server that listens already; ``serve_forever`` answers. Port 0 takes any free one."""
    names = {*hosts, host} - {"0.0.0.0", "::"}
    return make_server(host, port, RatingApp(study, names), threaded=True, request_handler=QuietHandler)


def address(server: BaseWSGIServer, host: str) -> str:
    """Address to open in the browser."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{server.server_port}/"
