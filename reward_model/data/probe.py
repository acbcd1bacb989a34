"""What a video file says of itself: size, rate and length from its header, without decoding a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reward_model.video import VideoError


@dataclass(frozen=True)
class VideoHeader:
    """``num_frames`` is the number the container states, or the number of packets where it states none; ``fps`` is
    frames per second (None: not stated); ``width`` and ``height`` are pixels.
    """

    num_frames: int
    fps: float | None
    width: int
    height: int


def probe(path: str | Path) -> VideoHeader:
    """The header of a video file; some microseconds to milliseconds, also for long videos.

    Raises:
        VideoError: the file is missing, is not a video, or holds no frame.
    """
    import av

    path = Path(path)
    if not path.is_file():
        raise VideoError(f"no video file at {str(path)!r}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{str(path)!r} holds no video stream")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.base_rate
            # Matroska and GIF state no number of frames; one packet is one frame, and packets need no decoding.
            count = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
            width, height = stream.codec_context.width, stream.codec_context.height
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise VideoError(f"cannot open {str(path)!r} as a video: {error}") from error
    if not count:
        raise VideoError(f"{str(path)!r} holds no frame")
    return VideoHeader(count, float(rate) if rate else None, width, height)
