"""The trainings of a table: one Flow-GRPO run for each row and training seed, by the training recipe in a process of
its own, which continues a killed run by itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import RewardSpec
from cac_align.flow_grpo.loading import located_settings
from cac_align.flow_grpo.needs import contents_of
from cac_align.flow_grpo.older_runs import as_meant
from cac_align.table2.rows import TableRow
from cac_align.table2.settings import TableSettings
from cac_align.table2.work import held_claims
from reward_model.engine.checkpoints import CONTENTS
from reward_model.engine.settings import read_yaml
from reward_model.files import write_json, write_text
from reward_model.setting_keys import handed_on

WEIGHTS = "pytorch_lora_weights.safetensors"
#: Written when a training has come to its end: a LoRA without it is one that was interrupted.
DONE = "trained.json"
#: How a training ends that was asked to stop: its exit code, or the signal itself.
_STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


class TrainingError(RuntimeError):
    """A training did not come to its end. The message has its last words and where its log lies."""


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        row: row of the table.
        seed: seed of the training.
        folder: folder of its run; ``lora`` in it is what it makes.
        config: all its settings.
    """

    row: TableRow
    seed: int
    folder: Path
    config: FlowGRPOConfig

    @property
    def name(self) -> str:
        return f"train {self.row.name}, seed {self.seed}"

    @property
    def lora(self) -> Path:
        return self.folder / "lora"

    def done(self) -> bool:
        """True if the LoRA exists, complete and made with these settings.

        Raises:
            ValueError: if it was made with other settings.
        """
        if not (self.folder / DONE).is_file() or not (self.lora / WEIGHTS).is_file():
            return False
        made = _identity(FlowGRPOConfig.from_dict(as_meant(read_yaml(self.lora / "settings.yaml"))))
        wanted = _identity(self.config)
        different = [k for k in wanted if made[k] != wanted[k]]
        if different:  # by name: what was only moved since is the same
            known = json.loads((self.folder / DONE).read_text(encoding="utf-8")).get(CONTENTS) or {}
            same = contents_of(self.config).items() & known.items()
            different = [k for k in different if k not in dict(same)]
        if different:
            told = "; ".join(f"{k} was {made[k]!r}, now {wanted[k]!r}" for k in different)
            raise ValueError(
                f"{self.folder} was trained with other settings: {told}. Use another output_dir, "
                "repeat the earlier settings, or delete the folder (and its videos and scores) to train again"
            )
        return True

    def run(self, script: Path, launcher: Sequence[str] = ()) -> None:
        """Trains to the end.

        Args:
            script: the training recipe.
            launcher: what stands before it; empty: this Python.

        Raises:
            TrainingError: if it failed or was interrupted; the next run goes on from its last checkpoint.
        """
        import yaml

        settings, log = self.folder / "settings.yaml", self.folder / "train.log"
        rewards, keys = handed_on(self.config.rewards)  # a key goes by the environment, not into the file
        write_text(settings, yaml.safe_dump({**self.config.to_dict(), "rewards": rewards}, sort_keys=False))
        command = [*(launcher or [sys.executable]), str(script), "--config", str(settings)]
        environment = {**os.environ, "PYTHONPATH": _import_path(), **keys}
        with log.open("ab") as file:
            start = file.tell()
            code = subprocess.run(
                command, stdout=file, stderr=file, env=environment, check=False, pass_fds=held_claims()
            ).returncode
        said = log.read_bytes()[start:].decode("utf-8", "replace")
        if code:
            last = " | ".join([line for line in said.splitlines() if line.strip()][-3:])
            why = "was interrupted" if code in _STOPPED else f"ended with {code}"
            raise TrainingError(f"{self.name} {why}: {last[-600:]}. Log: {log}. Run again to go on")
        if not (self.lora / WEIGHTS).is_file():
            raise TrainingError(f"{self.name} wrote no {self.lora / WEIGHTS}. Log: {log}")
        self.finish(next((line.strip() for line in said.splitlines() if line.startswith("Stopped early:")), None))

    def finish(self, stopped_early: str | None = None) -> None:
        """Marks the LoRA as whole."""
        about = {"row": self.row.name, "seed": self.seed, "stopped_early": stopped_early}
        write_json(self.folder / DONE, {**about, CONTENTS: contents_of(self.config)})


def trainings(settings: TableSettings) -> list[Training]:
    """All trainings of a table, seed by seed, so that the first seed of every row is there first."""
    rows = [row for row in settings.table_rows if row.kind == "flow_grpo"]
    return [make_training(settings, row, seed) for seed in settings.train_seeds for row in rows]


def make_training(settings: TableSettings, row: TableRow, seed: int) -> Training:
    """The training of a row and a seed.

    Raises:
        ValueError: if settings of Flow-GRPO do not fit; the message names them.
    """
    folder = Path(settings.output_dir) / "runs" / row.slug / f"seed-{seed}"
    chosen = {
        **settings.training_settings,
        "reward_combination": row.combination,
        **({"calibration": None} if row.combination == "advantages" else {}),  # standardised in the group instead
        **row.overrides,
        "rewards": [*map(_entry, row.rewards), *(_entry(w, 0.0) for w in _watched(settings, row))],
        "seed": seed,
        "output_dir": str(folder),
    }
    return Training(row, seed, folder, FlowGRPOConfig.from_dict(located_settings(chosen)))


def _watched(settings: TableSettings, row: TableRow) -> list[RewardSpec]:
    return [w for w in settings.watched if w.name not in {r.name for r in row.rewards}]


def _entry(spec: RewardSpec, weight: float | None = None) -> dict[str, Any]:
    """A reward as settings of Flow-GRPO name it."""
    weight = spec.weight if weight is None else weight
    return {"reward": spec.target, "name": spec.name, "weight": weight, "options": dict(spec.options)}


def _identity(config: FlowGRPOConfig) -> dict[str, Any]:
    """Identity of a LoRA: all settings that change it, and how long it was trained."""
    return {**config.identity(), "max_steps": config.max_steps}


def _import_path() -> str:
    """The import path of the child: this checkout, wherever it is called from."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
