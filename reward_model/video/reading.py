"""A video file read in one pass: what it is and, if it is small, its frames as a player shows them, with square pixels,
turned, mirrored, at a constant rate.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from reward_model.video.container import (
    ENCODE,
    KEEP_BYTES,
    MAX_FPS,
    MAX_PIXELS,
    PacketTrack,
    VideoError,
    allocate,
    broken_off,
    check_animation,
    check_canvas,
    check_complete,
    check_memory,
    check_regular,
    check_size,
    drawn_size,
    faults,
    open_container,
    repair_command,
    scan,
    too_large,
    use_threads,
)

if TYPE_CHECKING:
    import av

#: Formats of animated pictures, beside WebP.
_ANIMATED = ("gif", "apng", "jpegxl_anim")


@dataclass(frozen=True)
class Facts:
    """Facts about a video file, found without decoding more than its first picture.

    Attributes:
        path: the file.
        num_frames: frames at ``fps``.
        fps: frames per second; None if the file states none, or one that nobody believes.
        stated_fps: what its header says.
        width, height: pixels as they are shown.
        shown: which stored frame is seen at each frame of constant rate; None: each at its own, one after the other.
        stored: frames that the file holds.
        order: time stamp of each stored frame in ascending order, in units of the stream; None without time stamps.
        keys: stored frames that decoding can begin at.
        stream: the index of the video stream; -1: Pillow reads the file.
        as_stored: a reader that shows each frame of the first video stream as it is stored, at the stated rate, gives
            the same: nothing is turned, widened, hidden or shown for longer than the others.
        pixel_aspect: width of a stored pixel over its height; 1: stored pixels are shown as they are.
        stored_size: width and height, upright, of pictures whose pixels are not square; None: those that are shown.
        drawn_size: width and height before our own writer enlarged them for players; None: those that are shown.
    """

    path: Path
    num_frames: int
    fps: float | None
    stated_fps: float | None
    width: int
    height: int
    shown: np.ndarray | None
    stored: int
    order: tuple[int, ...] | None
    keys: tuple[int, ...]
    stream: int
    as_stored: bool = False
    pixel_aspect: float = 1.0
    stored_size: tuple[int, int] | None = None
    drawn_size: tuple[int, int] | None = None

    @property
    def frame_bytes(self) -> int:
        """One frame of 8-bit RGB."""
        return self.width * self.height * 3


def read_facts(path: str | Path) -> Facts:
    """Facts about a video file.

    Raises:
        VideoError: if it is missing, is not a regular file, is not a video, is a still picture, is larger than
            allowed, or breaks off.
    """
    return facts_and_frames(path, pixels=False)[0]


def facts_and_frames(path: str | Path, *, pixels: bool) -> tuple[Facts, np.ndarray | None]:
    """The facts, and with ``pixels`` the frames of a small video: one pass over the file for both."""
    path = check_regular(path)
    with faults(path):
        with path.open("rb") as file:
            head = file.read(32)
        check_canvas(path, head)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            facts = webp_facts(path)
            return facts, _all_of_webp(facts) if pixels and _small(facts) else None
        with open_container(path) as container:
            track = scan(container, path)
            check_complete(path, container, track)
            if container.format.name in _ANIMATED:
                context = track.stream.codec_context
                check_animation(path, track.count, context.width, context.height)
            first, decoded = _first_picture(path, track)
            facts = _facts(path, container, track, first)
            frames = None
            if pixels and len(track.packets) == track.count > 0 and _small(facts):
                frames, facts = _decode_all(facts, track, decoded)
            track.packets.clear()  # they and the decoder keep each other alive
            return facts, frames


def _small(facts: Facts) -> bool:
    return facts.num_frames > 1 and facts.num_frames * facts.frame_bytes <= KEEP_BYTES


def _all_of_webp(facts: Facts) -> np.ndarray:
    out = allocate(facts.path, facts.stored, facts.height, facts.width)
    for k, picture in webp_pictures(facts.path):
        out[k] = picture()
    return out if facts.shown is None else out[facts.shown]


def _first_picture(path: Path, track: PacketTrack) -> tuple[av.VideoFrame, Iterator[av.VideoFrame]]:
    """The first decoded frame, and the iterator of all, that one included."""
    context = track.stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(too_large(path, context.width, context.height))
    use_threads(context)

    def frames() -> Iterator[av.VideoFrame]:
        for packet in track.packets:
            yield from packet.decode()
        if len(track.packets) == track.count:
            yield from context.decode(None)

    pictures = frames()
    first = next(pictures, None)
    if first is None:
        raise VideoError(f"{str(path)!r} holds no frame that can be decoded; make or fetch it again")
    if first.width * first.height > MAX_PIXELS:
        raise VideoError(too_large(path, first.width, first.height))
    return first, chain([first], pictures)


def _facts(path: Path, container: av.container.InputContainer, track: PacketTrack, first: av.VideoFrame) -> Facts:
    stream, name = track.stream, container.format.name
    turned, aspect = matrix(first), pixel_aspect(stream, name)
    size, stored = (square_width(first.width, aspect), first.height), (first.width, first.height)
    if size[0] * size[1] > MAX_PIXELS:
        raise VideoError(too_large(path, *size))
    if turned and turned[0]:
        size, stored = size[::-1], stored[::-1]
    order = _stamp_order(track)
    seconds = None if order is None else np.array([float((p - order[0]) * stream.time_base) for p in order])
    rate, base = _rate(stream.average_rate, stream.base_rate), _rate(stream.base_rate, stream.guessed_rate)
    count, fps, shown = constant_rate(path, track.frames, seconds, rate, base)
    order, keys = _ways_in(order, track, name)
    is_plain = turned is None and aspect == 1 and shown is None and not track.discarded
    is_steady = fps is not None and rate is not None and abs(fps / rate - 1) < 0.01
    as_stored = is_plain and is_steady and stream is container.streams.video[0]
    facts = Facts(path, count, fps, rate, *size, shown, track.frames, order, keys, stream.index, as_stored)
    facts = replace(facts, drawn_size=drawn_size(container.metadata, *size))
    return facts if aspect == 1 else replace(facts, pixel_aspect=aspect, stored_size=stored)


def _rate(*stated: SupportsFloat | None) -> float | None:
    """The first of some rates that a stream states; None if it states none."""
    return next((float(rate) for rate in stated if rate), None)


def _stamp_order(track: PacketTrack) -> tuple[int, ...] | None:
    """The time stamps in ascending order; None if a packet has none or they cannot be trusted."""
    stamps = [p for p, _ in track.stamps if p is not None]
    return tuple(sorted(stamps)) if track.in_order and len(stamps) == len(track.stamps) else None


def _ways_in(
    order: tuple[int, ...] | None, track: PacketTrack, name: str
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Time stamps that a frame can be found by, and the frames that decoding can begin at; an AVI numbers its packets,
    not its pictures, so there are none.
    """
    if order is None or len(set(order)) < len(order) or name == "avi":
        return None, ()
    return order, tuple(sorted(bisect_right(order, p) - 1 for p, key in track.stamps if key and p is not None))


