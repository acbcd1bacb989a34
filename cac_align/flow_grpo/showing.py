"""Which videos a run shows: the best and the worst of a group, and the evaluation, with the judge's boxes."""

from __future__ import annotations

from collections.abc import Sequence

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.evaluation import EvaluatedVideo
from cac_align.flow_grpo.learner.experience import Experience
from cac_align.flow_grpo.run_log import RunLog


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
