"""The demanding bench: look-alikes in three strata, short anomalies, and easy videos beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from reward_model.evaluation.benches.bench import DEMANDING_SEED, BenchVideo, check_seed
from reward_model.schema import VideoAnnotation
from reward_model.world import (
    KINDS,
    LOOK_ALIKES,
    SHORT_KINDS,
    STRATA,
    Scene,
    make_annotation,
    make_pair_scenes,
    make_scene,
    make_short_scene,
)
from reward_model.world.video import SIZE, render

#: Native frames of a video; they take turns.
LENGTHS = (81, 65, 97)


class Cell(NamedTuple):
    """A part of the bench: its stratum, and the look-alike, how often the scan meets it, or nothing."""

    stratum: str
    case: str

    @property
    def group(self) -> str:
        return f"{self.stratum}/{self.case}" if self.case else self.stratum


#: Parts of the bench; every one holds as many videos. Of ten, six are look-alikes, two short anomalies, two easy.
CELLS = (
    *(Cell(stratum, case) for stratum in STRATA for case in LOOK_ALIKES),
    *(Cell("short", case) for case in ("met once", "missed") for _ in range(3)),
    *(Cell("easy", "") for _ in range(6)),
)


@dataclass(frozen=True)
class DemandingBench:
    """Normal and abnormal videos of the same scene in turn, ``num_per_cell`` such pairs for each of :data:`CELLS`.

    Groups of its rows: ``scan/fade``, ``zoom/fade``, ``neither/fade`` and so on, by the grid that decides and the
    look-alike; ``short/met once`` and ``short/missed``, by the frames of the scan that show the anomaly; ``easy``.

    Args:
        num_per_cell: pairs of each part.
        seed: pair k is drawn from ``seed + k``; at least 400,000, those below are for training.
        scan_fps, zoom_fps: the grids that pairs are made for.
        size: height and width in pixels.
        style: style of the world.
    """

    num_per_cell: int = 10
    seed: int = DEMANDING_SEED
    scan_fps: float = 4.0
    zoom_fps: float = 8.0
    size: int = SIZE
    style: str = "plain"

    def __post_init__(self) -> None:
        if self.num_per_cell < 1:
            raise ValueError(f"num_per_cell={self.num_per_cell} must be at least 1")
        check_seed(self.seed)

    def __len__(self) -> int:
        return 2 * len(CELLS) * self.num_per_cell

    def __getitem__(self, index: int) -> BenchVideo:
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a bench of {len(self)}")
        number = index // 2
        cell = CELLS[number % len(CELLS)]
        scene, truth = self._member(number, cell, abnormal=bool(index % 2))
        kind = scene.fault.kind if scene.fault else ""
        return BenchVideo(render(scene, range(scene.num_frames), self.size), truth, kind, cell.group)

    def __iter__(self) -> Iterator[BenchVideo]:
        return (self[k] for k in range(len(self)))

    def describe(self) -> dict[str, object]:
        """Description of the bench for the results file."""
        return {
            "bench": "demanding",
            "num_videos": len(self),
            "num_per_cell": self.num_per_cell,
            "seed": self.seed,
            "scan_fps": self.scan_fps,
            "zoom_fps": self.zoom_fps,
            "size": self.size,
            "style": self.style,
        }

    def _member(self, number: int, cell: Cell, *, abnormal: bool) -> tuple[Scene, VideoAnnotation]:
        seed, turn = self.seed + number, number // len(CELLS)
        num_frames = LENGTHS[turn % len(LENGTHS)]
        place = number % len(CELLS)
        if cell.stratum in STRATA:
            grids = {"scan_fps": self.scan_fps, "zoom_fps": self.zoom_fps}
            pair = make_pair_scenes(
                seed, cell.case, stratum=cell.stratum, num_frames=num_frames, style=self.style, **grids
            )
            scene = pair.abnormal if abnormal else pair.normal
        elif cell.stratum == "short":
            kind = SHORT_KINDS[(place + 3 * turn) % len(SHORT_KINDS)]
            meets = int(cell.case == "met once")
            scene = make_short_scene(
                seed, kind, meets=meets, scan_fps=self.scan_fps, num_frames=num_frames, style=self.style
            )
        else:
            scene = make_scene(seed, list(KINDS)[(place + 6 * turn) % len(KINDS)], style=self.style)
        if not abnormal and scene.fault is not None:
            scene = make_scene(
                seed, None, setting=scene.setting, num_frames=scene.num_frames, fps=scene.fps, style=self.style
            )
        name = f"world-{seed}-{cell.group.replace('/', '-').replace(' ', '-')}"
        named = make_annotation(scene, self.size)
        return scene, replace(named, video_id=f"{name}-{named.status}")
