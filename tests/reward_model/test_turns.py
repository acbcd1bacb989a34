"""Places where a verdict is read, and what it is worth there; golden values of Equation 7."""

import json
import math
import pickle

import pytest

from reward_model.config import READOUTS, JudgeConfig
from reward_model.data.plain_cot import plain_cot
from reward_model.parsing import STATUS_PREFIX, forced_prefix, format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Turn, TurnReport, VerdictScore
from reward_model.turns import (
    WORDS,
    VerdictPrefix,
    completed_prefix,
    direct_prefix,
    read_turn,
    reward_value,
    verdict_places,
    verdict_prefix,
    words_after,
)
from reward_model.video.framing import AS_IT_IS


@pytest.mark.parametrize(
    ("normal", "abnormal", "value"), [(-1, -2, 0.7311), (-0.1, -3, 0.9478), (-2, -2, 0.5), (0, -2000, 1.0)]
)
def test_equation_7(normal, abnormal, value):
    assert reward_value(VerdictScore(normal, abnormal), "paper") == pytest.approx(value, abs=5e-5)
    both = math.exp(normal) + math.exp(abnormal)
    assert reward_value(VerdictScore(normal, abnormal), "direct") == pytest.approx(math.exp(normal) / both, abs=1e-12)


def test_extreme_odds_do_not_overflow():
    assert reward_value(VerdictScore(-3000, 0), "paper") == 0.0
    assert reward_value(VerdictScore(0, -math.inf), "log_odds") == 1.0
    assert reward_value(VerdictScore(-math.inf, 0), "log_odds") == 0.0


def test_log_odds_keeps_the_order_and_grades_what_saturates():
    scores = [VerdictScore(-a, 0) for a in (60, 45, 40, 3, 0, -3, -40)]
    flat = [reward_value(s, "log_odds", temperature=10) for s in scores]
    assert flat == sorted(flat) and len(set(flat)) == len(flat)
    assert reward_value(scores[3], "log_odds", temperature=1) == pytest.approx(reward_value(scores[3], "direct"))


def test_unknown_readout_and_temperature_are_refused():
    with pytest.raises(ValueError, match="median"):
        reward_value(VerdictScore(0, 0), "median")
    with pytest.raises(ValueError, match="above zero"):
        reward_value(VerdictScore(0, 0), "log_odds", temperature=0)


def test_prefix_of_a_canonical_answer_ends_before_its_word():
    report = TurnReport("normal", 'it says "status": "fine" here')
    text = format_report(report)
    prefix = verdict_prefix(text)
    assert prefix is not None and text.startswith(prefix + "normal")


@pytest.mark.parametrize("text", ['{"COT": "a","status":"abnormal", ', '{"COT": "a", "status" : "Normal"'])
def test_prefix_is_brought_to_the_canonical_spelling(text):
    assert verdict_prefix(text) == '{"COT": "a",' + ("" if '"a","' in text else " ") + STATUS_PREFIX


def test_no_status_no_prefix():
    assert verdict_prefix('{"COT": "the status is normal') is None


@pytest.mark.parametrize(
    ("text", "cot"),
    [
        ('{"COT": "Frame 0: a hand. Frame 1: a', "Frame 0: a hand. Frame 1: a"),
        ('{"COT": "he said \\"x\\" and', 'he said "x" and'),
        ('{"COT": "cut in an escape \\', "cut in an escape "),
        ('{"COT": "done.", "sta', "done."),
        ("I think it looks fine", "I think it looks fine"),
        ("", ""),
        # other spacings, and a key in another case
        ('{"COT":"Frame 0: a', "Frame 0: a"),
        ('{\n  "cot" : "Frame 0: a', "Frame 0: a"),
        # quotes that should have been escaped do not end the reasoning
        ('{"COT": "the "sign" is bad and th', 'the "sign" is bad and th'),
        ('{"COT": "the signs "A", "B" and', 'the signs "A", "B" and'),
        ('{"COT": "the "sign" is bad", "stat', 'the "sign" is bad'),
        ('{"COT": "the "sign" is bad", "anomalies": [{"Attri', 'the "sign" is bad'),
        ('{"COT": "the sign says "OPEN""}', 'the sign says "OPEN"'),
        ("{\u201cCOT\u201d: \u201cit says \u201chi\u201d to", "it says \u201chi\u201d to"),
        # invalid escapes, a cut one, half a surrogate pair
        ('{"COT": "it\\\'s\\nfine \\ud83d', "it's\nfine \ufffd"),
    ],
)
def test_a_broken_answer_is_closed_and_forced(text, cot):
    prefix = completed_prefix(text)
    assert prefix == forced_prefix(cot)
    assert json.loads(prefix + 'normal"}')["COT"] == cot


