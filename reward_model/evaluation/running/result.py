"""The outcome of an evaluation, as JSON and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from reward_model.evaluation.metrics.classification import Confusion
from reward_model.statistics.intervals import Interval
from reward_model.statistics.table import Estimate, Table

if TYPE_CHECKING:
    from reward_model.schema import Status


@dataclass(frozen=True)
class Metric:
    """A number, its 95 % interval and how many items it rests on; ``value`` is None if nothing could be measured."""

    value: float | None
    interval: Interval | None = None
    num: int = 0

    @property
    def estimate(self) -> Estimate:
        """Value and interval as the cell of a table."""
        return Estimate(self.value, self.interval)

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "interval_95": list(self.interval) if self.interval else None, "num": self.num}

    def cells(self) -> tuple[str, str, str]:
        """Value, interval and number as text."""
        if self.value is None:
            return "-", "-", str(self.num)
        shown = f"{self.interval.low:.3f} - {self.interval.high:.3f}" if self.interval else "-"
        return f"{self.value:.3f}", shown, str(self.num)


class TypeRecall(NamedTuple):
    """Of the abnormal videos with a type: the share called abnormal, and the share called abnormal with that type
    named. Table S3 does not say which of them it prints (docs/paper_notes.md).
    """

    detected: Metric
    typed: Metric


@dataclass(frozen=True)
class EvaluationResult:
    """Results of a judge on a bench.

    Attributes:
        metrics: by name, in the order of the table; see :func:`reward_model.evaluation.evaluate_judge`.
        confusion: statuses against truth, with the unparsed apart.
        recall_by_kind: share of the abnormal videos of each kind that were called abnormal.
        spatial_by_kind: mean spatial IoU of each kind, a missed video 0; empty where no boxes are asked for.
        recall_by_type: both recalls of each of the five types.
        recall_by_cell: recall of each cell of duration and area, ``"<1s, >=20%"`` and so on.
        by_group: of a bench in parts, metrics of ``"all"``, of each part and of each case in it: accuracy, recall,
            specificity, recall of turn one alone, and the shares of turn one's suspicions that turn two cleared.
        seconds_per_video: wall-clock time of judging alone.
        errors: why videos could not be judged, and how many.
        videos: one row per video (:class:`~reward_model.evaluation.running.row.Row` as a dict), for a closer look.
    """

    bench: dict[str, Any]
    judge: dict[str, Any]
    metrics: dict[str, Metric]
    confusion: Confusion
    recall_by_kind: dict[str, Metric]
    seconds_per_video: float
    recall_by_type: dict[str, TypeRecall] = field(default_factory=dict)
    recall_by_cell: dict[str, Metric] = field(default_factory=dict)
    spatial_by_kind: dict[str, Metric] = field(default_factory=dict)
    by_group: dict[str, dict[str, Metric]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    videos: list[dict[str, Any]] = field(default_factory=list)

    def value(self, name: str) -> float | None:
        """A metric's number; None if it was not measured."""
        return self.metrics[name].value if name in self.metrics else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, safe for strict JSON."""
        types = {
            k: {"detected": t.detected.to_dict(), "typed": t.typed.to_dict()} for k, t in self.recall_by_type.items()
        }
        groups = {name: {k: m.to_dict() for k, m in found.items()} for name, found in self.by_group.items()}
        return {
            "bench": self.bench,
            "judge": self.judge,
            "metrics": {k: m.to_dict() for k, m in self.metrics.items()},
            "confusion": self.confusion.to_dict(),
            "recall_by_kind": {k: m.to_dict() for k, m in self.recall_by_kind.items()},
            "recall_by_type": types,
            "recall_by_cell": {k: m.to_dict() for k, m in self.recall_by_cell.items()},
            "spatial_by_kind": {k: m.to_dict() for k, m in self.spatial_by_kind.items()},
            **({"by_group": groups} if groups else {}),
            "seconds_per_video": self.seconds_per_video,
            "errors": self.errors,
            "videos": self.videos,
        }

    def to_tables(self) -> list[Table]:
        """Metrics with their intervals, the confusion of statuses, and the parts of a bench that has some."""
        columns = ("metric", "value", "95 % interval", "n")
        tables = [
            Table("Metrics", columns, [[(name, *m.cells()) for name, m in self._all_metrics().items()]]),
            Table(
                "Statuses",
                ("truth", "said normal", "said abnormal", "unparsed", "recall", "precision", "F1"),
                [[self._class(status) for status in self.confusion.counts]],
                notes=(f"{self.seconds_per_video:.3f} s per video; bench: {_inline(self.bench)}",),
            ),
        ]
        if self.by_group:
            rows = [
                (name, *(m.estimate for m in found.values()), found["accuracy"].num) for name, found in self._groups()
            ]
            heads = next(iter(self.by_group.values()))
            tables.append(Table("Parts of the bench", ("part", *heads, "n"), [rows]))
        return tables

    def _groups(self) -> list[tuple[str, dict[str, Metric]]]:
        return list(self.by_group.items())

    def to_markdown(self) -> str:
        """The tables for a terminal, a model card or a pull request."""
        parts = [table.to_markdown() for table in self.to_tables()]
        if self.errors:
            parts.append("\n".join(f"- {count} x {reason}" for reason, count in self.errors.items()) + "\n")
        return "\n".join(parts)

    def _all_metrics(self) -> dict[str, Metric]:
        types = self.recall_by_type
        return {
            **self.metrics,
            **{f"recall of {kind}": m for kind, m in self.recall_by_kind.items()},
            **{f"detected, given {name}": t.detected for name, t in types.items()},
            **{f"detected and typed, given {name}": t.typed for name, t in types.items()},
            **{f"recall, {cell}": m for cell, m in self.recall_by_cell.items()},
        }

    def _class(self, status: Status) -> tuple[Any, ...]:
        table = self.confusion
        rates = (table.recall(status), table.precision(status), table.f1(status))
        return (status, *table.counts[status], *rates)


def _inline(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())
