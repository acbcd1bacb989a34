"""Benches of procedural videos: numbered, with their truth, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from reward_model.schema import VideoAnnotation
from reward_model.world import KINDS, make_scene, make_video
from reward_model.world.kinds import check_kinds
from reward_model.world.video import SIZE

#: Seeds below this one are for training.
FIRST_BENCH_SEED = 400_000
#: Where each bench begins; none reaches the next: thresholds are never set on test videos (section A.1).
CALIBRATION_SEED, MAIN_SEED, HARD_SEED, OOD_SEED = 400_000, 500_000, 600_000, 700_000
#: Benches for choices, whose figures are never reported, and those that are.
DEV_SEED, DEV_SHIFT_SEED, DEV_DEMANDING_SEED, DEV_SECOND_LOOK_SEED = 800_000, 802_000, 806_000, 810_000
SHIFT_SEED, DEMANDING_SEED, SECOND_LOOK_SEED = 820_000, 840_000, 860_000


class BenchVideo(NamedTuple):
    """One video of a bench: frames (T, H, W, 3) uint8, the truth, the kind of anomaly ("" for a normal video), and the
    part of the bench it belongs to, which is reported apart: ``"zoom/fade"`` is in ``"zoom"`` as well.
    """

    frames: np.ndarray
    truth: VideoAnnotation
    kind: str
    group: str = ""


class Bench(Protocol):
    """Anything with a length whose items are :class:`BenchVideo`; ``describe`` says what it is, for the result file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> BenchVideo: ...

    def describe(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class WorldBench:
    """Procedural videos, normal and abnormal in turn, each from its own seed that no training uses.

    Each normal video plays in the setting of the abnormal one that follows it, so that the setting tells nothing.

    Args:
        num_videos: how many; the first half of each pair is normal, kinds take turns in the other.
        seed: video k is drawn from ``seed + k``; at least 400,000, those below are for training.
        kinds: kinds of anomalies, by default all.
        size: height and width in pixels.
        style: style of the world; training knows ``"plain"`` only.
        setting: where all videos play, by default wherever their anomaly can happen.

    Example:
        >>> bench = WorldBench(4)
        >>> [video.kind for video in bench]
        ['', 'squash', '', 'split']
    """

    num_videos: int = 400
    seed: int = MAIN_SEED
    kinds: Sequence[str] = field(default_factory=lambda: tuple(KINDS))
    size: int = SIZE
    style: str = "plain"
    setting: str | None = None
    name: ClassVar[str] = "world"

    def __post_init__(self) -> None:
        if self.num_videos < 2 or self.num_videos % 2:
            raise ValueError(f"num_videos={self.num_videos} must be even and at least 2: half normal, half abnormal")
        check_seed(self.seed)
        check_kinds(self.kinds)

    def __len__(self) -> int:
        return self.num_videos

    def __getitem__(self, index: int) -> BenchVideo:
        if not 0 <= index < self.num_videos:
            raise IndexError(f"video {index} of a bench of {self.num_videos}")
        kind, seed = self.kinds[index // 2 % len(self.kinds)], self.seed + index
        if index % 2:
            frames, truth = make_video(seed, kind, size=self.size, style=self.style, setting=self.setting)
            return BenchVideo(frames, truth, kind)
        setting = make_scene(seed + 1, kind, style=self.style, setting=self.setting).setting
        frames, truth = make_video(seed, None, size=self.size, style=self.style, setting=setting)
        return BenchVideo(frames, truth, "")

    def __iter__(self) -> Iterator[BenchVideo]:
        return (self[k] for k in range(len(self)))

    def describe(self) -> dict[str, object]:
        """Description of the bench for the results file."""
        return {
            "bench": self.name,
            "num_videos": self.num_videos,
            "seed": self.seed,
            "kinds": list(self.kinds),
            "size": self.size,
            "style": self.style,
            "setting": self.setting,
        }


@dataclass(frozen=True)
class MainBench(WorldBench):
    """500 normal and 500 abnormal videos, all kinds in turn (section A.1); unlike there, with windows and boxes."""

    num_videos: int = 1000
    name: ClassVar[str] = "main"


@dataclass(frozen=True)
class OodBench(WorldBench):
    """The same world drawn in a style that no training has seen."""

    num_videos: int = 400
    seed: int = OOD_SEED
    style: str = "ink"
    name: ClassVar[str] = "ood"


@dataclass(frozen=True)
class CalibrationBench(WorldBench):
    """Videos on which thresholds are set, and nothing is reported."""

    num_videos: int = 200
    seed: int = CALIBRATION_SEED
    name: ClassVar[str] = "calibration"


@dataclass(frozen=True)
class DevBench(WorldBench):
    """Videos on which recipes, checkpoints and settings are chosen, so that the other benches are read once."""

    num_videos: int = 400
    seed: int = DEV_SEED
    name: ClassVar[str] = "dev"


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that belongs to training."""
    if seed < FIRST_BENCH_SEED:
        raise ValueError(f"seed={seed} belongs to training; use one from {FIRST_BENCH_SEED} on")
