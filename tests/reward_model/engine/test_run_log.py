"""The log of a run, and what a resumed run keeps of it."""

import json

from reward_model.engine.run_log import RunWriter, drop_lines_after


def test_a_number_that_is_not_finite_leaves_the_lines_readable(tmp_path):
    writer = RunWriter(tmp_path, digits=2)
    writer.numbers(1, {"a": 0.126, "b": float("nan")})
    writer.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "a": 0.13}
    RunWriter(tmp_path / "other", active=False).numbers(1, {"a": 1.0})
    assert not (tmp_path / "other").exists()


def test_lines_beyond_the_checkpoint_and_a_cut_line_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    drop_lines_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_no_log_is_no_error(tmp_path):
    drop_lines_after(tmp_path / "metrics.jsonl", 2)
    assert not list(tmp_path.iterdir())


def test_a_text_with_a_line_separator_stays_and_a_line_torn_within_a_character_goes(tmp_path):
    writer = RunWriter(tmp_path, lines=("samples.jsonl",), report_to=["none"])
    writer.append("samples.jsonl", {"step": 1, "text": "one\u2028two\x85"})
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 2, "text": "\xe2\x80')
    RunWriter(tmp_path, lines=("samples.jsonl",), report_to=["none"], first_step=2)
    assert path.read_bytes() == whole
