"""Steps and guidance of a video."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Drawing:
    """Steps and guidance of a video.

    Example:
        >>> print(Drawing(16, 2.0), Drawing(16, 2.0).forwards, Drawing(6, 1.0), Drawing(6, 1.0).forwards, sep="; ")
        16 steps with guidance 2; 32; 6 steps without guidance; 6
    """

    steps: int
    guidance: float

    @property
    def forwards(self) -> int:
        """Forward passes of the transformer to be expected, one video each; guidance takes two a step. What a table
        shows was counted while its videos were drawn.
        """
        return self.steps * (2 if self.guidance > 1 else 1)

    @property
    def slug(self) -> str:
        """Part of a folder's name."""
        return f"{self.steps}-steps-guidance-{self.guidance:g}"

    def __str__(self) -> str:
        return f"{self.steps} steps {f'with guidance {self.guidance:g}' if self.guidance > 1 else 'without guidance'}"
