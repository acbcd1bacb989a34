"""The warm-ups of a mini, vision and then reading, each kept in the work folder, also while it runs."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_model, save_model

from reward_model.engine.guards import last_complete_checkpoint
from reward_model.files import atomic
from reward_model.minis.collator import MiniCollator
from reward_model.minis.rows import make_example
from reward_model.minis.warm_up_reading import MarkSource, WorldMarks, warm_up_reading
from reward_model.minis.warm_up_state import forget_state
from reward_model.minis.warm_up_vision import warm_up_vision

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, ProcessorMixin
    from trl import SFTConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Phase:
    """One warm-up: what it trains, how, for how long, and where its result and its state are kept."""

    name: str
    steps: int
    part: Any
    run: Any
    work: Path

    @property
    def kept(self) -> Path:
        return self.work / f"{self.name}.safetensors"

    @property
    def state(self) -> Path:
        return self.work / f"{self.name}-state.safetensors"

    @property
    def done(self) -> bool:
        return bool(self.steps) and self.kept.exists()


def warm_up(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    work: Path,
    config: SFTConfig,
    *,
    vision_steps: int,
    reading_steps: int,
    resume: bool,
    shifted: float = 0.0,
    source: MarkSource | None = None,
) -> None:
    """Warms the mini up in place. Nothing is done where a checkpoint in ``work`` already holds the result.

    Args:
        work: folder of checkpoints and of what the warm-ups keep.
        config: ``SFTConfig``; its seed, workers and bar.
        vision_steps, reading_steps: steps of each warm-up; 0 leaves it out.
        resume: continue from what ``work`` holds.
        shifted: share of the drawn world's frames and videos that are shown under a drawn shift.
        source: videos of the reading's warm-up; by default those of the drawn world.
    """
    if resume and last_complete_checkpoint(work):
        return
    vision = _Phase("warmup", vision_steps, model.model.visual, partial(warm_up_vision, shifted=shifted), work)
    read = partial(warm_up_reading, source=source or WorldMarks(shifted))
    reading = _Phase("reading", reading_steps, model, read, work)
    finished = {phase.name: phase.done for phase in (vision, reading)}
    collator = MiniCollator(processor, make_example)
    for phase in (vision, reading):
        if not resume or finished[phase.name]:
            forget_state(phase.state)
        if not phase.steps or (resume and phase is vision and finished["reading"]):
            continue  # the reading's result holds the tower too
        if resume and finished[phase.name]:
            load_model(phase.part, str(phase.kept))
        else:
            _run(phase, model, collator, config)


def _run(phase: _Phase, model: PreTrainedModel, collator: MiniCollator, config: SFTConfig) -> None:
    share = phase.run(
        model,
        collator,
        steps=phase.steps,
        seed=config.seed,
        num_workers=config.dataloader_num_workers,
        state_file=phase.state,
        progress=not config.disable_tqdm,
    )
    log.info("%s: %.1f %% of states named right", phase.run.func.__name__, 100 * share)
    if os.environ.get("RANK", "0") == "0":
        _keep(phase.part, phase.kept)
        forget_state(phase.state)


def _keep(part: nn.Module, path: Path) -> None:
    with atomic(path) as temporary:
        save_model(part, str(temporary))
