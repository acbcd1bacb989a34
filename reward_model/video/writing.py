"""What all writers of video files need."""

from __future__ import annotations

from fractions import Fraction


def stream_rate(fps: float) -> Fraction:
    """A rate as containers store it: 23.976 is 24000/1001, one frame in three seconds 1/3.

    >>> stream_rate(24000 / 1001), stream_rate(16), stream_rate(0.3)
    (Fraction(24000, 1001), Fraction(16, 1), Fraction(3, 10))
    """
    return Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)
