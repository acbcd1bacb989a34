"""The outcome of an evaluation, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_model.evaluation.metrics import Confusion, Interval


@dataclass(frozen=True)
class Metric:
    """A number, its 95 % interval and how many items it rests on; ``value`` is None where nothing could be measured."""

    value: float | None
    interval: Interval | None = None
    num: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "interval_95": list(self.interval) if self.interval else None, "num": self.num}

    def cells(self) -> tuple[str, str, str]:
        """Value, interval and number as text."""
        if self.value is None:
            return "-", "-", str(self.num)
        shown = f"{self.interval.low:.3f} - {self.interval.high:.3f}" if self.interval else "-"
        return f"{self.value:.3f}", shown, str(self.num)


@dataclass(frozen=True)
class EvaluationResult:
    """What a judge did on a bench.

    Attributes:
        metrics: by name, in the order of the table; see :func:`reward_model.evaluation.evaluate`.
        confusion: statuses against truth, with the unparsed apart.
        recall_by_kind: share of the abnormal videos of each kind that were called abnormal.
        seconds_per_video: wall-clock time of judging alone.
        videos: one row per video, for a closer look.
    """

    bench: dict[str, Any]
    judge: dict[str, Any]
    metrics: dict[str, Metric]
    confusion: Confusion
    recall_by_kind: dict[str, Metric]
    seconds_per_video: float
    errors: dict[str, int] = field(default_factory=dict)
    videos: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for strict JSON."""
        return {
            "bench": self.bench,
            "judge": self.judge,
            "metrics": {k: m.to_dict() for k, m in self.metrics.items()},
            "confusion": self.confusion.to_dict(),
            "recall_by_kind": {k: m.to_dict() for k, m in self.recall_by_kind.items()},
            "seconds_per_video": self.seconds_per_video,
            "errors": self.errors,
            "videos": self.videos,
        }

    def to_markdown(self) -> str:
        """The tables for a terminal, a model card or a pull request."""
        rows = [(name, *metric.cells()) for name, metric in self.metrics.items()]
        kinds = [(f"recall of {kind}", *metric.cells()) for kind, metric in self.recall_by_kind.items()]
        parts = [
            table(("metric", "value", "95 % interval", "n"), rows + kinds),
            table(("truth", "said normal", "said abnormal", "unparsed", "recall", "precision", "F1"), self._classes()),
            f"{self.seconds_per_video:.3f} s per video; bench: {_inline(self.bench)}",
        ]
        if self.errors:
            parts.append("\n".join(f"- {count} x {reason}" for reason, count in self.errors.items()))
        return "\n\n".join(parts) + "\n"

    def _classes(self) -> list[tuple[str, ...]]:
        rates = {
            s: (self.confusion.recall(s), self.confusion.precision(s), self.confusion.f1(s))
            for s in self.confusion.counts
        }
        return [
            (status, *map(str, row), *("-" if r is None else f"{r:.3f}" for r in rates[status]))
            for status, row in self.confusion.counts.items()
        ]


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A markdown table whose columns line up."""
    cells = [head, *([c.replace("|", "\\|") for c in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _inline(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())
