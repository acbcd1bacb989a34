"""Adapters: ViF-CoT-4K, DeeptraceReward and tables, on files written in the form their authors describe."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from reward_model.data.annotations import read_annotations, write_annotations
from reward_model.data.formats.common import FormatError, grid_box, seconds_to_frames
from reward_model.data.formats.deeptrace import TO_END, read_deeptrace
from reward_model.data.formats.tabular import TableLayout, read_table
from reward_model.data.formats.vif_cot import TYPE_MAPS, read_vif_cot
from reward_model.schema import AnomalyType, Box, FrameRange


def write_clip(path: Path) -> None:
    """24 frames at 8 fps, 48 x 32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded_clip())


@cache
def encoded_clip() -> bytes:
    """Encoding takes a second and a half for the threads the encoder starts, so it is done once."""
    frames = np.random.default_rng(0).integers(0, 255, (24, 32, 48, 3), dtype=np.uint8)
    return iio.imwrite("<bytes>", frames, extension=".mp4", fps=8, plugin="pyav", codec="libx264")


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(0, 3, (0, 23)), (0.5, 1.0, (4, 8)), (0.51, 0.99, (5, 7)), (0.51, 0.55, (4, 4)), (2.9, 9, (23, 23))],
)
def test_frames_whose_time_lies_in_the_window(start, end, frames):
    assert seconds_to_frames(start, end, 8, 24) == FrameRange(*frames)


@pytest.mark.parametrize(("start", "end"), [(2, 1), (4, 5), (-2, -1), (0, float("nan"))])
def test_times_that_cannot_be(start, end):
    with pytest.raises(FormatError):
        seconds_to_frames(start, end, 8, 24)


@pytest.mark.parametrize(
    "box", [[0, 0, 1], [0.5, 0, 0.5, 1], [0.6, 0, 0.5, 1], [0, 0, 1.5, 1], [0, 0, float("inf"), 1]]
)
def test_boxes_that_cannot_be(box):
    with pytest.raises(FormatError):
        grid_box(box, (1, 1))


def test_boxes_of_every_unit():
    assert grid_box([12, 8, 24, 8], (48, 32), layout="xywh") == Box(250, 250, 750, 500)
    assert grid_box([0, 0, 1.005, 1e-6], (1, 1)) == Box(0, 0, 1000, 1)


# --- ViF-CoT-4K -------------------------------------------------------------------------------------------------------

FAKE = (
    "<think>The scene shows a cook. I can identify this as <type>Texture Jittering</type> in <t>[0.0, 0.5]</t> at "
    "<bbox>[0.0, 0.6, 1.0, 1.0]</bbox>. The tiles tremble. Then <type>abnormal object disappearance</type> in "
    "<t>[1.0, 2.0]</t> at <bbox>[0,0,0,0]</bbox>. A spoon is gone. <type>Unnatural Blur</type> in <t>[0, 1]</t> at "
    "<bbox>[0.0, 0.0, 0.5, 0.5]</bbox>.</think><answer>Fake</answer>"
)
REAL = (
    "<think>I look at the area <t>[0.9, 1.55]</t> at <bbox>[0.3, 0.2, 0.8, 0.5]</bbox>. The spoon moves fluidly, no "
    "<type>Shape Distortion</type> in <t>[0.9, 1.5]</t> at <bbox>[0.1, 0.2, 0.8, 0.5]</bbox>.</think>"
    "<answer>Real</answer>"
)


def sample(text: str, label: str = "fake", name: str = "v1", generator: str = "wan") -> dict[str, Any]:
    folder = f"/x/parsed_frames/kinetics/{label}/{generator}/{name}"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    messages.append({"role": "assistant", "content": text})
    return {"messages": messages, "images": [f"{folder}/{k}.png" for k in range(3)]}


@pytest.fixture
def vif(tmp_path: Path) -> Any:
    write_clip(tmp_path / "videos/kinetics/fake/wan_v1.mp4")
    write_clip(tmp_path / "videos/kinetics/real/real_v1.mp4")

    def read(*samples: Any, **options: Any) -> Any:
        path = tmp_path / "ladm_sft.json"
        path.write_text(json.dumps(samples))
        pattern = options.pop("video_pattern", "{source}/{label}/*{video_id}.mp4")
        return read_vif_cot(path, video_root=tmp_path / "videos", video_pattern=pattern, **options)

    return read


