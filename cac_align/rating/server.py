"""Serves a study to browsers until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Collection

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from cac_align.rating.app import RatingApp
from cac_align.rating.study import Study

log = logging.getLogger(__name__)


class QuietHandler(WSGIRequestHandler):
    """Requests go to the log of this package, not to the terminal the person reads."""

    def log(self, type: str, message: str, *args: object) -> None:
        log.debug("%s " + message, self.address_string(), *args)


def open_server(study: Study, host: str, port: int, hosts: Collection[str] = ()) -> BaseWSGIServer:
    """A threaded server that listens already; ``serve_forever`` answers. Port 0 takes any free one."""
    names = {*hosts, host} - {"0.0.0.0", "::"}
    return make_server(host, port, RatingApp(study, names), threaded=True, request_handler=QuietHandler)


def address(server: BaseWSGIServer, host: str) -> str:
    """Where to point the browser."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{server.server_port}/"
