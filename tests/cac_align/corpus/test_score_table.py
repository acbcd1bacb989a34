"""A corpus becomes one table: the same for any file, batch, number of threads, processes and kills."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest

from cac_align.cli import main
from cac_align.corpus.table_files import read_table_rows
from cac_align.corpus.verdict_rows import KINDS, judged_columns


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out, said.err


def without_seconds(table):
    """The rows of a table, but for the time they took and the folder that the reason of a failure names."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_table_rows(table, KINDS)]
    return [{**row, "error": row["error"] and row["error"].replace(str(table.parent), "")} for row in rows]


@pytest.fixture
def score(capsys, corpus, judge_folder):
    def call(table, *more):
        return run(capsys, "score", corpus, "--model", judge_folder, "--no-reasoning", "--table", table, *more)

    return call


@pytest.fixture(scope="module")
def judged(lay_out, tmp_path_factory, judge_folder):
    """A corpus that was judged in one go: its table, the exit code, and what was said."""
    corpus = lay_out(tmp_path_factory.mktemp("judged"))
    table, out, err = corpus.with_name("scores.jsonl"), io.StringIO(), io.StringIO()
    argv = ["score", corpus, "--model", judge_folder, "--no-reasoning", "--table", table]
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, argv)])
    return table, code, out.getvalue(), err.getvalue()


@pytest.fixture
def finished(judged, corpus):
    """The table of the corpus, of which nothing is left to judge."""
    table = corpus.with_name("scores.jsonl")
    shutil.copy(judged[0], table)
    shutil.copytree(judged[0].with_name("scores.jsonl.parts"), table.with_name("scores.jsonl.parts"))
    return table


def test_one_table_of_a_manifest(judged):
    table, code, out, err = judged
    corpus = table.with_name("manifest.jsonl")
    assert code == 1 and "6 videos" in out and "1 not judged" in out and "broken.mp4" in err
    rows = read_table_rows(corpus.with_name("scores.jsonl"))
    assert list(rows[0]) == ["video", "prompt", "maker", "seed", *judged_columns(answers=False)]
    assert [r["video"] for r in rows] == [json.loads(line)["video"] for line in corpus.read_text().splitlines()]
    assert [r["seed"] for r in rows] == list(range(6)) and {r["prompt"] for r in rows} == {"a red ball"}
    assert [r["score"] is None for r in rows] == [False, False, True, False, False, False]
    assert "broken.mp4" in rows[2]["error"] and rows[2]["types"] == [] and rows[2]["status"] is None
    assert rows[0]["num_frames"] == 9 and rows[0]["fps"] == 16 and rows[0]["status"] in ("normal", "abnormal")
    assert {**rows[5], "seed": 0, "maker": "a"} == rows[0], "a video that is named twice is judged once"


def test_every_kind_of_file_holds_the_same(score, corpus, judged):
    pytest.importorskip("pyarrow")
    tables = [corpus.with_name(f"scores.{suffix}") for suffix in ("parquet", "csv")]
    for table, more in zip(tables, (["--workers", 3], ["--judge-batch-size", 2]), strict=True):
        score(table, *more)
    first, second, third = map(without_seconds, (judged[0], *tables))
    assert first == second, "neither threads nor the file count"
    assert third == [{k: str(v) if k == "seed" else v for k, v in row.items()} for row in first], "nor does the batch"


def test_the_answers_stand_in_the_table_on_request(capsys, corpus, judge_folder):
    table = corpus.with_name("t.jsonl")
    clip = corpus.parent / "clips" / "1.mp4"
    assert run(capsys, "score", clip, "--model", judge_folder, "--table", table, "--answers")[0] == 0
    from cac_align.rewards.cac import CaCReward

    (row,), verdict = read_table_rows(table), CaCReward(judge_folder, device="cpu").judge(clip)
    assert row["answer_scan"] == verdict.turns[0].text and row["score"] == verdict.score
    assert row["p_paper"] == verdict.turns[-1].score.p_normal and row["status"] == verdict.status


def test_a_finished_run_judges_nothing_again_but_what_changed(score, corpus, judged, finished, monkeypatch):
    from reward_model.judge import TwoTurnJudge

    table, before, asked = finished, without_seconds(judged[0]), []
    original = TwoTurnJudge.judge
    monkeypatch.setattr(
        TwoTurnJudge, "judge", lambda self, videos, *a, **k: asked.extend(videos) or original(self, videos, *a, **k)
    )
    score(table)
    assert without_seconds(table) == before and not asked
    clips = corpus.parent / "clips"
    (clips / "broken.mp4").write_bytes((clips / "1.mp4").read_bytes())
    (clips / "2.mp4").write_bytes(b"now this one is broken")
    code, _, err = score(table)
    rows = without_seconds(table)
    assert code == 1 and len(asked) == 1 and "2.mp4" in err
    assert [r["score"] is None for r in rows] == [False, False, False, True, False, False]
    assert rows[2]["score"] == rows[1]["score"]


def test_another_judge_does_not_go_on_with_the_rows_of_the_first(score, finished):
    code, _, err = score(finished, "--scan-fps", 2)
    assert code == 2 and "were made with --scan-fps None, not 2.0" in err and "another --table" in err


@pytest.mark.slow
def test_shards_and_their_merge_make_the_table_of_one_run(score, corpus):
    whole, table = corpus.with_name("whole.csv"), corpus.with_name("sharded.csv")
    score(whole)
    more = ["--judge-batch-size", 1]
    assert "shard 2/3" in score(table, *more, "--shard", "2/3")[1] and not table.exists()
    code, _, err = score(table, "--merge")
    assert code == 2 and "are not judged yet" in err
    for shard in ("1/3", "3/3"):
        assert score(table, *more, "--shard", shard)[0] == 0
    assert score(table, "--merge")[0] == 1, "the broken video"
    assert without_seconds(table) == without_seconds(whole)


