"""The hostile clients of ``server_load.py``: what each of them sends, and what a sound server says to it."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from reward_model.video.writing import write_mp4

GB = 2**30
#: Bytes that a dripping body announces; six of these are more than a server holds (2 GiB unless told otherwise).
DRIPPED = 500_000_000
#: Seconds that a hostile client waits for an answer.
PATIENCE_S = 30.0
#: In every file that nobody may see.
MARKER = "canary-of-the-load"


class Lost(Exception):
    """The server is away, or has cut the client off."""


@dataclass
class Target:
    """What hostile clients know of a server.

    Attributes:
        port: where it listens; it changes with no restart.
        token: what honest clients bring.
        outside: a folder that the server may not read, beside its root.
        web_port: a server of this machine that may not be connected to.
        ended: set when the load is over.
    """

    port: int
    token: str
    outside: Path
    web_port: int
    ended: threading.Event


def lay_traps(root: Path, outside: Path, num_frames: int) -> None:
    """Files that nobody may see, and in the root links and playlists that lead to them, a broken video and a bomb.

    Args:
        root: the server's.
        outside: beside it.
        num_frames: frames of the bomb: a small file of large black pictures.
    """
    (outside / "deep").mkdir(parents=True)
    grey = np.full((4, 16, 16, 3), 90, np.uint8)
    for name in ("secret.mp4", "deep/secret.mp4"):
        write_mp4(outside / name, grey, 8)
    (outside / "secret.txt").write_text(MARKER)
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "chain.mp4").symlink_to(root / "link.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{outside}/secret.mp4\n#EXT-X-ENDLIST\n")
    (root / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{outside}/secret.mp4'\n")
    (root / "broken.mp4").write_bytes((outside / "secret.mp4").read_bytes()[:-200])
    write_bomb(root / "bomb.mov", num_frames)


def write_bomb(path: Path, num_frames: int) -> None:
    """A black video of 1920x1080 in lossless pictures, all of them the same few kilobytes."""
    with av.open(path, "w") as file:
        stream = file.add_stream("png", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "rgb24"
        (packet,) = stream.encode(av.VideoFrame.from_ndarray(np.zeros((1080, 1920, 3), np.uint8)))
        data, base = bytes(packet), packet.time_base
        for k in range(num_frames):
            copy = av.Packet(data)
            copy.stream, copy.time_base, copy.is_keyframe = stream, base, True
            copy.pts = copy.dts = k
            file.mux(copy)


# --- sending ----------------------------------------------------------------------------------------------------------


def ask(
    target: Target, body: bytes, *, method: str = "POST", path: str = "/score", **headers: str | None
) -> tuple[int, str]:
    """Status and text of an answer. A header's underscores stand for dashes, and None leaves it out."""
    given = {"Content_Type": "application/json", "Authorization": f"Bearer {target.token}", **headers}
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, path, skip_host="Host" in given, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        if method == "POST" and "Content_Length" not in given:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        text = reply.read(2**20).decode("utf-8", "replace")
        if reply.length:
            raise Lost("broken off")
        return reply.status, text
    except (OSError, http.client.HTTPException) as error:
        raise Lost(type(error).__name__) from None
    finally:
        connection.close()


def ask_video(target: Target, **video: Any) -> tuple[int, str]:
    """The answer to a request for one video."""
    return ask(target, json.dumps({"videos": [video]}).encode())


def pour(target: Target, head: str, pieces: Iterator[bytes]) -> tuple[int, str]:
    """The answer to a body that is sent until the server has enough of it."""
    try:
        with socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_S) as client:
            lines = ("POST /score HTTP/1.1", f"Host: 127.0.0.1:{target.port}", f"Authorization: Bearer {target.token}")
            client.sendall("\r\n".join([*lines, "Content-Type: application/json", head, "", ""]).encode())
            try:
                for piece in pieces:
                    client.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it answers before it has read all
            text = client.recv(65536).decode("latin-1")
    except OSError as error:
        raise Lost(type(error).__name__) from None
    if not text.startswith("HTTP/1.1 "):
        raise Lost("closed")
    return int(text.split()[1]), text


