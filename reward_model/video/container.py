"""A file of a foreign name and content, opened safely: how much it may ask for, regular files only, nothing read beside
them, one kind of error, and what its packets say before any picture is decoded.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import av


class VideoError(ValueError):
    """The video cannot be read, or its frames or its fps make no sense. The message names the value and the remedy."""


class VideoFormError(VideoError):
    """A value of a form that :func:`reward_model.video.load_video` does not read: a mistake of the caller."""


# --- limits, and the words for a file beyond them ---------------------------------------------------------------------

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


def repair_command(path: Path, *arguments: str, suffix: str = ".mp4") -> str:
    """A command that makes a sound copy of a file: ``ffmpeg -i FILE ... COPY``, quoted for a shell."""
    # With file: before it, no name is taken for a protocol or an option.
    copy = path.with_name(f"{path.stem}-repaired{suffix}")
    return shlex.join(["ffmpeg", "-i", f"file:{path}", *arguments, f"file:{copy}"])


def broken_off(path: Path, stated: str, found: str) -> str:
    return (
        f"{str(path)!r} breaks off: it states {stated} and holds {found}. Make or fetch it again, or keep what is "
        f"there: {repair_command(path, *ENCODE)}"
    )


def too_large(path: Path, width: int, height: int) -> str:
    return (
        f"the pictures of {str(path)!r} are {width}x{height}; expected at most {MAX_PIXELS} pixels. Shrink it: "
        f"{repair_command(path, '-vf', 'scale=-2:1080', *ENCODE)}"
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
        convert = f", or make it a video: {repair_command(path, '-vf', 'scale=-2:480', *ENCODE)}" if convertible else ""
        raise VideoError(
            f"{str(path)!r} animates {count} pictures of {width}x{height}, {total:,} pixels; expected at most "
            f"{MAX_ANIMATED_PIXELS:,}. Shrink or shorten it where it was made{convert}"
        )


def check_canvas(path: Path, head: bytes) -> None:
    """Refuses a GIF or PNG by the size that its first bytes state: opening it would already fill a picture."""
    width = height = 0
    if head[:4] == b"GIF8":
        width, height = struct.unpack("<HH", head[6:10])
    elif head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
    if width * height > MAX_PIXELS:
        raise VideoError(too_large(path, width, height))


def check_size(path: Path, width: int, height: int, expected: tuple[int, int]) -> None:
    if (width, height) != expected:
        raise VideoError(
            f"{str(path)!r} changes its picture size midway, from {expected[0]}x{expected[1]} to {width}x{height}; "
            f"encode it at one size: {repair_command(path, '-vf', f'scale={expected[0]}:{expected[1]}', *ENCODE)}"
        )


def allocate(path: Path, count: int, height: int, width: int) -> np.ndarray:
    """An array for ``count`` frames of a file, (count, height, width, 3) uint8, within the limit of memory."""
    check_memory(path, count, height, width)
    return np.empty((count, height, width, 3), np.uint8)


def check_memory(path: Path, count: int, height: int, width: int) -> None:
    """Raises VideoError if frames would take more than the limit of memory."""
    text = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_GIB)
    try:
        limit = float(text)
    except ValueError:
        raise VideoError(f"${LIMIT_VARIABLE}={text!r} is not a number of GiB; set it to {LIMIT_GIB:g}") from None
    need = count * height * width * 3 / 2**30
    if need > limit:
        raise VideoError(
            f"{count} frames of {width}x{height} from {str(path)!r} would take {need:.1f} GiB; expected at most "
            f"{limit:g}. Shrink or shorten it: {repair_command(path, '-vf', 'scale=-2:480', *ENCODE)}, or raise "
            f"${LIMIT_VARIABLE}"
        )


# --- files of our own writer ------------------------------------------------------------------------------------------

_ENLARGED = re.compile(r"pixels of ([0-9]{1,4})x([0-9]{1,4}) repeated ([0-9]{1,3}) times")


def enlarged_tag(width: int, height: int, scale: int) -> dict[str, str]:
    """Metadata of a file whose pixels were repeated for players to show it well; none where they were not."""
    return {} if scale == 1 else {"comment": f"pixels of {width}x{height} repeated {scale} times"}


def drawn_size(metadata: Mapping[str, str], width: int, height: int) -> tuple[int, int] | None:
    """Width and height of a video before :func:`enlarged_tag`, if that is what its pixels still are: tools copy the tag
    to files of other sizes. An odd side was completed to an even one.

    >>> drawn_size({"comment": "pixels of 48x48 repeated 6 times"}, 288, 288)
    (48, 48)
    """
    found = _ENLARGED.fullmatch(metadata.get("comment", ""))
    if found is None:
        return None
    drawn_width, drawn_height, scale = map(int, found.groups())
    fits = 0 <= width - drawn_width * scale <= 1 and 0 <= height - drawn_height * scale <= 1
    return (drawn_width, drawn_height) if fits and drawn_width and drawn_height else None


# --- opening ----------------------------------------------------------------------------------------------------------

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
        VideoError: if there is none, it cannot be reached, or it is a folder, a pipe, a socket or a device.
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
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        raise VideoError(f"no video file at {str(path)!r}: it is {kind}")
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
            f"{repair_command(path, '-vf', 'scale=-2:480', *ENCODE)}"
        ) from None
    except PermissionError as error:
        raise VideoError(f"cannot read {str(path)!r}: permission denied; chmod u+r {shlex.quote(str(path))}") from error
    except (av.FFmpegError, OSError, ValueError, EOFError, SyntaxError, RuntimeError, struct.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(
            f"cannot decode {str(path)!r}: {reason}. If a player still shows it, encode it anew: "
            f"{repair_command(path, *ENCODE)}"
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


def use_threads(context: av.VideoCodecContext) -> None:
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


# --- packets ----------------------------------------------------------------------------------------------------------

#: Compressed data kept between finding out what a file is and decoding it.
PACKET_BYTES = 64 * 2**20
#: Formats whose stated duration is written by the program that finished the file, not guessed by the one that reads it.
_STATE_DURATION = ("matroska", "flv", "asf", "nut")


@dataclass
class PacketTrack:
    """Packets of one video stream, summarised."""

    stream: Any
    packets: list[Any] = field(default_factory=list)
    stamps: list[tuple[int | None, bool]] = field(default_factory=list)
    count: int = 0
    discarded: int = 0
    in_order: bool = True
    torn: bool = False
    end_s: float = 0.0
    last_dts: int | None = None
    lead: int | None = None

    @property
    def frames(self) -> int:
        return self.count - self.discarded

    def note(self, packet: av.Packet) -> None:
        """Counts a packet that is not empty."""
        hidden = _is_hidden(packet)
        self.end_s = max(self.end_s, _end_s(packet))
        self.count += 1
        self.discarded += hidden
        self.torn = packet.is_corrupt
        if packet.dts is not None:
            self.in_order &= self.last_dts is None or packet.dts >= self.last_dts
            self.last_dts = packet.dts
        if packet.is_keyframe and self.lead is None:
            self.lead = len(self.stamps)
        if not hidden:
            self.stamps.append((packet.pts, packet.is_keyframe))

    def reach(self) -> int:
        """Frames from the first to the last by their time stamps: dropped frames of an AVI are packets without
        content.
        """
        stamps = [p for p, _ in self.stamps if p is not None]
        return max(stamps) - min(stamps) + 1 if stamps else self.count

    def drop_headless(self) -> None:
        """Takes away what comes before the first key frame, which no decoder shows."""
        lead = self.lead or 0
        self.stamps = self.stamps[lead:]
        self.discarded += lead


def scan(container: av.container.InputContainer, path: Path) -> PacketTrack:
    """The stream that is the video, and what its packets say; pictures of covers are passed over."""
    videos = [s for s in container.streams.video if not s.disposition.attached_pic]
    if not videos and not container.streams.video:
        raise VideoError(f"{str(path)!r} holds no video stream")
    tracks = {s.index: PacketTrack(s) for s in videos or container.streams.video}
    kept = 0
    for packet in container.demux():
        if not packet.size:
            continue
        track = tracks.get(packet.stream_index)
        if track is None:
            for other in tracks.values():  # a video may end before its sound does
                other.end_s = max(other.end_s, _end_s(packet))
            continue
        track.note(packet)
        kept += packet.size
        if kept <= PACKET_BYTES:
            track.packets.append(packet)
    track = max(tracks.values(), key=_rank)
    track.drop_headless()
    return track


def _end_s(packet: av.Packet) -> float:
    """Second at which what the packet holds has been shown; 0 where it does not say."""
    stamp, base = packet.pts if packet.pts is not None else packet.dts, packet.stream.time_base
    return 0.0 if stamp is None or base is None else float((stamp + (packet.duration or 0)) * base)


def _is_hidden(packet: av.Packet) -> bool:
    context = packet.stream.codec_context
    if context is not None and context.name == "vp8" and not bytes(packet)[0] & 0x10:
        return True  # a reference that is never shown, which Matroska does not mark
    return bool(packet.is_discard)


def _rank(track: PacketTrack) -> tuple[Any, ...]:
    context = track.stream.codec_context
    pixels = context.width * context.height if context is not None else 0
    return context is not None, track.frames > 1, bool(track.stream.disposition.default), pixels, -track.stream.index


def check_complete(path: Path, container: av.container.InputContainer, track: PacketTrack) -> None:
    """Raises VideoError if the file holds less than it states."""
    stream, name = track.stream, container.format.name
    if not track.count:
        raise VideoError(f"{str(path)!r} holds no frame; it may have broken off, so make or fetch it again")
    if stream.codec_context is None:
        tag = "of an unknown codec"
        raise VideoError(
            f"{str(path)!r} holds a video stream {tag}: no decoder for it here. Convert it with the program that made "
            f"it, or: {repair_command(path, *ENCODE)}"
        )
    shortfall = _short_of(container, track)
    if shortfall is None and (track.torn or not _ends_well(path, name)):
        shortfall = "more", f"{track.frames} frames, the last one torn"
    if shortfall is not None:
        raise VideoError(broken_off(path, *shortfall))


def _short_of(container: av.container.InputContainer, track: PacketTrack) -> tuple[str, str] | None:
    """Difference between what the header states and what the file holds, in words; None if nothing is missing."""
    stream, names = track.stream, container.format.name.split(",")
    rate = float(stream.average_rate or stream.base_rate or 0)
    if "mov" in names:
        listed = stream.index_entries
        if track.count < len(listed):
            return f"{len(listed) - sum(e.is_discard for e in listed)} frames", f"{track.frames} of them"
    elif names == ["avi"] and stream.frames and rate:
        if (reached := track.reach()) + 1 < stream.frames:
            return f"{stream.frames} frames", f"{reached} of them"
    elif set(names) & set(_STATE_DURATION) and container.duration:
        stated = container.duration / 1e6
        if stated - track.end_s > max(0.5, 2 / rate if rate else 0):
            return f"{stated:.2f} seconds", f"{track.end_s:.2f} of them"
    return None


def _ends_well(path: Path, name: str) -> bool:
    """True if a GIF or APNG has its last mark, and for all other files."""
    if name not in ("gif", "apng"):
        return True
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        tail = file.read()
    return tail.rstrip(b"\0").endswith(b";") if name == "gif" else b"IEND" in tail
