"""Folders of videos against each other: VBench's totals with bootstrap intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cac_align.metrics.dimensions import DIMENSIONS, Dimension, total
from cac_align.metrics.folder import failures
from cac_align.metrics.rows import MetricRow
from reward_model.statistics.intervals import Interval, bootstrap
from reward_model.statistics.table import Estimate, Table

Rows = Mapping[str, Sequence[MetricRow]]


def vbench_tables(results: Rows, *, num_resamples: int = 1000, seed: int = 0) -> list[Table]:
    """Two tables: each folder's totals, and each folder's difference to the first.

    Intervals (95%) resample prompts, with all videos of a prompt together: seeds of one prompt are not independent
    evidence. Differences compare videos of the same prompt and index only.

    Args:
        results: folder name -> rows, the base first.
        num_resamples: number of resamples of the bootstrap.
        seed: seed of the bootstrap.
    """
    metrics = list(dict.fromkeys(row.metric for rows in results.values() for row in rows))
    columns = ("videos", "prompts", *metrics)
    rows, differences, notes = [], [], list(_notes(results))
    base_name = next(iter(results))
    for name, found in results.items():
        scored = [_estimate(_of(found, m), m, num_resamples, seed) for m in metrics]
        rows.append((name, len({r.video for r in found}), len({r.prompt for r in found}), *scored))
        if name != base_name:
            pairs = [_pairs(_of(results[base_name], m), _of(found, m)) for m in metrics]
            cells = [_difference(p, m, num_resamples, seed) for p, m in zip(pairs, metrics, strict=True)]
            differences.append((name, *[c for p, cell in zip(pairs, cells, strict=True) for c in (len(p), cell)]))
    tables = [Table("VBench", ("folder", *columns), [rows], tuple(notes))]
    if differences:
        heads = tuple(c for m in metrics for c in (f"pairs, {m}", m))
        tables.append(Table(f"Difference to {base_name}", ("folder", *heads), [differences]))
    return tables


def seed_totals(rows: Sequence[MetricRow], metric: str) -> dict[int, float]:
    """The total of each index (seed) of a folder."""
    scored = _of(rows, metric)
    return {k: _total([r for r in scored if r.index == k], metric) for k in sorted({r.index for r in scored})}


def report_to_dict(results: Rows, tables: Sequence[Table]) -> dict[str, Any]:
    """Everything as plain values: tables, totals by seed, and what could not be scored."""
    return {
        "tables": [table.to_dict() for table in tables],
        "seeds": {
            name: {m: seed_totals(rows, m) for m in dict.fromkeys(r.metric for r in rows)}
            for name, rows in results.items()
        },
        "failures": {
            name: {m: {r.video: r.reason for r in bad} for m, bad in failures(rows).items()}
            for name, rows in results.items()
        },
    }


def _notes(results: Rows) -> list[str]:
    """Notes on missing values, by name."""
    notes = ["[low, high] are 95% bootstrap intervals over prompts."]
    for name, rows in results.items():
        for metric, bad in failures(rows).items():
            every = len(_all(rows, metric))
            shown = ", ".join(r.video for r in bad[:3]) + (", ..." if len(bad) > 3 else "")
            notes.append(f"{name}: {len(bad)} of {every} videos without {metric}: {shown} ({bad[0].reason})")
    return notes


def _all(rows: Sequence[MetricRow], metric: str) -> list[MetricRow]:
    return [r for r in rows if r.metric == metric]


def _of(rows: Sequence[MetricRow], metric: str) -> list[MetricRow]:
    return [r for r in rows if r.metric == metric and r.score is not None]


def _dimension(metric: str) -> Dimension:
    """A reward's total is the mean over videos."""
    return DIMENSIONS.get(metric) or Dimension(metric, ())


def _total(rows: Sequence[MetricRow], metric: str) -> float:
    scores = [r.score for r in rows if r.score is not None]
    return total(_dimension(metric), scores, [r.num_frames for r in rows])


def _estimate(rows: list[MetricRow], metric: str, num_resamples: int, seed: int) -> Estimate:
    if not rows:
        return Estimate(None)
    value = _total(rows, metric)
    interval = _over_prompts(rows, lambda chosen: _total(chosen, metric), num_resamples, seed)
    return Estimate(value, interval)


def _pairs(base: list[MetricRow], other: list[MetricRow]) -> list[tuple[MetricRow, MetricRow]]:
    there = {(r.prompt, r.index): r for r in base}
    return [(there[r.prompt, r.index], r) for r in other if (r.prompt, r.index) in there]


def _difference(pairs: list[tuple[MetricRow, MetricRow]], metric: str, num_resamples: int, seed: int) -> Estimate:
    if not pairs:
        return Estimate(None)

    def gap(chosen: list[tuple[MetricRow, MetricRow]]) -> float:
        return _total([b for _, b in chosen], metric) - _total([a for a, _ in chosen], metric)

    return Estimate(gap(pairs), _over_prompts(pairs, gap, num_resamples, seed))


def _over_prompts(
    items: list[Any], statistic: Callable[[list[Any]], float], num_resamples: int, seed: int
) -> Interval | None:
    """The interval of a statistic whose items come in groups of one prompt; None for a single group."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault((item if isinstance(item, MetricRow) else item[0]).prompt, []).append(item)
    if len(groups) < 2:
        return None
    listed = list(groups.values())

    def resampled(chosen: np.ndarray) -> float:
        return statistic([item for k in chosen for item in listed[k]])

    return bootstrap(resampled, len(listed), num_resamples=num_resamples, seed=seed)
