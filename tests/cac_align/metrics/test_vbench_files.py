"""What VBench's own scripts read and write, and the command line around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cac_align.cli import main
from cac_align.metrics import export_videos, find_videos, read_results
from cac_align.metrics.export import missing_videos, standard_prompts
from cac_align.metrics.lossless import write_lossless
from cac_align.prompts import read_prompts

FULL_INFO = [
    {"prompt_en": "a cat", "dimension": ["subject_consistency", "dynamic_degree"]},
    {"prompt_en": "a red car", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {"prompt_en": "a dog", "dimension": ["imaging_quality"]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a cat-0.mp4", "a cat-4.mp4", "a dog-1.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "videos"


@pytest.fixture
def full_info(tmp_path: Path) -> Path:
    (tmp_path / "VBench_full_info.json").write_text(json.dumps(FULL_INFO))
    return tmp_path / "VBench_full_info.json"


def test_standard_layout_is_what_the_package_looks_for(folder, tmp_path):
    written = export_videos(find_videos(folder), tmp_path / "out")
    assert sorted(p.name for p in written.iterdir()) == ["a cat-0.mp4", "a cat-4.mp4", "a dog-1.mp4"]
    assert (written / "a cat-4.mp4").read_bytes() == b"a cat-4.mp4"
    info = json.loads((tmp_path / "out" / "full_info.json").read_text())
    assert [entry["prompt_en"] for entry in info] == ["a cat", "a dog"]
    assert export_videos(find_videos(folder), tmp_path / "out") == written  # again, nothing to do
    (folder / "a cat-0.mp4").write_bytes(b"other")
    with pytest.raises(ValueError, match="other content"):
        export_videos(find_videos(folder), tmp_path / "out")


def test_custom_layout_keeps_prompts_that_are_no_names(folder, tmp_path):
    (folder / "prompts.json").write_text(json.dumps({"a dog-1.mp4": "a dog / a wolf " + "x" * 300}))
    entries = find_videos(folder)
    with pytest.raises(ValueError, match=r"use 'custom': a dog-1.mp4: prompt 'a dog / a wolf"):
        export_videos(entries, tmp_path / "out")
    export_videos(entries, tmp_path / "out", layout="custom", link=True)
    prompts = json.loads((tmp_path / "out" / "prompts.json").read_text())
    assert list(prompts) == ["00000-0.mp4", "00001-4.mp4", "00002-1.mp4"]
    assert prompts["00002-1.mp4"].startswith("a dog / a wolf")
    assert (tmp_path / "out" / "videos" / "00002-1.mp4").resolve() == (folder / "a dog-1.mp4").resolve()
    # What was exported is read back with its prompts, which lie beside the videos.
    assert {e.prompt for e in find_videos(tmp_path / "out" / "videos")} == set(prompts.values())


def test_what_the_package_cannot_read_is_listed(folder, tmp_path):
    (folder / "a bird-7.mp4").touch()
    (folder / "a fox-0.gif").touch()
    with pytest.raises(ValueError, match=r"video 7 of its prompt.*mp4 only"):
        export_videos(find_videos(folder), tmp_path / "out")
    with pytest.raises(ValueError, match=r"a fox-0\.gif"):
        export_videos(find_videos(folder), tmp_path / "out", layout="custom")
    with pytest.raises(ValueError, match="layout='flat'"):
        export_videos(find_videos(folder), tmp_path / "out", layout="flat")


def test_prompts_and_missing_videos_of_the_official_list(folder, full_info, tmp_path, capsys):
    assert standard_prompts(full_info, ["imaging_quality", "dynamic_degree"]) == ["a cat", "a dog"]
    missing = missing_videos(find_videos(folder), ["a cat"])
    assert missing == ["a cat-1.mp4", "a cat-2.mp4", "a cat-3.mp4"]
    with pytest.raises(ValueError, match="no prompt for dimension='scene'"):
        standard_prompts(full_info, ["scene"])
    output = tmp_path / "list.txt"
    assert main(["vbench", "prompts", str(full_info), "--output", str(output)]) == 0
    assert [p.text for p in read_prompts(output)] == ["a cat", "a dog"]
    arguments = ["vbench", "export", str(folder), "--output", str(tmp_path / "out"), "--full-info", str(full_info)]
    assert main(arguments) == 1
    assert "7 videos of VBench's own list are missing" in capsys.readouterr().out


def test_results_come_back_on_the_scale_of_the_total(tmp_path, capsys):
    data = {
        "imaging_quality": [0.6, [{"video_path": "v/a-0.mp4", "video_results": 60.0}]],
        "dynamic_degree": [0.5, [{"video_path": "v/a-0.mp4", "video_results": True}, _entry("v/b-0.mp4", False)]],
    }
    (tmp_path / "x_eval_results.json").write_text(json.dumps(data))
    found = read_results(tmp_path / "x_eval_results.json")
    assert found["imaging_quality"].videos == {"v/a-0.mp4": pytest.approx(0.6)}
    assert found["dynamic_degree"].videos == {"v/a-0.mp4": 1.0, "v/b-0.mp4": 0.0}
    assert main(["vbench", "results", str(tmp_path / "x_eval_results.json")]) == 0
    assert "dynamic_degree" in capsys.readouterr().out


def _entry(path: str, value: object) -> dict[str, object]:
    return {"video_path": path, "video_results": value}


@pytest.mark.parametrize("text", ["[]", "{", '{"imaging_quality": [0.5, null]}', '{"imaging_quality": [0.5, [{}]]}'])
def test_other_files_are_no_results(text, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=r"r\.json"):
        read_results(tmp_path / "r.json")


def test_weights_command_lists_sources(tmp_path, small_cache, capsys):
    assert main(["vbench", "weights", "--cache-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip" in out
    assert main(["vbench", "weights", "--cache-dir", str(small_cache)]) == 1  # the package's own dimensions
    assert f"found    {small_cache}" in capsys.readouterr().out


def test_score_command_writes_a_table_and_says_what_failed(tmp_path, capsys):
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.full((1, 16, 16, 3), 5, np.uint8)
    write_lossless(tmp_path / "videos" / "a cat-0.mp4", frames, 8)
    (tmp_path / "videos" / "a dog-0.mp4").write_bytes(b"broken")
    arguments = ["vbench", "score", str(tmp_path / "videos"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--dimensions", "temporal_flickering"]) == 1
    printed = capsys.readouterr()
    assert "a dog-0.mp4: no temporal_flickering" in printed.err
    assert "0.980" in (tmp_path / "out" / "vbench.md").read_text()


def test_the_package_is_asked_for_by_its_command(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a cat-0.mp4").touch()
    arguments = ["vbench", "score", str(tmp_path / "videos"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--backend", "package", "--dimensions", "temporal_flickering"]) == 2
    assert "cac-align vbench install" in capsys.readouterr().err
