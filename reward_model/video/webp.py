"""Animated WebP, which FFmpeg does not read: times from the file's own blocks, pictures by Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from reward_model.video.clip import VideoError
from reward_model.video.facts import Facts
from reward_model.video.limits import MAX_PIXELS, broken_off, check_animation, too_large
from reward_model.video.timeline import timeline


def webp_facts(path: Path) -> Facts:
    """What an animated WebP is.

    Raises:
        VideoError: it is a still picture, too large, too long for its size, or shorter than it states.
    """
    width = height = 0
    durations: list[int] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        stated = int.from_bytes(file.read(8)[4:], "little") + 8
        if size < stated:
            raise VideoError(broken_off(path, f"{stated} bytes", f"{size} of them"))
        place = 12
        while place + 8 <= stated:
            file.seek(place)
            head = file.read(24)
            name, length, body = head[:4], int.from_bytes(head[4:8], "little"), head[8:]
            if name == b"VP8X":
                width, height = (int.from_bytes(body[k : k + 3], "little") + 1 for k in (4, 7))
            elif name == b"ANMF":
                durations.append(int.from_bytes(body[12:15], "little"))
            place += 8 + length + length % 2
    if not durations:
        raise VideoError(f"{str(path)!r} is a still picture; at least 2 frames are needed: give the video it is from")
    if width * height > MAX_PIXELS:
        raise VideoError(too_large(path, width, height))
    check_animation(path, len(durations), width, height, convertible=False)
    # As browsers do: a frame that states no time stays for a tenth of a second.
    ends = np.cumsum([d if d > 10 else 100 for d in durations]) / 1000
    seconds = np.concatenate([[0.0], ends[:-1]])
    rate = len(durations) / float(ends[-1])
    count, fps, shown = timeline(path, len(durations), seconds, rate)
    return Facts(path, count, fps, rate, width, height, shown, len(durations), None, (), -1)


def webp_pictures(path: Path) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Index and picture of each frame, from the first on."""
    from PIL import Image

    with Image.open(path, formats=["WEBP"]) as image:
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            image.load()
            yield k, lambda: np.asarray(image.convert("RGB"))  # asked for before the next one, or never