def _decode_all(facts: Facts, track: PacketTrack, pictures: Iterator[av.VideoFrame]) -> tuple[np.ndarray, Facts]:
    """All frames at constant rate, filled in as they are decoded."""
    out = allocate(facts.path, facts.stored, facts.height, facts.width)
    stamps: list[int | None] = []
    upright = Upright(facts)
    surplus: list[np.ndarray] = []  # a packet of some old codecs holds two frames
    for k, frame in enumerate(pictures):
        picture = upright(frame)
        stamps.append(frame.pts)
        if k < facts.stored:
            out[k] = picture
        else:
            check_memory(facts.path, k + 1, facts.height, facts.width)
            surplus.append(picture)
    if len(stamps) != facts.stored:
        facts = _recount(facts, track, stamps)
        out = np.concatenate([out, *(p[None] for p in surplus)])[: facts.stored]
    return out if facts.shown is None else out[facts.shown], facts


def _recount(facts: Facts, track: PacketTrack, stamps: list[int | None]) -> Facts:
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
    count, fps, shown = constant_rate(facts.path, len(stamps), seconds, facts.fps)
    return replace(facts, num_frames=count, fps=fps, shown=shown, stored=len(stamps), order=None, keys=())


@dataclass(frozen=True)
class VideoHeader:
    """Header of what :func:`reward_model.video.load_video` gives: ``num_frames`` at ``fps`` frames per second (None:
    the file states no rate, or one that nobody believes), and ``width`` and ``height`` in pixels as they are shown.

    ``stored_size`` is the width and height that tools see which show stored pixels, where these are not square, as
    those of anamorphic video; None if they are.
    """

    num_frames: int
    fps: float | None
    width: int
    height: int
    stored_size: tuple[int, int] | None = None


