"""Statistics of a data set (Fig. S1): types, saliency, temporal span, items and area, as numbers and as a table."""

from __future__ import annotations

import statistics as stats
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from reward_model.data.records import Record
from reward_model.grounding import union_area
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, VideoAnnotation

if TYPE_CHECKING:
    from reward_model.statistics.table import Table

#: Upper ends of the histogram bins; the last bin is open. Fig. 4 cuts at 1 s and at 20 %.
SPAN_EDGES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
AREA_EDGES = (0.01, 0.05, 0.1, 0.2, 0.5)
HARD_SPAN_S, HARD_AREA = 1.0, 0.2
SALIENCY_NAMES = {True: "salient", False: "non-salient", None: "unknown"}


@dataclass(frozen=True)
class Spread:
    """Number, mean, quartiles and extremes of a list of values; all None if there is none."""

    num: int
    mean: float | None = None
    quartiles: tuple[float, float, float] | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles interpolate between neighbours, ends included (as numpy's default does)."""
        if not values:
            return cls(0)
        # A single value has no quantiles of its own; twice the same value has them all there.
        low, middle, high = stats.quantiles([*values, *values][: max(len(values), 2)], n=4, method="inclusive")
        return cls(len(values), stats.fmean(values), (low, middle, high), min(values), max(values))


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts of videos and anomalies.

    Attributes:
        videos: number by class (``normal``, ``abnormal``).
        splits, sources: the same by split and by source.
        video_s: length of the videos in seconds, by class.
        types: by type, the videos that have it and the anomalies of it (Fig. S1 a).
        saliency: by type, anomalies by saliency (Fig. S1 b).
        span_s: length of the anomalies in seconds, by type (Fig. S1 c); ``span_bins`` counts them all.
        items: how often each affected object is named, most common first (Fig. S1 d).
        area: mean share of the picture that an anomaly's boxes cover, by type; anomalies without a box do not count.
        hard: anomalies with a box by length and area, the four cells of Fig. 4.
    """

    videos: dict[str, int]
    splits: dict[str, dict[str, int]]
    sources: dict[str, dict[str, int]]
    video_s: dict[str, Spread]
    types: dict[str, dict[str, int]]
    saliency: dict[str, dict[str, int]]
    span_s: dict[str, Spread]
    span_bins: dict[str, int]
    items: dict[str, int]
    area: dict[str, Spread]
    area_bins: dict[str, int]
    hard: dict[str, int]
    without_boxes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = dict(self.__dict__)
        for key in ("video_s", "span_s", "area"):
            plain[key] = {name: dict(spread.__dict__) for name, spread in plain[key].items()}
        return plain

    def to_markdown(self, max_items: int = 20) -> str:
        """Tables for a data card."""
        return "\n".join(table.to_markdown() for table in self.tables(max_items))

    def to_text(self, max_items: int = 20) -> str:
        """The same tables for a terminal: nothing is escaped."""
        return "\n".join(table.to_text() for table in self.tables(max_items))

    def tables(self, max_items: int = 20) -> list[Table]:
        """Everything counted, as tables; of the items only the most common."""
        from reward_model.statistics.table import Table

        spans = ("mean s", "median s")
        classes = [(n, self.videos[n], *_cells(self.video_s[n])) for n in self.videos]
        types = [
            (n, c["videos"], c["anomalies"], *self.saliency[n].values(), *_cells(self.span_s[n]))
            for n, c in self.types.items()
        ]
        areas = [(n, s.num, *_cells(s, "{:.1%}")) for n, s in self.area.items()]
        note = f"{self.without_boxes} anomalies have no box." if self.without_boxes else ""
        tables = [
            Table("Videos", ("class", "videos", *spans), [classes]),
            Table("Types", ("type", "videos", "anomalies", *SALIENCY_NAMES.values(), *spans), [types]),
            Table("Temporal span", ("length", "anomalies"), [list(self.span_bins.items())]),
            Table("Area by type", ("type", "with boxes", "mean", "median"), [areas], (note,) if note else ()),
            Table("Area", ("share of the picture", "anomalies"), [list(self.area_bins.items())]),
            Table("Cells of the hard bench", ("length, area", "anomalies"), [list(self.hard.items())]),
            Table("Splits", ("split", "normal", "abnormal"), [_rows(self.splits)]),
            Table("Sources", ("source", "normal", "abnormal"), [_rows(self.sources)]),
        ]
        if self.items:
            tables.append(Table("Items", ("item", "named"), [list(self.items.items())[:max_items]]))
        return tables


def dataset_statistics(records: Iterable[Record]) -> DatasetStatistics:
    """Counts everything Fig. S1 shows; see :class:`DatasetStatistics`."""
    rows = list(records)
    anomalies = [_Extent.of(r.truth, a) for r in rows for a in r.truth.anomalies]
    by_type: dict[str, list[_Extent]] = {t.value: [] for t in AnomalyType}
    for extent in anomalies:
        by_type[extent.anomaly.type.value].append(extent)
    return DatasetStatistics(
        **_of_videos(rows),
        **_of_extents(by_type),
        types=_types(rows, by_type),
        saliency={n: _saliency(e.anomaly.salient for e in extents) for n, extents in by_type.items()},
        items=_items(o for e in anomalies for o in e.anomaly.objects),
        hard=_hard(anomalies),
        without_boxes=sum(e.area is None for e in anomalies),
    )


def _of_videos(rows: Sequence[Record]) -> dict[str, Any]:
    """Counts and lengths of the videos by their status, their split and their source."""
    lengths: dict[str, list[float]] = {"normal": [], "abnormal": []}
    for row in rows:
        lengths[row.truth.status].append(row.truth.num_frames / row.truth.fps)
    return {
        "videos": {status: len(values) for status, values in lengths.items()},
        "video_s": _spreads(lengths),
        "splits": _by_class((r.split or "(none)", r.truth.status) for r in rows),
        "sources": _by_class((r.truth.source or "(unknown)", r.truth.status) for r in rows),
    }


def _types(rows: Sequence[Record], by_type: Mapping[str, Sequence[_Extent]]) -> dict[str, dict[str, int]]:
    videos = Counter(kind.value for r in rows for kind in set(r.truth.types))
    return {name: {"videos": videos[name], "anomalies": len(extents)} for name, extents in by_type.items()}


def _of_extents(by_type: Mapping[str, Sequence[_Extent]]) -> dict[str, Any]:
    """Lengths and areas of the anomalies: spreads by type, and histograms of all."""
    spans = {n: [e.span_s for e in extents] for n, extents in by_type.items()}
    areas = {n: [e.area for e in extents if e.area is not None] for n, extents in by_type.items()}
    return {
        "span_s": _spreads(spans),
        "span_bins": _bins([*chain(*spans.values())], SPAN_EDGES_S, "{:g} s"),
        "area": _spreads(areas),
        "area_bins": _bins([*chain(*areas.values())], AREA_EDGES, "{:.0%}"),
    }


@dataclass(frozen=True)
class _Extent:
    """An anomaly with its length in seconds and its share of the picture; None without boxes."""

    anomaly: Anomaly
    span_s: float
    area: float | None

    @classmethod
    def of(cls, truth: VideoAnnotation, anomaly: Anomaly) -> _Extent:
        return cls(anomaly, len(anomaly.frames) / truth.fps, anomaly_area(anomaly.boxes) if anomaly.boxes else None)


def anomaly_area(boxes: Mapping[int, Sequence[Box]]) -> float:
    """Share of the picture covered by the union of an anomaly's boxes, mean over the frames that have any.

    Raises:
        ValueError: if there is no frame with a box.
    """
    frames = [entries for entries in boxes.values() if entries]
    if not frames:
        raise ValueError("an anomaly without boxes has no area")
    return stats.fmean(union_area(entries) / BOX_SCALE**2 for entries in frames)


def _spreads(values: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    return {name: Spread.of(numbers) for name, numbers in values.items()}


def _saliency(values: Iterable[bool | None]) -> dict[str, int]:
    counts = Counter(values)
    return {name: counts[value] for value, name in SALIENCY_NAMES.items()}


def _items(objects: Iterable[str]) -> dict[str, int]:
    return dict(Counter(" ".join(o.lower().split()) for o in objects if o.strip()).most_common())


def _by_class(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, status in pairs:
        found.setdefault(name, {"normal": 0, "abnormal": 0})[status] += 1
    return dict(sorted(found.items()))


def _bins(values: Sequence[float], edges: Sequence[float], form: str) -> dict[str, int]:
    """Counts by half-open bins [low, high); a value on an edge belongs to the bin above it."""
    lows = (0.0, *edges)
    names = [f"< {form.format(edges[0])}"]
    names += [f"{form.format(a)} to {form.format(b)}" for a, b in pairwise(edges)]
    names.append(f">= {form.format(edges[-1])}")
    highs = (*edges, float("inf"))
    return {n: sum(a <= v < b for v in values) for n, a, b in zip(names, lows, highs, strict=True)}


def _hard(anomalies: Iterable[_Extent]) -> dict[str, int]:
    """Counts of the anomalies with boxes, by the cells of the hard bench."""
    cells = {f"{t} 1 s, {a} 20 %": 0 for t in ("<", ">=") for a in ("<", ">=")}
    for extent in anomalies:
        if extent.area is not None:
            length, area = "<" if extent.span_s < HARD_SPAN_S else ">=", "<" if extent.area < HARD_AREA else ">="
            cells[f"{length} 1 s, {area} 20 %"] += 1
    return cells


def _rows(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str | int, ...]]:
    return [(name, *row.values()) for name, row in counts.items()]


def _cells(spread: Spread, form: str = "{:.2f}") -> tuple[str, str]:
    if spread.mean is None or spread.quartiles is None:
        return "-", "-"
    return form.format(spread.mean), form.format(spread.quartiles[1])
