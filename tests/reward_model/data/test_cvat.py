"""CVAT: round trips, its frame numbers and pixels, corrected tracks, hostile XML, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from reward_model.data.formats import safe_xml
from reward_model.data.formats.cvat import from_cvat, labels_config, to_cvat
from reward_model.data.records import Record
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation


def record(*anomalies: Anomaly, name: str = "v", width: int = 64) -> Record:
    truth = VideoAnnotation(name, 20, 8.0, width, 48, "a cat", anomalies, "wan")
    return Record(f"clips/{name}.mp4", truth, "train", {"group": "g"})


HAND = Anomaly(
    AnomalyType.HUMAN,
    FrameRange(2, 6),
    {n: (Box(100 + 7 * n, 3, 333, 777), *((Box(0, 0, 1, 1),) if n > 4 else ())) for n in range(2, 7)},
    ("hand", "finger"),
    'six <fingers> & "more"\nthan five',
    "left",
    False,
)
GONE = Anomaly(AnomalyType.MOTION, FrameRange(9, 12), {8: (Box(1, 2, 3, 4),), 13: (Box(5, 6, 7, 8),)}, ("[odd; one",))
LATE = Anomaly(
    AnomalyType.HUMAN, FrameRange(15, 19), {n: (Box(0, 0, 1000, 1000),) for n in range(15, 20)}, salient=True
)
SPOKEN = '<attribute name="window">1 to 3</attribute>'
FAR = '<attribute name="window">1-3</attribute>'
BARE = Anomaly(AnomalyType.PHYSICAL, FrameRange(0, 19), {}, reason="floats")


@pytest.mark.parametrize("width", [16, 64, 1360, 3840])
def test_everything_comes_back_at_any_size(width):
    names = ("a", "b", "c")
    records = [
        record(HAND, GONE, LATE, BARE, name="a", width=width),
        record(name="b", width=width),
        record(LATE, HAND, name="c", width=width),
    ]
    base = [record(name=n, width=width) for n in names]
    found = from_cvat({f"{r.truth.video_id}.xml": to_cvat(r).encode() for r in records}, base)
    assert found.problems == [] and found.records == records


def test_frames_count_from_zero_and_boxes_are_pixels():
    root = ElementTree.fromstring(to_cvat(record(GONE)).encode())
    assert root.findtext("version") == "1.1" and root.findtext("meta/task/source") == "v.mp4"
    boxes = [(b.get("frame"), b.get("outside"), float(b.get("xbr"))) for b in root.iter("box")]
    assert boxes == [("8", "0", 0.192), ("9", "1", 0.192), ("13", "0", 0.448), ("14", "1", 0.448)]
    assert {t.get("label") for t in root.iter("track")} == {"Motion Anomalies"}


def test_the_label_definitions_have_every_attribute_that_is_written():
    labels = json.loads(labels_config())
    assert [x["name"] for x in labels] == [t.value for t in AnomalyType]
    root = ElementTree.fromstring(to_cvat(record(HAND)).encode())
    assert {a.get("name") for a in root.iter("attribute") if a.get("name")} == {
        a["name"] for a in labels[0]["attributes"]
    }


def xml(tracks: str, meta: str = "<name>v</name>") -> dict[str, bytes]:
    text = f"<annotations><version>1.1</version><meta><task>{meta}</task></meta>{tracks}</annotations>"
    return {"job_7.xml": text.encode()}


def box(frame: int, outside: int = 0, x: float = 0.0, more: str = "") -> str:
    place = f'xtl="{x}" ytl="0" xbr="{x + 6.4}" ybr="4.8"'
    return f'<box frame="{frame}" outside="{outside}" keyframe="1" occluded="0" {place} z_order="0">{more}</box>'


def test_tracks_drawn_by_hand_are_expanded_and_give_the_window():
    track = f'<track id="0" label="Object Distortion">{box(3)}{box(7, x=25.6)}{box(9, outside=1, x=25.6)}</track>'
    found = from_cvat(xml(track), [record()])
    assert found.problems == []
    (anomaly,) = found.records[0].truth.anomalies
    assert anomaly.frames == FrameRange(3, 8) and sorted(anomaly.boxes) == [3, 4, 5, 6, 7, 8]
    assert anomaly.boxes[4] == (Box(100, 0, 200, 100),) and anomaly.boxes[8] == (Box(400, 0, 500, 100),)
    assert anomaly.salient is None


def test_tracks_of_one_number_are_one_anomaly_and_the_window_ends_an_open_track():
    words = '<attribute name="anomaly">1</attribute><attribute name="window">3-5</attribute>'
    tracks = "".join(
        f'<track id="{k}" label="Object Distortion">{box(3, x=9.6 * k, more=words)}</track>' for k in (0, 1)
    )
    (anomaly,) = from_cvat(xml(tracks), [record()]).records[0].truth.anomalies
    assert anomaly.frames == FrameRange(3, 5) and {n: len(b) for n, b in anomaly.boxes.items()} == {3: 2, 4: 2, 5: 2}


@pytest.mark.parametrize(
    ("meta", "name"),
    [("<name>v</name>", "x.xml"), ("<name>Task 3</name><source>v.mp4</source>", "x.xml"), ("<name>?</name>", "v.xml")],
)
def test_a_file_finds_its_record_by_task_video_or_name(meta, name):
    (data,) = xml("", meta).values()
    assert from_cvat({name: data}, [record(), record(name="w")]).records == [record()]


@pytest.mark.parametrize(
    ("tracks", "meta", "message"),
    [
        ("", "<name>stranger</name>", "no record for task 'stranger'"),
        ('<image id="0"/>', "<name>v</name>", "CVAT for video"),
        (f'<track label="Ghosts">{box(1)}</track>', "<name>v</name>", "unknown anomaly type 'Ghosts'"),
        (f'<track label="object">{box(99)}</track>', "<name>v</name>", "outside a video of 20"),
        (f'<track label="object">{box(10**8)}</track>', "<name>v</name>", "outside a video of 20"),
        (f'<track label="object">{box(10**12)}</track>', "<name>v</name>", "whole number below"),
        ('<track label="object"><box frame="1"/></track>', "<name>v</name>", "no xtl"),
        (f'<track label="object">{box(1, outside=1)}</track>', "<name>v</name>", "never visible"),
        (f'<track label="object">{box(1, x=math.nan)}</track>', "<name>v</name>", "not finite"),
        ("", "<name>v</name><original_size><width>65</width></original_size>", "width 65, the record 64"),
        ("", "<name>v</name></task><original_size><height>9</height></original_size><task>", "height 9, the record 48"),
        ("", "<name>v</name><frame_filter>odd</frame_filter>", "'odd' is not understood"),
        ("", "<name>v</name><size>4</size><stop_frame>3</stop_frame>", "frames 4-19 were not shown"),
        ("", "<name>v</name><size>10</size><start_frame>10</start_frame>", "frames 0-9 were not shown"),
        ("", "<name>v</name><size>40</size>", "frames 0-39, the record's video has 20"),
        ("", "<name>v</name><size>many</size>", "must be a whole number"),
        ('<track id="3" label="object"/>', "<name>v</name>", "holds no shape"),
        (
            f'<track label="object">{box(4)}</track>',
            "<name>v</name>",
            "nobody ended its track",
        ),
        (f'<track label="object">{box(1, x=99)}</track>', "<name>v</name>", "outside the picture"),
        ("<tag/>", "<name>v</name>", "<tag> is not part of"),
        (
            f'<track label="object">{box(1, more=SPOKEN)}</track>',
            "<name>v</name>",
            "must read like 3-17",
        ),
        (
            f'<track label="object">{box(9, more=FAR)}{box(10, outside=1)}</track>',
            "<name>v</name>",
            "outside the window 1-3",
        ),
    ],
)
def test_what_cannot_be_meant_is_an_error(tracks, meta, message):
    found = from_cvat(xml(tracks, meta), [record()])
    assert found.records == [] and message in found.errors[0].message


BOMB = b'<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><annotations>&y;</annotations>'
LEAK = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotations>&x;</annotations>'


@pytest.mark.parametrize("defused", [True, False])
@pytest.mark.parametrize("data", [BOMB, LEAK, b"<a", b"", b"\xff\xfe", b'<?xml version="1.0" encoding="x-no"?><a/>'])
def test_hostile_xml_is_refused_with_and_without_defusedxml(monkeypatch, data, defused):
    if defused:
        pytest.importorskip("defusedxml")
    else:
        monkeypatch.setattr(safe_xml, "_defusedxml", lambda: None)
    found = from_cvat({"x.xml": data}, [record()])
    assert found.records == [] and len(found.errors) == 1


def test_a_refused_doctype_is_called_by_its_name(monkeypatch):
    monkeypatch.setattr(safe_xml, "_defusedxml", lambda: None)
    assert "document type" in from_cvat({"x.xml": BOMB}, []).problems[0].message


def test_characters_that_xml_cannot_carry_are_replaced():
    spoilt = record(replace(HAND, reason="a\x00b\x1bc"))
    found = from_cvat({"v.xml": to_cvat(spoilt).encode()}, [record()])
    assert found.records[0].truth.anomalies[0].reason == "a\ufffdb\ufffdc"
