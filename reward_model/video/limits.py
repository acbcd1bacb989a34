"""How much a video file may ask for, and the words for a file that asks for more or holds less than it says."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np

from reward_model.video.clip import VideoError
from reward_model.video.facts import Facts

#: Moves the limit of memory below: GiB that the decoded frames of one video may take at once.
LIMIT_VARIABLE = "CAC_VIDEO_GIB"
LIMIT_GIB = 8.0
#: The largest picture: 8192 x 8192.
MAX_PIXELS = 2**26
#: All pictures of an animated file together: 2,071 of 1920 x 1080, or 10,485 of 640 x 640. Each is built on the one
#: before it, so all are decoded, at some nanoseconds a pixel, and a picture that says "as before" takes a few bytes.
MAX_ANIMATED_PIXELS = 2**32
#: A video whose frames take no more than this is decoded once and kept; of a larger one, what is looked at.
KEEP_BYTES = 512 * 2**20
#: Pictures that the threads of one decoder hold.
THREAD_BYTES = 256 * 2**20
#: Faster than any camera people use; a file that states more has a broken header.
MAX_FPS = 500.0
#: What makes a sound file of one that a player still shows.
ENCODE = ("-c:v", "libx264", "-crf", "12", "-pix_fmt", "yuv420p")


def repair(path: Path, *arguments: str, suffix: str = ".mp4") -> str:
    """A command that makes a sound copy of a file: ``ffmpeg -i FILE ... COPY``, quoted for a shell."""
    # With file: before it, no name is taken for a protocol or an option.
    copy = path.with_name(f"{path.stem}-repaired{suffix}")
    return shlex.join(["ffmpeg", "-i", f"file:{path}", *arguments, f"file:{copy}"])


def broken_off(path: Path, stated: str, found: str) -> str:
    return (
        f"{str(path)!r} breaks off: it states {stated} and holds {found}. Make or fetch it again, or keep what is "
        f"there: {repair(path, *ENCODE)}"
    )


def too_large(path: Path, width: int, height: int) -> str:
    return (
        f"the pictures of {str(path)!r} are {width}x{height}; expected at most {MAX_PIXELS} pixels. Shrink it: "
        f"{repair(path, '-vf', 'scale=-2:1080', *ENCODE)}"
    )


def check_animation(path: Path, count: int, width: int, height: int, *, convertible: bool = True) -> None:
    """
    Args:
        convertible: whether FFmpeg reads the file.

    Raises:
        VideoError: the pictures of an animated GIF, WebP or PNG are too many for their size.
    """
    total = count * width * height
    if total > MAX_ANIMATED_PIXELS:
        convert = f", or make it a video: {repair(path, '-vf', 'scale=-2:480', *ENCODE)}" if convertible else ""
        raise VideoError(
            f"{str(path)!r} animates {count} pictures of {width}x{height}, {total:,} pixels; expected at most "
            f"{MAX_ANIMATED_PIXELS:,}. Shrink or shorten it where it was made{convert}"
        )


def check_size(path: Path, width: int, height: int, expected: tuple[int, int]) -> None:
    if (width, height) != expected:
        raise VideoError(
            f"{str(path)!r} changes its picture size midway, from {expected[0]}x{expected[1]} to {width}x{height}; "
            f"encode it at one size: {repair(path, '-vf', f'scale={expected[0]}:{expected[1]}', *ENCODE)}"
        )


def allocate(facts: Facts, count: int, height: int, width: int) -> np.ndarray:
    check_memory(facts, count, height, width)
    return np.empty((count, height, width, 3), np.uint8)


def check_memory(facts: Facts, count: int, height: int, width: int) -> None:
    """Raises VideoError if frames would take more than the limit of memory."""
    text = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_GIB)
    try:
        limit = float(text)
    except ValueError:
        raise VideoError(f"${LIMIT_VARIABLE}={text!r} is not a number of GiB; set it to {LIMIT_GIB:g}") from None
    need = count * height * width * 3 / 2**30
    if need > limit:
        raise VideoError(
            f"{count} frames of {width}x{height} from {str(facts.path)!r} would take {need:.1f} GiB; expected at most "
            f"{limit:g}. Shrink or shorten it: {repair(facts.path, '-vf', 'scale=-2:480', *ENCODE)}, or raise "
            f"${LIMIT_VARIABLE}"
        )
