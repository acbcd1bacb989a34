"""JSON by the letter, and what differs between two values."""

from __future__ import annotations

import math

import pytest

from reward_model.strict_json import differences, is_int, is_number, read_strictly, strict_decoder


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "key 'c' is given twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": 1} x', "Extra data"),
        ('"a\nb"', "control character"),
        ("", "Expecting value"),
    ],
)
def test_what_is_not_json_by_the_letter_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        read_strictly(text)


def test_an_own_error_and_an_own_spelling_of_keys():
    decoder = strict_decoder(KeyError, key=str.lower, control_characters=True)
    assert decoder.decode('{"A": "x\ny"}') == {"a": "x\ny"}
    with pytest.raises(KeyError, match="'a' is given twice"):
        decoder.decode('{"A": 1, "a": 2}')


def test_truth_values_are_no_numbers():
    assert is_int(0) and is_number(0) and is_number(0.5)
    for value in (True, False, None, "1", [1]):
        assert not is_int(value) and not is_number(value)
    assert not is_int(1.0) and not is_number(math.nan) and not is_number(math.inf)


def test_differences_name_leaves_and_cut_long_values():
    before = {"same": 1, "deep": {"a": [1, 2], "gone": True}, "long": "x" * 100}
    now = {"same": 1, "deep": {"a": [1, 3], "new": 0}, "long": "y"}
    assert differences(before, now) == [
        "deep.a was [1, 2], now [1, 3]",
        "deep.gone was true, now absent",
        "deep.new was absent, now 0",
        f'long was "{"x" * 76}..., now "y"',
    ]
