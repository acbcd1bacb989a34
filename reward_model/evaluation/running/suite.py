"""Every contestant on every bench, continued where an earlier run stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_model.digests import json_digest
from reward_model.evaluation.benches.bench import Bench
from reward_model.evaluation.running.contestants import Contestant, file_name
from reward_model.evaluation.running.measure import measure
from reward_model.evaluation.running.result import EvaluationResult
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.running.runner import evaluate_judge
from reward_model.evaluation.running.store import RowStore, bench_fingerprint

logger = logging.getLogger(__name__)

#: Results by bench, then by contestant.
Results = dict[str, dict[str, EvaluationResult]]


def run_suite(
    contestants: Sequence[Contestant],
    benches: Mapping[str, Bench],
    output: str | Path,
    *,
    batch_size: int = 16,
    progress: bool = True,
    num_resamples: int = 1000,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Judges what is not judged yet and measures everything.

    Rows lie in ``output/rows/<contestant>/<bench>.jsonl``. They are kept as long as contestant and bench are the same,
    down to weights, settings and pixels.

    Args:
        contestants: rows of the tables, names distinct.
        benches: by name.
        output: folder.
        batch_size: videos per call.
        progress: show bars.
        num_resamples: number of resamples of each bootstrap.
        say: told what is judged, for the terminal.

    Raises:
        ValueError: two contestants would share a file.
    """
    names = [file_name(c.name).lower() for c in contestants]
    clash = {n for n in names if names.count(n) > 1}
    if clash:
        raise ValueError(f"these names would become the same file name: {', '.join(sorted(clash))}; rename one")
    marks = {name: bench_fingerprint(bench) for name, bench in benches.items()}
    results: Results = {name: {} for name in benches}
    for contestant in contestants:
        judge: Any = None
        for name, bench in benches.items():
            path = Path(output) / "rows" / file_name(contestant.name) / f"{file_name(name)}.jsonl"
            store = RowStore.open(path, json_digest([contestant.fingerprint, marks[name]]))
            if not store.complete:
                if say is not None:
                    say(f"{contestant.name} on {name}: {len(bench) - len(store.rows)} of {len(bench)} videos")
                judge = contestant.open() if judge is None else judge
                measured = evaluate_judge(
                    judge, bench, batch_size=batch_size, progress=progress, num_resamples=num_resamples, store=store
                )
            else:
                measured = measure(store.rows, store.bench, store.judge, num_resamples=num_resamples)
            results[name][contestant.name] = measured
    return results


def measured_rows(result: EvaluationResult) -> list[Row]:
    """The rows a result was measured from."""
    return [Row.from_dict(video) for video in result.videos]