def _zeros(size: int, *, chunked: bool = False) -> Iterator[bytes]:
    piece = bytes(2**20)
    framed = b"100000\r\n" + piece + b"\r\n" if chunked else piece
    return itertools.repeat(framed, size // len(piece))


def _drops(target: Target) -> Iterator[bytes]:
    while not target.ended.wait(0.5):
        yield b" "


# --- kinds ------------------------------------------------------------------------------------------------------------


def large_bodies(target: Target) -> Iterator[tuple[int, str]]:
    yield pour(target, f"Content-Length: {GB}", _zeros(GB))
    yield pour(target, "Transfer-Encoding: chunked", _zeros(GB, chunked=True))
    yield pour(target, "Content-Length: 2", itertools.chain([b"{}"], _zeros(GB)))
    yield pour(target, f"Content-Length: 3\r\nContent-Length: {GB}", _zeros(GB))


def dripping_bodies(target: Target) -> Iterator[tuple[int, str]]:
    yield pour(target, f"Content-Length: {DRIPPED}", _drops(target))


def silent_connections(target: Target) -> Iterator[tuple[int, str]]:
    """More connections than the server takes (512), none of which says anything."""
    held: list[socket.socket] = []
    try:
        for _ in range(150):
            held.append(socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_S))
        target.ended.wait(5)
    except OSError as error:
        raise Lost(type(error).__name__) from None
    finally:
        for one in held:
            one.close()
    raise Lost("never asked")


def invalid_bodies(target: Target) -> Iterator[tuple[int, str]]:
    bodies = [
        b"{",
        b"[" * 200_000,
        b"\xff\xfe\0",
        b"null",
        b'{"videos": []}',
        b'{"videos": [{"path": "a", "url": "b"}]}',
        b'{"videos": [{"path": "a", "more": 1}]}',
        b'{"videos": [{"frames": "AAAA", "shape": [100000, 100000, 100000, 3], "fps": 8.0}]}',
        b'{"videos": [{"frames": "????", "shape": [1, 1, 1, 3], "fps": 8.0}]}',
        b'{"videos": [{"path": "a", "fps": 1e999}]}',
        json.dumps({"videos": [{"path": "x", "prompt": "p" * 30_000}]}).encode(),
        os.urandom(100_000),
    ]
    for body in bodies:
        yield ask(target, body)


def too_many_videos(target: Target) -> Iterator[tuple[int, str]]:
    yield ask(target, json.dumps({"videos": [{"path": "link.mp4"}] * 9000}).encode())


def paths_outside(target: Target) -> Iterator[tuple[int, str]]:
    out = target.outside
    for path in (
        f"../{out.name}/secret.mp4",
        f"..\\{out.name}\\secret.mp4",
        f"%2e%2e/{out.name}/secret.mp4",
        f"a/../../{out.name}/deep/secret.mp4",
        f"./../{out.name}/secret.txt",
        str(out / "secret.mp4"),
        f"//{out}/secret.mp4",
        f"file:{out}/secret.mp4",
        f"concat:{out}/secret.mp4",
        f"/proc/self/root{out}/secret.mp4",
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
    ):
        yield ask_video(target, path=path)


def links_outside(target: Target) -> Iterator[tuple[int, str]]:
    for path in ("link.mp4", "chain.mp4", "folder/secret.mp4", "folder/deep/../secret.txt", "loop", "pipe.mp4", "."):
        yield ask_video(target, path=path)


def private_urls(target: Target) -> Iterator[tuple[int, str]]:
    for url in (
        f"http://127.0.0.1:{target.web_port}/a.mp4",
        f"http://localhost:{target.web_port}/a.mp4",
        f"http://[::1]:{target.web_port}/a.mp4",
        f"http://[::ffff:127.0.0.1]:{target.web_port}/a",
        f"http://2130706433:{target.web_port}/a",
        f"http://0x7f.1:{target.web_port}/a",
        f"http://0.0.0.0:{target.web_port}/a",
        f"http://127.0.0.1:{target.port}/metrics",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/a",
        "http://nowhere.invalid/a.mp4",
        f"file://{target.outside}/secret.mp4",
        f"http://me:pw@127.0.0.1:{target.web_port}/a",
    ):
        yield ask_video(target, url=url)


def playlists_and_broken_files(target: Target) -> Iterator[tuple[int, str]]:
    for path in ("list.m3u8", "list.mp4", "broken.mp4"):
        yield ask_video(target, path=path)
    playlist = f"#EXTM3U\n#EXTINF:1,\n{target.outside}/secret.mp4\n#EXT-X-ENDLIST\n"
    for data in (playlist.encode(), b"not a video" * 50, os.urandom(5000)):
        yield ask_video(target, file=base64.b64encode(data).decode(), fps=8.0)


def bombs(target: Target) -> Iterator[tuple[int, str]]:
    """A small file whose frames take gigabytes."""
    yield ask_video(target, path="bomb.mov")


def wrong_tokens(target: Target) -> Iterator[tuple[int, str]]:
    body = json.dumps({"videos": [{"path": "link.mp4"}]}).encode()
    for token in (None, "Bearer", f"Bearer {target.token}x", f"Basic {target.token}", f"Bearer {target.token[:-1]}"):
        yield ask(target, body, Authorization=token)
        yield ask(target, b"", method="GET", path="/metrics", Authorization=token)


