"""Runs a judge, or any reward, over a bench and measures it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from reward_model.evaluation.bench import Bench, BenchVideo
from reward_model.evaluation.metrics import auroc, bootstrap, calibration_error, confusion, saturation_share, wilson
from reward_model.evaluation.result import EvaluationResult, Metric
from reward_model.grounding import temporal_iou, type_iou
from reward_model.readout import READOUTS, turn_value
from reward_model.rewards import Rollout, spatial_reward, temporal_reward
from reward_model.schema import Turn, Verdict, VideoAnnotation


@dataclass(frozen=True)
class _Outcome:
    """One judged video; ``verdict`` is None where only a score is known."""

    truth: VideoAnnotation
    kind: str
    score: float | None
    verdict: Verdict | None = None

    @property
    def final(self) -> Turn | None:
        return self.verdict.turns[-1] if self.verdict is not None and self.verdict.turns else None

    @property
    def rollout(self) -> Rollout:
        turns = self.verdict.turns if self.verdict is not None else ()
        scan, zoom = (turns[k] if k < len(turns) else None for k in range(2))
        return Rollout(
            scan=scan.report if scan else None,
            zoom=zoom.report if zoom else None,
            zoomed=zoom is not None,
            scan_indices=scan.frame_indices if scan else (),
            clip_indices=zoom.frame_indices if zoom else (),
        )


def evaluate(
    judge: Any, bench: Bench, *, batch_size: int = 16, progress: bool = True, num_resamples: int = 1000
) -> EvaluationResult:
    """Judges every video of a bench and measures the answers against its truth.

    Args:
        judge: a :class:`~reward_model.judge.TwoTurnJudge`, a reward with ``judge_batch`` (``CaCReward``), or any reward
            callable; of the last, only scores can be measured.
        bench: for instance a :class:`~reward_model.evaluation.WorldBench`.
        batch_size: videos per call.
        progress: show a bar.
        num_resamples: of each bootstrap.

    Returns:
        Metrics with 95 % intervals (Wilson for shares, bootstrap over videos for the rest), None where a judge offers
        no ground for them:

        - ``parse rate``: share of turns whose text followed the schema, without forcing;
        - ``status accuracy``, and in ``confusion`` both classes' recall, precision and F1;
        - ``temporal IoU, scan``: Equation 4 on turn one's grid; ``temporal IoU, final``: reported frames on native
          frames; ``spatial IoU``: Equation 5 on turn two's clip; ``type IoU``. Means over all abnormal videos, a missed
          one is 0;
        - ``AUROC``, ``saturation`` (share outside [.01, .99]) and ``ECE`` of the score and of each readout it has:
          ``paper`` (after the reasoning), ``direct`` (before it), ``log_odds`` (direct, at its temperature).

    Raises:
        ValueError: ``batch_size`` is below 1, or the judge does not answer one by one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    ask, outcomes, seconds = _asker(judge), [], 0.0
    with tqdm(total=len(bench), desc="judging", unit="video", disable=not progress) as bar:
        for start in range(0, len(bench), batch_size):
            videos = [bench[k] for k in range(start, min(start + batch_size, len(bench)))]
            started = time.perf_counter()
            answers = ask(videos)
            seconds += time.perf_counter() - started
            if len(answers) != len(videos):
                raise ValueError(
                    f"the judge gave {len(answers)} answers to {len(videos)} videos; it must give one each"
                )
            outcomes += [_outcome(video, answer) for video, answer in zip(videos, answers, strict=True)]
            bar.update(len(videos))
    return _measure(outcomes, bench, seconds / max(1, len(bench)), num_resamples)


def _asker(judge: Any) -> Callable[[Sequence[BenchVideo]], Sequence[Any]]:
    """How this judge is asked about a batch."""
    call = getattr(judge, "judge_batch", None) or getattr(judge, "judge", None) or judge

    def ask(videos: Sequence[BenchVideo]) -> Sequence[Any]:
        rates = {v.truth.fps for v in videos}
        fps: Any = rates.pop() if len(rates) == 1 else [v.truth.fps for v in videos]
        return list(call([v.frames for v in videos], [v.truth.prompt for v in videos], fps=fps))

    return ask


def _outcome(video: BenchVideo, answer: Any) -> _Outcome:
    if isinstance(answer, Verdict):
        return _Outcome(video.truth, video.kind, answer.score, answer)
    return _Outcome(video.truth, video.kind, None if answer is None else float(answer))


