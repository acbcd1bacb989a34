"""Settings of a table: rows, their rewards, seeds, prompts and columns, checked before anything is loaded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import RewardSpec, read_specs
from cac_align.flow_grpo.loading import located_settings
from cac_align.prompts import check_unseen, read_prompts
from cac_align.table2.columns import Column, find_column
from cac_align.table2.drawing import Drawing
from cac_align.table2.rows import TableRow, check_table_rows, read_row
from reward_model.backends.source import located
from reward_model.setting_keys import hidden_keys, without_keys
from reward_model.terminal.described import as_declared, check_settings, described, setting


@described
@dataclass(frozen=True)
class TableSettings:
    """Everything a table can be told; :func:`read_settings` makes one from YAML."""

    output_dir: str = setting()
    """Folder of everything."""
    flow_grpo: str = setting()
    """Settings file of the trainings; also says what videos look like (size, guidance, steps)."""
    rows: Sequence[Any] = setting()
    """Rows as mappings with the fields of :class:`cac_align.table2.rows.TableRow`; the base, which all others are
    compared with, first."""
    rewards: Sequence[Any] = setting()
    """Every reward that rows name, in the form of :mod:`cac_align.flow_grpo.judging.reward_specs`."""
    columns: Sequence[str] = setting()
    """Names of :mod:`cac_align.table2.columns`."""
    eval_prompts: str = setting()
    """File of prompts that no training saw."""
    num_eval_prompts: int | None = setting(None, least=2)
    """Number of prompts, the first of the file; None: all."""
    overrides: Mapping[str, Any] = setting({})
    """Settings of Flow-GRPO of all trainings."""
    launcher: Sequence[str] = setting(())
    """Words before the training script, such as ``[accelerate, launch]``; empty: this Python."""
    train_seeds: Sequence[int] = setting((0,), least=0)
    """Seeds of the trainings: one training for each, of every row of kind ``flow_grpo``; rows of kind ``lora`` bring an
    adapter for each."""
    watch: Sequence[Any] = setting(())
    """Further rewards of every training, with weight 0: seen in its curve, without effect on it."""
    n: int = setting(5, least=1)
    """Candidates of Best-of-N, where a row does not say."""
    eval_seeds: Sequence[int] = setting((0,), least=0)
    """Seeds of the videos of each prompt, all rows starting from the same latents."""
    num_inference_steps: int | None = setting(None, least=2)
    """Steps of drawing, where a row does not say; None: as evaluations of the training."""
    batch_size: int = setting(1, least=1)
    """Videos of a prompt that are drawn in one call of the pipeline and scored together. Of larger batches frames and
    scores can differ by rounding."""
    against: Sequence[str] = setting(())
    """Rows that all others are compared with as well, besides the base."""
    reach: str | None = setting(None)
    """Row of kind ``flow_grpo`` whose last share of faulty evaluation videos the other trainings are timed to; needs
    the rule of :mod:`cac_align.table2.measures` among ``watch``, as ``name: rule``."""
    judge: str | None = setting("cac")
    """Name of the reward whose verdicts are the anomaly column and the page's evidence."""
    ratings: str | None = setting(None)
    """Export of people's ratings (``cac-align rate --export``) of OUTPUT/videos-mp4."""
    device: str | None = setting(None)
    """Device of drawing and scoring; None: CUDA if there is any."""
    vbench_cache: str | None = setting(None)
    """Folder of the weights of VBench columns."""
    vbench_backend: str = setting("native")
    """Implementation of VBench columns."""
    motion: str | None = setting(None)
    """The column that must not fall below ``motion_share`` of the base."""
    motion_share: float = setting(0.95, above=0, most=1, hint="the share of the base's motion")
    """Limit of the column ``motion``."""
    num_resamples: int = setting(2000, least=100)
    """Resamples of the bootstrap."""
    seed: int = setting(0, least=0)
    """Seed of the bootstrap and of the latents."""
    seconds: Mapping[str, float] = setting({})
    """Measured seconds, for the estimate of ``--dry-run``: ``train_video``, ``draw``, and one for each reward."""
    examples: int = setting(6, least=0)
    """Pairs of videos on the page."""

    def __post_init__(self) -> None:
        for name in ("rewards", "watch", "rows", "overrides"):
            object.__setattr__(self, name, hidden_keys(getattr(self, name)))
        for name, empty in (("overrides", {}), ("launcher", ()), ("watch", ()), ("against", ()), ("seconds", {})):
            if getattr(self, name) is None:  # a name without a value in YAML
                object.__setattr__(self, name, empty)
        for entries in (self.rewards, *([self.watch] if self.watch else [])):
            read_specs(entries)  # first: its messages hide keys, whatever stands in the place of a list
        check_settings(self)
        for name in ("train_seeds", "eval_seeds"):
            seeds = getattr(self, name)
            if not seeds or len(set(seeds)) < len(seeds):
                raise ValueError(f"{name}={seeds!r} must be a list of different whole numbers, such as [0, 1]")
        self._check_rows()
        self._check_columns()

    def _check_rows(self) -> None:
        rows = self.table_rows
        check_table_rows(rows, len(self.train_seeds))
        for name in self.against:
            if self.row(name) == rows[0]:
                raise ValueError(f"against={name!r} is the base, which every row is compared with; leave it out")
        if self.reach is not None:
            self._check_reach(self.row(self.reach))

    def _check_reach(self, row: TableRow) -> None:
        if row.kind != "flow_grpo":
            trained = ", ".join(repr(r.name) for r in self.table_rows if r.kind == "flow_grpo") or "none"
            raise ValueError(f"reach={self.reach!r} is of kind {row.kind}; name a row that is trained here: {trained}")
        if "rule" not in {spec.name for spec in self.watched}:
            raise ValueError(
                f"reach={self.reach!r} counts faults while it is trained: watch the rule, with "
                '{reward: "cac_align.table2.measures:rule", name: rule} among watch'
            )
        if not self.training_settings.get("eval_prompts"):
            raise ValueError(f"reach={self.reach!r} needs trainings that are evaluated: set overrides.eval_prompts")

    def _check_columns(self) -> None:
        specs, chosen = self.reward_specs, [c.name for c in self.table_columns]
        if self.judge is not None and self.judge not in specs:
            raise ValueError(f"judge={self.judge!r} is not one of the rewards {', '.join(specs)}; name one, or null")
        if self.motion is not None and self.motion not in chosen:
            raise ValueError(f"motion={self.motion!r} is not one of the columns {', '.join(chosen)}; name one, or null")
        if "anomaly_judge" in chosen and self.judge is None:
            raise ValueError("column 'anomaly_judge' needs judge=..., the name of a reward that gives verdicts")
        if "diversity" in chosen and len(self.eval_seeds) < 2:
            raise ValueError(
                f"column 'diversity' compares videos of a prompt, and eval_seeds={list(self.eval_seeds)} draws one; "
                "give two seeds or more, or leave the column out"
            )
        if "anomaly_people" in chosen and self.ratings is None:
            raise ValueError("column 'anomaly_people' needs ratings=..., an export of cac-align rate --export")

    @property
    def reward_specs(self) -> dict[str, RewardSpec]:
        """The rewards by name."""
        return {spec.name: spec for spec in read_specs(self.rewards)}

    @property
    def watched(self) -> list[RewardSpec]:
        """Rewards that trainings see with weight 0."""
        return read_specs(self.watch) if self.watch else []

    @property
    def table_rows(self) -> list[TableRow]:
        """The rows, checked."""
        specs = self.reward_specs
        return [read_row(entry, specs) for entry in self.rows]

    @property
    def table_columns(self) -> list[Column]:
        """The columns, without those of rewards, which always follow."""
        return [find_column(name) for name in self.columns]

    def row(self, name: str) -> TableRow:
        """The row of a name or folder.

        Raises:
            ValueError: if there is none.
        """
        for row in self.table_rows:
            if name in (row.name, row.slug):
                return row
        raise ValueError(f"no row {name!r}; there are {', '.join(repr(r.name) for r in self.table_rows)}")

    def adapted(self, row: TableRow) -> TableRow | None:
        """The row whose adapters draw a row's videos; None: the untouched model does."""
        return row if row.has_loras else self.row(row.of) if row.of is not None else None

    def candidates(self, row: TableRow) -> int:
        """Number of videos of which a row delivers one."""
        return (row.n or self.n) if row.kind == "best_of_n" else 1

    @property
    def drawing(self) -> Drawing:
        """Drawing of rows that do not say otherwise; guidance as in training."""
        config = self.video
        steps = self.num_inference_steps or config.eval_num_inference_steps or config.num_inference_steps
        return Drawing(steps, config.guidance_scale)

    def drawing_of(self, row: TableRow) -> Drawing:
        """Drawing of a row's videos."""
        own = self.drawing
        return Drawing(row.num_inference_steps or own.steps, row.guidance_scale or own.guidance)

    @property
    def training_settings(self) -> dict[str, Any]:
        """Settings that all trainings share, as Flow-GRPO reads them."""
        from reward_model.engine.settings import read_yaml

        return {**read_yaml(located(self.flow_grpo)), **self.overrides}

    @property
    def video(self) -> FlowGRPOConfig:
        """Settings of Flow-GRPO that say what a video looks like; its size is the same for all rows.

        Raises:
            ValueError: if a setting is unknown or wrong.
        """
        return FlowGRPOConfig.from_dict(located_settings(self.training_settings))

    @property
    def calibrated(self) -> tuple[FlowGRPOConfig, str]:
        """Settings of a training on all rewards of the table, whose calibration serves every row, and the command line
        that makes it.
        """
        changes = {**self.overrides, "rewards": list(self.rewards), "reward_combination": "scores"}
        config = FlowGRPOConfig.from_dict(located_settings({**self.training_settings, **changes}))
        told = [f"{name}={json.dumps(value)}" for name, value in without_keys(changes).items()]
        words = ["cac-align", "calibrate", "--config", self.flow_grpo, "--set", *told]
        return config, shlex.join([*words, "--output", str(config.calibration)])

    @property
    def prompts(self) -> list[str]:
        """The evaluation prompts.

        Raises:
            ValueError: if the file is missing or broken, has too few, or shares one with the training prompts.
        """
        listed = read_prompts(located(self.eval_prompts))
        wanted = self.num_eval_prompts or len(listed)
        if wanted > len(listed):
            raise ValueError(f"num_eval_prompts={wanted}, but {self.eval_prompts} holds {len(listed)}")
        chosen = listed[:wanted]
        trained = {r.overrides.get("prompts", self.video.prompts) for r in self.table_rows if r.kind == "flow_grpo"}
        for file in sorted(filter(None, trained)):
            check_unseen(read_prompts(file), chosen, f"rows that are trained on {file}")
        return [p.text for p in chosen]

    def to_dict(self) -> dict[str, Any]:
        """All settings, for files; without keys."""
        return without_keys(asdict(self))


def read_settings(path: str | Path, changes: Sequence[str] = ()) -> TableSettings:
    """Settings from a YAML file with ``name=value`` texts put over them; ``overrides.max_steps=8`` reaches inside.

    Raises:
        ValueError: if the file cannot be read, or a setting is unknown, missing or wrong.
    """
    from reward_model.engine.settings import changed, check_known, read_yaml

    given = changed(read_yaml(path), changes)
    check_known(given, {f.name for f in fields(TableSettings)}, where=str(path))
    missing = sorted(
        f.name
        for f in fields(TableSettings)
        if f.name not in given and f.default is MISSING and f.default_factory is MISSING
    )
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} must be set; see recipes/configs/table2/mini.yaml")
    return TableSettings(**as_declared(TableSettings, given))