def test_evidence_of_a_fake_becomes_anomalies_with_native_frames(vif):
    found = vif(sample(FAKE))
    assert found.problems == []
    record = found.records[0]
    jitter, gone = record.truth.anomalies
    assert (record.video, record.truth.num_frames, record.truth.fps) == ("kinetics/fake/wan_v1.mp4", 24, 8)
    assert jitter.type is AnomalyType.MOTION and jitter.frames == FrameRange(0, 4)
    assert jitter.boxes == dict.fromkeys(range(5), (Box(0, 600, 1000, 1000),))
    assert jitter.reason == "I can identify this as Texture Jittering. The tiles tremble."
    assert gone.frames == FrameRange(8, 16) and gone.boxes == {}


def test_inspections_of_a_real_video_are_never_anomalies(vif):
    found = vif(sample(REAL, "real", generator="real"))
    assert found.problems == [] and found.records[0].truth.status == "normal"


def test_twins_share_a_group_and_duplicates_are_left_out(vif):
    found = vif(sample(FAKE), sample(REAL, "real", generator="real"), sample(FAKE))
    assert [r.group for r in found.records] == ["kinetics/v1", "kinetics/v1"]
    assert [(p.line, p.severity) for p in found.problems] == [(3, "warning")]


def test_the_presets_differ_in_appearance_and_disappearance_alone(vif):
    paper, cac = TYPE_MAPS["paper"], TYPE_MAPS["cac"]
    assert {k for k in cac if paper[k] != cac[k]} == {"Abnormal Object Appearance", "Abnormal Object Disappearance"}
    assert len(cac) == 23 and set(cac.values()) == {*AnomalyType, None}
    assert vif(sample(FAKE)).records[0].truth.anomalies[1].type is AnomalyType.OBJECT
    assert vif(sample(FAKE), type_map="cac").records[0].truth.anomalies[1].type is AnomalyType.MOTION


def test_a_fake_without_a_local_anomaly_is_left_out_not_called_normal(vif):
    only_blur = "<type>Unnatural Blur</type> in <t>[0, 1]</t> <answer>Fake</answer>"
    found = vif(sample(only_blur))
    assert found.records == [] and found.problems[0].severity == "warning"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sample(FAKE.replace("Texture Jittering", "Ghost")), "'Ghost' is not in the type map"),
        (sample(FAKE.replace("Fake</answer>", "Maybe</answer>")), "one <answer>"),
        (sample(REAL), "the answer says real"),
        (sample(FAKE.replace("<t>[0.0, 0.5]</t>", "")), "not followed by its <t>"),
        (sample(FAKE.replace("[0.0, 0.5]", "[0.5, 0.0]")), "start <= end"),
        (sample(FAKE.replace("[0.0, 0.5]", "[zero, one]")), "must hold 2 numbers"),
        (sample(FAKE.replace("[0.0, 0.6, 1.0, 1.0]", "[0.0, 0.6, 1.0, 0.2]")), "swapped corners"),
        (sample(FAKE, name="v9"), "0 files match"),
        ({"messages": [], "images": []}, "no list of 'images'"),
        ({**sample(FAKE), "images": ["a/b.png"]}, "expected one folder"),
        ({**sample(FAKE), "messages": 3}, ""),
        (3, "no list of 'images'"),
    ],
)
def test_what_does_not_look_as_described_is_reported(vif, bad, message):
    found = vif(bad, sample(REAL, "real", generator="real"))
    assert [p.line for p in found.errors] == [1] and re.search(message, found.errors[0].message)
    assert len(found.records) == 1


def test_options_of_the_vif_adapter_are_checked(vif):
    with pytest.raises(FormatError, match="one of paper, cac"):
        vif(sample(FAKE), type_map="skyra")
    assert "bad field" in vif(sample(FAKE), video_pattern="{folder}.mp4").errors[0].message


# --- DeeptraceReward --------------------------------------------------------------------------------------------------

