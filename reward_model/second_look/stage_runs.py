"""Runs of the stage recipes that the experiment consists of, each with all its settings in a file of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_model.engine.settings import read_yaml
from reward_model.files import write_json, write_text
from reward_model.folders import file_digest
from reward_model.second_look.settings import SecondLookConfig
from reward_model.shipped import recipes_folder
from reward_model.training.grpo.config import OWN, GrpoConfig
from reward_model.training.launch import launch_recipe

#: Names of the rows that are not variants of stage 3.
GIVEN, STAGE2 = "judge as given", "stage 2"
#: Written when a training begins, and completed when it has come to its end.
STATE = "training.json"
#: Rows that share a step between two half batches, whatever the number of processes.
_HALVES = 2
#: Settings that decide nothing about the result.
_FREE = ("output_dir", "gradient_accumulation_steps", "model", "model_name_or_path")


@dataclass(frozen=True)
class StageRun:
    """One training by a stage recipe.

    Attributes:
        row: row of the tables that its judge stands in.
        seed: its seed.
        folder: its folder.
        recipe: file name of the recipe.
        settings: all settings, as its file holds them.
        base: judge that it starts from.
    """

    row: str
    seed: int
    folder: Path
    recipe: str
    settings: Mapping[str, Any]
    base: str

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"

    @property
    def stage(self) -> str:
        """``stage2`` or ``stage3``."""
        return self.recipe.partition("_")[0]

    @property
    def judge(self) -> Path:
        """The judge that it makes."""
        return self.folder if self.stage == "stage2" else self.folder / "judge"

    @property
    def steps(self) -> int:
        return int(self.settings["max_steps"])

    def seconds(self) -> float | None:
        """Seconds that it took; None before its end."""
        took = self._state().get("seconds")
        return None if took is None else float(took)

    def done(self) -> bool:
        """True if its judge is there, made with these settings from the present base.

        Raises:
            ValueError: if the folder is of a training with other settings or another base.
        """
        known = self._state()
        if not known:
            return False
        wanted = self._identity()
        different = [k for k in wanted if known["settings"].get(k) != wanted[k]]
        different += [k for k in known["settings"] if k not in wanted]
        if different:
            name = different[0]
            was, now = known["settings"].get(name), wanted.get(name)
            raise ValueError(
                f"{self.folder} is a training with {name}={was!r}, now {now!r}; use another output_dir, repeat the "
                "earlier settings, or delete the folder to train again"
            )
        return "seconds" in known and (self.judge / "judge.json").is_file()

    def run(self, processes: int) -> None:
        """Trains to the end, or goes on from the last checkpoint.

        Raises:
            ValueError: if the recipe fails; the message has its last words.
        """
        import yaml

        before = self._state().get("spent", 0.0)
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {"settings": self._identity(), "spent": before}
        write_json(self.folder / STATE, known)
        file = self.folder / "settings.yaml"
        write_text(file, yaml.safe_dump(dict(self.settings), sort_keys=False))
        started = time.monotonic()
        script = recipes_folder() / self.recipe
        try:
            launch_recipe(script, "--config", file, processes=processes, log=self.folder / "train.log")
        finally:
            known["spent"] = before + time.monotonic() - started
            write_json(self.folder / STATE, known)
        write_json(self.folder / STATE, {**known, "seconds": known["spent"], "processes": processes})

    def _state(self) -> dict[str, Any]:
        path = self.folder / STATE
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _identity(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON gives it back."""
        chosen = {k: v for k, v in self.settings.items() if k not in _FREE}
        return dict(json.loads(json.dumps({**chosen, "base": _mark(self.base)})))


def _mark(model: str) -> list[str]:
    """Changes with the weights and settings of a judge; a hub id stands for itself. What else lies in the folder of a
    training, such as its log, does not count.
    """
    files = [p for p in sorted(Path(model).glob("*")) if p.suffix == ".safetensors" or p.name == "judge.json"]
    return [file_digest(path) for path in files] or [model]


def plan_runs(config: SecondLookConfig, variants: Sequence[str]) -> list[StageRun]:
    """All trainings, seed by seed, so that the first seed of every row is there first.

    Raises:
        ValueError: if a variant is unknown, or a setting of a stage cannot be.
    """
    settings = {name: stage3_settings(config, name) for name in variants}
    found: list[StageRun] = []
    for seed in config.seeds:
        folder = Path(config.output_dir) / f"seed-{seed}"
        second = _stage2(config, seed, folder / "stage2")
        found.append(second)
        for name, own in settings.items():
            place = folder / name.replace("+", "-and-")
            given = {**own, "model": str(second.judge), "output_dir": str(place), "seed": seed}
            given["data"] = {**given["data"], "seed": seed}
            found.append(StageRun(name, seed, place, "stage3_grpo.py", given, str(second.judge)))
    return found


def _stage2(config: SecondLookConfig, seed: int, folder: Path) -> StageRun:
    if _HALVES % config.processes:
        raise ValueError(f"processes={config.processes} must be 1 or 2: a step of stage 2 is two half batches")
    settings = {
        **read_yaml(recipes_folder() / "configs" / "stage2" / "mini.yaml"),
        # Neither replays nor the file of unfamiliar videos have a part in the comparison.
        **{"replay": False, "domain_videos": 0, "eval_strategy": "no"},
        **config.stage2,
        **{"data": "world", "stories": dict(config.stories), "kinds": list(config.kinds)},
        **{"supervision": config.supervision, "samples": config.samples},
        **{"model_name_or_path": config.model, "output_dir": str(folder), "seed": seed},
        "gradient_accumulation_steps": _HALVES // config.processes,
    }
    return StageRun(STAGE2, seed, folder, "stage2_sft.py", settings, config.model)


def stage3_settings(config: SecondLookConfig, variant: str) -> dict[str, Any]:
    """Settings of stage 3 under a variant, without model, folder and seed.

    Raises:
        ValueError: if the variant is unknown, or the settings break a rule.
    """
    presets = recipes_folder() / "configs" / "stage3"
    known = read_yaml(presets / "variants.yaml")
    settings = {**read_yaml(presets / "mini.yaml"), "domain_videos": 0, **config.stage3}
    for name in variant.split("+"):
        if name not in known:
            raise ValueError(f"variant {variant!r}: {name!r} must be one of {', '.join(known)}")
        settings |= known[name]
    data = {**settings.get("data", {}), "stories": dict(config.stories), "kinds": list(config.kinds)}
    settings["data"] = {**data, "source": "world"}
    GrpoConfig.from_dict({k: v for k, v in settings.items() if k not in OWN})
    return settings
