"""Benches: numbered videos with their truth, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from reward_model.schema import VideoAnnotation
from reward_model.world import KINDS, make_video

#: Seeds below this one are for training.
FIRST_BENCH_SEED = 100_000


class BenchVideo(NamedTuple):
    """One video of a bench: frames (T, H, W, 3) uint8, the truth, and the kind of anomaly ("" for a normal video)."""

    frames: np.ndarray
    truth: VideoAnnotation
    kind: str


class Bench(Protocol):
    """Anything with a length whose items are :class:`BenchVideo`; ``describe`` says what it is, for the result file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> BenchVideo: ...

    def describe(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class WorldBench:
    """Procedural videos, normal and abnormal in turn, each from a seed of its own that no training uses.

    Args:
        num_videos: how many; the first half of each pair is normal, kinds take turns in the other.
        seed: video k is drawn from ``seed + k``; at least 100,000, where training ends.
        kinds: of anomalies, by default all there are.
        size: height and width in pixels.

    Example:
        >>> bench = WorldBench(4)
        >>> [video.kind for video in bench]
        ['', 'squash', '', 'split']
    """

    num_videos: int = 400
    seed: int = 500_000
    kinds: Sequence[str] = field(default_factory=lambda: tuple(KINDS))
    size: int = 32

    def __post_init__(self) -> None:
        if self.num_videos < 2 or self.num_videos % 2:
            raise ValueError(f"num_videos={self.num_videos} must be even and at least 2: half normal, half abnormal")
        if self.seed < FIRST_BENCH_SEED:
            raise ValueError(f"seed={self.seed} belongs to training; use one from {FIRST_BENCH_SEED} on")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"kinds={list(self.kinds)} must name some of {', '.join(KINDS)}")

    def __len__(self) -> int:
        return self.num_videos

    def __getitem__(self, index: int) -> BenchVideo:
        if not 0 <= index < self.num_videos:
            raise IndexError(f"video {index} of a bench of {self.num_videos}")
        kind = self.kinds[index // 2 % len(self.kinds)] if index % 2 else ""
        frames, truth = make_video(self.seed + index, kind or None, size=self.size)
        return BenchVideo(frames, truth, kind)

    def __iter__(self) -> Iterator[BenchVideo]:
        return (self[k] for k in range(len(self)))

    def describe(self) -> dict[str, object]:
        """What the bench is made of."""
        return {
            "bench": "world",
            "num_videos": self.num_videos,
            "seed": self.seed,
            "kinds": list(self.kinds),
            "size": self.size,
        }