ROW = {
    "video_id": "7",
    "video_path": "fake/7.mp4",
    "video_type": "fake_video",
    "video_source": "gen-x",
    "video_prompt": "a cat",
    "split": "train",
    "video_width": 48,
    "video_height": 32,
    "video_frame_rate": 8.0,
    "video_frame_count": 24,
    "video_duration": 3.0,
    "faketrace_bbox": {"left": 12, "top": 8, "width": 24, "height": 8},
    "faketrace_first_frame": 5,
    "faketrace_explanations": "the tail melts",
    "faketrace_check_applies": ["tag one", "tag-two"],
    "last": 9,
}
NORMAL = {**ROW, "video_id": "8", "video_type": "real_video", "video_path": "real/8.mp4", "faketrace_bbox": None}
TAGS = {"tag one": None, "Tag Two": "object"}


def deeptrace(tmp_path: Path, *rows: Any, **options: Any) -> Any:
    path = tmp_path / "all_data.json"
    path.write_text(json.dumps(rows))
    return read_deeptrace(path, **{"type_map": TAGS, "last_frame": "last", "first_index": 1, **options})


def test_traces_are_grouped_by_video(tmp_path):
    second = {**ROW, "faketrace_first_frame": 20, "last": 24}
    found = deeptrace(tmp_path, ROW, NORMAL, second)
    assert found.problems == []
    fake, real = found.records
    assert real.truth.status == "normal" and fake.split == "train" and fake.video == "fake/7.mp4"
    first, last = fake.truth.anomalies
    assert first.type is AnomalyType.OBJECT and first.frames == FrameRange(4, 8) and last.frames == FrameRange(19, 23)
    assert first.boxes == {4: (Box(250, 250, 750, 500),)} and first.reason == "the tail melts"
    write_annotations(tmp_path / "x.jsonl", found.records)


def test_what_the_file_does_not_say_is_the_callers_choice(tmp_path):
    options = {"last_frame": TO_END, "first_index": 0, "box_on": "all", "group_field": "video_prompt"}
    record = deeptrace(tmp_path, ROW, **options).records[0]
    assert record.truth.anomalies[0].frames == FrameRange(5, 23) and len(record.truth.anomalies[0].boxes) == 19
    assert record.group == "a cat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_type": "cartoon"}, "fake_video, real_video"),
        ({"faketrace_check_applies": ["tag three"]}, "'tag three' is not in the type map"),
        ({"faketrace_first_frame": 0}, "at least 1"),
        ({"faketrace_first_frame": 5.5}, "must be an integer"),
        ({"last": 30}, "frame 29 is outside"),
        ({"last": 2}, "start <= end"),
        ({"faketrace_bbox": {"left": 1}}, "'top' is missing"),
        ({"faketrace_bbox": {"left": 40, "top": 0, "width": 24, "height": 8}}, "leaves a picture"),
        ({"video_frame_rate": None}, ""),
        ({"video_width": 48.5}, "width is 48.5"),
    ],
)
def test_broken_rows_are_reported(tmp_path, change, message):
    found = deeptrace(tmp_path, {**ROW, **change}, NORMAL, 3)
    assert [r.truth.video_id for r in found.records] == ["8"]
    assert {p.line for p in found.errors} == {1, 3} and re.search(message, found.errors[1].message)


def test_an_unknown_field_is_named(tmp_path):
    assert "'offset' is missing" in deeptrace(tmp_path, ROW, last_frame="offset").errors[0].message
    with pytest.raises(FormatError, match="first_index=2"):
        deeptrace(tmp_path, ROW, first_index=2)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in "ab":
        write_clip(tmp_path / f"clips/{name}.mp4")
    return tmp_path


def table(folder: Path, text: str, name: str = "t.csv", **layout: Any) -> Any:
    (folder / name).write_text(text, encoding="utf-8")
    return read_table(folder / name, TableLayout(**layout), video_root=folder)


def test_a_csv_in_seconds_and_pixels_with_columns_of_its_own(videos):
    text = (
        "\ufefffile,what,on,off,l,t,w,h,why,who\n"
        'clips/a.mp4,hands,0.5,1.0,12,8,24,8,"six, or\nseven",hand; finger\n'
        "clips/a.mp4,smear,0,2,,,,,,\n"
        "clips/b.mp4,,,,,,,,,\n"
    )
    columns = {"video": "file", "type": "what", "start": "on", "end": "off", "reason": "why", "objects": "who"}
    columns |= dict(zip(("xmin", "ymin", "xmax", "ymax"), "ltwh", strict=True))
    types = {"hands": "human", "smear": None}
    found = table(videos, text, columns=columns, time="seconds", box_unit="pixels", box_layout="xywh", type_map=types)
    assert found.problems == []
    (hand,) = found.records[0].truth.anomalies
    assert hand.frames == FrameRange(4, 8) and hand.boxes[4] == (Box(250, 250, 750, 500),) and len(hand.boxes) == 5
    assert hand.reason == "six, or\nseven" and hand.objects == ("hand", "finger")
    assert found.records[1].truth.status == "normal"
    path = write_annotations(videos / "x.jsonl", found.records)
    assert read_annotations(path) == found.records


