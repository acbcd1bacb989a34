"""Folders of videos: found, scored once, resumed, shared by processes, and tabulated."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cac_align.metrics import MetricSuite, evaluate_videos, find_videos
from cac_align.metrics.folder import Process, failures
from cac_align.metrics.report import report_to_dict, seed_totals, vbench_tables
from cac_align.metrics.rows import ROWS, MetricRow, RowsLostError, RowWriter
from reward_model.video.clip import read_file
from reward_model.video.writing import LOSSLESS_H264, write_video

ROOT = Path(__file__).resolve().parents[3]


def noise(seed: int, step: int, num: int = 4) -> np.ndarray:
    """Frames (T, 16, 24, 3) of which each is ``step`` brighter than the one before."""
    base = np.random.RandomState(seed).randint(0, 100, (1, 16, 24, 3))
    return (base + step * np.arange(num)[:, None, None, None]).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two prompts, two seeds each."""
    for prompt, step in (("a cat", 2), ("a dog", 10)):
        for k in range(2):
            write_video(tmp_path / "videos" / f"{prompt}-{k}.mp4", noise(k, step + k, 4 + k), 8, LOSSLESS_H264)
    return tmp_path / "videos"


def flicker_suite() -> MetricSuite:
    return MetricSuite(["temporal_flickering"], device="cpu")


@pytest.mark.parametrize("size", [(16, 24), (131, 199)])
def test_lossless_files_decode_to_the_same_bytes(size, tmp_path):
    frames = np.random.RandomState(0).randint(0, 256, (3, *size, 3)).astype(np.uint8)
    found, fps = read_file(write_video(tmp_path / "a.mp4", frames, 23.976, LOSSLESS_H264))
    assert (found == frames).all()
    assert fps == pytest.approx(23.976)


