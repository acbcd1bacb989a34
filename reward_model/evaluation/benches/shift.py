"""The shift bench: the world presented in other ways, each reported apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from reward_model.evaluation.benches.bench import SHIFT_SEED, BenchVideo, check_seed
from reward_model.world import KINDS, SHIFTS, Shift, film
from reward_model.world.kinds import check_kinds


@dataclass(frozen=True)
class ShiftBench:
    """``num_per_shift`` videos of each shift, normal and abnormal in turn; shifts and kinds take turns.

    A normal video plays where the abnormal one after it does, so that the setting tells nothing. Its rows are grouped
    by the name of the shift; ``"plain"`` is the world as training has it.

    Args:
        num_per_shift: videos of each shift, even.
        seed: video k is drawn from ``seed + k``; at least 400,000, those below are for training.
        shifts: names of :data:`reward_model.world.SHIFTS`, by default all.
        kinds: kinds of anomalies, by default all; a shift shows those of them that it can.
    """

    num_per_shift: int = 20
    seed: int = SHIFT_SEED
    shifts: Sequence[str] = field(default_factory=lambda: tuple(SHIFTS))
    kinds: Sequence[str] = field(default_factory=lambda: tuple(KINDS))

    def __post_init__(self) -> None:
        if self.num_per_shift < 2 or self.num_per_shift % 2:
            raise ValueError(f"num_per_shift={self.num_per_shift} must be even and at least 2: half normal")
        check_seed(self.seed)
        check_kinds(self.kinds)
        if (unknown := set(self.shifts) - set(SHIFTS)) or not self.shifts:
            raise ValueError(f"shifts={sorted(unknown)} must name some of {', '.join(SHIFTS)}")
        for name in self.shifts:
            if not self._kinds(SHIFTS[name]):
                raise ValueError(f"the shift {name!r} can show none of the kinds {', '.join(self.kinds)}")

    def __len__(self) -> int:
        return len(self.shifts) * self.num_per_shift

    def __getitem__(self, index: int) -> BenchVideo:
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a bench of {len(self)}")
        number, turn = divmod(index // 2, len(self.shifts))
        shift = SHIFTS[self.shifts[turn]]
        kinds = self._kinds(shift)
        # Shifts begin at different kinds: a bench of a few videos of each still holds all kinds.
        kind = kinds[(number + turn) % len(kinds)]
        seed = self.seed + index - index % 2
        abnormal = film(seed + 1, kind, shift)
        found = abnormal if index % 2 else film(seed, None, shift, setting=abnormal.scene.setting)
        frames = found.take(range(found.truth.num_frames))
        return BenchVideo(frames, found.truth, kind if index % 2 else "", shift.name)

    def __iter__(self) -> Iterator[BenchVideo]:
        return (self[k] for k in range(len(self)))

    def describe(self) -> dict[str, object]:
        """Description of the bench for the results file."""
        return {
            "bench": "shift",
            "num_videos": len(self),
            "num_per_shift": self.num_per_shift,
            "seed": self.seed,
            "shifts": {name: SHIFTS[name].about for name in self.shifts},
            "kinds": list(self.kinds),
        }

    def _kinds(self, shift: Shift) -> tuple[str, ...]:
        return tuple(kind for kind in self.kinds if kind in shift.kinds)