def test_rows_of_one_anomaly_bring_their_boxes_together(videos):
    rows = [
        {
            "video": "clips/a.mp4",
            "type": "text",
            "start": 3,
            "end": 5,
            "frame": n,
            "xmin": 0,
            "ymin": 0,
            "xmax": x,
            "ymax": 9,
        }
        for n, x in ((3, 5), (4, 6), (4, 7))
    ]
    found = table(videos, "\n".join(map(json.dumps, rows)), "t.jsonl", first_index=1)
    (anomaly,) = found.records[0].truth.anomalies
    assert anomaly.frames == FrameRange(2, 4)
    assert {n: [b.xmax for b in entries] for n, entries in anomaly.boxes.items()} == {2: [5], 3: [6, 7]}


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ("clips/a.mp4,Ghosts,1,2,", 2, "unknown anomaly type 'Ghosts'"),
        ("clips/a.mp4,text,1,x,", 2, "end is 'x'"),
        ("clips/a.mp4,text,1.5,2,", 2, "in seconds"),
        ("clips/a.mp4,text,1,99,", 2, "outside a video of 24"),
        ("clips/a.mp4,text,1,2,\nclips/a.mp4,text,5,2,", 3, "start <= end"),
        ("clips/a.mp4,text,1,2,\nclips/a.mp4,,,,", 2, "some say it is normal"),
        ("clips/a.mp4,text,1,2,k\nclips/a.mp4,text,1,3,k", 2, "rows of one anomaly"),
        ("clips/z.mp4,,,,", 2, "no video file"),
        (",text,1,2,", 2, "names no video"),
    ],
)
def test_broken_tables_are_reported_by_line(videos, rows, line, message):
    found = table(videos, f"video,type,start,end,anomaly\n{rows}\nclips/b.mp4,,,,\n")
    assert [r.video for r in found.records] == ["clips/b.mp4"]
    assert any(p.line in (line, line + 1) and message in p.message for p in found.errors)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "video,kind\n", "no column 'type'"),
        ("t.csv", "", "no column 'video'"),
        ("t.txt", "", "must end in"),
    ],
)
def test_files_that_are_no_table(videos, name, text, message):
    with pytest.raises(FormatError, match=message):
        table(videos, text, name)


def test_a_bad_line_of_a_table_is_a_problem_and_the_others_are_read(videos):
    found = table(videos, '{\n[]\n"x"\n' + "[" * 100_000 + '\n{"video": "clips/b.mp4", "type": null}\n', "t.jsonl")
    assert [r.video for r in found.records] == ["clips/b.mp4"]
    assert [p.line for p in found.errors] == [1, 2, 3, 4]
    assert "not JSON" in found.errors[0].message and "nested too deeply" in found.errors[3].message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_table_in_the_encodings_of_spreadsheets(videos, encoding):
    (videos / "t.csv").write_bytes("video,type,start,end,reason\nclips/b.mp4,text,1,2,schief \u00e9\n".encode(encoding))
    found = read_table(videos / "t.csv", video_root=videos)
    assert found.records[0].truth.anomalies[0].reason == "schief \u00e9"


def test_huge_numbers_are_refused_before_they_are_expanded(videos):
    found = table(videos, "video,type,start,end,xmin,ymin,xmax,ymax\nclips/b.mp4,text,0,1000000000,1,1,9,9\n", "t.csv")
    assert found.records == [] and "outside a video of 24 frames" in found.errors[0].message


@pytest.mark.parametrize(
    "layout", [{"columns": {"what": "x"}}, {"time": "hours"}, {"box_unit": "miles"}, {"first_index": 2}]
)
def test_layouts_are_checked(layout):
    with pytest.raises(FormatError):
        TableLayout(**layout)
