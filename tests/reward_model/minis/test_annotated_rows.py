"""Answers about annotated videos have the coordinates that a mini has tokens for."""

import numpy as np
import pytest

from reward_model.data.example import Example
from reward_model.minis.annotated_rows import OnPixels
from reward_model.minis.tokenizer import build_tokenizer, coordinate_values
from reward_model.parsing import format_report, parse_turn
from reward_model.prompts import load_prompts
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport


def row_and_load(task="zoom", cot="Frame 0: normal."):
    boxes = {1: (Box(322, 489, 521, 740), Box(0, 0, 3, 1000))} if task != "scan" else {}
    found = Anomaly(AnomalyType.MOTION, FrameRange(1, 2), boxes, ("disc",), "the disc flickers", "the left")
    answer = format_report(TurnReport("abnormal", cot, (found,)), boxes=task != "scan")
    asked = load_prompts("compact").scan(np.zeros((4, 1, 1, 3), np.uint8))
    return {"task": task, "indices": [0, 2, 4, 6]}, lambda row: Example(asked, answer)


@pytest.mark.parametrize("task", ["zoom", "frame"])
def test_boxes_lie_on_the_48_pixels_of_a_frame(task):
    row, load = row_and_load(task)
    report = parse_turn(OnPixels(load)(row).answer, turn=2, num_frames=4)
    before = parse_turn(load(row).answer, turn=2, num_frames=4)
    # 322 of 1000 is pixel 15.5 of 48, 489 is 23.5, 521 is 25.0, 740 is 35.5; a box is at least a pixel wide.
    drawn = [box.as_list() for box in report.anomalies[0].boxes[1]]
    assert drawn == [[312, 479, 521, 750], [0, 0, 21, 1000]]
    assert {value for box in drawn for value in box} <= set(coordinate_values())
    assert (report.status, report.cot, report.anomalies[0].frames) == ("abnormal", before.cot, FrameRange(1, 2))


def test_every_corner_is_one_token_and_none_is_spelled():
    row, load = row_and_load()
    tokenizer = build_tokenizer()

    def corners(answer):
        start = answer.index("[[") + 2
        return len(tokenizer.encode(answer[start : answer.index("]]")], add_special_tokens=False))

    assert corners(OnPixels(load)(row).answer) == 9, "eight corners and what stands between two boxes"
    assert corners(load(row).answer) > 15


def test_turn_one_is_left_as_it_is():
    row, load = row_and_load("scan")
    assert OnPixels(load)(row) == load(row)
