"""The whole acceptance of one judge: it and the scripts beside it on the suite, and what was asked of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reward_model.active.model_policy import ModelPolicy
from reward_model.active.policies import AlwaysZoom, NeverLook, RandomLooks
from reward_model.backends.base import Backend
from reward_model.config import JudgeConfig
from reward_model.digests import model_fingerprint
from reward_model.evaluation.active.criteria import (
    Criterion,
    does_not_collapse,
    generalises,
    learns_to_save,
    mean_over,
    sees_what_is_hidden,
)
from reward_model.evaluation.active.play import MakePolicy, PlayedRow, Suite, oracle_of, play

#: Opens a checkpoint: its backend and how it is asked.
Open = Callable[[str], tuple[Backend, JudgeConfig]]


@dataclass
class Acceptance:
    """Plays and judges.

    Args:
        judge: folder of the judge.
        suite: the videos.
        open: opens a folder.
        output: where rows are kept.
        seed: of random operators.
        batch_size: videos in step.
        say: told what is being played.
    """

    judge: str
    suite: Suite
    open: Open
    output: Path
    seed: int = 0
    batch_size: int = 16
    say: Callable[[str, int, int], None] = lambda name, done, count: None
    played: dict[str, list[PlayedRow]] = field(default_factory=dict)

    def run(self, *, cold: str | None = None, ablations: Mapping[str, str] | None = None) -> dict[str, list[PlayedRow]]:
        """Rows of the judge, the scripts, the judge of the cold start, and ablations, by name."""
        backend, config = self.open(self.judge)
        model = ModelPolicy(backend, config)
        self._play("judge", self.judge, lambda batch: model, model, config)
        budget = math.ceil(mean_over([row.num_frames for row in self.played["judge"]]))
        policies: dict[str, MakePolicy] = {
            "passive": lambda batch: NeverLook(model),
            "oracle": oracle_of,
            "random": lambda batch: RandomLooks(model, self.seed + int(batch[0].row["seed"]), budget),
            "always-zoom": lambda batch: AlwaysZoom(model),
        }
        for name, make in policies.items():
            self._play(name, self.judge, make, model, config, f"{self.seed} {budget}")
        for name, folder in {**({"cold start": cold} if cold else {}), **(ablations or {})}.items():
            other = ModelPolicy(*self.open(folder))
            self._play(name, folder, lambda batch, other=other: other, other, other.config)  # type: ignore[misc]
        return self.played

    def criteria(self, implicit: float | None = None) -> list[Criterion]:
        """Requests to the judge, after :meth:`run`."""
        rows = self.played
        scripts = {
            "always-zoom": rows["always-zoom"],
            "never-look": rows["passive"],
            "random": rows["random"],
        }
        found = sees_what_is_hidden(rows["judge"], rows["passive"], rows["oracle"], rows["random"])
        found += does_not_collapse(rows["judge"], scripts)
        if "cold start" in rows:
            found.append(learns_to_save(rows["judge"], rows["cold start"]))
        return [*found, generalises(implicit)]

    def _play(
        self, name: str, folder: str, make: MakePolicy, model: ModelPolicy, config: JudgeConfig, more: str = ""
    ) -> None:
        settings = {"policy": name, "more": more, "judge": repr(config)}
        self.played[name] = play(
            self.suite,
            make,
            model.believe,
            config,
            path=self.output / f"{name.replace(' ', '_')}.jsonl",
            fingerprint=model_fingerprint(folder, settings),
            batch_size=self.batch_size,
            say=lambda done, count: self.say(name, done, count),
        )
