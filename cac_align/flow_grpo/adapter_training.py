"""The loop of a training: resumed, logged, stopped by signals, saved. Trainers fill in what a step is.

:class:`~cac_align.flow_grpo.trainer.FlowGRPOTrainer` and :class:`~cac_align.preference.trainer.PreferenceTrainer` are
made from it.
"""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.flow_grpo.card import loading_lines
from cac_align.flow_grpo.learner import checkpoint as files
from cac_align.flow_grpo.learner.experience import gather
from cac_align.flow_grpo.learner.lora_files import export_lora
from cac_align.flow_grpo.output_folder import explained, sole_use
from cac_align.flow_grpo.run_log import RunLog, bar_numbers
from cac_align.flow_grpo.training_settings import TrainingSettings
from cac_align.pipelines import Pipeline
from reward_model.engine.interrupts import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator

    from cac_align.flow_grpo.learner.adapter_learner import AdapterLearner

log = logging.getLogger(__name__)


class AdapterTraining(ABC):
    """A training of an adapter.

    Args:
        config: settings.
        accelerator: processes.

    Attributes:
        step: steps done.
        history: what was measured on the way, by step; goes into checkpoints and the model card.
        stopped_by: why a run ended before its last step; None otherwise.
        interrupted: number of the signal that ended it; 0 otherwise.
    """

    #: Name of the training, for the progress bar.
    label = "Training"
    config: TrainingSettings
    learner: AdapterLearner
    pipe: Pipeline
    transformers: tuple[Any, ...]

    def __init__(self, config: TrainingSettings, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.stopped_by: str | None = None
        self.interrupted = 0
        self.stop = StopRequest()

    # --- what a training is -------------------------------------------------------------------------------------------

    @abstractmethod
    def self_check(self) -> object:
        """Prints the plan before the first step and tries what can be tried."""

    @abstractmethod
    def logged_step(self, writer: RunLog) -> dict[str, float]:
        """Does a step, counts it in ``step`` and logs it; returns its numbers."""

    @abstractmethod
    def measure(self, writer: RunLog, *, base: bool = False) -> None:
        """Measures the model after a step where that is due, and draws samples; ``base``: before the first step."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Entries that must be equal for a checkpoint to be continued."""

    @abstractmethod
    def write_card(self, folder: Path) -> None:
        """Writes the model card beside an exported adapter."""

    def places(self, folder: Path) -> str:
        """Lines that say where the adapter in ``folder`` and the log are, and how the adapter is loaded."""
        loading = loading_lines(folder, self.config, len(self.transformers) > 1).replace("\n", "; ")
        return f"LoRA: {folder}   ({loading})\nLog:  tensorboard --logdir {self.config.output_dir}"

    def state(self) -> dict[str, Any]:
        """Further entries of a checkpoint, as JSON."""
        return {}

    def read_state(self, state: Mapping[str, Any]) -> None:
        """Takes the state of a checkpoint back, but for the learner's part."""
        self.step, self.history = state["step"], state["history"]

    def meant(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state of an older checkpoint as today's would say it."""
        return self.config.completed(state)

    # --- the run ------------------------------------------------------------------------------------------------------

    def train(self, *, resume: bool = True) -> dict[str, float]:
        """Runs to ``max_steps``, from the last checkpoint in ``output_dir`` if there is one and ``resume`` is set.

        The first Ctrl-C (or SIGTERM) ends the run after the present step, with a checkpoint; the second at once.

        Returns:
            The numbers of the last step. ``stopped_by`` says why a run ended early, ``interrupted`` by which signal.

        Raises:
            DivergenceError: loss or gradient stopped being finite.
            TrainingCheckpointError: a checkpoint could not be written, is damaged, or belongs to another run.
            OutputError: the folder cannot be written, or another process trains into it.
            ValueError: the self-check before the first step failed.
        """
        folder = Path(self.config.output_dir)
        main = self.accelerator.is_main_process
        with self.stop.listening(), sole_use(folder) if main else nullcontext(), explained(folder):
            return self._train(folder, resume)

    def _train(self, folder: Path, resume: bool) -> dict[str, float]:
        """:meth:`train`, in a folder that is this run's alone."""
        config, main = self.config, self.accelerator.is_main_process
        last = files.newest_checkpoint(folder)
        if last is not None:
            if not resume:
                raise files.TrainingCheckpointError(
                    f"{str(folder)!r} holds {last.name}; resume it, or choose another output_dir"
                )
            self.resume(last)
        if self.step < config.max_steps:
            self.self_check()
        writer = RunLog(
            folder,
            active=main,
            first_step=-1 if last is None else self.step,  # without a checkpoint nothing that was logged counts
            report_to=config.report_to,
            project=config.wandb_project,
            settings=config.to_dict(),
        )
        with closing(writer):
            if not self.history:
                self.measure(writer, base=True)
            self._ask_to_stop()
            numbers = self._steps(writer)
        if self.stopped_by and main:
            log.warning("stopped after step %d of %d: %s", self.step, config.max_steps, self.stopped_by)
        return numbers

    def _steps(self, writer: RunLog) -> dict[str, float]:
        """All steps that are left, with their measurements and checkpoints. Returns the numbers of the last one."""
        from tqdm.auto import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        config, total, numbers = self.config, self.config.max_steps, dict[str, float]()
        shown = self.accelerator.is_main_process
        bar = tqdm(total=total, initial=self.step, desc=self.label, unit="step", disable=not shown)
        with bar, logging_redirect_tqdm():
            while self.step < total and self.stopped_by is None:
                numbers = self.logged_step(writer)
                bar.set_postfix(bar_numbers(numbers), refresh=False)
                bar.update()
                self.measure(writer)
                self._ask_to_stop()
                if self.due(config.save_every) or self.stopped_by:
                    self.save()
        return numbers

    def due(self, every: int) -> bool:
        """True every so many steps, and after the last one."""
        return self.step % every == 0 or self.step == self.config.max_steps

    def _ask_to_stop(self) -> None:
        """All processes stop if one was asked to; a run that has done its last step is done."""
        asked = max(gather(self.accelerator, [self.stop.signal]))
        if asked and self.step < self.config.max_steps:
            self.interrupted = asked
            self.stopped_by = f"{signal.Signals(asked).name}; the same command resumes from here"

    # --- state --------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        state = {
            **self.identity(),
            **self.learner.counters(),
            "history": self.history,
            **self.state(),
            "config": self.config.to_dict(),
            "num_processes": self.accelerator.num_processes,
        }
        folder, keep = Path(self.config.output_dir), self.config.keep_checkpoints
        parts, own = self.learner.tensors(), self.learner.own_tensors()
        return files.save_checkpoint(self.accelerator, folder, self.step, parts, state, keep, own=own)

    def resume(self, folder: Path) -> None:
        """Continues from a checkpoint, bit for bit on a CPU.

        Raises:
            TrainingCheckpointError: it belongs to another run, or is damaged.
        """
        here = self.accelerator
        parts, state = files.read_checkpoint(
            folder,
            self.identity(),
            here.process_index,
            here.num_processes,
            layout=self.learner.layout(),
            counters=self.learner.counters(),
            ema_every=self.config.ema_every if self.learner.ema is not None else 0,
            meant=self.meant,
        )
        self.learner.restore(parts, state)
        self.read_state(state)

    def export(self, folder: str | Path, *, averaged: bool = True) -> Path:
        """Writes the LoRA for ``pipe.load_lora_weights(folder)``, with a model card.

        Args:
            folder: created when missing.
            averaged: the averaged weights, where the run keeps them.
        """
        folder = Path(folder)
        state = self.learner.exported(averaged=averaged)
        if self.accelerator.is_main_process:
            with explained(folder):
                export_lora(self.pipe, folder, state)
                self.write_card(folder)
        self.accelerator.wait_for_everyone()
        return folder
