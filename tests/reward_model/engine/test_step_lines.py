"""What a resumed run keeps of its log."""

from reward_model.engine.step_lines import drop_lines_after


def test_lines_beyond_the_checkpoint_and_a_cut_line_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    drop_lines_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_no_log_is_no_error(tmp_path):
    drop_lines_after(tmp_path / "metrics.jsonl", 2)
    assert not list(tmp_path.iterdir())
