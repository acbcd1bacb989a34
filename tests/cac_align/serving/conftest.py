"""A server in this process, asked through ASGI, with rewards that read pixels or are a tiny real judge."""

from __future__ import annotations

import base64
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from reward_model.video.writing import write_mp4


def brightness(videos, prompts=None, *, fps, **kwargs):
    """Mean brightness, 0 to 1."""
    return [float(np.asarray(v, dtype=np.float64).mean()) / 255 for v in videos]


def grey(level, num_frames=4):
    """A plain video, (T, 16, 16, 3) uint8."""
    return np.full((num_frames, 16, 16, 3), level, np.uint8)


def sent(frames, fps=8.0, **more):
    """Frames as a message."""
    return {"frames": base64.b64encode(frames.tobytes()).decode(), "shape": list(frames.shape), "fps": fps, **more}


@contextmanager
def asking(reward, **settings):
    """A client of a server in this process."""
    from starlette.testclient import TestClient

    from cac_align.serving.app import serving_app
    from cac_align.serving.settings import ServeSettings

    with TestClient(serving_app(reward, ServeSettings(**settings)), base_url="http://127.0.0.1:8809") as client:
        yield client


@contextmanager
def served(reward=brightness, port=0, **settings):
    """Port of a server in a thread, told what ``cac-align serve`` tells it."""
    import uvicorn

    from cac_align.serving import listening
    from cac_align.serving.app import serving_app
    from cac_align.serving.settings import ServeSettings

    listener = listening.bound_socket("127.0.0.1", port)
    config = listening.server_config(serving_app(reward, ServeSettings(**settings)))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture
def folder(tmp_path):
    """A root with a video, and a video beside it that nobody may see."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    write_mp4(root / "sub/a.mp4", grey(200, 6), 8)
    write_mp4(tmp_path / "secret.mp4", grey(50, 6), 8)
    return root