def test_what_stands_before_a_broken_answer_is_kept():
    assert completed_prefix('Here it is:\n```json\n{"COT": "a') == "Here it is:\n```json\n" + forced_prefix("a")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("normal", WORDS),
        ("abnormal ", WORDS),
        ("NORMAL", ("NORMAL", "ABNORMAL")),
        ("ABNORMAL", ("NORMAL", "ABNORMAL")),
        ("Abnormal", ("Normal", "Abnormal")),
        ("Normal", ("Normal", "Abnormal")),
        (" normal", (" normal", " abnormal")),
        ("\\n ABNORMAL", ("\\n NORMAL", "\\n ABNORMAL")),
        ("abNormal", ("normal", "abNormal")),
    ],
)
@pytest.mark.parametrize("key", ['"status": ', '"Status":', '" STATUS "\n: '])
def test_the_pair_is_scored_as_the_answer_spells_it(written, words, key):
    kind = '[{"Attributed Time Region": "1-2", "Attributed Label": "object"}]' if "AB" in written.upper() else "[]"
    text = f'{{"COT": "x", {key}"{written}", "anomalies": {kind}}}'
    assert parse_turn(text, turn=1, num_frames=5).status == written.replace("\\n", "").strip().lower()
    prefix = verdict_prefix(text)
    assert (prefix, prefix.words) == ('{"COT": "x", ' + STATUS_PREFIX, words)
    assert (direct_prefix(prefix), direct_prefix(prefix).words) == (forced_prefix(), words)
    assert direct_prefix().words == words_after(forced_prefix()) == WORDS


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ('{"COT": "x", "status": "abnormal", "anomalies": [{"status": "normal"}]}', '{"COT": "x", '),
        ('{"COT":"x","status":"normal","anomalies":[],"meta":{"status":"abnormal"}}', '{"COT":"x",'),
        ('{"meta": {"status": "normal"}, "COT": "\\"status\\": \\"", "status": "abnormal", "anomalies": [1]}', None),
        ('{"COT": "so { \\" }, ", "st\\u0061tus": "normal", "anomalies": []}', '{"COT": "so { \\" }, ", '),
        ('<think>or {"status": "normal"}?</think>\n{"COT": "", "status": "normal", "anomalies": []}', None),
        (
            "{\u201cCOT\u201d: \u201cx\u201d, \u201cstatus\u201d: \u201cnormal\u201d}",
            "{\u201cCOT\u201d: \u201cx\u201d, ",
        ),
        ('{"COT": ["a",], "status": "normal",}', '{"COT": ["a",], '),
    ],
)
def test_the_place_is_that_of_the_answers_own_key(text, before):
    """Not the last one in the text: a key of an anomaly, of the reasoning or of a thought is another one."""
    before = text[: text.rindex('"status"')] if before is None else before
    assert verdict_prefix(text) == before + STATUS_PREFIX


def test_an_answer_whose_quotes_are_broken_is_read_at_its_own_status():
    before = '{"COT": "the "sign" is bad", '
    assert verdict_prefix(before + '"status": "Abnormal", "anomalies": [{"At') == before + STATUS_PREFIX
    assert verdict_prefix(before + '"status": "Abnormal", "anomalies": [{"At').words == ("Normal", "Abnormal")
    # A word of the reasoning is not a key, and two that contradict each other are not an answer.
    assert verdict_prefix('{"COT": "the "sign" says "status": "normal" and') is None
    assert verdict_prefix(before + '"status": "normal", {"COT": "or "so"", "status": "abnormal"') is None


