"""One pass over a file: what it is and, if it is small, its frames."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.video.clip import VideoError
from reward_model.video.container import check_regular, faults, open_container, use_threads
from reward_model.video.facts import Facts
from reward_model.video.limits import (
    KEEP_BYTES,
    MAX_PIXELS,
    allocate,
    broken_off,
    check_animation,
    check_memory,
    too_large,
)
from reward_model.video.pictures import Upright, matrix, pixel_aspect, square_width
from reward_model.video.scan import Track, check_whole, scan
from reward_model.video.timeline import timeline
from reward_model.video.webp import webp_facts, webp_pictures

#: Formats of animated pictures, beside WebP.
_ANIMATED = ("gif", "apng", "jpegxl_anim")


def read_facts(path: str | Path) -> Facts:
    """What a video file is.

    Raises:
        VideoError: it is missing, is not a regular file, is not a video, is a still picture, is larger than
            allowed, or breaks off.
    """
    return read_file(path, pixels=False)[0]


def read_file(path: str | Path, *, pixels: bool) -> tuple[Facts, np.ndarray | None]:
    """The facts, and with ``pixels`` the frames of a small video: one pass over the file for both."""
    path = check_regular(path)
    with faults(path):
        with path.open("rb") as file:
            head = file.read(32)
        _check_canvas(path, head)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            facts = webp_facts(path)
            return facts, _all_of_webp(facts) if pixels and _small(facts) else None
        with open_container(path) as container:
            track = scan(container, path)
            check_whole(path, container, track)
            if container.format.name in _ANIMATED:
                context = track.stream.codec_context
                check_animation(path, track.count, context.width, context.height)
            first, decoded = _first_picture(path, track)
            facts = _facts(path, container, track, first)
            frames = None
            whole = track.packets and len(track.packets) == track.count
            if pixels and whole and _small(facts):
                frames, facts = _decode_all(facts, track, first, decoded)
            track.packets.clear()  # they and the decoder keep each other alive
            return facts, frames


def _check_canvas(path: Path, head: bytes) -> None:
    """Refuses a GIF or PNG by the size that its first bytes state: opening it would already fill a picture."""
    width = height = 0
    if head[:4] == b"GIF8":
        width, height = struct.unpack("<HH", head[6:10])
    elif head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
    if width * height > MAX_PIXELS:
        raise VideoError(too_large(path, width, height))


def _small(facts: Facts) -> bool:
    return facts.num_frames > 1 and facts.num_frames * facts.frame_bytes <= KEEP_BYTES


def _all_of_webp(facts: Facts) -> np.ndarray:
    out = allocate(facts, facts.stored, facts.height, facts.width)
    for k, picture in webp_pictures(facts.path):
        out[k] = picture()
    return out if facts.shown is None else out[facts.shown]


def _first_picture(path: Path, track: Track) -> tuple[Any, Iterator[Any]]:
    """The first decoded frame, and the iterator that goes on after it."""
    context = track.stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(too_large(path, context.width, context.height))
    use_threads(context)

    def frames() -> Iterator[Any]:
        for packet in track.packets:
            yield from packet.decode()
        if len(track.packets) == track.count:
            yield from context.decode(None)

    found = frames()
    first = next(found, None)
    if first is None:
        raise VideoError(f"{str(path)!r} holds no frame that can be decoded; make or fetch it again")
    if first.width * first.height > MAX_PIXELS:
        raise VideoError(too_large(path, first.width, first.height))
    return first, found


def _facts(path: Path, container: Any, track: Track, first: Any) -> Facts:
    stream = track.stream
    turned = matrix(first)
    aspect = pixel_aspect(stream, container.format.name)
    size, stored = (square_width(first.width, aspect), first.height), (first.width, first.height)
    if size[0] * size[1] > MAX_PIXELS:
        raise VideoError(too_large(path, *size))
    if turned and turned[0]:
        size, stored = size[::-1], stored[::-1]
    stated = stream.average_rate or stream.base_rate
    stamps = [p for p, _ in track.stamps]
    order: tuple[int, ...] | None = None
    if track.in_order and all(p is not None for p in stamps):
        order = tuple(sorted(p for p in stamps if p is not None))
    seconds = None if order is None else np.array([float((p - order[0]) * stream.time_base) for p in order])
    base = stream.base_rate or stream.guessed_rate
    count, fps, shown = timeline(path, track.frames, seconds, stated and float(stated), base and float(base))
    keys: tuple[int, ...] = ()
    if order is not None and (len(set(order)) < len(order) or container.format.name == "avi"):
        order = None  # an AVI numbers its packets, not its pictures
    elif order is not None:
        keys = tuple(sorted(bisect_right(order, p) - 1 for p, key in track.stamps if key and p is not None))
    rate = float(stated) if stated else None
    as_stored = (
        turned is None
        and aspect == 1
        and shown is None
        and not track.discarded
        and stream is container.streams.video[0]
    )
    as_stored = as_stored and fps is not None and rate is not None and abs(fps / rate - 1) < 0.01
    facts = Facts(path, count, fps, rate, *size, shown, track.frames, order, keys, stream.index, as_stored)
    return facts if aspect == 1 else replace(facts, pixel_aspect=aspect, stored_size=stored)


def _decode_all(facts: Facts, track: Track, first: Any, more: Iterator[Any]) -> tuple[np.ndarray, Facts]:
    """All frames at constant rate, filled in as they are decoded."""
    out = allocate(facts, facts.stored, facts.height, facts.width)
    stamps: list[int | None] = []
    upright = Upright(facts)
    surplus: list[np.ndarray] = []  # a packet of some old codecs holds two frames
    for k, frame in enumerate(chain([first], more)):
        picture = upright(frame)
        stamps.append(frame.pts)
        if k < facts.stored:
            out[k] = picture
        else:
            check_memory(facts, k + 1, facts.height, facts.width)
            surplus.append(picture)
    if len(stamps) != facts.stored:
        facts = _recount(facts, track, stamps)
        out = np.concatenate([out, *(p[None] for p in surplus)])[: facts.stored]
    return out if facts.shown is None else out[facts.shown], facts


def _recount(facts: Facts, track: Track, stamps: list[int | None]) -> Facts:
    """The facts of a file whose packets are not one frame each: some are never shown, such as those that need one from
    before the beginning, or that say "as before".

    Raises:
        VideoError: what is missing is the end, or more than half.
    """
    order = [p for p in stamps if p is not None]
    known = len(order) == len(stamps) and order == sorted(order)
    reaches_end = facts.order is None or (known and order[-1] >= facts.order[-1])
    if len(stamps) < facts.stored and not (reaches_end and 2 * len(stamps) > facts.stored):
        raise VideoError(broken_off(facts.path, f"{facts.stored} frames", f"{len(stamps)} that can be decoded"))
    seconds = np.array([float((p - order[0]) * track.stream.time_base) for p in order]) if known else None
    count, fps, shown = timeline(facts.path, len(stamps), seconds, facts.fps)
    return replace(facts, num_frames=count, fps=fps, shown=shown, stored=len(stamps), order=None, keys=())
