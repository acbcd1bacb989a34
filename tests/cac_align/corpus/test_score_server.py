"""A corpus judged by ``cac-align serve``: the table is that of the judge where it runs, and a failure makes no row."""

import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from cac_align.cli import main
from cac_align.corpus.judging import Asked, judge_clips_elsewhere
from cac_align.corpus.sources import find_corpus
from cac_align.corpus.table_files import read_table_rows
from cac_align.corpus.verdict_rows import KINDS
from cac_align.rewards.cac import CaCReward
from cac_align.rewards.remote import AwayError, RemoteReward
from tests.cac_align.serving.conftest import brightness, served


@pytest.fixture(scope="module")
def judge(judge_folder):
    return CaCReward(judge_folder, batch_size=1, device="cpu")


def score(*argv):
    return main(["score", *map(str, argv)])


def lines(table):
    """The table as text, but for seconds and for the reason of the broken video, which names a file of the server."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    return [json.dumps({**row, "seconds": None, "error": row["error"] is not None}) for row in rows]


def test_the_table_is_that_of_the_judge_itself(judge, judge_folder, corpus, capsys):
    here, there = corpus.with_name("here.jsonl"), corpus.with_name("there.jsonl")
    assert score(corpus, "--model", judge_folder, "--table", here, "--answers") == 1
    with served(judge, max_batch=1) as port:
        server = ("--server", f"http://127.0.0.1:{port}")
        assert score(corpus, *server, "--table", there, "--answers", "--workers", 3) == 1
        assert lines(there) == lines(here)
        assert {r["answer_scan"] is None for r in read_table_rows(there, KINDS)} == {True, False}
        judged = there.with_name("there.jsonl.parts")
        before = {path: path.read_bytes() for path in judged.glob("part-*")}
        assert score(corpus, *server, "--table", there, "--answers") == 1
        added = b"".join(path.read_bytes()[len(before.get(path, b"")) :] for path in judged.glob("part-*"))
        assert added.count(b'"error"') == 1, "only the video that could not be read is asked about again"
    assert "no video file" not in capsys.readouterr().err


def test_a_reward_that_is_no_judge_is_refused(corpus, capsys):
    with served(brightness) as port:
        assert score(corpus, "--server", f"http://127.0.0.1:{port}", "--table", corpus.with_name("s.csv")) == 1
    assert "serves 'brightness', whose score is not that of one judge" in capsys.readouterr().err


def test_a_video_above_the_servers_limit_is_a_row_with_the_reason(judge, corpus, capsys):
    large = max(corpus.parent.glob("clips/*.mp4"), key=lambda path: path.stat().st_size)
    limit = large.stat().st_size * 4 // 3  # base64, and the rest of the message is beyond it
    table = corpus.with_name("s.jsonl")
    with served(judge, max_batch=1, max_body=limit) as port:
        assert score(corpus, "--server", f"http://127.0.0.1:{port}", "--table", table) == 1
    rows = read_table_rows(table, KINDS)
    lost = [r["video"] for r in rows if r["error"] and "start it with a larger --max-body" in r["error"]]
    assert any(video.endswith(large.name) for video in lost) and any(r["score"] is not None for r in rows)


def test_a_server_that_goes_away_ends_the_run_and_leaves_no_row(judge, corpus):
    [clip] = find_corpus([str(corpus.parent / "clips" / "0.mp4")])
    with served(judge, max_batch=1) as port:
        reward = RemoteReward(f"http://127.0.0.1:{port}", patience_s=0.2)
        reward.make_ready()
    with pytest.raises(AwayError, match="no reward server answers"):
        list(judge_clips_elsewhere(reward, [[Asked("a", clip)]]))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--readout", "paper"), "--readout is settled where the judge runs: give it to cac-align serve"),
        (("--device", "cpu"), "--device is settled where the judge runs"),
        (("--engine", "ray"), "leave --engine ray out"),
    ],
)
def test_what_the_server_settles_is_refused_before_it_is_asked(corpus, capsys, more, said):
    table = corpus.with_name("s.jsonl")
    assert score(corpus, "--server", "http://127.0.0.1:9", "--table", table, *more) == 2
    assert said in capsys.readouterr().err


def test_a_server_makes_tables(corpus, capsys):
    assert score(corpus, "--server", "http://127.0.0.1:9") == 2
    assert "--server is for a table" in capsys.readouterr().err