def wrong_hosts(target: Target) -> Iterator[tuple[int, str]]:
    body = json.dumps({"videos": [{"path": "link.mp4"}]}).encode()
    for host in ("evil.example", "127.0.0.1.evil.example", "169.254.169.254", "["):
        yield ask(target, body, Host=host)
        yield ask(target, b"", method="GET", path="/health", Host=host)
    yield ask(target, body, Origin="http://evil.example")


def broken_requests(target: Target) -> Iterator[tuple[int, str]]:
    """Bytes that are not HTTP, and clients that hang up in the middle of a request."""
    for data in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: a\r\nA" * 9999,
    ):
        try:
            with socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_S) as client:
                client.sendall(data)
                text = client.recv(65536).decode("latin-1")
        except OSError as error:
            raise Lost(type(error).__name__) from None
        if text.startswith("HTTP/1.1 "):
            yield int(text.split()[1]), text
    for _ in range(5):
        try:
            with socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_S) as client:
                head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {target.token}\r\nContent-Type: application/json"
                client.sendall(f"POST /score HTTP/1.1\r\n{head}\r\nContent-Length: 5000\r\n\r\n{{".encode())
        except OSError as error:
            raise Lost(type(error).__name__) from None


#: What is sent, how many clients send it at a time, and the statuses of a sound answer. 503 (come back later) and a
#: connection that is cut off are sound for all of them; 200 only without a score.
KINDS: Mapping[str, tuple[Callable[[Target], Iterator[tuple[int, str]]], int, tuple[int, ...]]] = {
    "bodies of 1 GB": (large_bodies, 1, (400, 411, 413, 422)),
    "bodies that drip, 500 MB announced": (dripping_bodies, 6, (400, 408)),
    "silent connections, 150 each": (silent_connections, 4, ()),
    "invalid bodies": (invalid_bodies, 1, (422,)),
    "9,000 videos in a request": (too_many_videos, 1, (413,)),
    "paths outside the root": (paths_outside, 2, (403, 404)),
    "links outside the root": (links_outside, 2, (403, 404)),
    "URLs of private and unknown hosts": (private_urls, 1, (403,)),
    "playlists and broken files": (playlists_and_broken_files, 1, (200,)),
    "small files of huge videos": (bombs, 1, (200,)),
    "wrong tokens": (wrong_tokens, 1, (401,)),
    "wrong hosts, pages of browsers": (wrong_hosts, 1, (400, 403)),
    "broken requests": (broken_requests, 1, (400,)),
}


class Hostiles:
    """All hostile clients, each in a thread of its own, until the load is over.

    Attributes:
        counts: for each kind the number of answers by what they were: a status, ``cut off``, ``away`` (no server at
            that time), or ``WRONG ...``.
        faults: what a sound server would not have said.
    """

    def __init__(self, target: Target, kinds: Sequence[str] = tuple(KINDS), pause_s: float = 0.2) -> None:
        self.target, self.pause_s = target, pause_s
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), daemon=True)
            for kind in kinds
            for _ in range(KINDS[kind][1])
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits until all have ended, which ``target.ended`` asks for."""
        end = time.monotonic() + 2 * PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self.faults.append("a hostile client still waits for its answer")

    def _run(self, kind: str) -> None:
        try:
            self._send(kind)
        except Exception as error:  # a kind that is not sent any more proves nothing
            with self._lock:
                self.faults.append(f"{kind}: the hostile client itself failed: {type(error).__name__}: {error}")
            raise

    def _send(self, kind: str) -> None:
        send, _, sound = KINDS[kind]
        while not self.target.ended.is_set():
            try:
                for status, text in send(self.target):
                    self._note(kind, status, text, sound)
                    if self.target.ended.wait(self.pause_s):
                        return
            except Lost as lost:
                self._add(kind, "away" if str(lost) == "ConnectionRefusedError" else "cut off")
                self.target.ended.wait(self.pause_s)

    def _note(self, kind: str, status: int, text: str, sound: Sequence[int]) -> None:
        fault = None
        if status not in (*sound, 503):
            fault = f"status {status}"
        elif MARKER in text or str(self.target.outside.parent) in text.replace(str(self.target.outside), ""):
            fault = "a text that tells what is on the machine"
        elif status == 200 and any(result["score"] is not None for result in json.loads(text)["results"]):
            fault = "a score"
        self._add(kind, str(status) if fault is None else f"WRONG {fault}")
        if fault is not None:
            with self._lock:
                self.faults.append(f"{kind}: {fault}: {text[:300]}")

    def _add(self, kind: str, outcome: str) -> None:
        with self._lock:
            self.counts[kind][outcome] += 1
