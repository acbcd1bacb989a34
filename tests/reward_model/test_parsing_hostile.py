"""Answers made to keep a reader busy: all of them are read, or refused, in time that grows with their length alone.

Each is one repeated piece, chosen so that a careless expression looks at the rest of the text again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from reward_model import parsing
from reward_model.data.synthesis.form_check import find_leak, first_step, frame_fault, frame_heads
from reward_model.parsing import ParseError, parse_turn
from reward_model.schema import TurnReport
from reward_model.turns import completed_prefix, verdict_prefix

FRAMES = 2000
ITEM = '{"Attributed Time Region": %s, "Attributed Label": %s, "BBOX": %s}'


def fill(piece: str, size: int) -> str:
    return (piece * (size // len(piece) + 1))[:size]


def listed(count: int, region: str = '"0-3"', label: str = '"object"', bbox: str = '{"Frame 1": [1, 2, 3, 4]}') -> str:
    items = ", ".join([ITEM % (region, label, bbox)] * count)
    return f'{{"COT": "x", "status": "abnormal", "anomalies": [{items}]}}'


def one(region: str = '"0-3"', label: str = '"object"', bbox: str = '{"Frame 1": [1, 2, 3, 4]}') -> str:
    return listed(1, region, label, bbox)


def every_frame(size: int) -> str:
    region = '"' + ",".join(map(str, range(0, FRAMES, 2))) + '"'
    bbox = "{" + ",".join(f'"{k}": [1,2,3,4]' for k in range(FRAMES)) + "}"
    return listed(max(1, size // (len(region) + len(bbox))), region, bbox=bbox)


HOSTILE: dict[str, Callable[[int], str]] = {
    "escaped quotes, cut after a backslash": lambda n: '{"COT": "' + fill('it says \\"OPEN\\" ', n) + "\\",
    "escaped quotes": lambda n: '{"COT": "' + fill('\\"a', n),
    "backslashes": lambda n: '{"COT": "' + fill("\\", n),
    "quotes": lambda n: fill('"', n),
    "curly quotes": lambda n: fill("\u201c", n),
    "objects that begin": lambda n: fill('{"', n),
    "objects that begin, with a space": lambda n: fill('{ "', n),
    "braces": lambda n: fill("{", n),
    "braces and spaces": lambda n: fill("{" + " " * 100, n),
    "one brace, many spaces": lambda n: "{" + " " * n,
    "nested without end": lambda n: fill('{"a":', n),
    "nested 190 deep, again and again": lambda n: fill('{"a":' * 190 + "x", n),
    "nested, long and broken at the end": lambda n: ('{"a":"' + "y" * (n // 900) + '","b":') * 900 + "x",
    "complete objects": lambda n: fill('{"a":1} ', n),
    "objects with two commas": lambda n: fill('{"a":1,,} \u201c', n),
    "verdicts": lambda n: fill('{"status":"normal"} ', n),
    "trailing commas": lambda n: '{"a":1' + fill(",   ", n),
    "one comma, many spaces": lambda n: '{"a":1,' + " " * n,
    "quotes and spaces": lambda n: fill('"' + " " * 50, n),
    "status keys": lambda n: fill(', "status": "normal"', n),
    "status keys and spaces": lambda n: fill(',"status"' + " " * 50, n),
    "frame key with spaces": lambda n: one(bbox='{"Frame 1%sx": [1, 2, 3, 4]}' % (" " * n)),
    "frame key with spaces and a colon": lambda n: one(bbox='{"Frame%s1%s:%sx": []}' % ((" " * (n // 3),) * 3)),
    "whole clip with spaces": lambda n: one('"the%sentire%sclip%s.%sx"' % ((" " * (n // 4),) * 4)),
    "range with spaces": lambda n: one('"frame%s3%s-%s7%sx"' % ((" " * (n // 4),) * 4)),
    "bracketed range with spaces": lambda n: one('"[%s3%s,%s"' % ((" " * (n // 3),) * 3)),
    "ranges": lambda n: one('"{}3"'.format(fill("3,", n))),
    "ranges with words": lambda n: one('"{}3"'.format(fill("3 and ", n))),
    "dashes": lambda n: one('"{}"'.format(fill("3-", n))),
    "digits": lambda n: one("9" * n),
    "digits as text": lambda n: one('"%s"' % ("9" * n)),
    "label": lambda n: one(label='"{}"'.format(fill("object_", n))),
    "a long key": lambda n: '{{"COT": "x", "{}": 1, "status": "normal", "anomalies": []}}'.format(fill("a_ ", n)),
    "anomalies": lambda n: listed(n // len(ITEM)),
    "a box on every frame": every_frame,
    "boxes of a frame": lambda n: one(bbox='{{"Frame 1": [{}[1,2,3,4]]}}'.format(fill("[1,2,3,4],", n // 10 * 10))),
    "half surrogates": lambda n: '{"COT": "' + fill("\\ud800", n),
    "reasoning that looks like keys": lambda n: '{"COT": "' + fill('", "', n),
    "reasoning that looks like an end": lambda n: '{"COT": "' + fill('"}}', n),
    "reasoning with quotes and spaces": lambda n: '{"COT": "' + fill('"   ', n),
    "answers that begin": lambda n: fill('{"COT":"","status":"', n),
    "thoughts that end": lambda n: fill("</think>{", n),
    "thoughts that end, and spaces": lambda n: fill("</think>" + " " * 50, n),
    "a thought before each object": lambda n: fill('</think>{"a":1}', n),
    "control characters": lambda n: fill("\0", n),
}


def seconds(read: Callable[[], object]) -> float:
    start = time.process_time()  # other work on the machine does not count
    try:
        read()
    except ParseError as error:
        assert len(str(error)) < 1000
    return time.process_time() - start


def check(text: str) -> None:
    for turn in (1, 2):
        assert seconds(lambda turn=turn: parse_turn(text, turn=turn, num_frames=FRAMES)) < 1
    assert seconds(lambda: verdict_prefix(text)) < 1
    assert seconds(lambda: completed_prefix(text)) < 1


@pytest.mark.parametrize("name", HOSTILE)
def test_no_answer_keeps_the_reader_busy(name):
    check(HOSTILE[name](40_000))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_and_the_longest_answer_are_read_in_a_second(name):
    check(HOSTILE[name](1_000_000))
    check(HOSTILE[name](parsing.MAX_ANSWER_LENGTH - 1000))


def test_longer_answers_than_anyone_writes_are_refused():
    text = '{"COT": "%s", "status": "normal", "anomalies": []}'
    room = parsing.MAX_ANSWER_LENGTH - len(text) + 2
    assert parse_turn(text % ("x" * room), turn=1, num_frames=5).status == "normal"
    with pytest.raises(ParseError, match=r"500,001 characters, more than 500,000"):
        parse_turn(text % ("x" * (room + 1)), turn=1, num_frames=5)


@pytest.mark.parametrize("piece", [" ", "\n", ". ", "Frame 1 ", "Frame ", "- ", "Step ", ".\n\n*", "Frames 1 - "])
def test_reasoning_that_is_checked_for_its_form_is_read_as_fast(piece):
    """Synthesis looks for the heads of frames and for steps in what a teacher wrote."""
    text = fill(piece, 40_000)
    report = TurnReport("normal", text)
    assert seconds(lambda: (first_step(text), frame_heads(text), frame_fault(text, 21), find_leak(report))) < 1
