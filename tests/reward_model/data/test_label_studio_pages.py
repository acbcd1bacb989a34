"""Label Studio as people use it: rates of the page, interpolated exports, turned boxes, other projects, archives."""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import replace
from typing import Any

import pytest

from reward_model.data.formats.common import FormatError
from reward_model.data.formats.documents import parse_json, read_documents
from reward_model.data.formats.label_studio import from_label_studio, to_label_studio
from reward_model.data.formats.label_studio_read import page_rate
from reward_model.data.records import GENERATED, ORIGIN_KEY, Record
from reward_model.schema import MAX_FRAMES, Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation

#: Five seconds at 30 fps.
LONG = Record("clips/a.mp4", VideoAnnotation("a", 150, 30.0, 800, 400))


def key(frame: int, **more: Any) -> dict[str, Any]:
    return {"frame": frame, "enabled": True, "x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, **more}


def task(*results: dict[str, Any], **data: Any) -> dict[str, Any]:
    status = {"id": "s", "from_name": "status", "type": "choices", "value": {"choices": ["abnormal"]}}
    return {"data": {"video_id": "a", **data}, "annotations": [{"completed_by": 4, "result": [status, *results]}]}


def window(start: Any, end: Any, label: str = "Object Distortion") -> dict[str, Any]:
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]}
    return {"id": "w", "from_name": "window", "type": "timelinelabels", "value": value}


def rectangle(*sequence: dict[str, Any], label: str = "Object Distortion", **value: Any) -> dict[str, Any]:
    value = {"sequence": list(sequence), "labels": [label], **value}
    return {"id": "b", "from_name": "box", "type": "videorectangle", "value": value}


def read(*results: dict[str, Any], base: Record = LONG, **options: Any) -> Any:
    data = options.pop("data", {"fps": base.truth.fps})
    return from_label_studio([task(*results, **data)], base=[base], **options)


@pytest.mark.parametrize(("rate", "frames"), [(24, (60, 90)), (25, (60, 90)), (60, (60, 90)), (10, (60, 90))])
def test_frames_of_a_page_at_another_rate_are_converted_by_time(rate, frames):
    shown = [round(rate * t) + 1 for t in (2, 3)]
    page = {"framesCount": 5 * rate, "duration": 5.0}
    found = read(window(*shown), rectangle(key(shown[0]), key(shown[1], enabled=False, x=40), **page))
    (anomaly,) = found.records[0].truth.anomalies
    assert anomaly.frames == FrameRange(*frames) and not found.errors
    assert sorted(anomaly.boxes) == list(range(60, 91)) and anomaly.boxes[75] == (Box(250, 100, 450, 300),)
    assert f"counted {rate} frames a second of a video at 30 fps" in found.problems[0].message


def test_a_page_that_counted_right_says_nothing():
    for count in (149, 150, 151):
        found = read(window(61, 91), rectangle(key(61), key(91, enabled=False), framesCount=count, duration=5.0))
        assert found.problems == [] and found.records[0].truth.anomalies[0].frames == FrameRange(60, 90)


def test_a_longer_sound_track_adds_frames_at_the_end_and_moves_none():
    found = read(window(61, 91), rectangle(key(61), key(91, enabled=False), framesCount=165, duration=5.5))
    assert found.problems == [] and found.records[0].truth.anomalies[0].frames == FrameRange(60, 90)


def test_the_rate_of_a_short_clip_comes_from_its_keyframes():
    # ceil(1.03 s x 24) = 25 frames; 25 / 1.03 would be 24.27.
    short = Record("a.mp4", VideoAnnotation("a", 31, 30.0, 800, 400))
    keys = [key(n, time=n / 24) for n in (13, 25)]
    assert page_rate([{"framesCount": 25, "duration": 1.03, "sequence": keys}], 31, 30.0) == pytest.approx(24)
    found = read(window(13, 25), rectangle(*keys, framesCount=25, duration=1.03), base=short)
    assert found.records[0].truth.anomalies[0].frames == FrameRange(15, 30)


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([{"framesCount": 300, "duration": 12.5}], "not the same video"),
        ([{"framesCount": 120, "duration": 5.0}, {"framesCount": 150, "duration": 5.0}], "different frame rates"),
        ([{"framesCount": 120}], "no duration tells"),
    ],
)
def test_pages_that_cannot_be_understood_are_named(pages, message):
    found = read(window(49, 73), *(rectangle(key(49), key(73, enabled=False), **page) for page in pages))
    assert found.records == [] and message in found.errors[0].message


def test_a_stated_rate_converts_windows_that_tell_none_and_may_not_contradict_a_page():
    found = read(window(49, 73), frame_rate=24, data={})
    assert found.records[0].truth.anomalies[0].frames == FrameRange(60, 90)
    assert "frameRate of the project" in read(window(49, 73), data={}).problems[0].message
    page = {"framesCount": 120, "duration": 5.0}
    found = read(window(49, 73), rectangle(key(49), key(73, enabled=False), **page), frame_rate=25)
    assert "not the 25 that were stated" in found.errors[0].message


