"""CVAT as people use it: whole exports, open tracks, projects, tasks and jobs of a part, shapes that are not boxes."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import pytest

from reward_model.data.formats.cvat import from_cvat, to_cvat
from reward_model.data.formats.documents import read_documents
from reward_model.data.formats.shapes import cvat_corners, turned
from reward_model.data.records import GENERATED, ORIGIN_KEY, Record
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation


def record(name: str = "a", num_frames: int = 81) -> Record:
    return Record(f"clips/{name}.mp4", VideoAnnotation(name, num_frames, 16.0, 640, 480))


def words(**found: str) -> str:
    return "".join(f'<attribute name="{k}">{v}</attribute>' for k, v in found.items())


def box(frame: int, key: int = 0, out: int = 0, more: str = "", inner: str = "") -> str:
    place = 'xtl="64.00" ytl="48.00" xbr="128.00" ybr="96.00"'
    return (
        f'<box frame="{frame}" keyframe="{key}" outside="{out}" occluded="0" {place} z_order="0" {more}>{inner}</box>'
    )


def track(*boxes: str, label: str = "Object Distortion", more: str = "") -> str:
    return f'<track id="0" label="{label}" source="manual" {more}>{"".join(boxes)}</track>'


def run(first: int, last: int, *, step: int = 1, end: int | None = None, **found: str) -> str:
    """A track as CVAT writes it: a box on every frame shown, placed on the first, gone on the frame ``end``."""
    boxes = [box(n, int(n == first), inner=words(**found)) for n in range(first, last + 1, step)]
    return track(*boxes, *([] if end is None else [box(end, 1, 1)]))


def task(name: str = "a", kind: str = "task", **facts: Any) -> str:
    inner = "".join(f"<{k}>{v}</{k}>" for k, v in facts.items())
    return f"<{kind}><id>{name}7</id>" + (f"<name>{name}</name>" if kind == "task" else "") + f"{inner}</{kind}>"


def document(meta: str, *tracks: str) -> bytes:
    body = f"<annotations><version>1.1</version><meta>{meta}<dumped>x</dumped></meta>{''.join(tracks)}</annotations>"
    return body.encode()


def read(meta: str, *tracks: str, **options: Any) -> Any:
    return from_cvat({"x.xml": document(meta, *tracks)}, [record()], **options)


def windows(found: Any) -> list[tuple[int, int]]:
    return [(a.frames.start, a.frames.end) for r in found.records for a in r.truth.anomalies]


WHOLE = task(size=81, start_frame=0, stop_frame=80)


def test_a_track_nobody_ended_stops_with_its_window_however_much_of_it_was_written():
    found = [read(WHOLE, run(20, last, window="20-30")) for last in (20, 50, 80)]
    assert all(f.problems == [] and f.records == found[0].records for f in found)
    assert sorted(found[0].records[0].truth.anomalies[0].boxes) == list(range(20, 31))


def test_a_track_nobody_ended_and_without_a_window_is_an_error():
    found = read(WHOLE, run(20, 80))
    assert found.records == [] and "nobody ended its track (last placed on frame 20)" in found.errors[0].message
    assert windows(read(WHOLE, run(20, 30, end=31))) == [(20, 30)]
    to_the_end = track(*(box(n, int(n in (60, 80))) for n in range(60, 81)))
    assert windows(read(WHOLE, to_the_end)) == [(60, 80)]


def project(*tasks: str) -> str:
    return f"<project><id>3</id><name>p</name><tasks>{''.join(tasks)}</tasks></project>"


def of(name: str, text: str) -> str:
    return text.replace('source="manual"', f'source="manual" task_id="{name}7"')


def test_every_track_of_a_project_goes_to_its_own_task():
    tracks = [of("a", run(10, 20, end=21)), of("b", run(40, 50, end=51))]
    meta = project(task("a", source="a.mp4"), task("b", source="b.mp4"), task("c", source="c.mp4"))
    for name in ("annotations.xml", "a.xml"):
        found = from_cvat({name: document(meta, *tracks)}, [record("a"), record("b"), record("c")])
        assert found.problems == []
        frames = {r.truth.video_id: [str(a.frames) for a in r.truth.anomalies] for r in found.records}
        assert frames == {"a": ["Frame 10-20"], "b": ["Frame 40-50"], "c": []}
    found = from_cvat({"a.xml": document(meta, *tracks)}, [record("a")])
    assert len(found.records) == 1 and [p.message[:32] for p in found.errors] == [
        "a.xml, task b7: no record for ta",
        "a.xml, task c7: no record for ta",
    ]


def test_a_track_of_no_task_spoils_the_project():
    meta = project(task("a"), task("b"))
    found = from_cvat({"x.xml": document(meta, run(1, 2, end=3))}, [record("a"), record("b")])
    assert found.records == [] and "names no task of the project" in found.errors[0].message


def test_a_task_may_not_be_named_after_another_video():
    found = from_cvat({"x.xml": document(task("a", source="b.mp4"))}, [record("a"), record("b")])
    assert found.records == [] and "that of another" in found.errors[0].message


def test_a_part_without_a_mark_does_not_make_the_video_normal():
    assert "frames 41-80 were not shown" in read(task(size=41, start_frame=0, stop_frame=40)).errors[0].message
    assert "frames 0-39 were not shown" in read(task(size=41, start_frame=40, stop_frame=80)).errors[0].message
    found = read(task(size=41, start_frame=40, stop_frame=80), run(50, 55, end=56))
    assert windows(found) == [(50, 55)] and found.problems[0].severity == "warning"


def test_a_step_shows_the_whole_video_and_ends_where_something_was_last_seen():
    every = task(size=17, start_frame=0, stop_frame=80, frame_filter="step=5")
    found = read(every, run(10, 20, step=5, end=25))
    assert windows(found) == [(10, 20)] and "every 5th frame" in found.problems[0].message
    assert sorted(found.records[0].truth.anomalies[0].boxes) == list(range(10, 21))
    # CVAT ends a shape on the last frame shown behind the video's end.
    assert windows(read(every, track(box(80, 1), box(85, 1, 1)))) == [(80, 80)]
    assert read(every).records == [record()]
    assert "frame 12 is not one the task shows" in read(every, run(12, 13, end=14)).errors[0].message


def test_a_window_typed_in_the_tasks_own_frames_is_understood_or_named():
    late = task(size=41, start_frame=40, stop_frame=80)
    assert windows(read(late, run(50, 80, window="50-55"))) == [(50, 55)]
    typed = read(late, run(50, 80, window="10-15"))
    assert windows(typed) == [(50, 55)] and "counts the task's frames" in typed.problems[0].message
    assert "in frames of the video" in read(late, run(50, 80, window="60-65")).errors[0].message


def job(first: int, last: int) -> str:
    return task("a", "job", size=last - first + 1, start_frame=first, stop_frame=last, source="a.mp4")


def test_jobs_of_one_video_are_put_together():
    """The object is annotated in both; frames 38 to 40 lie in both jobs."""
    files = {
        "job_1.xml": document(job(0, 40), run(30, 40, anomaly="1", window="30-40"), run(3, 4, end=5)),
        "job_2.xml": document(job(38, 80), run(38, 50, end=51, anomaly="1", window="38-50")),
    }
    found = from_cvat(files, [record()])
    assert found.problems == []
    first, second = found.records[0].truth.anomalies
    assert first.frames == FrameRange(30, 50) and second.frames == FrameRange(3, 4)
    assert {n: len(b) for n, b in first.boxes.items()} == dict.fromkeys(range(30, 51), 1)
    # The same number for something far away, or of another type, is another anomaly.
    files["job_2.xml"] = document(job(38, 80), run(60, 65, end=66, anomaly="1"))
    assert windows(from_cvat(files, [record()])) == [(30, 40), (3, 4), (60, 65)]


def test_two_normal_jobs_make_a_normal_video_and_one_does_not():
    one, two = document(job(0, 40)), document(job(38, 80))
    assert from_cvat({"1.xml": one, "2.xml": two}, [record()]).records == [record()]
    assert from_cvat({"1.xml": one}, [record()]).errors and from_cvat({"2.xml": two}, [record()]).errors
    broken = document(job(38, 80), run(60, 61, end=62).replace("Object", "Odd"))
    found = from_cvat({"1.xml": one, "2.xml": broken}, [record()])
    assert found.records == [] and "unknown anomaly type" in found.errors[0].message


def test_a_video_annotated_twice_is_an_error():
    found = from_cvat({"x.xml": document(WHOLE), "y.xml": document(WHOLE)}, [record()])
    assert found.records == [] and "again in y.xml" in found.errors[0].message


PLACES = {
    "polygon": ('points="64,48;128,48;100,96"', (64, 48, 128, 96)),
    "polyline": ('points="64,48;128,96"', (64, 48, 128, 96)),
    "ellipse": ('cx="96" cy="72" rx="32" ry="24"', (64, 48, 128, 96)),
    "mask": ('rle="3, 4" left="64" top="48" width="64" height="48"', (64, 48, 128, 96)),
    "box": ('xtl="64" ytl="48" xbr="128" ybr="96" rotation="90"', (72, 40, 120, 104)),
    "cuboid": (
        " ".join(
            f'x{corner}{face}="{x + shift}" y{corner}{face}="{y + shift}"'
            for face, shift in ((1, 0), (2, 16))
            for corner, x, y in (("tl", 64, 48), ("bl", 64, 80), ("tr", 112, 48), ("br", 112, 80))
        ),
        (64, 48, 128, 96),
    ),
}


@pytest.mark.parametrize("kind", PLACES)
def test_shapes_with_an_outline_become_the_box_around_it(kind):
    place, (x0, y0, x1, y1) = PLACES[kind]
    flags = 'keyframe="1" occluded="0"'
    shapes = [f'<{kind} frame="{n}" outside="{int(n == 22)}" {flags} {place}/>' for n in (20, 22)]
    found = read(WHOLE, track(*shapes))
    boxes = found.records[0].truth.anomalies[0].boxes
    expected = Box(round(x0 / 0.64), round(y0 / 0.48), round(x1 / 0.64), round(y1 / 0.48))
    assert boxes == {20: (expected,), 21: (expected,)}
    assert "the upright box around it" in found.problems[0].message and found.problems[0].severity == "warning"


def test_a_polygon_beside_a_box_is_not_lost():
    place = PLACES["polygon"][0]
    polygon = track(f'<polygon frame="20" keyframe="1" {place}/>', f'<polygon frame="23" outside="1" {place}/>')
    one = words(anomaly="0")
    found = read(
        WHOLE, run(20, 22, end=23, anomaly="0"), polygon.replace("</polygon>", "").replace("/>", f">{one}</polygon>")
    )
    assert {n: len(b) for n, b in found.records[0].truth.anomalies[0].boxes.items()} == {20: 2, 21: 2, 22: 2}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<points frame="20" points="64,48;70,50"/>', "draw a rectangle around it"),
        ('<skeleton frame="20"><points label="1" points="1,2"/></skeleton>', "draw a rectangle around it"),
        ('<cuboid frame="20" xtl1="64"/>', "has no ytl1"),
        ('<polygon frame="20" points="64,48;x"/>', "must read like"),
        ('<polygon frame="20"/>', "must read like"),
        ('<ellipse frame="20" cx="1" cy="1" rx="0" ry="3"/>', "without an area"),
        ('<mask frame="20" rle="1" left="700" top="1" width="9" height="9"/>', "outside the picture"),
        ('<hologram frame="20"/>', "not a shape with a place"),
        ('<box frame="x" xtl="1" ytl="1" xbr="2" ybr="2"/>', "frame='x'"),
        ('<box frame="2.5" xtl="1" ytl="1" xbr="2" ybr="2"/>', "must be a whole number"),
        ('<box frame="20" xtl="1" ytl="1" xbr="2" ybr="2" rotation="left"/>', "rotation='left'"),
    ],
)
def test_shapes_without_an_outline_are_named(shape, message):
    found = read(WHOLE, track(shape))
    assert found.records == [] and message in found.errors[0].message and "track 0" in found.errors[0].message


def test_turned_shapes_fill_the_box_that_trigonometry_says():
    assert turned((0, 0, 10, 0.1), 45, (0, 0)) == pytest.approx(
        (-0.1 * math.sin(math.pi / 4), 0, 7.0711, 7.1418), abs=1e-3
    )
    values = {"cx": "0", "cy": "0", "rx": "10", "ry": "0", "rotation": "30"}
    half = (10 * math.cos(math.pi / 6), 5)
    assert cvat_corners("ellipse", values)[0] == pytest.approx((-half[0], -half[1], *half))


def test_tracks_of_one_anomaly_must_agree():
    other = run(20, 30, end=31, anomaly="1", window="20-29", reason="melts")
    found = read(WHOLE, run(20, 30, end=31, anomaly="1", window="20-30"), other)
    assert "state window '20-30' and '20-29'" in found.errors[0].message
    found = read(WHOLE, run(20, 30, end=31, anomaly="1", reason="bends"), other)
    assert "two texts for reason" in found.problems[0].message


def test_boxes_under_a_ticked_no_box_are_named():
    found = read(WHOLE, run(20, 30, end=31, no_box="true"))
    assert found.records[0].truth.anomalies[0].boxes == {} and "untick it" in found.problems[0].message


def test_labels_of_a_project_of_its_own():
    types = {"bad hand": "human", "scratch": None}
    found = read(
        WHOLE, track(box(3, 1), box(4, 1, 1), label="Bad-Hand"), track(box(3, 1), label="scratch"), type_map=types
    )
    assert found.records[0].truth.types == (AnomalyType.HUMAN,) and "'scratch' is left out" in found.problems[0].message
    assert read(WHOLE, track(box(3, 1), label="scratch"), type_map=types).errors
    assert read(WHOLE, track(box(3, 1), box(4, 1, 1), label="HUMAN_distortion")).records


def test_archives_as_they_are_downloaded_come_back(tmp_path):
    melts = Anomaly(AnomalyType.OBJECT, FrameRange(20, 22), {n: (Box(1, 2, 30, 40),) for n in (20, 21)}, reason="melts")
    truth = VideoAnnotation("a", 81, 16.0, 640, 480, anomalies=(melts,))
    whole = Record("clips/a.mp4", truth)
    for encoding in ("utf-8", "utf-16"):
        buffer = io.BytesIO()
        text = to_cvat(whole).replace("utf-8", encoding).replace("UTF-8", encoding).replace("us-ascii", encoding)
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("annotations.xml", text.encode(encoding))
            archive.writestr("images/frame_000000.png", b"png")
        (tmp_path / "task_a.zip").write_bytes(buffer.getvalue())
        documents, problems = read_documents(tmp_path, ".xml")
        assert problems == [] and from_cvat(documents, [record()]).records == [whole]


def test_a_generated_annotation_is_marked_in_cvat_and_says_what_became_of_it():
    melts = Anomaly(AnomalyType.OBJECT, FrameRange(20, 22), {20: (Box(100, 100, 200, 200),)})
    made = Record(
        "clips/a.mp4", VideoAnnotation("a", 81, 16.0, 640, 480, anomalies=(melts,)), "", {ORIGIN_KEY: GENERATED}
    )
    text = to_cvat(made)
    assert 'source="auto"' in text and from_cvat({"a.xml": text.encode()}, [made]).records[0].extra == {
        ORIGIN_KEY: f"{GENERATED}, accepted by a person"
    }
