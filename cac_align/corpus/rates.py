"""A table of verdicts in numbers: shares with Wilson's interval, the mean score with a bootstrap interval, by
the values of a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reward_model.anomalies import AnomalyType
from reward_model.statistics.intervals import mean_interval, wilson
from reward_model.statistics.table import Estimate, Table

Row = Mapping[str, Any]
#: Groups beside each other in the table of types.
_BESIDE = 6
#: Beyond so many scores fewer resamples tell the same.
_MANY = 20_000


def check_verdicts(rows: Sequence[Row], name: str) -> None:
    """Raises ValueError unless rows are those of a table of verdicts."""
    if not rows:
        raise ValueError(f"{name!r} has no row")
    missing = [column for column in ("video", "score", "status", "types") if column not in rows[0]]
    if missing:
        raise ValueError(f"{name!r} has no column {missing[0]!r}; it must be a table of cac-align score --table")


def rates_by(rows: Sequence[Row], by: str | None = None) -> list[Table]:
    """Two tables: what was found in all rows and in those of each value of a column, and how often each type was.

    Args:
        rows: of a table of verdicts.
        by: name of the column; None: all rows only.

    Raises:
        ValueError: if there is no such column.
    """
    groups = {"all": list(rows), **_grouped(rows, by)}
    name = by or "rows"
    title = "Verdicts" if by is None else f"Verdicts by {by}"
    columns = (name, "videos", "judged", "abnormal", "mean score", "unlike the training videos")
    lines = [(key, len(found), *_found(found)) for key, found in groups.items()]
    verdicts = Table(title, columns, [lines[:1], lines[1:]], notes=("Shares and means with 95 % intervals.",))
    shown = dict(list(groups.items())[: _BESIDE + 1])
    kinds = types_in(rows)
    known = [judged_rows(found) for found in shown.values()]
    shares = [(kind, *(_share(_has(kind, found), found) for found in known)) for kind in kinds]
    left = len(groups) - len(shown)
    more = (f"{left} more values of {by} are left out.",) if left else ()
    notes = ("Share of the judged videos in which a type was found.", *more)
    return [verdicts, Table("Types", ("type", *shown), [shares], notes=notes)]


def types_in(rows: Sequence[Row]) -> list[str]:
    """The types of anomalies that were found, those of the judge in their fixed order."""
    found = {kind for row in rows for kind in row["types"] or ()}
    known = [kind.value for kind in AnomalyType]
    return [kind for kind in known if kind in found] + sorted(found - set(known))


def judged_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows with a score."""
    return [row for row in rows if row["score"] is not None]


def _grouped(rows: Sequence[Row], by: str | None) -> dict[str, list[Row]]:
    if by is None:
        return {}
    if not any(by in row for row in rows):
        raise ValueError(f"--by {by!r}: the table has no such column; it has {', '.join(rows[0])}")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        values = row.get(by)
        for value in values if isinstance(values, list) else [values]:
            groups.setdefault(f"{by}: {value}" if str(value) == "all" else str(value), []).append(row)
    return dict(sorted(groups.items()))


def _found(rows: Sequence[Row]) -> tuple[Any, ...]:
    known, told = judged_rows(rows), [row for row in rows if row.get("out_of_domain") is not None]
    scores = [float(row["score"]) for row in known]
    resamples = 1000 if len(scores) < _MANY else 100
    interval = mean_interval(scores, num_resamples=resamples) if len(scores) > 1 else None
    mean = Estimate(sum(scores) / len(scores) if scores else None, interval)
    abnormal = _share([row for row in known if row["status"] == "abnormal"], known)
    return _share(known, rows), abnormal, mean, _share([row for row in told if row["out_of_domain"]], told)


def _has(kind: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if kind in (row["types"] or ())]


def _share(some: Sequence[Row], rows: Sequence[Row]) -> Estimate:
    return Estimate(len(some) / len(rows), wilson(len(some), len(rows))) if rows else Estimate(None)
