"""Log of a run: numbers in ``metrics.jsonl`` and trackers, videos as MP4 files and where a tracker shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reward_model.engine.run_log import RunWriter
from reward_model.files import write_text

if TYPE_CHECKING:
    import numpy as np

    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.evaluation import EvaluatedVideo
    from cac_align.flow_grpo.learner.experience import Experience
    from reward_model.schema import Verdict


class RunLog(RunWriter):
    """Writes the log of a run; in processes other than the main one it writes nothing. Arguments as of
    :class:`~reward_model.engine.run_log.RunWriter`.
    """

    def video(
        self, step: int, name: str, frames: np.ndarray, fps: float, *, verdict: Verdict | None = None, text: str = ""
    ) -> None:
        """A video, with the judge's boxes where there is a verdict: ``videos/step-NNNNN/<name>.mp4``, and in the
        trackers, in TensorBoard as an animated picture.
        """
        if self.trackers is None:
            return
        from cac_align.report.overlay import draw_overlay
        from reward_model.video.writing import write_mp4

        shown = frames if verdict is None else draw_overlay(frames, verdict)
        path = self.folder / "videos" / f"step-{step:05d}" / f"{name}.mp4"
        write_mp4(path, shown, fps)
        if text:
            write_text(path.with_suffix(".txt"), text + "\n")
        self.trackers.video(step, f"videos/{name}", path, shown, fps=fps, text=text or None)


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


#: What the progress bar shows: names and units that need no explanation.
_SHOWN = {
    "reward/mean": ("reward", "{:.4f}"),
    "policy/loss": ("loss", "{:.3g}"),
    "policy/kl": ("KL", "{:.3g}"),
    "pairs/accuracy": ("pairs told right", "{:.0%}"),
    "groups/zero_variance": ("groups without a difference", "{:.0%}"),
    "seconds/all": ("last step", "{:.1f} s"),
}


def bar_numbers(numbers: Mapping[str, float]) -> dict[str, str]:
    """The numbers of a step that the progress bar shows, in words."""
    return {name: text.format(numbers[key]) for key, (name, text) in _SHOWN.items() if key in numbers}
