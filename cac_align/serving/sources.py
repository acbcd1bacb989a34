"""A video of a request: looked at when the request arrives, opened when its turn comes.

A path is resolved, must lie below the root, and is then opened folder by folder without following a link, so that
nothing outside is opened even while somebody changes links. What FFmpeg may read is limited by
:mod:`reward_model.video.container`: no playlist or reference in a file leads to another.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cac_align.serving.addresses import AddressError, fetch
from cac_align.serving.messages import VideoMessage, decoded
from cac_align.serving.settings import ServeSettings
from reward_model.video.clip import Video, VideoError, load_video

#: The open file of this number, as a path: it leads to the file itself, whatever its name leads to by now.
_OPEN = "/dev/fd/{}"
#: Errors that say nothing about the file.
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class RefusedError(ValueError):
    """A video that this server does not take; ``status`` is that of the reply."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class WaitingVideo:
    """A video that waits. ``open`` gives its frames in memory; ``close`` lets go of what it holds."""

    open: Callable[[], Video]
    prompt: str | None = None
    close: Callable[[], None] = lambda: None


def prepared(message: VideoMessage, settings: ServeSettings) -> WaitingVideo:
    """The video of a message, known to be acceptable; one at a URL is fetched.

    Raises:
        RefusedError: if it is not.
    """
    if message.path is not None:
        return _named(message.path, message, settings)
    if message.url is not None:
        return _fetched(message.url, message, settings)
    try:
        if message.frames is not None:
            data, shape = message.pixels(), message.shape
            assert shape is not None and message.fps is not None
            video = Video(np.frombuffer(data, np.uint8).reshape(shape), message.fps, message.drawn_size)
            return WaitingVideo(lambda: video, message.prompt)
        assert message.file is not None
        upload = decoded(message.file)
    except ValueError as error:
        raise RefusedError(422, str(error)) from None

    def written() -> Video:
        with tempfile.TemporaryFile() as file:
            file.write(upload)
            file.flush()
            return _read(file, "the file", message.fps, settings.max_bytes)

    return WaitingVideo(written, message.prompt)


def _named(path: str, message: VideoMessage, settings: ServeSettings) -> WaitingVideo:
    root = settings.root
    if root is None:
        raise RefusedError(403, "paths are off: this server was started without --root; send the file or its frames")
    with open_inside(root, path):
        pass

    def opened() -> Video:
        with open_inside(root, path) as file:
            return _read(file, repr(path), message.fps, settings.max_bytes)

    return WaitingVideo(opened, message.prompt)


def _fetched(url: str, message: VideoMessage, settings: ServeSettings) -> WaitingVideo:
    if not settings.urls:
        raise RefusedError(403, "URLs are off: this server was started without --urls; send the file or its frames")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the video has been judged
    try:
        fetch(url, file, settings.max_body)
    except AddressError as error:
        file.close()
        raise RefusedError(403, str(error)) from None
    except BaseException:
        file.close()
        raise
    limit = settings.max_bytes
    return WaitingVideo(lambda: _read(file, "the file at the URL", message.fps, limit), message.prompt, file.close)


@contextmanager
def open_inside(root: Path, relative: str) -> Iterator[IO[bytes]]:
    """A regular file below ``root``, open for reading; links are followed as long as they stay inside.

    Raises:
        RefusedError: 403 if it lies elsewhere, 404 if it does not exist or is not a regular file, 503 if this process
            cannot open any more files.
    """
    outside = RefusedError(403, f"{relative[:200]!r} leads out of the folder of this server; only files in it are read")
    absent = RefusedError(404, f"there is no video file {relative[:200]!r} in the folder of this server")
    if "\0" in relative:
        raise absent
    top = os.path.realpath(root)
    real = os.path.realpath(os.path.join(top, relative))  # noqa: PTH118 - Path would give up on loops of links
    if os.path.commonpath([top, real]) != top:
        raise outside
    if real == top:
        raise absent
    *folders, name = Path(os.path.relpath(real, top)).parts
    held: list[int] = []
    try:
        held.append(os.open(top, os.O_RDONLY | os.O_DIRECTORY))
        for folder in folders:
            held.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=held[-1]))
        # A pipe would be waited for, and a device may act when it is opened: looked at first, and opened unblocking.
        if not stat.S_ISREG(os.stat(name, dir_fd=held[-1], follow_symlinks=False).st_mode):
            raise absent
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=held[-1])
    except OSError as error:
        if error.errno in _NONE_LEFT:
            raise RefusedError(503, "too many files are open here; try again later") from None
        raise absent from None
    finally:
        for number in held:
            os.close(number)
    with os.fdopen(file, "rb") as opened:
        yield opened


def _read(file: IO[bytes], shown: str, fps: float | None, max_bytes: int) -> Video:
    """All frames of an open file.

    Raises:
        VideoError: as :func:`load_video`, and if the frames would take more than ``max_bytes``: a small file may hold
            many gigabytes of them. The message has ``shown`` for a name.
    """
    place = _OPEN.format(file.fileno())
    try:
        video = load_video(place, fps)
        height, width = video.size
        if (need := video.num_frames * height * width * 3) > max_bytes:
            raise VideoError(
                f"the {video.num_frames} frames of {width}x{height} in {shown} take {need:,} bytes; this server takes "
                f"at most {max_bytes:,}: send fewer or smaller ones, or start it with a larger --max-body"
            )
        return video.in_memory()
    except VideoError as error:
        raise VideoError(str(error).replace(repr(place), shown).replace(place, shown)) from None


def close_all(sources: list[WaitingVideo]) -> None:
    """Lets go of what sources hold; one that fails keeps none of the others open."""
    for source in sources:
        with suppress(OSError):
            source.close()
