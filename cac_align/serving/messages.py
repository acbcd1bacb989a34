"""Requests to a reward server, as pydantic models: whatever does not fit is refused before a video is touched."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=100_000)]


class Strict(BaseModel):
    """No unknown key, no number written as a text, and no message that quotes megabytes of input."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class VideoMessage(Strict):
    """One video, in one of four forms.

    ``path`` counts from the server's root. ``frames`` are (T, H, W, 3) uint8 in C order, in base64, with their
    ``shape`` and ``fps``, and ``drawn_size``, height and width before they were enlarged for players. ``file`` is a
    whole video file in base64. A file's own rate is overridden by ``fps``.
    """

    path: str | None = Field(None, min_length=1, max_length=4096)
    url: str | None = Field(None, min_length=1, max_length=4096)
    frames: str | None = None
    file: str | None = None
    shape: tuple[Count, Count, Count, Count] | None = Field(None, strict=False)
    drawn_size: tuple[Count, Count] | None = Field(None, strict=False)
    fps: float | None = Field(None, gt=0, le=1000, allow_inf_nan=False)
    prompt: str | None = Field(None, max_length=20_000)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in ("path", "url", "frames", "file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of path, url, frames and file; got {' and '.join(given) or 'none'}")
        if (self.frames is None) != (self.shape is None):
            raise ValueError("frames and shape belong together")
        if self.frames is None and self.drawn_size is not None:
            raise ValueError("drawn_size belongs to frames; a file states it itself")
        if self.frames is not None and self.fps is None:
            raise ValueError("frames carry no time: give fps")
        return self

    def pixels(self) -> bytes:
        """The bytes of ``frames``.

        Raises:
            ValueError: if they are not base64, or not as many as ``shape`` says.
        """
        assert self.frames is not None and self.shape is not None
        if self.shape[3] != 3:
            raise ValueError(f"shape {list(self.shape)} must end in 3, for red, green and blue")
        data, need = decoded(self.frames), math.prod(self.shape)
        if len(data) != need:
            raise ValueError(f"shape {list(self.shape)} needs {need:,} bytes of frames, got {len(data):,}")
        return data


class ScoreMessage(Strict):
    """The body of ``POST /score``; ``evidence`` asks for whole verdicts."""

    videos: list[VideoMessage] = Field(min_length=1, max_length=10_000)
    evidence: bool = False


def decoded(text: str) -> bytes:
    """The bytes behind base64.

    Raises:
        ValueError: if it is something else.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("frames and file must be base64 (RFC 4648, with padding and without line breaks)") from None
