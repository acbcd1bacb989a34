"""The Hard bench: short or small anomalies, and their opposites, in four equal cells (Figure 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reward_model.evaluation.benches.bench import HARD_SEED, BenchVideo, check_seed
from reward_model.world import KINDS, make_annotation, make_scene, make_video
from reward_model.world.cells import CELLS, LARGE, SHORT, anomaly_cell
from reward_model.world.kinds import check_kinds
from reward_model.world.video import SIZE

#: Ranges that aim at a cell, inside what training draws from; what misses it all the same is rejected.
_SECONDS = {True: (0.4, 0.95), False: (1.0, 2.4)}
_SCALES = {True: (1.3, 1.9), False: (0.65, 1.1)}
#: Draws of one kind before the next kind has its turn; some kinds never cover a fifth of the picture.
_PATIENCE = 8
_CELL_SEEDS = 20_000


class _Draw(NamedTuple):
    seed: int
    kind: str


@dataclass(frozen=True)
class HardBench:
    """Anomalous videos, ``num_per_cell`` of each cell {<1 s, >=1 s} x {<20 %, >=20 % of the picture}, kinds in turn.

    The cell is that of the annotation (:func:`reward_model.world.cells.anomaly_cell`). Seeds are drawn in order and
    those that miss the cell are skipped, so the same bench always holds the same videos; they are searched for when a
    cell is first asked for.

    Args:
        num_per_cell: videos of each cell.
        seed: seed of the first draw; at least 400,000, those below are for training.
        kinds: kinds of anomalies, by default all.
        size: height and width in pixels.
        style: style of the world.
    """

    num_per_cell: int = 100
    seed: int = HARD_SEED
    kinds: Sequence[str] = field(default_factory=lambda: tuple(KINDS))
    size: int = SIZE
    style: str = "plain"
    _found: dict[int, list[_Draw]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_per_cell < 1:
            raise ValueError(f"num_per_cell={self.num_per_cell} must be at least 1")
        check_seed(self.seed)
        check_kinds(self.kinds)

    def __len__(self) -> int:
        return len(CELLS) * self.num_per_cell

    def __getitem__(self, index: int) -> BenchVideo:
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a bench of {len(self)}")
        # Cells take turns, so that a part of the bench is already balanced.
        cell, number = index % len(CELLS), index // len(CELLS)
        draw = self._draws(cell)[number]
        frames, truth = make_video(draw.seed, draw.kind, size=self.size, **self._aim(cell))
        return BenchVideo(frames, truth, draw.kind)

    def __iter__(self) -> Iterator[BenchVideo]:
        return (self[k] for k in range(len(self)))

    def describe(self) -> dict[str, object]:
        """Description of the bench for the results file."""
        return {
            "bench": "hard",
            "num_videos": len(self),
            "num_per_cell": self.num_per_cell,
            "seed": self.seed,
            "kinds": list(self.kinds),
            "size": self.size,
            "style": self.style,
        }

    def _aim(self, cell: int) -> dict[str, object]:
        duration, area = CELLS[cell]
        return {"duration_s": _SECONDS[duration == SHORT], "scale": _SCALES[area == LARGE], "style": self.style}

    def _draws(self, cell: int) -> list[_Draw]:
        if cell not in self._found:
            self._found[cell] = self._search(cell)
        return self._found[cell]

    def _search(self, cell: int) -> list[_Draw]:
        draws: list[_Draw] = []
        seed = first = self.seed + cell * _CELL_SEEDS
        turn = 0
        while len(draws) < self.num_per_cell:
            kind = self.kinds[turn % len(self.kinds)]
            turn += 1
            for _ in range(_PATIENCE):
                seed += 1
                if self._fits(seed - 1, kind, cell):
                    draws.append(_Draw(seed - 1, kind))
                    break
            if seed - first > _CELL_SEEDS - _PATIENCE:
                raise ValueError(
                    f"only {len(draws)} of {self.num_per_cell} videos for the cell {CELLS[cell]} in {seed - first} "
                    f"draws; allow more kinds than {list(self.kinds)}, or ask for fewer"
                )
        return draws

    def _fits(self, seed: int, kind: str, cell: int) -> bool:
        truth = make_annotation(make_scene(seed, kind, **self._aim(cell)), self.size)  # type: ignore[arg-type]
        return bool(truth.anomalies[0].boxes) and anomaly_cell(truth) == CELLS[cell]
