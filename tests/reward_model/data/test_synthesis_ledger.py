"""The ledger: nothing is lost that was written, nothing is asked that is recorded, and other settings are refused."""

from __future__ import annotations

import json
import threading

import pytest

from reward_model.conversation import Completion
from reward_model.data.synthesis.ledger import CallId, Ledger
from reward_model.data.synthesis.ledger_header import LedgerError, LedgerHeader
from reward_model.data.synthesis.tally import Price, Tally
from tests.campaigns import draws

HEADER = LedgerHeader({"teacher": "t", "window": (0.25, 1.0)}, {"verify": "both", "temporal_iou": 0.5})
CALL = CallId("a|scan|0|x", "teacher", 1, 0)


def answer(text="fine", **changes):
    return Completion(text, **{"num_tokens": 3, "seconds": 0.5, "extra": {"prompt_tokens": 40}, **changes})


def test_an_answer_survives_the_process(tmp_path):
    odd = 'zwei\nZeilen "\u2014" \ud800'
    with Ledger(tmp_path / "l.jsonl", HEADER) as ledger:
        assert ledger.find(CALL) is None
        ledger.append(CALL, answer(odd, finished=False), retries=2)
        assert ledger.find(CALL).text == odd
    with Ledger(tmp_path / "l.jsonl", HEADER) as again:
        found = again.find(CALL)
        assert (found.text, found.finished, found.num_tokens) == (odd, False, 3)
        assert again.find(CALL._replace(round=2)) is None
        tally = again.tallies["teacher"]
        assert (tally.calls, tally.cut, tally.retries, tally.tokens_in, tally.tokens_out) == (1, 1, 2, 40, 3)
        assert again.tallies["judge"].calls == 0


def test_a_call_without_an_answer_is_counted_and_asked_again(tmp_path):
    with Ledger(tmp_path / "l.jsonl", HEADER) as ledger:
        ledger.append(CALL, answer("", error="timeout"))
        ledger.append(CALL._replace(kind="judge"), answer(" \n"))
        assert len(ledger) == 0 and ledger.find(CALL) is None
        assert ledger.tallies["teacher"].failed == ledger.tallies["judge"].failed == 1
        ledger.append(CALL, answer())
        assert ledger.find(CALL).text == "fine"


@pytest.mark.parametrize("torn", [b'{"call": ["a", "tea', b'{"call": ["a|scan|0|x", "teacher", 9, 0]}', b"\xff"])
def test_a_torn_last_line_costs_that_call_only(tmp_path, torn):
    path = tmp_path / "l.jsonl"
    with Ledger(path, HEADER) as ledger:
        ledger.append(CALL, answer())
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Ledger(path, HEADER) as ledger:
        assert len(ledger) == 1
        ledger.append(CALL._replace(round=2), answer("second"))
    assert path.read_bytes().startswith(whole)
    with Ledger(path, HEADER) as ledger:
        assert [ledger.find(CALL._replace(round=k)).text for k in (1, 2)] == ["fine", "second"]


def test_every_cut_of_the_file_can_be_continued(tmp_path):
    path = tmp_path / "l.jsonl"
    with Ledger(path, HEADER) as ledger:
        for k in range(1, 4):
            ledger.append(CALL._replace(round=k), answer(f"text {k}"))
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == 10]
    for size in range(0, len(whole) + 1, draws(7, 29)):
        path.write_bytes(whole[:size])
        with Ledger(path, HEADER) as ledger:
            assert len(ledger) == max(0, sum(end < size for end in ends) - 1)


def test_damage_inside_is_named(tmp_path):
    path = tmp_path / "l.jsonl"
    with Ledger(path, HEADER) as ledger:
        ledger.append(CALL, answer())
        ledger.append(CALL._replace(round=2), answer())
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b"{nonsense", lines[2], b""]))
    with pytest.raises(LedgerError, match="line 2 is damaged"):
        Ledger(path, HEADER)
    path.write_bytes(b"\n".join([*lines[1:], b""]))
    with pytest.raises(LedgerError, match=r"line 1 is damaged .*header"):
        Ledger(path, HEADER)