def test_a_prefix_with_its_words_is_a_string_that_travels():
    prefix = VerdictPrefix("a", ("A", "B"))
    twin = pickle.loads(pickle.dumps(prefix))
    assert prefix == "a" and (twin, twin.words) == ("a", ("A", "B"))


@pytest.mark.parametrize(
    ("score", "told"),
    [
        (VerdictScore(-27.0, -59.7), "2e-12 together"),
        (VerdictScore(-14.0, -20.0), "8e-07 together"),
        (VerdictScore(-13.0, -20.0), None),
        (VerdictScore(-60.0, -0.01), None),
        (VerdictScore(0.0, -900.0), None),
    ],
)
def test_a_ratio_of_two_tails_is_no_verdict(score, told):
    assert (told is None and score.fault is None) or (told in score.fault and "\n" not in score.fault)


def test_readouts_are_the_documented_three():
    assert READOUTS == ("paper", "direct", "log_odds")


@pytest.mark.parametrize(
    ("readout", "all_readouts", "reasoning", "after", "before"),
    [
        ("paper", False, True, True, False),
        ("direct", False, True, False, True),
        ("log_odds", False, True, False, True),
        ("paper", True, True, True, True),
        ("direct", True, True, True, True),
        ("direct", False, False, False, True),
        ("direct", True, False, False, True),
    ],
)
def test_verdicts_are_read_where_the_readout_needs_them(readout, all_readouts, reasoning, after, before):
    report = TurnReport("normal", "all well") if reasoning else None
    text = format_report(TurnReport("normal", "all well")) if reasoning else forced_prefix()
    turn = Turn(1, (0, 1), 4.0, text, report=report)
    places = verdict_places([turn], readout, all_readouts=all_readouts, reasoning=reasoning)
    assert ((places.after is not None), (places.before is not None)) == (after, before)
    assert places.forced == (False,)
    assert not after or places.after == (verdict_prefix(text),)
    assert not before or places.before == (direct_prefix(),)


def test_an_answer_that_cannot_be_read_is_asked_for_its_status():
    """Whatever the readout: without it the turn would have none. One unread answer decides for the whole batch."""
    whole = Turn(1, (0, 1), 4.0, format_report(TurnReport("normal", "x")), report=TurnReport("normal", "x"))
    cut = Turn(1, (0, 1), 4.0, '{"COT": "the cup')
    places = verdict_places([whole, cut], "direct", all_readouts=False, reasoning=True)
    assert places.after == (verdict_prefix(whole.text), completed_prefix(cut.text)) and places.forced == (False, True)
    failed = Turn(1, (0, 1), 4.0, "", error="out of memory")
    assert verdict_places([failed], "direct", all_readouts=False, reasoning=True).after is None


@pytest.mark.parametrize("status", ["normal", "abnormal"])
@pytest.mark.parametrize("turn", [1, 2])
def test_an_answer_that_leaves_frames_out_is_invalid_where_frames_are_described_one_by_one(status, turn):
    box = {0: (Box(0, 0, 500, 500),)} if turn == 2 else {}
    found = (Anomaly(AnomalyType.OBJECT, FrameRange(0, 2), box, reason="x"),) if status == "abnormal" else ()

    def read(cot, num_frames=41, prompts="compact"):
        text = format_report(TurnReport(status, cot, found), boxes=turn == 2)
        return read_turn(text, turn, num_frames, JudgeConfig(prompts=prompts), AS_IT_IS)

    whole = plain_cot(found, 41, wording="compact")
    stopped = plain_cot(found, 14, wording="compact")
    assert read(whole).status == status and read("").status == status and read("All is calm.").status == status
    assert read(stopped).report is None
    assert "describes no frame 14 of the 41 that were shown" in str(read(stopped).error)
    assert read(whole.replace("Frame 20: ", "Then: ")).report is None
    # Judges of the paper's wording were taught paragraphs, and may sum up: nothing is asked of them.
    assert read(stopped, prompts="paper").status == status