def test_videos_are_found_in_every_layout(tmp_path):
    for name in ("a cat-3.mp4", "seed7/a dog.mp4", "seed8/a dog.mp4", "bon/x/best.mp4", "bon/x/candidates/00.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "bon/x/result.json").write_text(json.dumps({"prompt": "a bird"}))
    (tmp_path / ".hidden.mp4").touch()
    (tmp_path / "bon" / "y").mkdir()
    found = {(e.name, e.prompt, e.index) for e in find_videos(tmp_path)}
    assert found == {
        ("a cat-3.mp4", "a cat", 3),
        ("seed7/a dog.mp4", "a dog", 7),
        ("seed8/a dog.mp4", "a dog", 8),
        ("bon/x/best.mp4", "a bird", 0),
    }
    (tmp_path / "prompts.json").write_text(json.dumps({"a cat-3.mp4": "a cat: asleep"}))
    assert find_videos(tmp_path)[0].prompt == "a cat: asleep"
    with pytest.raises(ValueError, match="no folder"):
        find_videos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no video"):
        find_videos(tmp_path / "bon" / "y")


def test_rows_hold_the_scores_and_a_second_run_computes_nothing(folder, tmp_path, monkeypatch):
    rows = evaluate_videos(find_videos(folder), flicker_suite(), tmp_path / "out")
    assert [(r.prompt, r.index, r.num_frames, r.fps) for r in rows] == [
        ("a cat", 0, 4, 8),
        ("a cat", 1, 5, 8),
        ("a dog", 0, 4, 8),
        ("a dog", 1, 5, 8),
    ]
    assert [r.score for r in rows] == pytest.approx([(255 - step) / 255 for step in (2, 3, 10, 11)])
    monkeypatch.setattr(MetricSuite, "evaluate", None)
    assert evaluate_videos(find_videos(folder), flicker_suite(), tmp_path / "out") == rows


def test_a_stopped_run_goes_on_and_a_broken_line_does_not_count(folder, tmp_path):
    out = tmp_path / "out"
    whole = evaluate_videos(find_videos(folder), flicker_suite(), tmp_path / "whole")
    RowWriter(out, 0).write(whole[:2])
    part = next(out.glob("rows.part*"))
    part.write_bytes(part.read_bytes()[:-10])  # killed while writing
    scored = []
    suite = flicker_suite()
    plain = suite.evaluate
    suite.evaluate = lambda videos, *a, **k: scored.extend(v.name for v in videos) or plain(videos, *a, **k)
    assert evaluate_videos(find_videos(folder), suite, out) == whole
    assert scored == ["a cat-1.mp4", "a dog-0.mp4", "a dog-1.mp4"]
    assert [p.name for p in out.iterdir()] == [ROWS]


def test_changed_videos_weights_and_settings_are_scored_anew(folder, tmp_path, monkeypatch):
    entries, out = find_videos(folder), tmp_path / "out"
    first = evaluate_videos(entries, flicker_suite(), out)
    write_video(folder / "a dog-1.mp4", noise(9, 20), 8, LOSSLESS_H264)
    second = evaluate_videos(find_videos(folder), flicker_suite(), out)
    assert second[:3] == first[:3]
    assert second[3].score == pytest.approx(235 / 255)
    suite = flicker_suite()
    monkeypatch.setattr(suite, "describe", lambda name: {"other": "weights"})
    third = evaluate_videos(find_videos(folder), suite, out)
    assert all(a.setting != b.setting and a.score == b.score for a, b in zip(second, third, strict=True))


def test_a_failure_is_counted_named_and_tried_again(folder, tmp_path):
    (folder / "a cow-0.mp4").write_bytes((folder / "a cat-0.mp4").read_bytes()[:200])
    said = []
    rows = evaluate_videos(find_videos(folder), flicker_suite(), tmp_path / "out", say=said.append)
    bad = failures(rows)["temporal_flickering"]
    assert [r.video for r in bad] == ["a cow-0.mp4"]
    assert sum(r.score is not None for r in rows) == 4
    assert any("a cow-0.mp4: no temporal_flickering" in text for text in said)
    [table] = vbench_tables({"base": rows}, num_resamples=20)
    assert any("1 of 5 videos without temporal_flickering: a cow-0.mp4" in note for note in table.notes)
    assert report_to_dict({"base": rows}, [table])["failures"]["base"]["temporal_flickering"].keys() == {"a cow-0.mp4"}
    write_video(folder / "a cow-0.mp4", noise(1, 1), 8, LOSSLESS_H264)
    assert not failures(evaluate_videos(find_videos(folder), flicker_suite(), tmp_path / "out"))


def test_shares_of_two_processes_are_the_whole(folder, tmp_path):
    entries = find_videos(folder)
    alone = evaluate_videos(entries, flicker_suite(), tmp_path / "alone")
    out = tmp_path / "two"
    # One after the other: each takes its share of what it finds missing.
    for k in (1, 0):
        evaluate_videos(entries, flicker_suite(), out, process=Process(k, 2))
    evaluate_videos(entries, flicker_suite(), out)
    assert (out / ROWS).read_bytes() == (tmp_path / "alone" / ROWS).read_bytes()
    assert [r.score for r in alone] == [r.score for r in evaluate_videos(entries, flicker_suite(), out)]


@pytest.mark.slow
def test_two_launched_processes_write_the_tables_of_one(folder, tmp_path):
    """Which bug: processes that overwrite each other's rows, or a table that depends on who scored what."""
    config = ROOT / "recipes" / "configs" / "evaluate_vbench" / "mini.yaml"
    text = config.read_text(encoding="utf-8").replace("judge: mini", "judge: null")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    script = [str(ROOT / "recipes" / "evaluate_vbench.py"), "--config", str(tmp_path / "config.yaml")]
    tables = []
    for name, launch in (
        ("one", []),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]),
    ):
        output = tmp_path / name
        command = [sys.executable, *launch, *script, "--videos", f"base={folder}", "--output", str(output)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""})
        tables.append((output / "tables.json").read_text() + (output / "tables.tex").read_text())
    assert tables[0] == tables[1]


def row(
    prompt: str, index: int, score: float | None, metric: str = "subject_consistency", frames: int = 3
) -> MetricRow:
    return MetricRow(
        f"{prompt}-{index}.mp4", prompt, index, "f", metric, "s", score, None if score else "why", frames, 8.0
    )


