"""Videos at URLs, for a server that was told to fetch them: public addresses only, bounded in bytes and time.

Every address that a name resolves to must be public, and the connection goes to the very address that was checked, so
that a name which resolves anew (DNS rebinding) leads nowhere. Redirects are not followed, and no proxy is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from typing import IO
from urllib.parse import SplitResult, urlsplit

#: Seconds of a download, and of any one wait in it.
FETCH_S, WAIT_S = 60.0, 10.0
_PORTS = {"http": 80, "https": 443}


class AddressError(ValueError):
    """A URL that is not fetched. The message says why."""


def is_public(address: str) -> bool:
    """True for an IP address of the internet, not of this machine, a local network or a special purpose.

    >>> [is_public(a) for a in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (inner := _inside_v6(ip)) is not None:
        return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _inside_v6(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, translated (NAT64) or tunnelled (6to4) one leads to."""
    if ip in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def checked_address(url: str) -> tuple[SplitResult, str]:
    """The parts of a URL, and the IP address to connect to.

    Raises:
        AddressError: if it is not a plain http or https URL, cannot be resolved, or leads to an address that is not
            public.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise AddressError(f"the URL cannot be read: {error}") from None
    if parts.scheme not in _PORTS or not host or parts.username is not None:
        raise AddressError("only http:// and https:// URLs without a login are fetched")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise AddressError("a URL has ASCII characters and no spaces; encode the others")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise AddressError(f"the host {host!r} cannot be resolved") from None
    if not found or not all(is_public(address) for address in found):
        raise AddressError(f"the host {host!r} is not a public one; private and local addresses are never fetched")
    return parts, min(found, key=lambda address: (":" in address, address))


def fetch(url: str, into: IO[bytes], max_bytes: int) -> None:
    """Downloads a URL into an open file.

    Raises:
        AddressError: what :func:`checked_address` refuses; a reply other than 200, one that is too long, or too slow.
    """
    parts, address = checked_address(url)
    end = time.monotonic() + FETCH_S
    connection = _Pinned(parts, address)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept-Encoding": "identity", "User-Agent": "cac-align"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise AddressError(f"the host answered {reply.status}; redirects are not followed")
        size = 0
        while chunk := reply.read1(65536):
            size += len(chunk)
            if size > max_bytes:
                raise AddressError(f"the video is larger than {max_bytes:,} bytes")
            if time.monotonic() > end:
                raise AddressError(f"the video did not arrive within {FETCH_S:g} s")
            into.write(chunk)
        if reply.length:
            raise AddressError("the connection broke off before the video was complete")
        into.flush()
    except (OSError, http.client.HTTPException) as error:
        raise AddressError(f"the video could not be fetched: {type(error).__name__}") from None
    finally:
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked; names serve the Host header and the certificate alone."""

    def __init__(self, parts: SplitResult, address: str) -> None:
        super().__init__(str(parts.hostname), parts.port or _PORTS[parts.scheme], timeout=WAIT_S)
        self._address, self._secure = address, parts.scheme == "https"

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), WAIT_S)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