def _measure(outcomes: list[_Outcome], bench: Bench, seconds: float, num_resamples: int) -> EvaluationResult:
    mean = partial(_mean, num_resamples=num_resamples)
    judged = [o for o in outcomes if o.verdict is not None]
    abnormal = [o for o in judged if o.truth.status == "abnormal"]
    statuses = [o.verdict.status if o.verdict is not None else None for o in judged]
    turns = [
        t for o in judged if o.verdict is not None for t in o.verdict.turns if t.report or t.parse_error or t.error
    ]
    metrics = {
        "parse rate": _share([t.report is not None for t in turns]),
        "status accuracy": _share([s == o.truth.status for s, o in zip(statuses, judged, strict=True)]),
        "temporal IoU, scan": mean([temporal_reward(o.rollout, o.truth) for o in abnormal]),
        "temporal IoU, final": mean([_final_iou(o) for o in abnormal]),
        "spatial IoU": mean([spatial_reward(o.rollout, o.truth) for o in abnormal]),
        "type IoU": mean([type_iou(o.verdict.types, o.truth.types) for o in abnormal if o.verdict is not None]),
    }
    for name, values in _readouts(outcomes).items():
        metrics |= _score_metrics(name, values, outcomes, num_resamples)
    metrics["not judged"] = _share([o.score is None for o in outcomes])
    kinds = dict.fromkeys(o.kind for o in abnormal)
    recall = {k: _share([o.verdict.status == "abnormal" for o in abnormal if o.kind == k and o.verdict]) for k in kinds}
    provenance = next((dict(o.verdict.provenance) for o in judged if o.verdict is not None), {})
    return EvaluationResult(
        bench=bench.describe(),
        judge=provenance,
        metrics=metrics,
        confusion=confusion([o.truth.status for o in judged], statuses),
        recall_by_kind=recall,
        seconds_per_video=seconds,
        errors=dict(Counter(str(o.verdict.error)[:200] for o in judged if o.verdict is not None and o.verdict.error)),
        videos=[_row(o) for o in outcomes],
    )


def _readouts(outcomes: list[_Outcome]) -> dict[str, list[float | None]]:
    """Probability of "normal" of every video by each readout at hand; ``score`` is the reward as it was given."""

    found = {"score": [o.score for o in outcomes]}
    for readout in READOUTS:
        found[readout] = [turn_value(o.final, readout) if o.final is not None else None for o in outcomes]
    return {name: values for name, values in found.items() if any(v is not None for v in values)}


def _score_metrics(
    name: str, values: list[float | None], outcomes: list[_Outcome], num_resamples: int
) -> dict[str, Metric]:
    known = [(v, o.truth.status == "normal") for v, o in zip(values, outcomes, strict=True) if v is not None]
    p, normal = np.array([v for v, _ in known]), np.array([n for _, n in known])
    redraw = partial(bootstrap, num=len(p), strata=normal, num_resamples=num_resamples)
    area = Metric(None, None, len(p))
    if normal.any() and not normal.all():
        area = Metric(auroc(p, normal), redraw(lambda k: auroc(p[k], normal[k])), len(p))
    share = saturation_share(p)
    return {
        f"AUROC, {name}": area,
        f"saturation, {name}": Metric(share, wilson(round(share * len(p)), len(p)), len(p)),
        f"ECE, {name}": Metric(
            calibration_error(p, normal), redraw(lambda k: calibration_error(p[k], normal[k])), len(p)
        ),
    }


def _final_iou(outcome: _Outcome) -> float:
    """Frames the verdict names against the true ones, in native frames; 0 for a miss."""
    verdict = outcome.verdict
    if verdict is None or verdict.status != "abnormal":
        return 0.0
    named = {n for a in verdict.anomalies for n in a.frames.frames()} or verdict.window
    return temporal_iou(named, {n for a in outcome.truth.anomalies for n in a.frames.frames()})


def _share(hits: Sequence[bool]) -> Metric:
    if not hits:
        return Metric(None)
    return Metric(sum(hits) / len(hits), wilson(sum(hits), len(hits)), len(hits))


def _mean(values: Sequence[float], num_resamples: int) -> Metric:
    if not values:
        return Metric(None)
    array = np.array(values)
    return Metric(
        float(array.mean()),
        bootstrap(lambda k: float(array[k].mean()), len(array), num_resamples=num_resamples),
        len(array),
    )


def _row(outcome: _Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    row: dict[str, Any] = {"video": outcome.truth.video_id, "kind": outcome.kind, "truth": outcome.truth.status}
    row["score"] = outcome.score
    if verdict is None:
        return row
    row |= {"status": verdict.status, "log_odds": _finite(verdict.log_odds), "forced": verdict.forced}
    if verdict.error:
        row["error"] = verdict.error
    if outcome.truth.status == "abnormal":
        row |= {
            "temporal_iou": temporal_reward(outcome.rollout, outcome.truth),
            "spatial_iou": spatial_reward(outcome.rollout, outcome.truth),
        }
    return row


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
