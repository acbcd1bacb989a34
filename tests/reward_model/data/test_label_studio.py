"""Label Studio: round trips, its frame numbers and percents, corrected tasks, and what is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from reward_model.data.formats.label_studio import from_label_studio, labeling_config, to_label_studio
from reward_model.data.records import Record
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation


def record(*anomalies: Anomaly, name: str = "v") -> Record:
    truth = VideoAnnotation(name, 20, 8.0, 64, 48, "a cat", anomalies, "wan")
    return Record(f"{name}.mp4", truth, "train", {"group": "g"})


HAND = Anomaly(
    AnomalyType.HUMAN,
    FrameRange(2, 6),
    {n: (Box(100 + 7 * n, 3, 333, 777), *((Box(0, 0, 1, 1),) if n > 4 else ())) for n in range(2, 7)},
    ("hand", "finger; left"),
    "six\nfingers",
    "left",
    False,
)
GONE = Anomaly(AnomalyType.MOTION, FrameRange(9, 12), {8: (Box(1, 2, 3, 4),), 13: (Box(5, 6, 7, 8),)}, salient=True)
BARE = Anomaly(AnomalyType.PHYSICAL, FrameRange(0, 19), {}, reason="floats")


def exported(*records: Record, **options: Any) -> list[dict[str, Any]]:
    return json.loads(json.dumps(to_label_studio(records, as_annotations=True, **options)))


def results(task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [r for r in task["annotations"][0]["result"] if r["type"] == kind]


def test_everything_comes_back():
    records = [record(HAND, GONE, BARE, name="a"), record(name="b"), record(HAND, replace(HAND, objects=()), name="c")]
    found = from_label_studio(exported(*records, video_prefix="/data/local-files/?d="))
    assert found.problems == [] and found.records == records


def test_frames_count_from_one_and_boxes_are_percent():
    task = exported(record(HAND))[0]
    assert results(task, "timelinelabels")[0]["value"]["ranges"] == [{"start": 3, "end": 7}]
    item = results(task, "videorectangle")[0]["value"]["sequence"][0]
    assert item["frame"] == 3 and item["enabled"] is True and item["rotation"] == 0
    assert [item[k] for k in ("x", "y", "width", "height")] == pytest.approx([11.4, 0.3, 21.9, 77.4])
    assert results(task, "videorectangle")[0]["value"]["sequence"][-1]["enabled"] is False


def test_predictions_are_for_correction_and_do_not_count_as_annotated():
    task = to_label_studio([record(HAND)])[0]
    assert task["predictions"][0]["result"] and "annotations" not in task
    found = from_label_studio([task])
    assert found.records == [] and "nobody has annotated" in found.problems[0].message
    assert from_label_studio([task], skip_open=True).problems == []


def test_the_configuration_names_every_control_of_the_tasks():
    root = ElementTree.fromstring(labeling_config())
    names = {e.get("name") for e in root.iter() if e.get("toName")}
    used = {r["from_name"] for r in exported(record(HAND, GONE))[0]["annotations"][0]["result"]}
    assert used <= names
    labels = [e.get("value") for e in root.find("TimelineLabels")]
    assert labels == [t.value for t in AnomalyType]
    assert root.find("Video").get("frameRate") == "$fps"


def drawn(task: dict[str, Any], name: str, label: str, *keys: dict[str, Any]) -> None:
    """Adds a rectangle as a person would draw it."""
    sequence = [{"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "enabled": True, **k} for k in keys]
    value = {"framesCount": 20, "sequence": sequence, "labels": [label]}
    task["annotations"][0]["result"].append(
        {"id": name, "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value}
    )


def test_a_new_box_joins_the_window_of_its_type_and_is_expanded():
    task = exported(record(BARE, replace(GONE, boxes={})))[0]
    drawn(task, "x7", "Motion Anomalies", {"frame": 10}, {"frame": 13, "x": 40, "enabled": False})
    found = from_label_studio([task])
    assert found.problems == []
    boxes = found.records[0].truth.anomalies[1].boxes
    assert sorted(boxes) == [9, 10, 11, 12]
    assert boxes[9] == (Box(100, 100, 300, 300),) and boxes[10] == (Box(200, 100, 400, 300),)


def test_a_box_nobody_ended_stops_with_its_window():
    task = exported(record(replace(GONE, boxes={})))[0]
    drawn(task, "x7", "Motion Anomalies", {"frame": 10})
    assert sorted(from_label_studio([task]).records[0].truth.anomalies[0].boxes) == [9, 10, 11, 12]


def test_a_box_without_a_window_makes_one_and_says_so():
    task = exported(record(BARE))[0]
    drawn(task, "x7", "Character Anomalies", {"frame": 3}, {"frame": 5, "enabled": False})
    found = from_label_studio([task])
    assert found.records[0].truth.anomalies[1].frames == FrameRange(2, 4)
    assert found.problems[0].severity == "warning" and "has no window" in found.problems[0].message


def test_keyframes_that_were_interpolated_on_export_change_nothing():
    track = {n: (Box(100 + 10 * n, 100, 400 + 10 * n, 300),) for n in range(2, 7)}
    task = exported(record(replace(HAND, boxes=track)))[0]
    full = copy.deepcopy(task)
    value = results(full, "videorectangle")[0]["value"]
    value["sequence"] = [
        {"frame": n + 1, "x": 10 + n, "y": 10, "width": 30, "height": 20, "enabled": n < 6, "auto": n not in (2, 6)}
        for n in range(2, 7)
    ]
    assert len(results(task, "videorectangle")[0]["value"]["sequence"]) == 2
    assert (
        from_label_studio([full]).records == from_label_studio([task]).records == [record(replace(HAND, boxes=track))]
    )


def test_the_last_annotation_that_was_not_cancelled_counts_or_that_of_one_person():
    task = exported(record(HAND))[0]
    normal = exported(record())[0]["annotations"][0]
    task["annotations"][0]["completed_by"] = 1
    task["annotations"] += [{**normal, "completed_by": {"id": 2}}, {"result": [], "was_cancelled": True}]
    found = from_label_studio([task]).records[0]
    assert found.truth.status == "normal" and found.extra["annotator"] == "2"
    assert from_label_studio([task], annotator=1).records[0].truth.anomalies == (HAND,)
    assert from_label_studio([task], annotator=3).errors


def test_tasks_of_a_foreign_project_need_the_records_they_are_about():
    task = exported(record(HAND))[0]
    task["data"] = {"video": "v.mp4", "video_id": "v"}
    assert "pass the annotation file" in from_label_studio([task]).problems[0].message
    assert from_label_studio([task], base=[record()]).records == [record(HAND)]


def change(path: str, value: Any) -> Any:
    def apply(task: dict[str, Any]) -> None:
        kind, *keys = path.split("/")
        place = results(task, kind)[0]["value"]
        for key in keys[:-1]:
            place = place[int(key) if key.isdigit() else key]
        place[keys[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("choices/choices", ["normal"]), r"status \['normal'\] contradicts 1 window"),
        (change("timelinelabels/timelinelabels", []), "exactly one label"),
        (change("timelinelabels/timelinelabels", ["Ghosts"]), "'Ghosts'"),
        (change("timelinelabels/ranges", [{"start": 0, "end": 3}]), "counts from 1"),
        (change("timelinelabels/ranges", [{"start": 3, "end": 99}]), "outside a video of 20"),
        (change("timelinelabels/ranges", [{"start": 3, "end": 4}]), "outside the window 2-3"),
        (change("videorectangle/sequence/0/rotation", "a"), "rotation that is not a number"),
        (change("videorectangle/sequence/0/x", 100), "outside the picture"),
        (change("videorectangle/sequence/0/width", -3), "without an area"),
        (change("videorectangle/sequence", []), "list of keyframes"),
        (change("videorectangle/framesCount", 55), "different frame rates"),
        (change("timelinelabels/ranges", []), "has no range"),
        (change("timelinelabels/ranges", [{"start": 3, "end": None}]), "counts from 1"),
        (change("timelinelabels/ranges", [{"start": "3", "end": "7"}]), "counts from 1"),
        (change("timelinelabels/timelinelabels", [None]), "exactly one label"),
        (lambda t: t["annotations"][0]["result"][1].update(type="brushlabels"), "'brushlabels' is not understood"),
        (change("videorectangle/sequence/0/frame", 0), "frame from 1"),
        (change("videorectangle/sequence/0/frame", 10**9), "outside a video of 20"),
        (change("videorectangle/sequence/0/x", None), "needs numbers"),
        (lambda t: t["annotations"][0].update(result=[]), "no status was chosen"),
        (lambda t: t["annotations"][0].pop("result"), "not a Label Studio task"),
        (lambda t: t.pop("data"), "expected an object with 'data'"),
    ],
)
def test_what_cannot_be_meant_is_an_error_and_the_other_tasks_are_read(edit, message):
    import re

    bad, good = exported(record(HAND, name="a"), record(GONE, name="b"))
    edit(bad)
    found = from_label_studio([bad, good])
    assert found.errors and all(p.line == 1 for p in found.problems)
    assert re.search(message, " ".join(p.message for p in found.errors))
    assert found.records == [record(GONE, name="b")]


@pytest.mark.parametrize("task", [None, [], 3, {"data": 3}, {"data": {"record": 3}}, {"data": {}, "annotations": 3}])
def test_garbage_is_a_problem_not_a_crash(task):
    assert from_label_studio([task]).errors
