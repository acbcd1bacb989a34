"""Annotation files: what is read back, what is refused, and that every fault is found with its line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from reward_model.data.annotations import (
    AnnotationError,
    Record,
    read_annotations,
    rebase,
    validate_annotations,
    video_path,
    write_annotations,
)
from reward_model.data.line_checks import check_object
from reward_model.data.validation import MAX_LINE_BYTES
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.video.clip import VideoError
from reward_model.video.reading import probe
from reward_model.world import KINDS
from reward_model.world.scene import make_scene
from reward_model.world.video import make_annotation


def record(name: str = "a", *, abnormal: bool = True, **extra: Any) -> Record:
    boxes = {n: (Box(100, 200, 300, 400), Box(0, 0, 1000, 900)) for n in range(2, 5)}
    anomaly = Anomaly(AnomalyType.HUMAN, FrameRange(2, 4), boxes, ("hand",), "six fingers é", "left hand", True)
    truth = VideoAnnotation(name, 12, 8.0, 32, 16, "a girl waves", (anomaly,) if abnormal else (), "test")
    return Record(f"clips/{name}.mp4", truth, "train", extra)


def line(**changes: Any) -> dict[str, Any]:
    """A faultless line with some keys replaced; a value of ... removes the key."""
    data = {**record().to_dict(), **changes}
    return {k: v for k, v in data.items() if v is not ...}


def with_anomaly(**changes: Any) -> dict[str, Any]:
    data = line()
    data["anomalies"] = [{k: v for k, v in {**data["anomalies"][0], **changes}.items() if v is not ...}]
    return data


def write_clip(path: Path, num_frames: int = 12, fps: int = 8, size: tuple[int, int] = (16, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, *size, 3), dtype=np.uint8)
    iio.imwrite(path, frames, fps=fps, plugin="pyav", codec="libx264")


# --- round trips ------------------------------------------------------------------------------------------------------


def test_records_come_back_equal_with_their_unknown_keys(tmp_path):
    records = [record("a", group="g", nested={"x": [1, None]}), record("b", abnormal=False)]
    path = write_annotations(tmp_path / "sub" / "x.jsonl", records)
    assert read_annotations(path, check_videos=False) == records
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert list(first)[:2] == ["video", "video_id"] and first["status"] == "abnormal" and first["group"] == "g"
    assert "é" in path.read_text(encoding="utf-8")


def test_a_line_holds_exactly_the_annotation_and_three_more(tmp_path):
    plain = record().to_dict()
    assert plain.keys() == {"video", "split", *record().truth.to_dict()}


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_annotations_of_the_procedural_world_keep_the_rules(kind, tmp_path):
    truths = [make_annotation(make_scene(seed, kind), 48) for seed in range(4)]
    records = [Record(f"{t.video_id}.mp4", t) for t in truths]
    path = write_annotations(tmp_path / "w.jsonl", records)
    assert read_annotations(path, check_videos=False) == records


def test_files_are_compared_with_their_records(tmp_path):
    for name in "ab":
        write_clip(tmp_path / "clips" / f"{name}.mp4")
    path = write_annotations(tmp_path / "x.jsonl", [record("a"), record("b", abnormal=False)])
    records = read_annotations(path)
    assert video_path(records[0], path) == tmp_path / "clips/a.mp4"
    assert not validate_annotations(path).problems


def test_video_root_replaces_the_folder_of_the_file(tmp_path):
    write_clip(tmp_path / "videos" / "clips" / "a.mp4")
    path = write_annotations(tmp_path / "lists" / "x.jsonl", [record()])
    with pytest.raises(AnnotationError, match="no video file"):
        read_annotations(path)
    assert read_annotations(path, video_root=tmp_path / "videos")


def test_rebased_records_point_at_the_same_file(tmp_path):
    old, new = tmp_path / "a" / "x.jsonl", tmp_path / "b" / "c" / "y.jsonl"
    moved = rebase([record(), replace(record(), video="/abs/v.mp4")], old, new)
    assert video_path(moved[0], new).resolve() == video_path(record(), old).resolve()
    assert moved[1].video == "/abs/v.mp4"


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record("a", video="x"), "belongs to the record itself"),
        (record("a", value=float("nan")), "cannot be written as JSON"),
        (record("a", value=object()), "cannot be written as JSON"),
        (record("a", group=""), "group is ''"),
        (replace(record("a"), video=" "), "video is ' '"),
        (replace(record("b")), "already used on line 1"),
    ],
)
def test_invalid_records_are_not_written_and_the_old_file_stays(tmp_path, bad, message):
    path = write_annotations(tmp_path / "x.jsonl", [record("old")])
    before = path.read_bytes()
    with pytest.raises(AnnotationError, match=message):
        write_annotations(path, [record("b"), bad])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_box_far_from_its_window_is_refused_on_writing(tmp_path):
    anomaly = replace(record().truth.anomalies[0], boxes={9: (Box(0, 0, 9, 9),)})
    with pytest.raises(AnnotationError, match="outside the window 2-4"):
        write_annotations(
            tmp_path / "x.jsonl", [replace(record(), truth=replace(record().truth, anomalies=(anomaly,)))]
        )
    assert not list(tmp_path.iterdir())


def test_nothing_at_all_is_not_a_data_set(tmp_path):
    with pytest.raises(AnnotationError, match="no record"):
        write_annotations(tmp_path / "x.jsonl", [])


# --- the rules of one line --------------------------------------------------------------------------------------------


def test_a_faultless_line_has_no_findings():
    assert check_object(line()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "holds a list"),
        (3, "holds a number"),
        (line(video_id=...), "key 'video_id' is missing"),
        (line(anomalies=..., status="normal"), "key 'anomalies' is missing"),
        (line(num_frames=True), "num_frames is True"),
        (line(num_frames=12.0), "num_frames is 12.0"),
        (line(width="32"), "width is '32'"),
        (line(height=0), "height is 0"),
        (line(fps=True), "fps is True"),
        (line(fps=-1), "fps is -1"),
        (line(fps=float("inf")), "fps is inf"),
        (line(video_id=7), "video_id is 7"),
        (line(video="a\0b"), "NUL"),
        (line(prompt=None), "prompt is None"),
        (line(prompt="\ud800"), "lone surrogate"),
        (line(split=1), "split is 1"),
        (line(group=3), "group is 3"),
        (line(status="normal"), "'normal' contradicts 1 anomalies"),
        (line(anomalies=[]), "'abnormal' contradicts 0 anomalies"),
        (line(status="ok"), "status is 'ok'"),
        (line(status=[]), r"status is \[\]"),
        (line(anomalies={}), "anomalies is a JSON object"),
        (line(anomalies=[3]), "anomaly 1: it is a number"),
        (with_anomaly(type=...), "key 'type' is missing"),
        (with_anomaly(type=["x"]), "type is"),
        (with_anomaly(type="Ghosts"), "unknown anomaly type 'Ghosts'"),
        (with_anomaly(frames=...), "key 'frames' is missing"),
        (with_anomaly(frames=[2]), "two integers"),
        (with_anomaly(frames=[True, 3]), "two integers"),
        (with_anomaly(frames=[4, 2]), "0 <= first <= last"),
        (with_anomaly(frames=[-1, 2]), "0 <= first <= last"),
        (with_anomaly(frames=[2, 12]), r"beyond a video of 12 frames \(0-11\)"),
        (with_anomaly(boxes=[]), "boxes is a list"),
        (with_anomaly(boxes={"x": []}), "'x' is not a frame number"),
        (with_anomaly(boxes={"02": [[0, 0, 1, 1]]}), "'02' is not a frame number"),
        (with_anomaly(boxes={"-1": [[0, 0, 1, 1]]}), "'-1' is not a frame number"),
        (with_anomaly(boxes={"²": [[0, 0, 1, 1]]}), "'²' is not a frame number"),
        (with_anomaly(boxes={"12": [[0, 0, 1, 1]]}), "frame 12 is beyond"),
        (with_anomaly(boxes={"6": [[0, 0, 1, 1]]}), "frame 6 is outside the window 2-4"),
        (with_anomaly(boxes={"0": [[0, 0, 1, 1]]}), "frame 0 is outside the window 2-4"),
        (with_anomaly(boxes={"3": [0, 0, 1, 1]}), "bare box"),
        (with_anomaly(boxes={"3": "all"}), "boxes of frame 3 are 'all'"),
        (with_anomaly(boxes={"3": [[0, 0, 1]]}), "four integers"),
        (with_anomaly(boxes={"3": [[0, 0, 1.0, 1]]}), "four integers"),
        (with_anomaly(boxes={"3": [[False, 0, 1, 1]]}), "four integers"),
        (with_anomaly(boxes={"3": [[0, 0, 1, 1001]]}), "leaves the grid"),
        (with_anomaly(boxes={"3": [[-1, 0, 1, 1]]}), "leaves the grid"),
        (with_anomaly(boxes={"3": [[9, 0, 1, 1]]}), "x corners swapped"),
        (with_anomaly(boxes={"3": [[0, 9, 1, 1]]}), "y corners swapped"),
        (with_anomaly(boxes={"3": [[0, 1, 1, 1]]}), "no area: ymin = ymax"),
        (with_anomaly(objects="hand"), "objects is 'hand'"),
        (with_anomaly(objects=[1]), "list of strings"),
        (with_anomaly(reason=None), "reason is None"),
        (with_anomaly(salient=1), "salient is 1"),
    ],
)
def test_each_rule_finds_its_fault_as_an_error(data, message):
    import re

    assert any(re.search(message, f.message) for f in check_object(data) if f.severity == "error")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_anomaly(boxes={}), "no box"),
        (with_anomaly(boxes=...), "no box"),
        (with_anomaly(box=[1]), "unknown key 'box'"),
        (with_anomaly(boxes={"3": [], "4": [[0, 0, 1, 1]]}), "empty list"),
    ],
)
def test_what_may_be_meant_so_is_a_warning(data, message):
    found = check_object(data)
    assert [f.severity for f in found] == ["warning"] and message in found[0].message


@pytest.mark.parametrize("frame", [1, 5])
def test_boundary_boxes_stand_one_frame_beside_the_window(frame):
    assert check_object(with_anomaly(boxes={str(frame): [[0, 0, 1, 1]]})) == []


def test_one_line_can_have_many_faults():
    data = with_anomaly(type="Ghosts", frames=[4, 2], boxes={"3": [[9, 0, 1, 1001]]})
    data |= {"fps": 0, "width": None}
    assert len(check_object(data)) == 6


def test_aliases_of_types_are_understood():
    data = with_anomaly(type="text")
    assert check_object(data) == [] and Record.from_dict(data).truth.types == (AnomalyType.CHARACTER,)


# --- whole files ------------------------------------------------------------------------------------------------------


def problems_of(tmp_path: Path, content: bytes, **options: Any) -> list[tuple[int, str, str]]:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    found = validate_annotations(path, check_videos=False, **options)
    return [(p.line, p.message, p.severity) for p in found.problems]


def test_every_line_is_looked_at_and_named(tmp_path):
    good = [json.dumps(record(n, abnormal=n == "a").to_dict()) for n in "ab"]
    lines = [good[0], "{", "[1]", "", "null", json.dumps(line(fps=0)), good[1], '{"a": 1, "a": 2}', '{"a": NaN}']
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines) + "\n")
    report = validate_annotations(path, check_videos=False)
    assert [p.line for p in report.problems] == [2, 3, 4, 5, 6, 8, 9]
    assert [r.truth.video_id for r in report.records] == ["a", "b"]
    texts = " | ".join(map(str, report.problems))
    for part in (
        "not valid JSON",
        "holds a list",
        "line 4: warning: the line is blank",
        "holds a null",
        "(a): fps is 0",
    ):
        assert part in texts
    assert "'a' is given twice" in texts and "NaN is not a JSON number" in texts
    assert [p.line for p in report.warnings] == [4] and not report.ok


def test_the_error_lists_fifty_and_holds_all(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("{\n" * 60)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path)
    assert len(caught.value.problems) == 60 and isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert "line 50:" in message and "line 51:" not in message and "and 10 more" in message


def test_other_encodings_are_named(tmp_path):
    good = json.dumps(record().to_dict()).encode()
    found = problems_of(tmp_path, good + b"\n" + good.replace(b"hand", b"h\xe4nd") + b"\n")
    assert found[0][0] == 2 and "not UTF-8" in found[0][1]
    assert problems_of(tmp_path, b"\xef\xbb\xbf" + good, strict=False)[0][0] == 0  # only the balance warning


def test_a_huge_line_is_refused_and_the_next_one_is_read(tmp_path):
    good = json.dumps(record().to_dict()).encode()
    found = problems_of(tmp_path, b'{"x": "' + b"a" * (MAX_LINE_BYTES + 10) + b'"}\n' + good + b"\n[]\n")
    assert [f[0] for f in found if f[2] == "error"] == [1, 3] and "longer than 16 MiB" in found[0][1]


def test_deep_nesting_and_long_numbers_are_problems_not_crashes(tmp_path):
    found = problems_of(tmp_path, b"[" * 100_000 + b"\n" + b"1" * 5000 + b"\n")
    assert [f[0] for f in found] == [1, 2]


def test_missing_and_empty_files_are_errors(tmp_path):
    assert "no annotation file" in str(validate_annotations(tmp_path / "no.jsonl").problems[0])
    assert "holds no annotation" in problems_of(tmp_path, b"")[0][1]


def test_ids_files_and_groups_must_not_meet_twice(tmp_path):
    records = [
        record("a", group="g"),
        record("a", abnormal=False),
        replace(record("c", group="g"), split="test"),
        replace(record("d", abnormal=False), video="clips/../clips/a.mp4", split="test"),
    ]
    content = "\n".join(json.dumps(r.to_dict()) for r in records).encode()
    errors = [(n, m) for n, m, s in problems_of(tmp_path, content) if s == "error"]
    assert [n for n, _ in errors] == [2, 2, 3, 4]
    texts = " | ".join(m for _, m in errors)
    assert "video_id 'a' is already used on line 1" in texts and "group 'g' is in split 'test' here" in texts
    assert "is the file of line 1" in texts


def test_imbalance_is_a_warning_and_with_strict_an_error(tmp_path):
    content = "\n".join(json.dumps(record(n).to_dict()) for n in "ab").encode()
    (_, message, severity) = problems_of(tmp_path, content)[0]
    assert "0 normal and 2 abnormal" in message and severity == "warning"
    assert problems_of(tmp_path, content, strict=True)[0][2] == "error"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 64}, "annotated size 64x16, but the file has 32x16"),
        ({"num_frames": 13}, "annotated num_frames 13, but the file has 12"),
        ({"fps": 16.0}, "annotated fps 16, but the file has 8"),
    ],
)
def test_a_record_must_fit_its_file(tmp_path, change, message):
    write_clip(tmp_path / "clips/a.mp4")
    path = write_annotations(tmp_path / "x.jsonl", [replace(record(), truth=replace(record().truth, **change))])
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(path)
    assert len(caught.value.problems) == 1


def test_unreadable_files_are_problems(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").write_bytes(b"this is no video")
    (tmp_path / "clips/b.mp4").mkdir()
    path = write_annotations(tmp_path / "x.jsonl", [record("a"), record("b"), record("c")])
    found = validate_annotations(path).errors
    assert [p.line for p in found] == [1, 2, 3] and "cannot decode" in found[0].message


def test_rates_within_half_a_percent_are_the_same(tmp_path):
    write_clip(tmp_path / "clips/a.mp4", fps=24)
    for fps, fine in ((23.976, True), (25.0, False)):
        path = write_annotations(tmp_path / "x.jsonl", [replace(record(), truth=replace(record().truth, fps=fps))])
        assert validate_annotations(path).ok is fine


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_header_tells_what_decoding_would(tmp_path, suffix):
    """Matroska states no number of frames: its packets are counted."""
    from reward_model.video.clip import read_file

    path = tmp_path / f"x.{suffix}"
    write_clip(path, num_frames=21, fps=16, size=(32, 48))
    frames, fps = read_file(path)
    header = probe(path)
    assert (header.num_frames, header.height, header.width) == frames.shape[:3] == (21, 32, 48)
    assert header.fps == fps == 16


def test_probing_nothing_is_an_error(tmp_path):
    with pytest.raises(VideoError, match="no video file"):
        probe(tmp_path / "x.mp4")
