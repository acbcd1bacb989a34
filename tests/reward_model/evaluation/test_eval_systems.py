"""One line for each judge: figures against counting by hand, and what old rows do not know."""

from dataclasses import replace

import pytest

from reward_model.evaluation.running.measure import measure
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.tables.class_tables import spatial_kind_table
from reward_model.evaluation.tables.systems_table import systems_table, typed_recall

OBJECT, MOTION = "Object Distortion", "Motion Anomalies"


def row(index, truth, status, types=(), **costs):
    kinds = (OBJECT,) if truth == "abnormal" else ()
    overlaps = dict.fromkeys(("temporal_iou", "temporal_iou_final", "spatial_iou", "tube_iou"), 0.5)
    told = {"score": 0.2, "has_verdict": True, "zoomed": status == "abnormal", "type_iou": 0.0}
    return Row(index, f"v{index}", "", truth, kinds, status=status, types=types, **told, **overlaps, **costs)


ROWS = [
    row(0, "abnormal", "abnormal", (OBJECT, MOTION), looks=1, shown_frames=30, tokens=200, seconds=1.0),
    row(1, "abnormal", "abnormal", (MOTION,), looks=1, shown_frames=30, tokens=220, seconds=1.0),
    row(2, "abnormal", "normal", looks=0, shown_frames=20, tokens=80, seconds=0.5),
    row(3, "normal", "normal", looks=0, shown_frames=20, tokens=60, seconds=0.5),
]


def cells(rows):
    table = systems_table("main", {"judge": measure(rows, {}, num_resamples=10)}, {"judge": rows}, num_resamples=50)
    (line,) = table.rows
    return dict(zip(table.columns, line, strict=True))


def test_a_line_says_what_was_decided_and_what_it_cost():
    found = cells(ROWS)
    assert found["accuracy"].value == 0.75 and found["aR"].value == pytest.approx(2 / 3) and found["nR"].value == 1
    assert found["typed"].value == pytest.approx(1 / 3), "a false type is no hit"
    assert [found[name].value for name in ("looks", "frames", "tokens", "seconds")] == [0.5, 25, 140, 0.75]
    low, high = found["frames"].interval
    assert 20 <= low < 25 < high <= 30
    assert found["vIoU"].value == 0.5 and found["unparsed"].value == 0


def test_rows_of_an_earlier_version_have_no_cost():
    found = cells([replace(r, looks=None) for r in ROWS])
    assert found["looks"] is None and found["tokens"].value == 140
    assert typed_recall([ROWS[3]]).value is None


def test_a_reward_without_verdicts_has_no_line():
    scores = [Row(k, f"v{k}", "", "normal", score=0.5) for k in range(3)]
    table = systems_table("main", {"score": measure(scores, {}, num_resamples=10)}, {"score": scores})
    assert table.rows == [] or not list(table.rows)


def test_boxes_by_kind_are_of_judges_that_draw():
    told = {"has_verdict": True, "status": "abnormal", "window_found": True}
    drawn = [("split", 0.2), ("split", None), ("squash", 0.8)]
    boxes = [Row(k, "", kind, "abnormal", zoomed=True, spatial_iou=v, **told) for k, (kind, v) in enumerate(drawn)]
    scan = [replace(r, zoomed=False) for r in boxes]
    scores = [Row(0, "", "split", "abnormal", score=0.5)]
    rows = {"judge": boxes, "one turn": scan, "score": scores}
    table = spatial_kind_table("main", {k: measure(v, {}, num_resamples=10) for k, v in rows.items()})
    assert table.columns == ("kind", "judge", "n")
    assert [(kind, cell.value, n) for kind, cell, n in table.rows] == [("split", 0.1, 2), ("squash", 0.8, 1)]
    assert spatial_kind_table("main", {"score": measure(scores, {}, num_resamples=10)}).groups == [[]]