def test_other_questions_are_refused_by_name(tmp_path):
    Ledger(tmp_path / "l.jsonl", HEADER).close()
    other = LedgerHeader({**HEADER.asked, "teacher": "u", "prompt_version": "paper-2"}, HEADER.rules)
    with pytest.raises(LedgerError, match=r'prompt_version was absent, now "paper-2"; teacher was "t", now "u"'):
        Ledger(tmp_path / "l.jsonl", other, accept_new_rules=True)


def test_other_rules_are_named_and_can_be_accepted(tmp_path):
    with Ledger(tmp_path / "l.jsonl", HEADER) as ledger:
        ledger.append(CALL, answer())
    other = LedgerHeader(HEADER.asked, {"verify": "rule", "temporal_iou": 0.5})
    with pytest.raises(LedgerError, match='verify was "both", now "rule"'):
        Ledger(tmp_path / "l.jsonl", other)
    with Ledger(tmp_path / "l.jsonl", other, accept_new_rules=True) as ledger:
        assert ledger.find(CALL).text == "fine"
    with Ledger(tmp_path / "l.jsonl", other) as ledger:  # the new rules are now the known ones
        assert len(ledger) == 1
    with pytest.raises(LedgerError, match="verify"):
        Ledger(tmp_path / "l.jsonl", HEADER)


def test_a_model_that_was_moved_is_the_same_model(tmp_path):
    def header(place, content, **changes):
        return LedgerHeader({**HEADER.asked, "teacher": place, **changes}, HEADER.rules, {"teacher": content})

    Ledger(tmp_path / "l.jsonl", header("/here/teacher", "1f")).close()
    whole = (tmp_path / "l.jsonl").read_bytes()
    Ledger(tmp_path / "l.jsonl", header("/there/teacher", "1f")).close()
    assert (tmp_path / "l.jsonl").read_bytes() == whole
    with pytest.raises(LedgerError, match=r'other questions: teacher was "/here/teacher", now "/there/teacher"\. Use'):
        Ledger(tmp_path / "l.jsonl", header("/there/teacher", "2e"))
    with pytest.raises(LedgerError, match=r"other questions: window\.? was [^;]*\. Use"):
        Ledger(tmp_path / "l.jsonl", header("/there/teacher", "1f", window=(0.5, 1.0)))
    Ledger(tmp_path / "old.jsonl", HEADER).close()  # without contents, as version 0.2 wrote it
    Ledger(tmp_path / "old.jsonl", header("t", "1f")).close()
    with pytest.raises(LedgerError, match='teacher was "t"'):
        Ledger(tmp_path / "old.jsonl", header("u", "1f"))


def test_two_runs_cannot_share_a_ledger(tmp_path):
    with Ledger(tmp_path / "l.jsonl", HEADER), pytest.raises(LedgerError, match="in use by another run"):
        Ledger(tmp_path / "l.jsonl", HEADER)
    Ledger(tmp_path / "l.jsonl", HEADER).close()


def test_parallel_writers_keep_lines_whole(tmp_path):
    path = tmp_path / "l.jsonl"
    with Ledger(path, HEADER) as ledger:

        def write_five(k: int) -> None:
            for r in range(5):
                ledger.append(CALL._replace(key=f"{k}", round=r), answer("x" * 999 * k))

        write = [threading.Thread(target=write_five, args=(k,)) for k in range(1, 7)]
        for thread in write:
            thread.start()
        for thread in write:
            thread.join()
        assert ledger.find(CALL._replace(key="4", round=3)).text == "x" * 3996
    assert len([json.loads(line) for line in path.read_bytes().splitlines()]) == 31


def test_costs():
    tally = Tally(tokens_in=3_000_000, tokens_out=100_000)
    assert tally.cost(Price(1.25, 10)) == pytest.approx(4.75)
    for given in ({"tokens_in": -1}, {"tokens_out": float("nan")}, {"tokens_out": "2"}):
        [(name, value)] = given.items()
        with pytest.raises(ValueError, match=f"{name}={value!r} must be a finite number of at least 0"):
            Price(**given)