def probe(path: str | Path) -> VideoHeader:
    """The header of a video file, by the rules it is decoded by: frames that are shown, at a constant rate, upright.

    Reads the whole file and decodes its first picture: milliseconds for a clip, as long as reading it for a long one.

    Raises:
        VideoError: if the file is missing, is not a video, holds no frame, or breaks off.
    """
    facts = read_facts(path)
    return VideoHeader(facts.num_frames, facts.fps, facts.width, facts.height, facts.stored_size)


# --- time stamps -> a constant rate -----------------------------------------------------------------------------------

#: Longest video at a varying rate: more than four hours at 30 frames per second.
MAX_MOMENTS = 500_000
#: Frames may lie this far from a constant rate, in frames: a dropped one moves the others by half a frame.
JITTER = 0.75


def constant_rate(
    path: Path, count: int, seconds: np.ndarray | None, stated: float | None, base: float | None = None
) -> tuple[int, float | None, np.ndarray | None]:
    """Frames of constant rate for stored frames at given moments.

    Args:
        count: stored frames.
        seconds: when each is shown, ascending from 0; None: the file has no time stamps.
        stated: frames per second of the header, None if there are none.
        base: the rate that all moments are multiples of, if the file knows one.

    Returns:
        The number of frames, their rate, and which stored frame each shows (None: its own).

    Raises:
        VideoError: the moments of a varying rate span more than :data:`MAX_MOMENTS` frames.
    """
    believed = stated if stated and 0 < stated <= MAX_FPS else None
    if seconds is None or count < 2 or seconds[-1] <= 0:
        return count, believed, None
    for rate in (believed, (count - 1) / float(seconds[-1])):
        if rate and np.abs(seconds * rate - np.arange(count)).max() <= JITTER:
            return count, rate if rate <= MAX_FPS else None, None
    gaps = np.diff(seconds)
    gaps = np.sort(gaps[gaps > 0])
    short = gaps[len(gaps) // 5]
    common = 1 / float(gaps[np.abs(gaps - short) <= short / 4].mean())
    fps = base if base and abs(base / common - 1) < 0.1 else common
    fps = min(max(fps, 1.0), 120.0)
    moments = int(seconds[-1] * fps + 0.25) + 1
    if moments > MAX_MOMENTS:
        raise VideoError(
            f"{str(path)!r} holds {count} frames over {seconds[-1]:.0f} seconds at a varying rate; expected at most "
            f"{MAX_MOMENTS / fps:.0f} seconds. Write the rate anew: {repair_command(path, '-vf', 'fps=16', *ENCODE)}"
        )
    shown = np.searchsorted(seconds, (np.arange(moments) + 0.25) / fps, side="right") - 1
    return moments, fps, shown


# --- decoded frames -> pictures as a player shows them ----------------------------------------------------------------

#: Aspects of pixels that formats of video have had lie well within 1/4 and 4; others are a broken header.
_WIDEST = 4.0
#: An aspect that changes the width by less is what rounding the size to whole pixels left behind.
_LEAST_CHANGE = 0.01


def pixel_aspect(stream: av.VideoStream, name: str) -> float:
    """Width over height of a stored pixel (720 x 576 is 4:3 television at 16:15, 16:9 at 64:45), 1 if it is not stated,
    not believed, or as good as square.

    Args:
        stream: video stream of an opened container.
        name: name of the container's format. What pictures state is passed over, as browsers do: it means paper.
    """
    stated = stream.sample_aspect_ratio
    aspect = float(stated) if stated and name not in ("gif", "apng") else 1.0
    believed = 1 / _WIDEST <= aspect <= _WIDEST and abs(aspect - 1) >= _LEAST_CHANGE
    return aspect if believed else 1.0


def square_width(width: int, aspect: float) -> int:
    """Columns of square pixels that show ``width`` columns of others; even, as most encoders want it."""
    return width if aspect == 1 else max(2, 2 * round(width * aspect / 2))


class Upright:
    """Makes the decoded frames of one file (H, W, 3) uint8, their pixels square, turned and mirrored as the file asks.

    One converter serves all frames: PyAV's own, one per frame, starts threads for each.
    """

    def __init__(self, facts: Facts) -> None:
        from av.video.reformatter import VideoReformatter

        self._facts = facts
        self._converter = VideoReformatter()
        self._turned: tuple[int, tuple[bool, bool, bool] | None] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """
        Raises:
            VideoError: if it has another size than the first.
        """
        if self._turned is None or self._turned[0] != frame.rotation:
            self._turned = frame.rotation, matrix(frame)
        turned, facts = self._turned[1], self._facts
        width, height = square_width(frame.width, facts.pixel_aspect), frame.height
        across, down = (height, width) if turned and turned[0] else (width, height)
        check_size(facts.path, across, down, (facts.width, facts.height))
        # Without a width the converter leaves pixels as they are.
        scale, how = (None, None) if facts.pixel_aspect == 1 else (width, "BICUBIC")
        picture: np.ndarray = self._converter.reformat(frame, scale, None, "rgb24", interpolation=how).to_ndarray()
        if turned is None:
            return picture
        swap, flip_y, flip_x = turned
        picture = picture.transpose(1, 0, 2) if swap else picture
        return np.ascontiguousarray(picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def matrix(frame: av.VideoFrame) -> tuple[bool, bool, bool] | None:
    """Orientation of a picture: rows and columns swapped, then rows reversed, then columns; None: as it is stored.

    Angles between are taken to the nearest quarter turn.
    """
    from av.video.reformatter import VideoReformatter

    # A frame and its side data refer to each other in PyAV, so only the garbage collector frees a frame that was asked
    # for them. A small copy is, which carries the same.
    copy = VideoReformatter().reformat(frame, width=16, height=16, format="gray", threads=1)
    side_data: Any = copy.side_data
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            swap = abs(b) + abs(c) > abs(a) + abs(d)
            turns = (swap, b < 0, c < 0) if swap else (swap, d < 0, a < 0)
            return turns if any(turns) else None
    return None


# --- animated WebP, which FFmpeg does not read: times from its own blocks, pictures by Pillow -------------------------


def webp_facts(path: Path) -> Facts:
    """Facts about an animated WebP.

    Raises:
        VideoError: if it is a still picture, too large, too long for its size, or shorter than it states.
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
    count, fps, shown = constant_rate(path, len(durations), seconds, rate)
    return Facts(path, count, fps, rate, width, height, shown, len(durations), None, (), -1)


def webp_pictures(path: Path) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Index and picture of each frame, from the first on."""
    from PIL import Image

    with Image.open(path, formats=["WEBP"]) as image:
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            image.load()
            yield k, lambda: np.asarray(image.convert("RGB"))  # asked for before the next one, or never