def test_interpolated_exports_of_open_rectangles_end_with_their_window():
    auto = [key(n, auto=True) for n in range(62, 151)]
    page = {"framesCount": 150, "duration": 5.0}
    alone, full = (
        read(window(61, 91), rectangle(key(61), **page)),
        read(window(61, 91), rectangle(key(61), *auto, **page)),
    )
    assert alone.records == full.records and full.problems == []
    assert sorted(full.records[0].truth.anomalies[0].boxes) == list(range(60, 91))
    # The browser may have counted a frame more than there are.
    longer = read(window(61, 91), rectangle(key(61), *auto, key(151, auto=True), framesCount=151, duration=5.03))
    assert longer.records == full.records


def test_an_open_rectangle_without_a_window_is_an_error_and_an_ended_one_a_warning():
    found = read(rectangle(key(61), key(62, auto=True), framesCount=150))
    assert found.records == [] and "nobody ended it (last placed on frame 60)" in found.errors[0].message
    found = read(rectangle(key(61), key(71, enabled=False), framesCount=150))
    assert found.records[0].truth.anomalies[0].frames == FrameRange(60, 70) and "no window" in found.problems[0].message


def test_a_turned_box_becomes_the_upright_one_around_it():
    # 20 percent of 800 x 400 is 160 x 80; a quarter turn about (80, 40) puts it at x 0..80, y 40..200.
    found = read(window(61, 62), rectangle(key(61, rotation=90), key(62, rotation=90, enabled=False), framesCount=150))
    assert found.records[0].truth.anomalies[0].boxes[60] == (Box(0, 100, 100, 500),)
    assert "turned by 90 degrees" in found.problems[0].message
    whole = read(window(61, 62), rectangle(key(61, rotation=360), key(62, enabled=False), framesCount=150))
    assert whole.problems == []


def test_labels_in_another_case_aliases_and_a_project_with_labels_of_its_own():
    for label in ("object distortion", "OBJECT_DISTORTION", "object"):
        assert read(window(61, 62, label)).records[0].truth.types == (AnomalyType.OBJECT,)
    types = {"bad hand": "human", "scratch": None}
    found = read(window(61, 62, "Bad hand"), window(3, 4, "scratch"), type_map=types)
    assert found.records[0].truth.types == (AnomalyType.HUMAN,) and "'scratch' is left out" in found.problems[0].message
    found = read(window(3, 4, "scratch"), type_map=types)
    assert found.records == [] and "left out by the type map" in found.errors[0].message


def test_words_and_stars_that_mean_nothing_here_are_named():
    rating = {"id": "r", "from_name": "stars", "type": "rating", "value": {"rating": 3}}
    other = {"id": "o", "from_name": "quality", "type": "choices", "value": {"choices": ["bad"]}}
    found = read(window(61, 62), rating, other)
    assert len(found.records) == 1 and {p.severity for p in found.problems} == {"warning"}
    assert ["rating" in found.problems[0].message, "'quality'" in found.problems[1].message] == [True, True]


def test_a_status_may_be_written_in_another_case_and_may_be_missing_beside_a_window():
    loud = task(window(61, 62), fps=30)
    loud["annotations"][0]["result"][0].update(from_name="Status", value={"choices": ["Abnormal"]})
    assert from_label_studio([loud], base=[LONG]).problems == []
    silent = task(window(61, 62), fps=30)
    silent["annotations"][0]["result"].pop(0)
    assert "no status was chosen" in from_label_studio([silent], base=[LONG]).problems[0].message


@pytest.mark.parametrize(
    "video", ["/data/upload/7/0a1b2c3d-a.mp4", "/data/local-files/?d=clips/a.mp4", "clips%2Fa.mp4"]
)
def test_a_foreign_task_is_matched_by_the_name_of_its_file(video):
    data = {"video_id": None, "video": video, "fps": 30}
    assert read(window(61, 62), data=data).records[0].truth.video_id == "a"
    twins = [LONG, replace(LONG, video="other/a.mp4", truth=replace(LONG.truth, video_id="b"))]
    assert from_label_studio([task(window(61, 62), **data)], base=twins).errors


def test_the_small_json_export_is_named():
    small = {"video": "a.mp4", "id": 3, "status": "abnormal", "annotation_id": 4, "window": [{"ranges": []}]}
    assert "JSON-MIN" in from_label_studio([small], base=[LONG]).errors[0].message


def test_a_length_that_no_video_has_is_refused_before_it_is_expanded():
    plain = {"video": "a.mp4", "video_id": "v", "num_frames": 10**9, "fps": 16, "width": 64, "height": 64}
    found = from_label_studio([task(rectangle(key(1)), record=plain, video_id="")])
    assert f"at most {MAX_FRAMES}" in found.errors[0].message


