"""What the page may send."""

import pytest

from cac_align.rating.answers import AnswerError, check_decision, check_name, check_rating


def rating(**change):
    return {"status": "abnormal", "anomalies": [anomaly()], "note": "", "done": True, **change}


def anomaly(**change):
    return {"type": "Object Distortion", "frames": [2, 5], "boxes": {"3": [[0, 0, 10, 10]]}, **change}


def test_a_finished_rating_is_kept():
    kept = check_rating(rating(), 10)
    assert kept["anomalies"][0]["frames"] == [2, 5] and kept["anomalies"][0]["boxes"] == {"3": [[0, 0, 10, 10]]}
    assert check_rating(rating(status="normal", anomalies=[]), 10)["status"] == "normal"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "bad"}, "status 'bad'"),
        ({"status": "normal"}, "abnormal; remove them"),
        ({"status": None, "anomalies": []}, "normal or abnormal first"),
        ({"anomalies": []}, "say what is wrong"),
        ({"anomalies": [anomaly(frames=None)]}, "no window yet"),
        ({"anomalies": [anomaly(frames=[2, 10])]}, "anomaly 1"),
        ({"anomalies": [anomaly(boxes={"8": [[0, 0, 1, 1]]})]}, "outside the window"),
        ({"anomalies": [anomaly(boxes={"3": [[0, 0, 0, 1]]})]}, "no area"),
        ({"anomalies": [anomaly(type="nonsense")]}, "unknown anomaly type"),
        ({"anomalies": [anomaly(reason="x" * 2001)]}, "at most 2000"),
        ({"anomalies": [anomaly(reason="\ud800")]}, "half a character"),
        ({"anomalies": [anomaly()] * 65}, "at most 64"),
        ({"anomalies": ["x"]}, "not an object"),
        ({"done": 1}, "true or false"),
        ({"more": 1}, "an answer is an object"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_rule(change, message):
    with pytest.raises(AnswerError, match=message):
        check_rating(rating(**change), 10)


def test_half_done_ratings_may_lack_windows_and_have_boxes_outside_but_nothing_absurd():
    for draft in (anomaly(frames=None), anomaly(boxes={"8": [[0, 0, 1, 1]]}), anomaly(boxes={})):
        assert check_rating(rating(anomalies=[draft], done=False), 10)["done"] is False
    for absurd in (anomaly(frames=[5, 99]), anomaly(frames=[5, 2]), anomaly(boxes={"99": [[0, 0, 1, 1]]})):
        with pytest.raises(AnswerError, match="anomaly 1"):
            check_rating(rating(anomalies=[absurd], done=False), 10)


def test_who_returns_an_annotation_says_why():
    with pytest.raises(AnswerError, match="what the annotator must change"):
        check_decision({"decision": "return", "note": " ", "done": True})
    with pytest.raises(AnswerError, match="accept or return"):
        check_decision({"decision": None, "note": "", "done": True})
    assert check_decision({"decision": "accept", "note": "", "done": True})["decision"] == "accept"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\x00b", "<b>", "x" * 41, None, 3, "a\nb/"])
def test_names_are_file_names_too(name):
    with pytest.raises(AnswerError, match="a name has"):
        check_name(name)


def test_names_are_tidied():
    assert check_name("  Ann   B. ") == "Ann B" and check_name("Zoë-1") == "Zoë-1"
