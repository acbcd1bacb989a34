"""The parser: what it must read, what it must refuse, and the round trip with the writer."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_model.parsing import ParseError, forced_prefix, format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport
from tests.campaigns import draws

#: Other work on the machine must not fail a test: no time limits on single examples.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


FRAMES = 21
NORMAL = '{"COT": "all well", "status": "normal", "anomalies": []}'


def answer(region: object = "Frame 3-7", label: object = "Motion Anomalies", bbox: object = None, **changes) -> str:
    item = {
        "Attributed Time Region": region,
        "Attributed Label": label,
        "Reason for Anomaly": "the ball vanishes",
        "Problem Region": "centre",
        "BBOX": bbox if bbox is not None else {"Frame 3": [10, 20, 30, 40]},
    }
    return json.dumps(
        {"COT": "Frame 0: fine", "status": "abnormal", "anomalies": [item], **changes}, ensure_ascii=False
    )


def read(text: str, turn: int = 2, num_frames: int = FRAMES) -> TurnReport:
    return parse_turn(text, turn=turn, num_frames=num_frames)


# --- round trip ------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60) | st.sampled_from(
    [
        'a "quoted" word',
        "```json\n{}\n```",
        "trailing,]}",
        '{"status": "normal"}',
        '\\"status\\": \\"',
        "\u201csmart\u201d",
        "\\",
        "\x00\n",
    ]
)


@st.composite
def some_boxes(draw) -> Box:
    x0, y0 = draw(st.integers(0, 999)), draw(st.integers(0, 999))
    return Box(x0, y0, draw(st.integers(x0 + 1, 1000)), draw(st.integers(y0 + 1, 1000)))


@st.composite
def reports(draw, with_boxes: bool = True) -> TurnReport:
    anomalies = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, FRAMES - 1))
        per_frame = st.lists(some_boxes(), min_size=1, max_size=3).map(tuple)
        boxes = (
            draw(st.dictionaries(st.integers(0, FRAMES - 1), per_frame, min_size=1, max_size=4)) if with_boxes else {}
        )
        anomalies.append(
            Anomaly(
                type=draw(st.sampled_from(list(AnomalyType))),
                frames=FrameRange(start, draw(st.integers(start, FRAMES - 1))),
                boxes=dict(sorted(boxes.items())),
                reason=draw(texts),
                region=draw(texts),
            )
        )
    return TurnReport("abnormal" if anomalies else "normal", draw(texts), tuple(anomalies))


@settings(RELAXED, max_examples=draws(120, 12))
@given(reports())
def test_what_is_written_is_read_back(report):
    assert read(format_report(report), turn=2) == report


@settings(RELAXED, max_examples=draws(100, 12))
@given(reports(with_boxes=False))
def test_turn_one_is_written_without_boxes(report):
    text = format_report(report, boxes=False)
    assert "BBOX" not in json.dumps(json.loads(text)["anomalies"])
    assert read(text, turn=1) == report


@settings(RELAXED, max_examples=draws(80, 10))
@given(
    reports(),
    st.sampled_from(["", " ", "```json\n", "Sure, here it is:\n\n", "5\" wide, it's: ", "<think>\nhm { }\n</think>\n"]),
)
def test_prose_and_fences_around_the_object_change_nothing(report, before):
    assert read(before + format_report(report) + "\n```\nHope that helps :) }") == report


@settings(RELAXED, max_examples=draws(100, 15))
@given(texts)
def test_forced_prefix_begins_the_canonical_answer(cot):
    assert format_report(TurnReport("normal", cot)).startswith(forced_prefix(cot) + "normal")
    assert read(forced_prefix(cot) + 'normal", "anomalies": []}').cot == cot


@settings(RELAXED, max_examples=draws(40, 5))
@given(reports())
def test_every_unfinished_answer_is_refused(report):
    text = format_report(report)
    for cut in range(0, len(text), max(1, len(text) // 50)):
        with pytest.raises(ParseError):
            read(text[:cut])


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("Frame 3-7", [(3, 7)]),
        ("Frame 3\u20137", [(3, 7)]),
        ("frames 3 \u2014 7.", [(3, 7)]),
        ("3-7", [(3, 7)]),
        ("Frame 3 - Frame 7", [(3, 7)]),
        ("Frame 3 to 7", [(3, 7)]),
        ("Frame 5", [(5, 5)]),
        (5, [(5, 5)]),
        ([3, 7], [(3, 7)]),
        ("[3, 7]", [(3, 7)]),
        (["Frame 1-2", "Frame 8-9"], [(1, 2), (8, 9)]),
        ("Frame 1-2, Frame 8-9", [(1, 2), (8, 9)]),
        ("8-9; 1-2", [(1, 2), (8, 9)]),
        ([[1, 2], [8, 9]], [(1, 2), (8, 9)]),
        ("1-4 and 3-6", [(1, 6)]),
        ("entire clip", [(0, 20)]),
    ],
)
def test_time_regions_are_read_in_every_spelling(region, expected):
    assert [(a.frames.start, a.frames.end) for a in read(answer(region)).anomalies] == expected


@pytest.mark.parametrize(
    "region",
    [
        "",
        "-",
        "Frame",
        "Frame 7-3",
        "Frame 21-22",
        "21",
        -1,
        True,
        3.5,
        None,
        {},
        [],
        "3-7-9",
        "0.5-1.0 s",
        "three",
        "3-",
        "Frame 99999999999",
        "3 7",
    ],
)
def test_other_time_regions_are_refused(region):
    with pytest.raises(ParseError):
        read(answer(region))


def test_whole_clip_means_a_range_only_in_turn_two():
    with pytest.raises(ParseError):
        read(answer("entire clip"), turn=1)


@pytest.mark.parametrize(
    "label", ["motion", "Motion anomaly", "MOTION_ANOMALIES", ["Motion Anomalies"], " temporal inconsistency "]
)
def test_labels_are_read_through_their_aliases(label):
    assert read(answer(label=label)).types == (AnomalyType.MOTION,)


@pytest.mark.parametrize(
    "label", ["", "Motion Anomalie?", "weird", None, 3, [], ["Motion Anomalies", "Object Distortion"], "Motion, Object"]
)
def test_other_labels_are_refused(label):
    with pytest.raises(ParseError):
        read(answer(label=label))


def test_boxes_one_or_several_per_frame_with_whole_floats():
    report = read(
        answer(bbox={"Frame 4": [[1, 2, 3, 4], [5, 6, 7, 8]], "3": [1.0, 2, 3, 4], "frame 5:": [[0, 0, 1000, 1000]]})
    )
    assert report.anomalies[0].boxes == {
        3: (Box(1, 2, 3, 4),),
        4: (Box(1, 2, 3, 4), Box(5, 6, 7, 8)),
        5: (Box(0, 0, 1000, 1000),),
    }


@pytest.mark.parametrize(
    "bbox",
    [
        {},
        [],
        "none",
        {"Frame 21": [1, 2, 3, 4]},
        {"Frame -1": [1, 2, 3, 4]},
        {"somewhere": [1, 2, 3, 4]},
        {"Frame 3": [3, 2, 1, 4]},
        {"Frame 3": [1, 2, 1, 4]},
        {"Frame 3": [1, 2, 3]},
        {"Frame 3": [1, 2, 3, 1001]},
        {"Frame 3": [0.1, 0.2, 0.5, 0.9]},
        {"Frame 3": ["1", "2", "3", "4"]},
        {"Frame 3": [True, 2, 3, 4]},
        {"Frame 3": [1, 2, 3, 1e999]},
        {"Frame 3": []},
        {"Frame 3": [[1, 2, 3, 4], []]},
        {"Frame 3": {"xmin": 1}},
        {"Frame 3": [1, 2, 3, 4], "frame 3": [1, 2, 3, 5]},
    ],
)
def test_broken_boxes_are_refused_in_turn_two_and_ignored_in_turn_one(bbox):
    with pytest.raises(ParseError):
        read(answer(bbox=bbox))
    if "Infinity" not in answer(bbox=bbox):
        assert read(answer(bbox=bbox), turn=1).anomalies[0].boxes == {}


def test_each_range_keeps_the_boxes_nearest_to_it():
    first, second = read(answer("1-2, 8-9", bbox={"Frame 2": [1, 2, 3, 4], "Frame 7": [5, 6, 7, 8]})).anomalies
    assert (list(first.boxes), list(second.boxes)) == ([2], [7])


@pytest.mark.parametrize("bbox", [{"Frame 3": [0, 0, 5, 5]}, {"Frame 8": [0, 0, 5, 5]}, {"Frame 12": [0, 0, 5, 5]}])
def test_ranges_without_boxes_are_written_beside_those_that_have_some(bbox):
    """What was read can be written and read again: such answers are what synthesis stores for training."""
    report = read(answer("3-4, 9-10, 15", bbox=bbox))
    assert [bool(a.boxes) for a in report.anomalies].count(True) == 1
    assert read(format_report(report)) == report
    twice = TurnReport("abnormal", "", report.anomalies * 2)
    assert read(format_report(twice)) == twice


def test_keys_and_status_are_read_in_any_case():
    text = '{"cot": "x", "Status": " Normal ", "ANOMALIES": []}'
    assert read(text).status == "normal"


def test_smart_quotes_and_trailing_commas_are_form():
    plain = read(answer())
    curly = "".join("\u201c\u201d"[k % 2] + part if k else part for k, part in enumerate(answer().split('"')))
    assert read(curly) == plain
    assert read(answer().replace("}", ",}").replace("]", " , ]")) == plain


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "normal",
        "[]",
        "{}",
        "null",
        '"status": "normal"',
        NORMAL + NORMAL,
        NORMAL.replace("normal", "fine"),
        NORMAL.replace('"normal"', "true"),
        NORMAL.replace("[]", "null"),
        NORMAL.replace("[]", "{}"),
        NORMAL.replace('"COT": "all well", ', ""),
        NORMAL.replace('"all well"', "[]"),
        NORMAL.replace("normal", "abnormal"),
        NORMAL.replace("[]", '["x"]'),
        NORMAL.replace("{", '{"status": "abnormal", '),
        NORMAL.replace('"all well"', "NaN"),
        '{"answer": ' + NORMAL + "}",
        answer(status="normal"),
        answer(anomalies=[]),
        answer(anomalies=[None]),
    ],
)
def test_what_breaks_the_schema_is_refused_with_its_text(text):
    with pytest.raises(ParseError) as caught:
        read(text)
    assert caught.value.text == text and caught.value.reason


def test_a_complete_object_beside_a_broken_one_is_ambiguous():
    """A judge that starts over has not decided; the second try must not win by being the only complete one."""
    for text in (answer()[:60] + "\n" + NORMAL, '{"COT": "maybe ' + NORMAL, NORMAL + answer()[:60]):
        with pytest.raises(ParseError, match="second"):
            read(text)
    smart = NORMAL.replace('"', "\u201c")
    with pytest.raises(ParseError):
        read('{"COT": "as in ' + smart)


def test_repairs_touch_nothing_that_is_readable():
    """A lone quote in the prose must not make the repair of trailing commas eat commas of the reasoning."""
    assert read('5" wide: ' + NORMAL.replace("all well", "a,] b,}")).cot == "a,] b,}"


def test_half_surrogates_become_text_a_file_can_hold():
    read(NORMAL.replace("all well", "\\ud800!")).cot.encode()
    assert read(NORMAL.replace("all well", "\\ud83d\\ude00")).cot == "\U0001f600"


@pytest.mark.parametrize("text", [None, b"{}", 3, ["x"]])
def test_other_things_than_text_are_refused(text):
    with pytest.raises(ParseError):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 20_000,
        "[" * 100_000,
        '{"COT": ' + "[" * 50_000,
        '\\"' * 40_000,
        "{" * 50_000,
        '{"' * 15_000,
        answer("9" * 10_000),
        answer(label="x" * 10**6),
    ],
)
def test_no_answer_keeps_the_parser_busy(text):
    start = time.process_time()  # other work on the machine does not count
    with pytest.raises(ParseError) as caught:
        read(text)
    assert time.process_time() - start < 2.0 and len(str(caught.value)) < 1000


def test_errors_travel_between_processes():
    with pytest.raises(ParseError) as caught:
        read("garbage")
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (type(twin), twin.text, twin.reason, str(twin)) == (
        ParseError,
        "garbage",
        caught.value.reason,
        str(caught.value),
    )


@pytest.mark.parametrize(("turn", "num_frames"), [(0, 5), (3, 5), (1, 0)])
def test_wrong_arguments_are_the_callers_mistake(turn, num_frames):
    with pytest.raises(ValueError, match="must be") as caught:
        parse_turn(NORMAL, turn=turn, num_frames=num_frames)
    assert not isinstance(caught.value, ParseError)