ODD = (None, "x", 3, [], {}, [3], math.nan, math.inf, -1, 10**400, True, {"start": {}})


@pytest.mark.parametrize(
    "place",
    [
        *(("data",), ("data", "record"), ("data", "fps"), ("annotations",), ("annotations", 0)),
        *(("annotations", 0, "result"), ("annotations", 0, "result", 1), ("annotations", 0, "result", 1, "value")),
        *(("annotations", 0, "result", 2, "value", key) for key in ("sequence", "labels", "framesCount", "duration")),
        *(
            ("annotations", 0, "result", 2, "value", "sequence", 0, k)
            for k in ("frame", "x", "time", "enabled", "auto")
        ),
        ("annotations", 0, "result", 1, "value", "ranges", 0, "end"),
        ("annotations", 0, "result", 1, "from_name"),
        ("annotations", 0, "was_cancelled"),
    ],
)
def test_any_value_at_any_place_is_a_problem_at_most(place):
    for value in ODD:
        first = task(window(61, 62), rectangle(key(61), key(62, enabled=False), framesCount=150, duration=5.0), fps=30)
        good = json.loads(json.dumps(first))
        inner: Any = first
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
        found = from_label_studio([first, good], base=[LONG])
        assert all(p.line == 1 and "\n" not in p.message for p in found.problems), value
        assert len(found.records) >= 1, value


def test_a_generated_annotation_says_what_a_person_did_with_it():
    melts = Anomaly(AnomalyType.OBJECT, FrameRange(60, 90), {60: (Box(100, 100, 300, 300),)}, reason="melts")
    made = replace(LONG, truth=replace(LONG.truth, anomalies=(melts,)), extra={ORIGIN_KEY: GENERATED})
    exported = to_label_studio([made], as_annotations=True)
    assert exported[0]["data"]["origin"] == GENERATED
    assert from_label_studio(exported, base=[made]).records[0].extra[ORIGIN_KEY] == f"{GENERATED}, accepted by a person"
    value = next(r for r in exported[0]["annotations"][0]["result"] if r["type"] == "timelinelabels")["value"]
    value["ranges"][0]["end"] += 1
    found = from_label_studio(exported, base=[made])
    assert found.records[0].extra[ORIGIN_KEY] == f"{GENERATED}, corrected by a person"


# --- documents --------------------------------------------------------------------------------------------------------


def packed(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_archives_folders_and_files_give_the_same_documents(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one.json").write_bytes(b"[1]")
    members = {"../../x.json": b"[2]", "__MACOSX/x.json": b"junk", "images/1.png": b"png", "deep/y.JSON": b"[3]"}
    (tmp_path / "in/two.zip").write_bytes(packed(**members))
    (tmp_path / "in/other.txt").write_bytes(b"")
    found, problems = read_documents(tmp_path / "in", ".json")
    assert problems == []
    assert found == {"one.json": b"[1]", "two.zip/../../x.json": b"[2]", "two.zip/deep/y.JSON": b"[3]"}
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert read_documents(tmp_path / "in/one.json", ".json")[0] == {"one.json": b"[1]"}


def test_what_no_archive_may_do_is_a_problem_and_the_others_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("reward_model.data.formats.documents.MAX_DOCUMENT_BYTES", 2**20)
    whole = packed(**{"a.json": b"[1]"})
    bad = bytearray(whole)
    bad[6] |= 1  # the flag of encryption, in the local header and in the directory
    bad[whole.index(b"PK\x01\x02") + 8] |= 1
    files = {
        "bomb": packed(**{"a.json": b" " * (2**20 + 1)}),
        "cut": whole[:-10],
        "empty": packed(**{"a.png": b""}),
        "fake": b"not an archive",
        "locked": bytes(bad),
        "torn": packed(zipfile.ZIP_STORED, **{"a.json": b"[1]"}).replace(b"[1]", b"[9]"),
        "whole": whole,
    }
    for name, data in files.items():
        (tmp_path / f"{name}.zip").write_bytes(data)
    found, problems = read_documents(tmp_path, ".json")
    assert found == {"whole.zip": b"[1]"}
    said = {p.message.split(":")[0]: p.message for p in problems}
    assert "larger than 1 MiB once unpacked" in said["bomb.zip"] and "encrypted" in said["locked.zip"]
    assert "holds no .json" in said["empty.zip"] and "not a ZIP archive" in said["fake.zip"]
    assert "cannot be read" in said["cut.zip"] and "cannot be read" in said["torn.zip"]


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.json")
    found, problems = read_documents(tmp_path, ".json")
    assert found == {} and "not a regular file" in problems[0].message
    with pytest.raises(FormatError, match=r"no \.xml file"):
        read_documents(tmp_path, ".xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_of_every_encoding(encoding):
    assert parse_json('["é"]'.encode(encoding)) == ["é"]


def test_json_nested_too_deeply_is_named():
    with pytest.raises(FormatError, match="nested too deeply"):
        parse_json(b"[" * 100_000)
