"""Log of a run: numbers in TensorBoard and ``metrics.jsonl``, videos as MP4 files and as animated pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.run_log import RunWriter
from reward_model.engine.video_summary import add_video
from reward_model.files import write_text

if TYPE_CHECKING:
    import numpy as np

    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.evaluation import EvaluatedVideo
    from cac_align.flow_grpo.learner.experience import Experience
    from reward_model.schema import Verdict


class RunLog(RunWriter):
    """Writes the log of a run; in processes other than the main one it writes nothing.

    Args:
        folder, active, first_step: as of :class:`~reward_model.engine.run_log.RunWriter`.
        report_to: see :func:`check_reporters`.
        wandb_project: project of Weights & Biases.
        settings: shown with the run.

    Raises:
        ValueError: a package that is asked for is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active: bool = True,
        first_step: int = 0,
        report_to: Sequence[str] = ("tensorboard",),
        wandb_project: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if active:
            check_reporters(report_to, wandb_project)
        super().__init__(folder, active=active, first_step=first_step, board="tensorboard" in report_to)
        self.wandb = None
        if active and (wandb_project or "wandb" in report_to):
            self.wandb = _wandb(wandb_project, folder, settings or {})

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics; values that are not finite are left out."""
        super().numbers(step, values)
        if self.wandb is not None:
            self.wandb.log({k: float(v) for k, v in values.items() if math.isfinite(float(v))}, step=step)

    def video(
        self, step: int, name: str, frames: np.ndarray, fps: float, *, verdict: Verdict | None = None, text: str = ""
    ) -> None:
        """A video, with the judge's boxes where there is a verdict: ``videos/step-NNNNN/<name>.mp4`` and a GIF in
        TensorBoard.
        """
        if not self.active:
            return
        from cac_align.report.overlay import draw_overlay
        from reward_model.video.writing import write_mp4

        shown = frames if verdict is None else draw_overlay(frames, verdict)
        path = self.folder / "videos" / f"step-{step:05d}" / f"{name}.mp4"
        write_mp4(path, shown, fps)
        if text:
            write_text(path.with_suffix(".txt"), text + "\n")
        if self.board is not None:
            add_video(self.board, f"videos/{name}", shown, step, fps=fps)
        if self.wandb is not None:
            import wandb

            self.wandb.log({f"videos/{name}": wandb.Video(str(path), caption=text)}, step=step)

    def close(self) -> None:
        """Ends the log's files."""
        super().close()
        if self.wandb is not None:
            self.wandb.finish()


def show_groups(writer: RunLog, step: int, experience: Experience, config: FlowGRPOConfig) -> None:
    """The best and the worst judged video of the first groups of this process."""
    groups: dict[int, list[tuple[float, int, int]]] = {}
    for number, (rollout, answer) in enumerate(zip(experience.rollouts, experience.answers, strict=True)):
        for k, score in enumerate(answer.scores):
            if score is not None:
                groups.setdefault(rollout.group, []).append((score, number, k))
    for group in list(groups)[: config.num_logged_groups]:
        for name, (score, number, k) in (("worst", min(groups[group])), ("best", max(groups[group]))):
            rollout, answer = experience.rollouts[number], experience.answers[number]
            text = f"{rollout.prompt}\nreward {score:.6f}, seed {rollout.specs[k].seed}"
            frames, verdict = rollout.frames[k], answer.verdicts[k]
            writer.video(step, f"group-{group}-{name}", frames, config.fps, verdict=verdict, text=text)


def show_evaluation(
    writer: RunLog,
    step: int,
    found: Sequence[EvaluatedVideo],
    prompts: Sequence[str],
    kind: str,
    config: FlowGRPOConfig,
) -> None:
    """The first videos of an evaluation; ``kind`` is base or trained, so that both stand side by side."""
    if config.log_videos_every:
        for video in found[: config.num_logged_groups]:
            text = f"{prompts[video.index]}\nreward {video.score}"
            verdict, name = video.answer.verdicts[0], f"eval-{video.index:03d}-{kind}"
            writer.video(step, name, video.frames, config.fps, verdict=verdict, text=text)


def check_reporters(report_to: Sequence[str], wandb_project: str | None = None) -> None:
    """Looks for the packages of ``report_to`` (``tensorboard``, ``wandb``, ``none``), before anything is loaded.

    Raises:
        ValueError: if one is not installed; the message has the pip line.
    """
    if "tensorboard" in report_to and find_spec("tensorboard") is None:
        raise ValueError(
            'report_to=tensorboard needs TensorBoard: pip install "cac-align[train]", or set report_to to none '
            "(metrics.jsonl is written anyway)"
        )
    if (wandb_project or "wandb" in report_to) and find_spec("wandb") is None:
        asked = f"wandb_project={wandb_project!r}" if wandb_project else "report_to=wandb"
        raise ValueError(f"{asked} needs Weights & Biases: pip install wandb")


def _wandb(project: str | None, folder: Path, settings: Mapping[str, Any]) -> Any:
    import wandb

    return wandb.init(project=project, dir=str(folder), config=dict(settings), resume="allow")