def test_tables_pair_videos_and_resample_prompts():
    base = [row(p, k, 0.5 + 0.1 * k) for p in "abcd" for k in range(2)]
    better = [replace(r, score=r.score + 0.2) for r in base if r.prompt != "d"]
    values, gaps = vbench_tables({"base": base, "lora": better}, num_resamples=200)
    assert values.columns == ("folder", "videos", "prompts", "subject_consistency")
    assert values.rows[0][:3] == ("base", 8, 4)
    # Every prompt has the same two scores: resampling prompts gives one number, resampling videos would not.
    assert values.rows[0][3].value == pytest.approx(0.55)
    assert list(values.rows[0][3].interval) == pytest.approx([0.55, 0.55])
    assert gaps.rows[0][1] == 6
    assert gaps.rows[0][2].value == pytest.approx(0.2)
    assert seed_totals(base, "subject_consistency") == pytest.approx({0: 0.5, 1: 0.6})
    assert "0.550 [0.550, 0.550]" in values.to_latex()
    assert "0.550" in values.to_markdown()
    json.dumps(report_to_dict({"base": base, "lora": better}, [values, gaps]), allow_nan=False)


def test_a_column_nobody_scored_is_a_dash():
    rows = [row("a", 0, None), row("b", 0, None)]
    [table] = vbench_tables({"base": rows})
    assert table.rows[0][3].value is None


def test_recipe_writes_its_tables_and_names_what_is_wrong(folder, tmp_path, capsys):
    recipe = runpy.run_path(str(ROOT / "recipes" / "evaluate_vbench.py"))["main"]
    (tmp_path / "c.yaml").write_text("dimensions: [temporal_flickering]\nbackend: native\nnum_resamples: 50\n")
    output = tmp_path / "out"
    arguments = ["--config", str(tmp_path / "c.yaml"), "--output", str(output), "--device", "cpu"]
    assert recipe([*arguments, "--videos", f"base={folder}", f"lora={folder}"]) == 0
    assert {"tables.md", "tables.tex", "tables.json", "rows"} == {p.name for p in output.iterdir()}
    tables = json.loads((output / "tables.json").read_text())["tables"]
    assert tables[0]["groups"][0][0]["temporal_flickering"]["value"] == pytest.approx(1 - 6.5 / 255)
    assert tables[1]["groups"][0][0]["temporal_flickering"]["value"] == 0
    with pytest.raises(ValueError, match="base=outputs/base"):
        recipe([*arguments, "--videos", "base"])
    capsys.readouterr()
    assert recipe([*arguments, "--dimensions", "imaging_quality", "--dry-run"]) == 1
    assert "musiq_spaq" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "configs" / "evaluate_vbench").glob("*.yaml")))
def test_shipped_configs_name_known_settings(path):
    module = runpy.run_path(str(ROOT / "recipes" / "evaluate_vbench.py"))
    settings = module["_settings"](module["parser"]().parse_args(["--config", str(path)]))
    assert MetricSuite(settings["dimensions"], backend=settings["backend"]).metrics


def test_two_runs_on_one_folder_never_lose_a_row(folder, tmp_path):
    from reward_model.folders import FolderInUseError, hold

    with hold(tmp_path / "out"), pytest.raises(FolderInUseError, match="in use by another run"):
        evaluate_videos(find_videos(folder), flicker_suite(), tmp_path / "out")
    assert len(evaluate_videos(find_videos(folder), flicker_suite(), tmp_path / "out")) == 4


def test_a_row_that_is_gone_is_an_error_and_not_a_smaller_table(folder, tmp_path):
    suite = flicker_suite()
    plain, out = suite.evaluate, tmp_path / "out"

    def evaluate(*args, **kwargs):
        for part in out.glob("rows.part*"):
            part.unlink()  # as another run's merge does
        return plain(*args, **kwargs)

    suite.evaluate = evaluate
    with pytest.raises(RowsLostError, match=r"3 scores written to .* are missing"):
        evaluate_videos(find_videos(folder), suite, out)


def test_a_file_that_cannot_be_read_costs_its_row_alone(folder, tmp_path):
    os.mkfifo(folder / "pipe-0.mp4")
    (folder / "dead-0.mp4").symlink_to("nothing.mp4")
    (folder / "torn-0.mp4").write_bytes((folder / "a cat-0.mp4").read_bytes()[:900])
    assert len(find_videos(folder)) == 5
    rows = evaluate_videos(find_videos(folder, unreadable=True), flicker_suite(), tmp_path / "out")
    bad = {r.video: r.reason for r in rows if r.score is None}
    assert len(rows) == 7 and bad.keys() == {"pipe-0.mp4", "dead-0.mp4", "torn-0.mp4"}
    assert "pipe" in bad["pipe-0.mp4"] and "torn-0.mp4" in bad["torn-0.mp4"]
