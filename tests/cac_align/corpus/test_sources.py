"""Which videos are judged, in which order, and what a manifest may hold."""

import json

import pytest

from cac_align.corpus.parts import clip_key
from cac_align.corpus.sources import CorpusVideo, find_corpus, own_columns
from cac_align.corpus.table_files import Own, read_table_rows, rebased, write_table


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("a/2.mp4", "a/1.mp4", "a/.hidden/3.mp4", "a/b/4.webm", "c/1.mp4", "c/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*sources, **more):
    return [clip.video for clip in find_corpus(sources, **more)]


def test_files_folders_and_patterns_in_their_order(place):
    assert names("c/1.mp4", "a") == ["c/1.mp4", "a/1.mp4", "a/2.mp4", "a/b/4.webm"]
    assert names("*/1.mp4") == ["a/1.mp4", "c/1.mp4"]
    assert names("**/*.webm", "c/*") == ["a/b/4.webm", "c/1.mp4"], "a text file is passed over"
    assert names("[ac]") == ["a/1.mp4", "a/2.mp4", "a/b/4.webm", "c/1.mp4"]
    assert names("no.mp4") == ["no.mp4"], "that it is not there is said of this one video"
    (place / "a[1].mp4").touch()
    assert names("a[1].mp4") == ["a[1].mp4"], "a name that looks like a pattern"
    for wrong in ("*.avi", "c/*.txt"):
        with pytest.raises(ValueError, match="names no video"):
            names(wrong)


def test_prompts_and_rates(place):
    clips = find_corpus(["a/1.mp4", "c"], ["x", "y"], 8)
    assert [(c.prompt, c.fps) for c in clips] == [("x", 8), ("y", 8)]
    with pytest.raises(ValueError, match="3 prompts for 2 videos"):
        find_corpus(["a/1.mp4", "c"], ["x"] * 3)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_manifest_of_each_kind_keeps_its_own_columns(place, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    rows = [
        {"video": "a/1.mp4", "prompt": 'a "red", ball\nfalls', "fps": 8.0, "maker": "wan", "seed": "7"},
        {"video": str(place / "c" / "1.mp4"), "prompt": None, "fps": None, "maker": "ltx", "seed": "8"},
    ]
    kinds = {"video": "text", "prompt": "text", "fps": "number", "maker": Own(["wan"]), "seed": Own(["7", "8"])}
    write_table(place / f"m.{suffix}", rows, kinds)
    clips = find_corpus([f"m.{suffix}"], fps=24)
    assert [c.video for c in clips] == ["a/1.mp4", str(place / "c" / "1.mp4")]
    assert [c.prompt for c in clips] == [rows[0]["prompt"], None] and [c.fps for c in clips] == [8, 24]
    assert own_columns(clips) == ["maker", "seed"] and clips[1].own == {"maker": "ltx", "seed": "8"}
    (place / "m").mkdir()
    (place / f"m.{suffix}").rename(place / "m" / f"m.{suffix}")
    assert names(f"m/m.{suffix}")[0] == "m/a/1.mp4", "from the folder of the manifest"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no row"),
        ('{"video": "a.mp4"}\n{"prompt": "x"}', "row 2: video=None must be a path"),
        ('{"video": "a.mp4", "prompt": 3}', "row 1: prompt=3 must be a text"),
        ('{"video": "a.mp4", "fps": 0}', "fps=0 must be a number above zero"),
        ('{"video": "a.mp4", "fps": true}', "fps=True must be a number above zero"),
        ('{"video": "http://x/a.mp4"}', "is an address; download"),
        ('{"path": "a.mp4"}', "has no column 'video'; its columns are 'path'"),
        ('{"video": "a.mp4", "score": 3}', "a column 'score', a name that the table of verdicts needs"),
        ('{"video": "a.mp4"', "line 1: "),
        ('["a.mp4"]', "line 1: not a JSON object"),
        ('{"video": "a.mp4", "x": NaN}', "NaN is not a JSON number"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_place(tmp_path, text, said):
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError) as refused:
        find_corpus([str(path)])
    assert said in str(refused.value) and "m.jsonl" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video,video\na,b", "not 'video' twice"),
        ("video,prompt\na.mp4,x,y", "line 2: 3 fields for 2 columns"),
        ("video,fps\na.mp4,fast", "line 2: 'fast' is not a number"),
    ],
)
def test_a_wrong_csv_is_named_with_its_line(tmp_path, text, said):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        find_corpus([str(path)])


def test_columns_that_parquet_cannot_hold_are_named(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"column 'seed' do not go together in Parquet .*; make them of one kind"):
        write_table(tmp_path / "t.parquet", [], {"seed": Own([1, "b"])})
    assert not list(tmp_path.iterdir()), "nothing half-written is left"


def test_a_large_table_in_groups_is_the_same(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("cac_align.corpus.table_files.GROUP_ROWS", 3)
    rows = [{"a": k, "b": [str(k)], "c": None} for k in range(8)]
    assert write_table(tmp_path / "t.parquet", iter(rows), {"a": "whole", "b": ["text"], "c": Own([None])}) == 8
    assert read_table_rows(tmp_path / "t.parquet") == rows


def test_paths_of_a_table_count_from_its_folder(tmp_path):
    (tmp_path / "x").mkdir()
    assert rebased("clips/a.mp4", tmp_path, tmp_path / "x") == "../clips/a.mp4"
    assert rebased("/abs/a.mp4", tmp_path, tmp_path / "x") == "/abs/a.mp4"
    assert clip_key(CorpusVideo("a.mp4", "p"), tmp_path) != clip_key(CorpusVideo("a.mp4", "q"), tmp_path)


def test_a_json_line_may_hold_every_name(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"video": "a\u2028b.mp4", "prompt": "\ud800"}) + "\n")
    (clip,) = find_corpus([str(path)])
    assert clip.video.endswith("a\u2028b.mp4")
