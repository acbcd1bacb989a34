"""What a video file says of itself: size, rate and length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reward_model.video.reading import read_facts


@dataclass(frozen=True)
class VideoHeader:
    """What :func:`reward_model.video.load_video` gives: ``num_frames`` at ``fps`` frames per second (None: the file
    states no rate, or one that nobody believes), and ``width`` and ``height`` in pixels as they are shown.

    ``stored_size`` is the width and height that tools see which show stored pixels, where these are not square, as
    those of anamorphic video; None where they are.
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
        VideoError: the file is missing, is not a video, holds no frame, or breaks off.
    """
    facts = read_facts(path)
    return VideoHeader(facts.num_frames, facts.fps, facts.width, facts.height, facts.stored_size)
