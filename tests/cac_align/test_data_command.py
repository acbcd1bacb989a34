"""``cac-align data``: each step as a user runs it, from files to files."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np
import pytest

from cac_align.commands import data
from reward_model.data.annotations import AnnotationError, Record, read_annotations, write_annotations
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.video.clip import VideoError
from reward_model.video.reading import probe
from reward_model.world import make_video
from tests.browser import hangs_over


def run(*words: Any) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args([str(w) for w in words]))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of three sources, each once normal and once with an anomaly, and their annotations."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "clips").mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (12, 16, 32, 3), dtype=np.uint8)
    hand = Anomaly(AnomalyType.HUMAN, FrameRange(2, 4), {n: (Box(1, 2, 30 + n, 40),) for n in (2, 3, 4)}, ("hand",))
    records = []
    for k in range(6):
        name = f"v{k}"
        iio.imwrite(folder / f"clips/{name}.mp4", frames, fps=8, plugin="pyav", codec="libx264")
        truth = VideoAnnotation(name, 12, 8.0, 32, 16, anomalies=(hand,) if k % 2 else ())
        extra = {"group": f"g{k // 2}", "batch": f"b{k // 4}", "annotator": "ann", "reviewer": "rev"}
        records.append(Record(f"clips/{name}.mp4", truth, extra=extra))
    write_annotations(folder / "all.jsonl", records)
    return folder


def test_validate_lists_every_problem_and_fails(clips, tmp_path, capsys):
    assert run("validate", clips / "all.jsonl") == 0
    assert "6 valid videos, 0 errors" in capsys.readouterr().out
    lines = (clips / "all.jsonl").read_text().splitlines()
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(["{", lines[0].replace('"fps": 8.0', '"fps": 16.0'), *lines[1:3]]))
    assert run("validate", bad, "--video-root", clips) == 1
    out = capsys.readouterr().out
    assert "line 1: not valid JSON" in out and "line 2 (v0): annotated fps 16" in out
    assert run("validate", bad, "--no-videos", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    # Line 2 is fine as long as nobody looks at its file; one video of three is abnormal.
    assert [(p["line"], p["severity"]) for p in found] == [(1, "error"), (0, "warning")]


def test_strict_makes_imbalance_an_error(clips, tmp_path):
    one = tmp_path / "one.jsonl"
    one.write_text((clips / "all.jsonl").read_text().splitlines()[0])
    assert run("validate", one, "--no-videos") == 0
    assert run("validate", one, "--no-videos", "--strict") == 1


def test_split_writes_files_that_still_find_their_videos(clips, tmp_path, capsys):
    words = ("--proportions", "train=1", "test=1", "--seed", 1)
    assert run("split", clips / "all.jsonl", "--output", tmp_path / "s.jsonl", *words) == 0
    records = read_annotations(tmp_path / "s.jsonl")
    assert len(records) == 6 and {r.split for r in records} == {"train", "test"}
    assert run("split", clips / "all.jsonl", "--output", tmp_path / "s", *words) == 0
    parts = {p.stem: read_annotations(p) for p in (tmp_path / "s").iterdir()}
    assert {r.truth.video_id: s for s, rows in parts.items() for r in rows} == {
        r.truth.video_id: r.split for r in records
    }
    with pytest.raises(ValueError, match="must read like"):
        run("split", clips / "all.jsonl", "--output", tmp_path / "x", "--proportions", "train")
    with pytest.raises(ValueError, match="letters and digits"):
        run("split", clips / "all.jsonl", "--output", tmp_path / "x", "--proportions", "../train=1")


def test_split_sets_a_test_file_aside(clips, tmp_path, capsys):
    out = tmp_path / "s"
    with pytest.raises(ValueError, match="no video for the test set"):
        run("split", clips / "all.jsonl", "--output", out, "--test", "0.001")
    assert not out.exists()
    assert run("split", clips / "all.jsonl", "--output", out, "--test", "0.5", "--seed", 0) == 0
    assert "test" in capsys.readouterr().out
    parts = {p.stem: {r.group for r in read_annotations(p)} for p in out.iterdir()}
    assert parts["test"] and len(parts) > 1
    assert not parts["test"] & set().union(*(g for name, g in parts.items() if name != "test"))
    assert run("split", clips / "all.jsonl", "--output", tmp_path / "t") == 0
    assert not (tmp_path / "t" / "test.jsonl").exists()


def test_show_puts_a_sample_on_one_page_that_needs_nothing_else(clips, tmp_path, capsys):
    """Fails if text of the file becomes markup, a picture is fetched, or boxes stand on other frames than theirs."""
    records = read_annotations(clips / "all.jsonl")
    evil = "<script>alert(1)</script>"
    bad = [replace(r, truth=replace(r.truth, prompt=evil, anomalies=_told(r.truth.anomalies, evil))) for r in records]
    write_annotations(clips / "evil.jsonl", bad)
    assert run("show", clips / "evil.jsonl", "--output", tmp_path / "a", "--num", 2) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "index.html")
    page = (tmp_path / "a" / "index.html").read_text()
    assert evil not in page and page.count("&lt;script&gt;alert(1)") >= 4 and "<script" not in page
    assert "default-src 'none'" in page and "Content-Security-Policy" in page
    assert all(a.startswith("data:") for a in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert page.count("<article") == 2 and page.count("<video") == 2 and "Human Distortion" in page
    # Frames 2 to 4 hold one box each; frames 1, 5 and 7 are normal.
    strip = page[page.index("<article") : page.index("</article>")]
    figures = re.findall(r'<figure( class="inside")?>(.*?)</figure>', strip, re.DOTALL)
    shown = {int(re.search(r"frame (\d+)", f)[1]): (bool(mark), f.count("<rect")) for mark, f in figures}
    assert shown == {k: (2 <= k <= 4, int(2 <= k <= 4)) for k in (1, 2, 3, 4, 5, 7)}
    assert '<rect x="1" y="2" width="31" height="38">' in strip


@pytest.mark.slow
def test_show_draws_by_seed(clips, tmp_path):
    def drawn(*words: Any) -> list[str]:
        assert run("show", clips / "all.jsonl", "--output", tmp_path, *words) == 0
        return re.findall(r'<h3 id="video-\d+">(\w+) ', (tmp_path / "index.html").read_text())

    assert drawn() == ["v1", "v3", "v5"]  # the abnormal ones, as many as there are
    first = drawn("--num", 1, "--seed", 0)
    assert first == drawn("--num", 1, "--seed", 0) and any(drawn("--num", 1, "--seed", k) != first for k in range(1, 6))
    assert drawn("--normal") == [f"v{k}" for k in range(6)]


def test_show_says_what_it_cannot_show(clips, tmp_path):
    lines = (clips / "all.jsonl").read_text().splitlines()
    (clips / "calm.jsonl").write_text(lines[0])
    with pytest.raises(ValueError, match=r"calm.jsonl has an anomaly; --normal"):
        run("show", clips / "calm.jsonl", "--output", tmp_path)
    with pytest.raises(ValueError, match="--num 0 must be at least 1"):
        run("show", clips / "all.jsonl", "--output", tmp_path, "--num", 0)
    (clips / "long.jsonl").write_text(lines[1].replace('"num_frames": 12', '"num_frames": 99'))
    with pytest.raises(ValueError, match="12 frames and its annotation 99"):
        run("show", clips / "long.jsonl", "--output", tmp_path)
    (tmp_path / "far.jsonl").write_text(lines[1])
    with pytest.raises(VideoError, match=r"v1\.mp4"):
        run("show", tmp_path / "far.jsonl", "--output", tmp_path)


def test_show_leaves_out_what_cannot_be_shown_and_marks_what_no_person_made(clips, tmp_path, capsys):
    lines = (clips / "all.jsonl").read_text().splitlines()
    long, good = lines[1].replace('"num_frames": 12', '"num_frames": 99'), json.loads(lines[3])
    marked = {**good, "annotation": "generated annotation", "made_by": "judge <x>"}
    (clips / "mixed.jsonl").write_text(long + "\n" + json.dumps(marked) + "\n")
    assert run("show", clips / "mixed.jsonl", "--output", tmp_path) == 0
    assert "left out: v1: " in capsys.readouterr().err
    page = (tmp_path / "index.html").read_text()
    assert page.count("<article") == 1 and ">generated annotation</span>" in page and "judge &lt;x&gt;" in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_show_fits_the_screen(clips, tmp_path, browser, width):
    """On a phone, text stood one letter to a line and the page was 39,789 pixels high."""
    assert run("show", clips / "all.jsonl", "--output", tmp_path, "--normal") == 0
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.goto((tmp_path / "index.html").as_uri())
    assert hangs_over(page) == []
    narrowest = page.evaluate("Math.min(...[...document.querySelectorAll('.right')].map((e) => e.clientWidth))")
    assert narrowest > 300 and page.evaluate("document.documentElement.scrollHeight") < 9000
    page.context.close()


def _told(anomalies: tuple[Anomaly, ...], words: str) -> tuple[Anomaly, ...]:
    return tuple(replace(a, reason=words, region=words) for a in anomalies)


@pytest.mark.slow
def test_stats_draw_a_plot(clips, tmp_path):
    pytest.importorskip("matplotlib")
    assert run("stats", clips / "all.jsonl", "--no-videos", "--plot", tmp_path / "s.svg") == 0
    assert (tmp_path / "s.svg").is_file()


def test_stats_go_to_the_screen_and_to_files(clips, tmp_path, capsys):
    files = ["--json", tmp_path / "s.json", "--markdown", tmp_path / "s.md"]
    assert run("stats", clips / "all.jsonl", "--no-videos", *files) == 0
    shown, written = capsys.readouterr().out, (tmp_path / "s.md").read_text()
    # A terminal shows Markdown's escapes as they stand; a page needs them.
    assert "| < 0.25 s" in shown and "| >= 4 s" in shown and "\\" not in shown and "#" not in shown
    assert r"| \< 0.25 s" in written and "### Temporal span" in written
    assert json.loads((tmp_path / "s.json").read_text())["types"]["Human Distortion"]["videos"] == 3
    with pytest.raises(ValueError, match="'train' is empty"):
        run("stats", clips / "all.jsonl", "--no-videos", "--split", "train")


def test_a_spot_check_and_its_outcome(clips, tmp_path, capsys):
    drawn = tmp_path / "spot.jsonl"
    words = ("--reviewers", "rev", "zoe", "--fraction", "1", "--output", drawn)
    assert run("spot-check", clips / "all.jsonl", *words) == 0
    records = read_annotations(drawn)
    assert {r.extra["spot_checker"] for r in records} == {"zoe"} and len(records) == 6
    assert run("agreement", clips / "all.jsonl", drawn) == 0
    changed = drawn.read_text().replace('"type": "Human Distortion"', '"type": "Object Distortion"', 1)
    drawn.write_text(changed)
    capsys.readouterr()
    assert run("agreement", clips / "all.jsonl", drawn, "--json") == 1
    batches = json.loads(capsys.readouterr().out)["batches"]
    assert [b["kept"] for b in batches] == [False, True]


@pytest.mark.parametrize(
    ("tool", "source", "words"), [("label-studio", "tasks.json", ("--as-annotations",)), ("cvat", "", ())]
)
def test_out_to_a_tool_and_back(clips, tmp_path, tool, source, words):
    assert run("export", clips / "all.jsonl", "--format", tool, "--output", tmp_path / "out", *words) == 0
    back = tmp_path / "back" / "b.jsonl"
    base = ("--base", clips / "all.jsonl")
    assert run("import", tmp_path / "out" / source, "--format", tool, "--output", back, *base) == 0
    found, old = read_annotations(back), read_annotations(clips / "all.jsonl")
    assert [(r.truth, r.extra) for r in found] == [(r.truth, r.extra) for r in old]


def test_cvat_of_a_video_whose_rate_varies_is_refused_and_said_on_export(tmp_path, capsys):
    """CVAT counts stored frames; frames of annotations lie at a constant rate."""
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 48, 32, "yuv420p", Fraction(1, 30)
        for stamp in (*range(12), 20, 24, 28, 33, *range(36, 48)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 5 * stamp, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = probe(tmp_path / "v.mp4")
    record = Record("v.mp4", VideoAnnotation("v", found.num_frames, found.fps or 0, 48, 32))
    write_annotations(tmp_path / "a.jsonl", [record])
    assert found.num_frames > 28  # stored frames
    out, back = tmp_path / "out", tmp_path / "b.jsonl"
    assert run("export", tmp_path / "a.jsonl", "--format", "cvat", "--output", out) == 0
    assert "counts its 28 stored frames" in capsys.readouterr().err
    assert run("import", out, "--format", "cvat", "--output", back, "--base", tmp_path / "a.jsonl") == 1
    said = capsys.readouterr().err
    assert "the rate of" in said and "Write the rate anew" in said and "ffmpeg" in said and not back.exists()


def test_cvat_places_boxes_in_stored_pixels_where_these_are_not_square(tmp_path, capsys):
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    hand = Anomaly(AnomalyType.HUMAN, FrameRange(2, 4), {n: (Box(250, 500, 500, 750),) for n in (2, 3, 4)}, ("hand",))
    new = Record("v.mp4", VideoAnnotation("v", 12, 8.0, 70, 32, anomalies=(hand,)))
    old = replace(new, truth=replace(new.truth, width=48))  # annotated in stored pixels
    other = replace(new, truth=replace(new.truth, width=56))
    out = tmp_path / "out"
    for n, record in enumerate((new, old)):
        source, back = tmp_path / f"{n}.jsonl", tmp_path / f"back-{n}.jsonl"
        write_annotations(source, [record])
        assert read_annotations(source) == [record], "either size is that of the file"
        assert run("export", source, "--format", "cvat", "--output", out) == 0
        document = (out / "v.xml").read_text()
        assert "<width>48</width>" in document and 'xtl="12.000000"' in document and 'xbr="24.000000"' in document
        assert run("import", out, "--format", "cvat", "--output", back, "--base", source) == 0
        assert read_annotations(back) == [record]
    write_annotations(tmp_path / "other.jsonl", [other])
    with pytest.raises(AnnotationError, match="annotated size 56x32, but the file has 70x32"):
        read_annotations(tmp_path / "other.jsonl")
    (out / "v.xml").write_text(document.replace("<width>48</width>", "<width>50</width>"))
    capsys.readouterr()
    assert run("import", out, "--format", "cvat", "--output", tmp_path / "x.jsonl", "--base", tmp_path / "0.jsonl") == 1
    assert "width 50, the record 70; they are not the same video" in capsys.readouterr().err


def test_grouped_records_go_out_and_come_back_to_another_folder(clips, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("export", clips / "all.jsonl", "--format", "grouped", "--output", out) == 0
    assert run("import", out / "grouped.jsonl", "--format", "grouped", "--output", tmp_path / "x/b.jsonl") == 0
    found, old = read_annotations(tmp_path / "x/b.jsonl"), read_annotations(clips / "all.jsonl")
    assert [(r.truth, r.extra, r.split) for r in found] == [(r.truth, r.extra, r.split) for r in old]
    assert run("export", clips / "all.jsonl", "--format", "grouped", "--output", out, "--sample-fps", "4") == 0
    assert '"frame_indices": [0, 2, 4' in (out / "grouped.jsonl").read_text()


def test_verdicts_become_annotations_for_every_tool(clips, tmp_path):
    anomaly = {"type": "object", "frames": [2, 4], "boxes": {"2": [[1, 2, 300, 400]]}}
    verdicts = [
        {"video": "clips/v0.mp4", "verdict": {"status": "abnormal", "score": 0.1, "anomalies": [anomaly]}},
        {"video": "clips/v1.mp4", "verdict": {"status": "normal", "score": 0.9, "provenance": {"model": "m"}}},
    ]
    (tmp_path / "v.json").write_text(json.dumps(verdicts))
    out = tmp_path / "auto/a.jsonl"
    assert run("import", tmp_path / "v.json", "--format", "verdicts", "--video-root", clips, "--output", out) == 0
    records = read_annotations(out)
    assert {r.extra["annotation"] for r in records} == {"generated annotation"} and records[1].extra["made_by"] == "m"
    assert run("export", out, "--format", "label-studio", "--output", tmp_path / "ls") == 0
    tasks = json.loads((tmp_path / "ls/tasks.json").read_text())
    assert [t["data"]["origin"] for t in tasks] == ["generated annotation"] * 2
    assert tasks[1]["predictions"][0]["model_version"] == "m"


def test_an_import_with_errors_writes_nothing_unless_told_to(clips, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("file,type,start,end\nclips/v0.mp4,text,0.5,1\nclips/v1.mp4,Ghosts,0,1\n")
    words = ("import", table, "--format", "table", "--output", tmp_path / "t.jsonl", "--time", "seconds")
    words += ("--video-root", clips, "--column", "video=file")
    assert run(*words) == 1 and not (tmp_path / "t.jsonl").exists()
    assert "item 3 (clips/v1.mp4): unknown anomaly type 'Ghosts'" in capsys.readouterr().err
    assert run(*words, "--skip-bad") == 0
    (record,) = read_annotations(tmp_path / "t.jsonl")
    assert record.truth.anomalies[0].frames == FrameRange(4, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "cvat"), "needs --base"),
        (("--format", "vif-cot"), "needs --video-root"),
        (("--format", "deeptrace"), "needs --type-map"),
        (("--format", "table"), "needs --video-root"),
        (("--format", "label-studio"), "is not JSON"),
    ],
)
def test_what_an_import_needs_is_said(tmp_path, words, message):
    (tmp_path / "x").write_text("{")
    with pytest.raises(ValueError, match=message):
        run("import", tmp_path / "x", "--output", tmp_path / "y.jsonl", *words)


def test_vif_and_deeptrace_are_read(clips, tmp_path):
    text = (
        "<type>Text Distortion</type> in <t>[0.5, 1.0]</t> at <bbox>[0.0, 0.0, 0.5, 0.5]</bbox> <answer>Fake</answer>"
    )
    vif = [{"messages": [{"role": "assistant", "content": text}], "images": ["k/fake/gen/v0/0.png"]}]
    (tmp_path / "vif.json").write_text(json.dumps(vif))
    words = ("--video-root", clips, "--video-pattern", "clips/{video_id}.mp4", "--type-map", "cac")
    assert run("import", tmp_path / "vif.json", "--format", "vif-cot", "--output", tmp_path / "v.jsonl", *words) == 0
    assert read_annotations(tmp_path / "v.jsonl")[0].truth.types == (AnomalyType.CHARACTER,)
    row = {
        **{"video_id": "v0", "video_path": "clips/v0.mp4", "video_type": "fake_video", "video_frame_rate": 8},
        **{"video_width": 32, "video_height": 16, "video_frame_count": 12, "faketrace_first_frame": 3},
        **{"faketrace_bbox": {"left": 0, "top": 0, "width": 8, "height": 8}, "faketrace_check_applies": ["odd"]},
        "faketrace_explanations": "melts",
    }
    (tmp_path / "d.json").write_text(json.dumps([row]))
    (tmp_path / "types.json").write_text('{"odd": "object"}')
    words = ("--video-root", clips, "--type-map", tmp_path / "types.json", "--last-frame", "end", "--first-index", 0)
    assert run("import", tmp_path / "d.json", "--format", "deeptrace", "--output", tmp_path / "d.jsonl", *words) == 0
    assert read_annotations(tmp_path / "d.jsonl")[0].truth.anomalies[0].frames == FrameRange(3, 11)


def test_odd_video_ids_become_safe_and_distinct_file_names(tmp_path):
    truth = {"num_frames": 4, "fps": 8.0, "width": 8, "height": 8}
    names = ("../a", "..", "A b", "a_b", "x" * 300)
    records = [Record(f"{k}.mp4", VideoAnnotation(n, **truth)) for k, n in enumerate(names)]
    write_annotations(tmp_path / "x.jsonl", records)
    assert run("export", tmp_path / "x.jsonl", "--format", "cvat", "--output", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*.xml"))) == 5 and {p.name for p in tmp_path.iterdir()} == {
        "x.jsonl",
        "out",
    }


@pytest.mark.slow
def test_corrupt_makes_annotated_twins(tmp_path):
    frames, _ = make_video(3, size=64, num_frames=24, fps=8)
    iio.imwrite(tmp_path / "real.mp4", frames, fps=8, plugin="pyav", codec="libx264", out_pixel_format="yuv420p")
    words = ("--output", tmp_path / "out", "--per-video", 1, "--kinds", "swirl", "--seed", 1)
    assert run("corrupt", tmp_path / "real.mp4", *words) == 0
    records = read_annotations(tmp_path / "out/annotations.jsonl")
    assert sorted(r.truth.status for r in records) == ["abnormal", "normal"] and len({r.group for r in records}) == 1


@pytest.mark.slow
def test_views_show_what_a_stage_sees(clips, capsys):
    pytest.importorskip("datasets")
    assert run("views", clips / "all.jsonl", "--stage", "stage1", "--show", 1) == 0
    out = capsys.readouterr().out
    assert out.startswith("frame          6 normal        6 abnormal") and '"status"' in out


def test_the_sample_annotations_are_valid():
    path = Path(__file__).resolve().parents[2] / "assets/samples/annotations.jsonl"
    assert run("validate", path, "--no-videos", "--strict") == 0


def test_a_broken_file_is_one_error_for_every_step(tmp_path):
    (tmp_path / "x.jsonl").write_text("{\n")
    for words in (
        ("stats",),
        ("split", "--output", tmp_path / "y"),
        ("export", "--format", "cvat", "--output", tmp_path),
    ):
        with pytest.raises(AnnotationError, match="line 1: not valid JSON"):
            run(words[0], tmp_path / "x.jsonl", *words[1:])


def test_help_needs_no_heavy_library():
    code = (
        "import argparse, sys; from cac_align.commands import data; data.add_arguments(argparse.ArgumentParser());"
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'av', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
