"""A folder of footage becomes a folder of annotated videos, and a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reward_model.data.annotations import read_annotations, validate_annotations, video_path
from reward_model.data.corruptions import KINDS, CorruptionError, Footage, corrupt_folder, folder
from reward_model.video.clip import load_video
from reward_model.video.writing import write_video
from tests.campaigns import draws

FPS, LENGTH = 12.0, 24


def footage(seed: int) -> np.ndarray:
    """A textured square that falls over an even, slightly shaded ground, (24, 64, 80, 3)."""
    rng = np.random.default_rng(seed)
    ground = np.full((64, 80, 3), (90, 110, 120)) + np.linspace(0, 20, 80)[None, :, None]
    square = rng.integers(40, 250, (8, 8, 3)).repeat(3, 0).repeat(3, 1)
    frames = np.repeat(ground[None], LENGTH, 0)
    for k in range(LENGTH):
        top, left = 6 + round(1.2 * k), 12 + k
        frames[k, top : top + 24, left : left + 24] = square
    return np.clip(frames + rng.normal(0, 1, frames.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def measured_once() -> Iterator[None]:
    """What moves in a video follows from its frames and takes most of the time: once for all tests and runs."""
    known: dict[tuple[bytes, float], Footage] = {}

    def remembered(frames: np.ndarray, fps: float) -> Footage:
        key = hashlib.sha256(f"{frames.shape}".encode() + frames.tobytes()).digest(), fps
        return known.setdefault(key, Footage(frames, fps))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "Footage", remembered)
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_video(tmp_path / "in" / "one.mp4", footage(1), FPS)
    write_video(tmp_path / "in" / "deep" / "two.mp4", footage(2), FPS)
    return tmp_path / "in"


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_folder_gives_as_many_normal_as_abnormal_videos_that_pass_the_validator(source: Path, tmp_path: Path):
    """Fails if sizes, lengths or rates in the records are not those of the files, or the classes are unequal."""
    pairs = videos = draws(2, 1)
    path = corrupt_folder(source if videos == 2 else source / "one.mp4", tmp_path / "out", per_video=pairs, seed=3)
    report = validate_annotations(path)
    assert not report.errors
    records = read_annotations(path)
    assert [r.truth.status for r in records].count("normal") == videos * pairs and len(records) == 2 * videos * pairs
    assert len({r.group for r in records}) == videos
    for record in records:
        assert (record.extra["operator"] == "normal") == (record.truth.status == "normal")
        if record.truth.anomalies:
            assert record.truth.anomalies[0].type is KINDS[record.extra["operator"]]
    # Every pair is made; what is told are kinds that did not fit, and why, none of them the one that was made.
    made = {(r.extra["group"].rpartition("-")[0], r.truth.video_id.split("-")[2]): r.extra["operator"] for r in records}
    for entry in json.loads((tmp_path / "out" / "skipped.json").read_text()):
        place = entry["video"].removesuffix(".mp4"), str(entry["pair"])
        assert entry["kind"] in KINDS and entry["reason"] and made[place] != entry["kind"]
    # The anomaly survives the codec: inside its boxes the twins differ clearly, outside the window hardly.
    abnormal = next(r for r in records if r.truth.anomalies and r.extra["style"] == "plain")
    normal = next(
        r for r in records if r.group == abnormal.group and r.extra["seed"] == abnormal.extra["seed"] and r != abnormal
    )
    a, b = (load_video(video_path(r, path)).frames.astype(int) for r in (abnormal, normal))
    window = abnormal.truth.anomalies[0].frames
    difference = np.abs(a - b).max((1, 2, 3))
    inside = difference[window.start : window.end + 1]
    assert a.shape == b.shape == (LENGTH, 64, 80, 3) and np.median(inside) > 20


@pytest.mark.parametrize(
    ("per_video", "seed"), [(1, 0), *(pytest.param(n, k, marks=pytest.mark.slow) for n, k in ((1, 1), (1, 2), (2, 0)))]
)
def test_a_small_set_has_anomalies_below_a_second_and_above(source: Path, tmp_path: Path, per_video: int, seed: int):
    """Fails if lengths are left to chance: stage 2 finds nothing to cut clips from in a set of long ones."""
    path = corrupt_folder(source, tmp_path / "out", per_video=per_video, kinds=["swirl"], normal=False, seed=seed)
    spans: dict[str, list[bool]] = {}
    for record in read_annotations(path):
        short = len(record.truth.anomalies[0].frames) / record.truth.fps < 1
        spans.setdefault(record.group if per_video == 2 else "all", []).append(short)
    assert len(spans) == (2 if per_video == 2 else 1)
    assert all(sorted(found) == [False, True] for found in spans.values())


def test_a_kind_that_does_not_fit_is_told_with_its_reason_and_another_is_made(source: Path, tmp_path: Path):
    """Fails if nobody learns why a kind is missing from the set: here nothing is written in the footage."""
    options = {"per_video": 4, "kinds": ["mirror", "swirl"], "normal": False, "max_frames": 12, "seed": 1}
    path = corrupt_folder(source / "one.mp4", tmp_path / "out", **options)
    assert {r.extra["operator"] for r in read_annotations(path)} == {"swirl"}
    skipped = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert skipped and {s["kind"] for s in skipped} == {"mirror"} and all("writing" in s["reason"] for s in skipped)
    corrupt_folder(source / "one.mp4", tmp_path / "out", **options)  # resumed: nothing is forgotten
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()) == skipped


def test_a_killed_run_continues_and_ends_as_if_it_had_not_been_killed(source: Path, tmp_path: Path, monkeypatch):
    """Fails if a finished video is made twice, a half-written one is kept, or the seed depends on the order."""
    options = {"per_video": 1, "kinds": ["swirl", "flicker"], "seed": 5}
    whole = corrupt_folder(source, tmp_path / "whole", **options)
    written: list[str] = []
    true_write = folder.write_video

    def dying_write(path: Path, frames: np.ndarray, fps: float) -> None:
        if len(written) == 3:
            path.with_name(f".{path.stem}.1.mp4").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        true_write(path, frames, fps)

    monkeypatch.setattr(folder, "write_video", dying_write)
    with pytest.raises(KeyboardInterrupt):
        corrupt_folder(source, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "annotations.jsonl").exists()
    again: list[str] = []
    monkeypatch.setattr(folder, "write_video", lambda p, f, r: (again.append(p.name), true_write(p, f, r)))
    path = corrupt_folder(source, tmp_path / "out", **options)
    assert not set(written[:2]) & set(again) and len(again) == 2  # the first pair was finished, the second half
    assert path.read_bytes() == whole.read_bytes()
    ours, theirs = (
        {k: v for k, v in tree(root).items() if not Path(k).name.startswith(".")}
        for root in (tmp_path / "out", tmp_path / "whole")
    )
    assert ours == theirs
    again.clear()
    corrupt_folder(source, tmp_path / "out", **options)
    assert again == []
    corrupt_folder(source, tmp_path / "out", **{**options, "seed": 6})
    assert len(again) == 4  # other settings: everything anew


def test_unfit_and_broken_videos_are_reported_not_fatal(source: Path, tmp_path: Path):
    write_video(source / "even.mp4", np.full((20, 32, 32, 3), 80, np.uint8), FPS)
    (source / "broken.mp4").write_bytes(b"no video at all")
    path = corrupt_folder(
        [*sorted(source.rglob("*.mp4")), source / "absent.mp4"], tmp_path / "out", per_video=1, kinds=["bulge"]
    )
    skipped = {s["video"]: s["reason"] for s in json.loads((tmp_path / "out" / "skipped.json").read_text())}
    assert set(skipped) == {"even.mp4", "broken.mp4", "absent.mp4"}
    assert "even everywhere" in skipped["even.mp4"] and "check the path" in skipped["absent.mp4"]
    assert {r.extra["operator"] for r in read_annotations(path)} == {"bulge", "normal"}


def test_options(source: Path, tmp_path: Path):
    path = corrupt_folder(
        source / "one.mp4", tmp_path / "out", per_video=1, kinds=["flicker"], normal=False, max_frames=16, people=True
    )
    (record,) = read_annotations(path)
    assert record.truth.num_frames == 16 and record.truth.status == "abnormal"
    with pytest.raises(CorruptionError, match="unknown kind"):
        corrupt_folder(source, tmp_path / "x", kinds=["explode"])
    with pytest.raises(CorruptionError, match="per_video=0"):
        corrupt_folder(source, tmp_path / "x", per_video=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptionError, match="no video in"):
        corrupt_folder(tmp_path / "empty", tmp_path / "x")


@pytest.mark.slow
def test_odd_sizes_are_cropped_before_boxes_are_measured(tmp_path: Path):
    """Fails if a record tells the size of the source where the file has another."""
    frames = footage(1)[:, :63, :79]
    (tmp_path / "in").mkdir()
    import imageio.v3 as iio

    iio.imwrite(tmp_path / "in" / "odd.gif", frames, duration=1000 / FPS, loop=0)
    path = corrupt_folder(tmp_path / "in", tmp_path / "out", per_video=1, kinds=["bulge"])
    assert {(r.truth.width, r.truth.height) for r in read_annotations(path)} == {(78, 62)}


@pytest.mark.slow
def test_workers_make_the_same_files(source: Path, tmp_path: Path):
    one = corrupt_folder(source, tmp_path / "one", per_video=1, seed=1)
    two = corrupt_folder(source, tmp_path / "two", per_video=1, seed=1, workers=2)
    assert one.read_bytes() == two.read_bytes() and tree(tmp_path / "one") == tree(tmp_path / "two")


def test_what_is_no_regular_file_is_skipped_with_the_reason(source, tmp_path):
    os.mkfifo(source / "pipe.mp4")
    (source / "loop.mp4").symlink_to("loop.mp4")
    shutil.copy(source / "one.mp4", os.fsdecode(os.fsencode(source) + b"/caf\xe9.mp4"))
    (source / "text.mp4").write_text("no video")
    written = corrupt_folder(source, tmp_path / "out", per_video=1, kinds=["swirl"])
    skipped = {
        s["video"]: s["reason"] for s in json.loads((tmp_path / "out/skipped.json").read_text()) if "kind" not in s
    }
    assert {"pipe.mp4", "loop.mp4", "text.mp4"} <= skipped.keys() and "pipe" in skipped["pipe.mp4"]
    assert any("UTF-8" in reason for reason in skipped.values())
    assert {r.truth.video_id.split("-")[0] for r in read_annotations(written)} == {"one", "two"}


def test_one_fault_that_nobody_foresaw_costs_one_pair(source, tmp_path, monkeypatch):
    plain = folder._make_pair

    def make_pair(frames, fps, group, *rest):
        if group.startswith("one"):
            raise MemoryError
        return plain(frames, fps, group, *rest)

    monkeypatch.setattr(folder, "_make_pair", make_pair)
    written = corrupt_folder(source, tmp_path / "out", per_video=1, kinds=["swirl"])
    assert len(read_annotations(written)) == 2
    assert "MemoryError" in (tmp_path / "out/skipped.json").read_text()
