"""What the packets of a file say, before any picture is decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_model.video.clip import VideoError
from reward_model.video.limits import ENCODE, broken_off, repair

#: Compressed data kept between finding out what a file is and decoding it.
PACKET_BYTES = 64 * 2**20
#: Formats whose stated duration is written by the program that finished the file, not guessed by the one that reads it.
_STATE_DURATION = ("matroska", "flv", "asf", "nut")


@dataclass
class Track:
    """What the packets of one video stream say."""

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

    def drop_headless(self) -> None:
        """Takes away what comes before the first key frame, which no decoder shows."""
        lead = self.lead or 0
        self.stamps = self.stamps[lead:]
        self.discarded += lead


def scan(container: Any, path: Path) -> Track:
    """The stream that is the video, and what its packets say; pictures of covers are passed over."""
    videos = [s for s in container.streams.video if not s.disposition.attached_pic]
    if not videos and not container.streams.video:
        raise VideoError(f"{str(path)!r} holds no video stream")
    tracks = {s.index: Track(s) for s in videos or container.streams.video}
    kept = 0
    for packet in container.demux():
        stream = packet.stream
        if not packet.size:
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        track = tracks.get(packet.stream_index)
        end = None
        if stamp is not None and stream.time_base is not None:
            end = float((stamp + (packet.duration or 0)) * stream.time_base)
        if track is None:
            for other in tracks.values():  # a video may end before its sound does
                other.end_s = max(other.end_s, end or 0.0)
            continue
        track.end_s = max(track.end_s, end or 0.0)
        if stream.codec_context is not None and stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10:
            hidden = True  # a reference that is never shown, which Matroska does not mark
        else:
            hidden = packet.is_discard
        track.count += 1
        track.discarded += hidden
        track.torn = packet.is_corrupt
        if packet.dts is not None:
            track.in_order &= track.last_dts is None or packet.dts >= track.last_dts
            track.last_dts = packet.dts
        if packet.is_keyframe and track.lead is None:
            track.lead = len(track.stamps)
        if not hidden:
            track.stamps.append((packet.pts, packet.is_keyframe))
        kept += packet.size
        if kept <= PACKET_BYTES:
            track.packets.append(packet)
    track = max(tracks.values(), key=_rank)
    track.drop_headless()
    return track


def _rank(track: Track) -> tuple[Any, ...]:
    context = track.stream.codec_context
    pixels = context.width * context.height if context is not None else 0
    return context is not None, track.frames > 1, bool(track.stream.disposition.default), pixels, -track.stream.index


def check_whole(path: Path, container: Any, track: Track) -> None:
    """Raises VideoError if the file holds less than it states."""
    stream, name = track.stream, container.format.name
    if not track.count:
        raise VideoError(f"{str(path)!r} holds no frame; it may have broken off, so make or fetch it again")
    if stream.codec_context is None:
        tag = "of an unknown codec"
        raise VideoError(
            f"{str(path)!r} holds a video stream {tag}: no decoder for it here. Convert it with the program that made "
            f"it, or: {repair(path, *ENCODE)}"
        )
    rate = float(stream.average_rate or stream.base_rate or 0)
    found: tuple[str, str] | None = None
    if "mov" in name.split(","):
        listed = len(stream.index_entries)
        if track.count < listed:
            found = f"{listed - sum(e.is_discard for e in stream.index_entries)} frames", f"{track.frames} of them"
    elif name == "avi" and stream.frames and rate:
        # Counted in time: dropped frames of an AVI are packets without content.
        stamps = [p for p, _ in track.stamps if p is not None]
        reached = max(stamps) - min(stamps) + 1 if stamps else track.count
        if reached + 1 < stream.frames:
            found = f"{stream.frames} frames", f"{reached} of them"
    elif any(n in _STATE_DURATION for n in name.split(",")) and container.duration:
        stated = container.duration / 1e6
        if stated - track.end_s > max(0.5, 2 / rate if rate else 0):
            found = f"{stated:.2f} seconds", f"{track.end_s:.2f} of them"
    if found is None and (track.torn or not _ends_well(path, name)):
        found = "more", f"{track.frames} frames, the last one torn"
    if found is not None:
        raise VideoError(broken_off(path, *found))


def _ends_well(path: Path, name: str) -> bool:
    """Whether a GIF or APNG has its last mark; True for other files."""
    if name not in ("gif", "apng"):
        return True
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        tail = file.read()
    return tail.rstrip(b"\0").endswith(b";") if name == "gif" else b"IEND" in tail
