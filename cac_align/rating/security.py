"""Access to the page: the browser that was pointed at it, and nobody else.

A name that resolves to this machine only now (DNS rebinding) fails the Host check; a page of another site fails the
Origin check; what a reply contains can be neither framed, sniffed nor run as a script.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from werkzeug.exceptions import BadRequest, Forbidden, UnsupportedMediaType
from werkzeug.wrappers import Request, Response

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
#: An answer with thousands of boxes is a few hundred kilobytes.
MAX_BODY = 2 * 2**20
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def check_request(request: Request, hosts: Collection[str]) -> None:
    """Refuses what this page's own script would not send.

    Args:
        hosts: names under which the server is reached, without ports.

    Raises:
        HTTPException: with the reason as its description.
    """
    host = request.headers.get("Host", "")
    if _name(f"//{host}") not in hosts:
        raise BadRequest(f"host {host!r} is not served here; use the address that cac-align printed")
    origin = request.headers.get("Origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise Forbidden(f"origin {origin!r} may not use this page")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("another site may not use this page; type its address instead of following a link")
    if request.method == "POST" and request.mimetype != "application/json":
        raise UnsupportedMediaType("send application/json")


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def add_strict_headers(response: Response) -> Response:
    """The same response with the headers that keep browsers strict."""
    response.headers.extend(HEADERS)
    return response
