"""Opening a file of a foreign name and content: regular files only, nothing read beside them, one kind of error."""

from __future__ import annotations

import os
import shlex
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reward_model.video.clip import VideoError
from reward_model.video.limits import ENCODE, MAX_PIXELS, THREAD_BYTES, repair

#: What may be opened: containers and elementary streams. Playlists, which name other files or addresses, are not here.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,gif,apng,mpegts,mpegtsraw,mpeg,mpegvideo,flv,live_flv,ogg,asf,nut,ivf,yuv4mpegpipe,h264,"
    "hevc,vvc,m4v,h263,mjpeg,obu,av1,mxf,dv,rm,wtv,vc1,swf,nsv,roq,bink,smk,png_pipe,jpeg_pipe,jpegls_pipe,j2k_pipe,"
    "webp_pipe,bmp_pipe,tiff_pipe,gif_pipe,jpegxl_pipe,jpegxl_anim,psd_pipe,dds_pipe,exr_pipe,pgm_pipe,ppm_pipe"
)
#: FFmpeg never takes more by itself.
_MOST_THREADS = 16


def check_regular(path: str | Path) -> Path:
    """The path of a regular file.

    Raises:
        VideoError: there is none, it cannot be reached, or it is a folder, a pipe, a socket or a device.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError(f"no video file at {str(path)!r}") from None
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a loop of links, a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"no video file at {str(path)!r}: {reason}") from error
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        raise VideoError(f"no video file at {str(path)!r}: it is {found}")
    return path


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turns whatever decoders raise into a VideoError that names the file."""
    import av

    try:
        yield
    except VideoError:
        raise
    except MemoryError:
        raise VideoError(
            f"memory ran out while {str(path)!r} was decoded; shorten or shrink it: "
            f"{repair(path, '-vf', 'scale=-2:480', *ENCODE)}"
        ) from None
    except PermissionError as error:
        raise VideoError(f"cannot read {str(path)!r}: permission denied; chmod u+r {shlex.quote(str(path))}") from error
    except (av.FFmpegError, OSError, ValueError, EOFError, SyntaxError, RuntimeError, struct.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(
            f"cannot decode {str(path)!r}: {reason}. If a player still shows it, encode it anew: "
            f"{repair(path, *ENCODE)}"
        ) from error


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """The opened file; no name is taken for an address, an option or a pattern, and nothing else is read through it."""
    import av

    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    name = str(path.absolute())
    # FFmpeg wants UTF-8, and takes '%' in names of pictures for a number to fill in: such files are handed over open.
    if name.isprintable() and "%" not in name and _is_utf8(name):
        with av.open(f"file:{name}", options=options, metadata_errors="replace") as container:
            yield container
    else:
        with path.open("rb") as file, av.open(file, options=options, metadata_errors="replace") as container:
            yield container


def use_threads(context: Any) -> None:
    """Lets a decoder use several processors, fewer for large pictures: each thread holds some of its own."""
    context.thread_type = "AUTO"
    fitting = THREAD_BYTES // max(1, context.width * context.height * 3)
    if fitting < _MOST_THREADS:
        context.thread_count = max(1, min(fitting, os.cpu_count() or 1))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
