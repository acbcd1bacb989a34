"""The server at the socket: Ctrl-C ends it with a sentence, slow clients are cut off while others are served."""

import argparse
import os
import signal
import socket
import threading
import time

import pytest

from cac_align.commands import rate
from cac_align.rating import server as serving
from cac_align.rating.server import open_server
from cac_align.rating.study import open_rating
from tests.campaigns import slow_but


@pytest.fixture
def port(page):
    server = open_server(page.study, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()


def connect(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.settimeout(20)
    return client


def rest(client):
    """Everything until the server closes the connection, and how long that took."""
    began, data = time.monotonic(), b""
    while part := client.recv(65536):
        data += part
    return data, time.monotonic() - began


def request(port, length=2):
    head = f"POST /api/export HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("sent", slow_but([b"", b"GET / HT", b"POST /api/export HTTP/1.1\r\nHost: 127"], b"GET / HT"))
def test_a_client_that_falls_silent_is_cut_off(port, sent, monkeypatch):
    monkeypatch.setattr(serving, "IDLE_S", 0.2)
    with connect(port) as client:
        client.sendall(sent)
        assert rest(client)[1] < 10


def test_a_client_that_never_finishes_its_answer_is_told_and_cut_off(port, monkeypatch):
    monkeypatch.setattr(serving, "IDLE_S", 0.2)
    with connect(port) as client:
        client.sendall(request(port, length=100) + b"{")
        reply, seconds = rest(client)
    assert reply.startswith(b"HTTP/1.1 408 ") and b"in time" in reply and seconds < 10


def test_a_client_that_drips_is_cut_off_and_others_are_served_meanwhile(port, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_S", 0.6)
    with connect(port) as slow:
        slow.sendall(request(port, length=10_000))
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10:
                slow.sendall(b" ")
                with connect(port) as quick:
                    quick.sendall(f"GET /assets/dom.js HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                    assert rest(quick)[0].startswith(b"HTTP/1.1 200 OK")
                time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert time.monotonic() - began < 9


def test_ctrl_c_says_that_it_stopped(folder, capsys):
    parser = argparse.ArgumentParser()
    rate.add_arguments(parser)
    args = parser.parse_args([str(folder), "--port", "0"])

    def interrupt():
        while "Ctrl-C stops" not in "".join(said):
            said.append(capsys.readouterr().out)
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    said: list[str] = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert rate.run(args) == 0
    thread.join()
    assert "stopped; start again to go on" in "".join([*said, capsys.readouterr().out])
    open_rating(folder).close()  # the journal was let go
