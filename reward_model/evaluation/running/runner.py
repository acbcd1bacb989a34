"""Runs a judge, or any reward, over a bench and measures it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm.auto import tqdm

from reward_model.evaluation.benches.bench import Bench, BenchVideo
from reward_model.evaluation.running.measure import measure
from reward_model.evaluation.running.result import EvaluationResult
from reward_model.evaluation.running.row import make_row
from reward_model.evaluation.running.store import RowStore
from reward_model.judge import Judge, TwoTurnJudge
from reward_model.schema import Verdict

Numbered = list[tuple[int, BenchVideo]]
#: A reward: videos, prompts and fps -> a number in [0, 1] or None for each video.
Scorer = Callable[..., Sequence[float | None]]


def evaluate_judge(
    judge: Judge | TwoTurnJudge | Scorer,
    bench: Bench,
    *,
    batch_size: int = 16,
    progress: bool = True,
    num_resamples: int = 1000,
    store: RowStore | None = None,
) -> EvaluationResult:
    """Judges every video of a bench and measures the answers against its truth.

    Args:
        judge: a :class:`~reward_model.judge.TwoTurnJudge`, a reward with ``judge_batch`` (``CaCReward``), or any reward
            callable; of the last, only scores can be measured.
        bench: for instance a :class:`~reward_model.evaluation.MainBench`.
        batch_size: videos per call; the next ones are made or decoded meanwhile.
        progress: show a bar.
        num_resamples: number of resamples of each bootstrap.
        store: where rows are kept after every batch; videos it already holds are not judged again.

    Returns:
        Metrics with 95 % intervals (Wilson for shares, bootstrap over videos for the rest), None if a judge offers
        no ground for them:

        - ``parse rate``: share of turns whose text followed the schema, without forcing;
        - ``status accuracy``, both classes' ``recall``, ``precision`` and ``F1``, and ``unparsed`` (Table 1);
        - ``temporal IoU, scan``: Equation 4 on turn one's grid; ``temporal IoU, final``: reported frames on native
          frames; ``spatial IoU``: Equation 5 on turn two's clip; ``vIoU``: the tube in space and time; ``type IoU``.
          Means over all abnormal videos, a missed one is 0;
        - ``AUROC``, ``saturation`` (share outside [.01, .99]) and ``ECE`` of the score and of each readout it has:
          ``paper`` (after the reasoning), ``direct`` (before it), ``log_odds`` (direct, at its temperature).

        Recalls by kind, by type (detected, and detected with its type) and by cell stand beside them.

    Raises:
        ValueError: if ``batch_size`` is below 1, or the judge does not answer one by one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    rows = {row.index: row for row in store.rows} if store is not None else {}
    described: dict[str, Any] = dict(store.judge) if store is not None else {}
    if store is not None:
        store.bench, store.num_videos = dict(bench.describe()), len(bench)
    ask = _asker(judge)
    missing = [k for k in range(len(bench)) if k not in rows]
    with tqdm(total=len(bench), initial=len(rows), desc="judging", unit="video", disable=not progress) as bar:
        for batch in _prefetch(bench, missing, batch_size):
            answers, seconds = _timed(ask, [video for _, video in batch])
            described = described or _describe(answers)
            new = [make_row(k, v, a, seconds) for (k, v), a in zip(batch, answers, strict=True)]
            rows |= {row.index: row for row in new}
            if store is not None:
                store.judge = described
                store.add(new)
            bar.update(len(batch))
    return measure([rows[k] for k in sorted(rows)], bench.describe(), described, num_resamples=num_resamples)


def _timed(ask: Callable[[Sequence[BenchVideo]], Sequence[Any]], videos: Sequence[BenchVideo]) -> tuple[Any, float]:
    started = time.perf_counter()
    answers = ask(videos)
    seconds = (time.perf_counter() - started) / len(videos)
    if len(answers) != len(videos):
        raise ValueError(f"the judge gave {len(answers)} answers to {len(videos)} videos; it must give one each")
    return answers, seconds


def _prefetch(bench: Bench, indices: Sequence[int], batch_size: int) -> Iterator[Numbered]:
    """Batches of numbered videos; the next one is made in a thread while the caller works on the last."""

    def make(start: int) -> Numbered:
        return [(k, bench[k]) for k in indices[start : start + batch_size]]

    starts = list(range(0, len(indices), batch_size))
    with ThreadPoolExecutor(1, thread_name_prefix="bench") as pool:
        coming = pool.submit(make, 0) if starts else None
        for following in [*starts[1:], None]:
            if coming is None:
                return
            batch = coming.result()
            coming = None if following is None else pool.submit(make, following)
            yield batch


def _asker(judge: Judge | TwoTurnJudge | Scorer) -> Callable[[Sequence[BenchVideo]], Sequence[Any]]:
    """Function that asks this judge about a batch."""
    call: Callable[..., Iterable[Any]] = (
        getattr(judge, "judge_batch", None) or getattr(judge, "judge", None) or judge  # type: ignore[assignment]
    )

    def ask(videos: Sequence[BenchVideo]) -> Sequence[Any]:
        rates = {v.truth.fps for v in videos}
        fps: Any = rates.pop() if len(rates) == 1 else [v.truth.fps for v in videos]
        return list(call([v.frames for v in videos], [v.truth.prompt for v in videos], fps=fps))

    return ask


def _describe(answers: Sequence[Any]) -> dict[str, Any]:
    """Provenance of the first verdict that has one."""
    return next((dict(a.provenance) for a in answers if isinstance(a, Verdict) and a.provenance), {})
