"""Settings of the experiment: judge, videos, supervision, both stages, and which variants of stage 3 are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from reward_model.engine.settings import changed, check_known, read_yaml
from reward_model.shipped import located
from reward_model.terminal.described import as_declared, check_settings, described, setting
from reward_model.world.kinds import check_kinds
from reward_model.world.scripts import check_stories

#: The bench of the same stories as training; ``dev-`` before it, from the seeds for choices.
OWN_BENCHES = ("second-look", "dev-second-look")
#: What ``seconds`` may hold.
_PHASES = ("stage2_step", "stage3_step", "video")


@described
@dataclass(frozen=True)
class SecondLookConfig:
    """Everything the experiment can be told; :func:`read_second_look` makes one from YAML."""

    output_dir: str = setting("outputs/second_look")
    """Folder of everything; a stopped run continues there."""
    model: str = setting("assets/cac-mini")
    """Judge that stage 2 begins with."""
    seeds: Sequence[int] = setting((0,), least=0)
    """Seeds of the trainings: a stage 2 for each, and from it each variant of stage 3."""
    processes: int = setting(2, least=1)
    """Processes of a training. Two take half the time of one on two cores."""

    # --- videos -------------------------------------------------------------------------------------------------------
    stories: Mapping[str, float] = setting({"zoom/fade": 0.8})
    """Shares of the videos that both stages train on; the rest is plain. ``zoom/fade``: fades and winks, which only
    turn two tells apart; ``zoom/look-alike``: all look-alikes."""
    kinds: Sequence[str] = setting(("vanish",))
    """Kinds of anomalies of the plain videos."""
    supervision: Literal["exact", "people"] = setting("exact")
    """Annotations of stage 2: the truth, or as people give them. Stage 3 and the benches know the truth."""
    samples: int | None = setting(None, least=1)
    """Different samples of stage 2; None: no sample twice."""

    # --- trainings ----------------------------------------------------------------------------------------------------
    stage2: Mapping[str, Any] = setting({})
    """Settings laid over recipes/configs/stage2/mini.yaml."""
    stage3: Mapping[str, Any] = setting({})
    """Settings laid over recipes/configs/stage3/mini.yaml."""
    variants: Sequence[str] = setting(("group_deviation", "free_rescue", "batch_deviation"))
    """Variants of stage 3, names of recipes/configs/stage3/variants.yaml; ``a+b`` lays one over another."""
    ablation: Sequence[str] = setting(())
    """Variants of stage 3 that ``--variants`` adds; its first is the full reward that the others are compared with."""

    # --- measuring ----------------------------------------------------------------------------------------------------
    benches: Sequence[str] = setting(("second-look",))
    """Benches: ``second-look`` (the stories of training, test seeds), ``dev-second-look``, or others of
    evaluate_reward."""
    bench_videos: int | None = setting(240, least=2)
    """Videos of each bench of the stories of training."""
    batch_size: int = setting(32, least=1)
    """Videos judged at once."""
    num_resamples: int = setting(2000, least=100)
    """Resamples of the bootstrap."""
    seconds: Mapping[str, float] = setting({})
    """Measured seconds of one core, for ``--dry-run``: ``stage2_step``, ``stage3_step``, ``video``."""

    def __post_init__(self) -> None:
        for name in ("seeds", "kinds", "variants", "ablation", "benches"):
            value = getattr(self, name)
            if isinstance(value, str | int):  # one on a command line
                object.__setattr__(self, name, (value,))
        check_settings(self)
        check_stories(self.stories)
        check_kinds(self.kinds)
        check_known(self.seconds, _PHASES, where="seconds")
        for name in ("seeds", "variants", "ablation", "benches"):
            values = getattr(self, name)
            if twice := [v for v in values if values.count(v) > 1]:
                raise ValueError(f"{name}={list(values)} names {twice[0]!r} twice")
        if not self.seeds or not self.benches:
            raise ValueError(f"seeds={list(self.seeds)} and benches={list(self.benches)} must name at least one each")

    @property
    def full(self) -> str | None:
        """The variant with the full reward, which those of the ablation are compared with."""
        return self.ablation[0] if self.ablation else None


def read_second_look(path: str | Path, changes: Sequence[str] = ()) -> SecondLookConfig:
    """Settings of a YAML file with ``name=value`` texts laid over them.

    Raises:
        ValueError: if one is unknown or has a value that cannot be.
    """
    found = changed(read_yaml(path), changes)
    check_known(found, {f.name for f in fields(SecondLookConfig)}, where=str(path))
    found = as_declared(SecondLookConfig, found)
    for name in ("seeds", "kinds", "variants", "ablation", "benches"):
        if isinstance(found.get(name), list):
            found[name] = tuple(found[name])
    if found.get("model"):
        found["model"] = located(str(found["model"]))
    return SecondLookConfig(**found)
