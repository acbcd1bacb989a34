"""What VBench's own scripts read and write, and the command line around it."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cac_align.cli import main
from cac_align.metrics import VBenchPackage, export_videos, find_videos, read_results
from cac_align.metrics.export import missing_videos, same_video, standard_prompts
from cac_align.prompts import read_prompts
from reward_model.video.clip import load_video
from reward_model.video.reading import read_facts
from reward_model.video.writing import LOSSLESS_H264, write_video
from tests.campaigns import slow_but
from tests.reward_model.video.clips import numbered, write

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


def awkward(folder: Path) -> dict[str, Path]:
    """One file that may be handed over as it is, and three that the package would read another way than we do."""
    every, tick = numbered(12), Fraction(1, 16)
    times = [*range(6), *range(6, 24, 3)]
    folder.mkdir()
    return {
        "plain": write(folder / "plain-0.mp4", every),
        "turned": write(folder / "turned-0.mp4", every, turn={"degrees": 90}),
        "varying": write(folder / "varying-0.mp4", every, times=times, time_base=tick, max_b_frames=0),
        "cover": write(folder / "cover-0.mp4", every, before=np.zeros((64, 64, 3), np.uint8)),
    }


def stored(path: Path) -> tuple[int, ...]:
    """Length and size as a reader sees them that knows no time stamps and no orientation."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return len(frames), *frames[0].shape


def test_the_package_is_handed_files_that_it_reads_as_we_do(tmp_path):
    files = awkward(tmp_path / "videos")
    (tmp_path / "handed").mkdir()
    package = VBenchPackage(sys.executable, cache_dir=tmp_path)
    paths, broken = package._files([*files.values()], None, tmp_path / "handed")
    assert not broken and [p for p in paths.values() if p in files.values()] == [files["plain"]]
    for source, handed in zip(files.values(), paths.values(), strict=True):
        ours = load_video(source)
        assert stored(handed) == ours.frames.shape and read_facts(handed).as_stored
        assert same_video(source, handed)
    assert load_video(files["turned"]).frames.shape[1:3] == (48, 32)


@pytest.mark.parametrize("link", slow_but([False, True]))
def test_exported_files_are_read_by_the_package_as_by_us(tmp_path, link):
    files = awkward(tmp_path / "videos")
    for _ in range(2):  # a second export finds nothing to do
        written = export_videos(find_videos(tmp_path / "videos"), tmp_path / "out", link=link)
    for source in files.values():
        assert stored(written / source.name) == load_video(source).frames.shape
        assert same_video(source, written / source.name)
    assert (written / "plain-0.mp4").read_bytes() == files["plain"].read_bytes()
    assert (written / "plain-0.mp4").is_symlink() == link
    write(files["turned"], numbered(12)[::-1], turn={"degrees": 90})
    with pytest.raises(ValueError, match="other content"):
        export_videos(find_videos(tmp_path / "videos"), tmp_path / "out", link=link)


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
    write_video(tmp_path / "videos" / "a cat-0.mp4", frames, 8, LOSSLESS_H264)
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