def test_a_table_of_verdicts_is_a_manifest_too(capsys, finished, judge_folder):
    source = finished
    again = source.parent / "below" / "again.jsonl"
    again.parent.mkdir()
    run(capsys, "score", source, "--model", judge_folder, "--no-reasoning", "--table", again)
    first, second = without_seconds(source), without_seconds(again)
    assert [{**r, "video": "../" + r["video"]} for r in first if r["score"] is not None] == [
        r for r in second if r["score"] is not None
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--table", "t.txt"], "--table 't.txt' must end in .parquet, .jsonl, .csv"),
        (["--table", "t.csv", "--json"], "--json prints or writes each video"),
        (["--table", "t.csv", "--shard", "0/3"], "--shard '0/3' must be i/n"),
        (["--table", "t.csv", "--shard", "1/2", "--merge"], "leave --shard out"),
        (["--table", "t.csv", "--workers", "0"], "--workers 0 must be at least 1"),
        (["--table", "t.csv", "--actors", "2"], "are for --engine ray"),
        (["--table", "t.csv", "--merge"], "judge the videos first"),
        (["--table", "t.csv", "--prompt", "a"], "a manifest has a column 'prompt'"),
        (["--table", "manifest.jsonl"], "is the manifest itself; name another file"),
        (["--answers"], "--answers is for a table"),
        (["--output", "t.parquet"], "use --table 't.parquet'"),
    ],
)
def test_what_cannot_work_is_one_line(capsys, corpus, judge_folder, monkeypatch, more, said):
    monkeypatch.chdir(corpus.parent)
    code, _, err = run(capsys, "score", corpus, "--model", judge_folder, *more)
    assert code == 2 and said in err and len(err.splitlines()) == 1


# --- processes --------------------------------------------------------------------------------------------------------


def command(corpus, judge_folder, table):
    given = ["score", corpus, "--model", judge_folder, "--table", table, "--no-reasoning", "--quiet"]
    return [sys.executable, "-m", "cac_align", *map(str, given)]


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_either_process_of_a_launch_has_to_do(score, corpus, judged, monkeypatch, order):
    """One after the other in this process, in either order: the first merges, whoever of them was done last."""
    import contextlib

    whole, table = judged[0], corpus.with_name("two.jsonl")
    waited, files = [], table.with_name("two.jsonl.parts")
    monkeypatch.setattr(
        "cac_align.corpus.job.until_all_are_done", lambda launched: waited.append(launched) or contextlib.nullcontext()
    )
    for rank in order:
        for name, value in (("WORLD_SIZE", 2), ("RANK", rank), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        code, _, err = score(table, "--judge-batch-size", 1)
        early = order == (0, 1) and rank == 0
        assert code == (2 if early else 1 - rank) and ("not judged yet" in err) is early
    if order == (0, 1):
        monkeypatch.setenv("RANK", "0")
        score(table, "--judge-batch-size", 1)
    assert without_seconds(table) == without_seconds(whole) and [w.rank for w in waited][:2] == list(order)
    assert len(list(files.glob("part-*-of-00002.jsonl"))) == 2


def test_a_stopped_run_goes_on_after_half_a_line(score, corpus, judged, monkeypatch):
    from cac_align.corpus import judging

    whole, table = judged[0], corpus.with_name("stopped.jsonl")
    original, count = judging._verdicts, []

    def stop(*given):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(judging, "_verdicts", stop)
    code, _, err = score(table)
    assert code == 130 and "the same command resumes" in err and not table.exists()
    part = table.with_name("stopped.jsonl.parts") / "part-00001-of-00001.jsonl"
    kept = part.read_bytes()
    assert kept.count(b"\n") == 2
    part.write_bytes(kept + b'{"at": 1, "rows": [["half')
    score(table)
    assert without_seconds(table) == without_seconds(whole) and part.read_bytes().startswith(kept)
    part.write_bytes(kept + b"something else\n")
    assert "line 3: not a line that score wrote" in score(table)[2]


@pytest.mark.slow
def test_two_processes_write_the_table_of_one(score, corpus, judge_folder, tmp_path):
    import socket

    whole, table = corpus.with_name("whole.jsonl"), corpus.with_name("two.jsonl")
    score(whole)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    call = [*command(corpus, judge_folder, table), "--judge-batch-size", "1"]
    environment = [{**os.environ, **world, "RANK": str(k), "LOCAL_RANK": str(k)} for k in range(2)]
    children = [subprocess.Popen(call, env=e, stderr=subprocess.DEVNULL) for e in environment]
    try:
        assert [child.wait(timeout=600) for child in children] == [1, 0], "the first says that one was not judged"
    finally:
        for child in children:
            child.kill()
    assert without_seconds(table) == without_seconds(whole)
    assert len(list(table.with_name("two.jsonl.parts").glob("part-*-of-00002.jsonl"))) == 2


@pytest.mark.slow
def test_a_killed_run_goes_on(score, corpus, judge_folder):
    whole, table = corpus.with_name("whole.jsonl"), corpus.with_name("killed.jsonl")
    score(whole)
    parts = table.with_name("killed.jsonl.parts") / "part-00001-of-00001.jsonl"
    child = subprocess.Popen(command(corpus, judge_folder, table), stderr=subprocess.DEVNULL)
    while child.poll() is None and not (parts.is_file() and parts.read_bytes().count(b"\n")):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = parts.read_bytes()
    assert kept.count(b"\n")
    with parts.open("ab") as file:
        file.write(b'{"at": 1, "rows": [["half')
    score(table)
    assert without_seconds(table) == without_seconds(whole)
    assert parts.read_bytes().startswith(kept), "what was judged is not judged again"
