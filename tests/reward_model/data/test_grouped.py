"""The paper's record: one group per type in the order of the taxonomy, out and back without a loss."""

from __future__ import annotations

import json

import pytest

from reward_model.data.formats.common import FormatError
from reward_model.data.formats.grouped import from_grouped, in_type_order, read_grouped, to_grouped
from reward_model.data.records import Record
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation

OBJECT, HUMAN, MOTION, PHYSICAL, CHARACTER = AnomalyType


def anomaly(kind: AnomalyType, first: int, last: int, **more: object) -> Anomaly:
    boxes = {n: (Box(10, 20, 30 + n, 40), Box(500, 0, 1000, 7)) for n in (first, last)}
    return Anomaly(kind, FrameRange(first, last), boxes, ("cup", "h\u00e4nd"), "melts", "left", **more)


MIXED = (
    anomaly(MOTION, 40, 56, salient=True),
    anomaly(OBJECT, 0, 80),
    anomaly(CHARACTER, 8, 16),
    anomaly(OBJECT, 12, 20),
)
RECORD = Record(
    "clips/a.mp4", VideoAnnotation("a", 81, 16.0, 832, 480, "a cup", MIXED, "wan"), "train", {"group": "g", "note": 3}
)
NORMAL = Record("clips/n.mp4", VideoAnnotation("n", 81, 16.0, 832, 480))


def test_types_have_one_group_each_in_the_papers_order_and_everything_comes_back():
    data = json.loads(json.dumps(to_grouped(RECORD)))
    assert [g["type"] for g in data["groups"]] == [OBJECT.value, MOTION.value, CHARACTER.value]
    assert [len(g["instances"]) for g in data["groups"]] == [2, 1, 1] and "anomalies" not in data
    assert [i["frames"] for i in data["groups"][0]["instances"]] == [[0, 80], [12, 20]]
    back = from_grouped(data)
    assert back == in_type_order(RECORD) and [a.type for a in back.truth.anomalies] == [
        OBJECT,
        OBJECT,
        MOTION,
        CHARACTER,
    ]
    assert to_grouped(back) == to_grouped(RECORD)
    assert from_grouped(to_grouped(NORMAL)) == NORMAL and to_grouped(NORMAL)["groups"] == []


def test_frames_may_count_the_sampled_sequence_as_the_paper_does():
    """At 4 of 16 frames per second, frame k of the sequence is frame 4 k of the video."""
    data = json.loads(json.dumps(to_grouped(RECORD, sample_fps=4)))
    assert data["frame_indices"] == list(range(0, 81, 4))
    assert [i["frames"] for i in data["groups"][0]["instances"]] == [[0, 20], [3, 5]]
    assert sorted(data["groups"][1]["instances"][0]["boxes"]) == ["10", "14"]
    assert from_grouped(data) == in_type_order(RECORD)


def broken(**change: object) -> dict:
    data = json.loads(json.dumps(to_grouped(RECORD, sample_fps=4)))
    return {**data, **change}


GROUPS = to_grouped(RECORD)["groups"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "list of 'groups'"),
        (broken(groups=None), "list of 'groups'"),
        (
            broken(groups=[{"type": "object", "instances": [{"frames": [3, 4]}]}] * 2),
            "two groups of 'Object Distortion'",
        ),
        (broken(groups=GROUPS[::-1]), "must stand before"),
        (broken(groups=[{"type": "Ghosts", "instances": [1]}]), "unknown anomaly type 'Ghosts'"),
        (broken(groups=[{"type": OBJECT.value, "instances": []}]), "leave an empty group out"),
        (broken(groups=["x"]), "an object with a type"),
        (broken(groups=[{"type": OBJECT.value, "instances": [7]}]), "anomaly 1: it is a"),
        (broken(groups=[{"type": OBJECT.value, "instances": [{"frames": [3, 99]}]}]), "21 sampled frames"),
        (broken(groups=[{"type": OBJECT.value, "instances": [{"frames": "x"}]}]), "must be [first, last]"),
        (broken(frame_indices=[0, 0, 4]), "ascending"),
        (broken(frame_indices=[0, 400]), "2 sampled frames"),
        (broken(num_frames="81"), "num_frames is '81'"),
        (broken(status="normal"), "contradicts"),
    ],
)
def test_what_is_not_such_a_record_is_named(data, message):
    with pytest.raises(FormatError) as caught:
        from_grouped(data)
    assert message in str(caught.value)


def test_one_bad_line_does_not_end_the_file(tmp_path):
    good = json.dumps(to_grouped(NORMAL))
    (tmp_path / "g.jsonl").write_text(f"{good}\n\n{{\n" + "[" * 100_000 + "\n{}\n")
    found = read_grouped(tmp_path / "g.jsonl")
    assert found.records == [NORMAL] and [p.line for p in found.errors] == [3, 4, 5]
