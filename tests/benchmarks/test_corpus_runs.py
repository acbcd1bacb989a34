"""Every way to judge a corpus makes the same table: processes, kills, shards, a server; here with few videos."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def corpus_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("corpus_runs", ROOT / "benchmarks" / "corpus_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_way_makes_the_same_table(corpus_runs, tmp_path, monkeypatch):
    """By the judge that ships: of an untrained one a server's twenty likeliest tokens hold neither verdict."""
    monkeypatch.setattr(corpus_runs, "KILLS", 2)
    runs = corpus_runs.Runs(tmp_path, 6, str(ROOT / "assets" / "cac-mini"), num_frames=33)
    ways = [name for name in corpus_runs.WAYS if name != "ray"]  # tests/cac_align/corpus/test_ray_pool.py
    lines = corpus_runs.compare(runs, ways).rows
    assert [line[2] for line in lines if "OTHER" in line[2]] == []
    assert all(line[3] == "6 of 6" for line in lines)
    runs.table("two").write_text(
        runs.table("two").read_text().replace('"normal"', '"abnormal"').replace("0.", "0.1", 1)
    )
    assert "OTHER THAN one" in str(corpus_runs.compare(runs, ways).rows), "a difference is found"


@pytest.mark.slow
def test_a_loop_and_the_tables_say_the_same(corpus_runs, judge_folder):
    """The import of ``corpus_runs`` has put the folder of the benchmark on the path."""
    import score

    table = score.compare(4, 1, str(judge_folder))
    assert len(table.rows) == 3 and "the same status and score in every row" in table.notes[0]
