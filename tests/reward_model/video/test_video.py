"""Layouts, rates and grids: every accepted form means the same frames, every bad one says what is wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from reward_model.schema import FrameRange
from reward_model.video.clip import (
    Video,
    VideoError,
    check_fps,
    load_video,
    native_window,
    read_file,
    resize_frames,
    sample_indices,
    zoom_indices,
)
from reward_model.video.container import drawn_size
from reward_model.video.layouts import split_frames, to_frames
from reward_model.video.writing import write_mp4

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


class Output:
    """As diffusers returns it: one video in a list."""

    frames = ([Image.fromarray(f) for f in FRAMES],)


FORMS = {
    "uint8": FRAMES,
    "float": FRAMES.astype(np.float32) / 255,
    "float64 in a batch of one": FRAMES[None] / 255,
    "RGBA": np.concatenate([FRAMES, np.full((5, 6, 8, 1), 7, np.uint8)], -1),
    "list of PIL": [Image.fromarray(f) for f in FRAMES],
    "list of arrays": list(FRAMES),
    "list of one array": [FRAMES],
    "torch TCHW": torch.from_numpy(FRAMES).permute(0, 3, 1, 2),
    "torch 1CTHW": torch.from_numpy(FRAMES).permute(3, 0, 1, 2)[None],
    "torch float": torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float() / 255,
    "diffusers output": Output(),
    "Video": Video(FRAMES, 16),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_frames(name):
    video = load_video(FORMS[name], fps=8)
    assert video.fps == 8
    assert np.array_equal(video.frames, FRAMES)


def test_bfloat16_and_gray():
    white = torch.ones(2, 1, 4, 4, dtype=torch.bfloat16)
    assert to_frames(white).shape == (2, 4, 4, 3) and to_frames(white).min() == 255


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (np.zeros((1, 4, 4, 3), np.uint8), "1 frame"),
        (np.zeros((0, 4, 4, 3), np.uint8), "0 frame"),
        ([], "0 frame"),
        ([Image.new("RGB", (4, 4))], "1 frame"),
        (np.zeros((4, 4, 3), np.uint8), "shape"),
        (np.zeros((5, 3, 4, 8), np.uint8), "shape"),
        (torch.zeros(5, 8, 8, 3), "torch video has shape"),
        (torch.zeros(2, 3, 5, 4, 4), "torch video has shape"),
        (np.zeros((5, 4, 4, 3), np.int64), "dtype int64"),
        (np.full((5, 4, 4, 3), np.nan), "NaN"),
        (np.full((5, 4, 4, 3), 200.0), "expected \\[0, 1\\]"),
        (np.full((5, 4, 4, 3), -1.0), "expected \\[0, 1\\]"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], "share one"),
        (object(), "cannot read a video from object"),
        (np.zeros((5, 0, 4, 3), np.uint8), "empty axis"),
    ],
)
def test_bad_frames_are_named(video, words):
    with pytest.raises(VideoError, match=words):
        load_video(video, fps=16)


@pytest.mark.parametrize("fps", [None, 0, -1, float("nan"), float("inf"), "fast"])
def test_bad_fps_is_named(fps):
    with pytest.raises(VideoError, match="fps"):
        load_video(FRAMES, fps)
    with pytest.raises(VideoError, match="fps"):
        check_fps(fps)


def test_missing_corrupt_and_empty_files(tmp_path):
    with pytest.raises(VideoError, match="no video file"):
        load_video(tmp_path / "none.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 1000)
    with pytest.raises(VideoError, match="cannot decode"):
        load_video(tmp_path / "bad.mp4")
    (tmp_path / "text.mp4").write_text("this is not a video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        load_video(tmp_path / "text.mp4")


def test_a_file_brings_its_rate_and_an_explicit_one_wins(tmp_path):
    import imageio.v3 as iio

    path = tmp_path / "clip.mp4"
    iio.imwrite(path, np.repeat(FRAMES, 4, axis=0).repeat(4, 1).repeat(4, 2), fps=12, plugin="pyav", codec="libx264")
    frames, rate = read_file(path)
    assert frames.shape == (20, 24, 32, 3) and rate == pytest.approx(12)
    assert load_video(str(path)).fps == pytest.approx(12)
    assert load_video(path, fps=5).fps == 5


@pytest.mark.parametrize(
    ("num_frames", "fps", "target", "count", "last"),
    [
        (81, 16, 4, 21, 80),
        (81, 16, 8, 41, 80),
        (129, 24, 4, 22, 126),
        (2, 16, 4, 1, 0),
        (10, 3, 4, 10, 9),
        (60, 16, 4, 15, 56),
    ],
)
def test_grid_is_an_inclusive_stride(num_frames, fps, target, count, last):
    grid = sample_indices(num_frames, fps, target)
    assert (len(grid), grid[-1]) == (count, last)
    assert len(set(grid)) == len(grid)


def test_grid_of_a_fractional_stride_keeps_time():
    grid = sample_indices(150, 29.97, 4)
    assert all(abs(n / 29.97 - k / 4) <= 0.5 / 29.97 + 1e-9 for k, n in enumerate(grid))


def test_native_window_covers_half_a_stride_on_both_sides():
    grid = sample_indices(81, 16, 4)
    assert native_window(FrameRange(3, 5), grid, 81) == FrameRange(10, 22)
    assert native_window(FrameRange(0, 20), grid, 81) == FrameRange(0, 80)
    with pytest.raises(ValueError, match="outside"):
        native_window(FrameRange(3, 21), grid, 81)


def test_zoom_snaps_pads_and_caps():
    assert zoom_indices(FrameRange(10, 22), 81, 16) == [10, 12, 14, 16, 18, 20, 22]
    assert zoom_indices(FrameRange(11, 11), 81, 16, min_frames=1) == [10]
    assert zoom_indices(FrameRange(40, 40), 81, 16, min_frames=4) == [38, 40, 42, 44]
    assert zoom_indices(FrameRange(80, 80), 81, 16, min_frames=4) == [74, 76, 78, 80]
    capped = zoom_indices(FrameRange(0, 80), 81, 16, max_frames=10)
    assert len(capped) == 10 and capped[0] == 0 and capped[-1] == 80
    assert zoom_indices(FrameRange(0, 1), 2, 16, min_frames=4) == [0]
    with pytest.raises(ValueError, match="min_frames"):
        zoom_indices(FrameRange(0, 1), 9, 16, min_frames=5, max_frames=4)


def test_resizing_averages_when_it_shrinks():
    board = np.zeros((2, 4, 4, 3), np.uint8)
    board[:, ::2, ::2] = 255
    assert resize_frames(board, (4, 4)) is board
    assert set(np.unique(resize_frames(board, (2, 2)))) == {64}


# --- a pipeline's output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("pictures", "str without frames"),
        ((), "tuple without frames"),
        ((np.zeros((2, 4, 8, 8, 3), np.float32),), "2 videos where 1"),
        ((np.full((1, 4, 8, 8, 3), np.nan, np.float32),), "NaN"),
        ((np.zeros((1, 1, 8, 8, 3), np.float32),), "at least 2"),
    ],
)
def test_bad_pipeline_output(output, words):
    with pytest.raises(ValueError, match=words):
        split_frames(output, 1)


def test_output_forms():
    video = np.random.default_rng(0).integers(0, 255, (3, 4, 4, 3), np.uint8)
    pictures = [Image.fromarray(f) for f in video]
    for output in ((video[None],), ([pictures],), (video,), (video[None] / np.float32(255),)):
        assert np.array_equal(split_frames(output, 1)[0], video)


def test_an_enlarged_file_knows_the_size_it_was_drawn_at(tmp_path):
    """Files for pages are enlarged; what a judge was trained on is compared with the video, not with its picture."""
    path = tmp_path / "small.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (4, 31, 48, 3), np.uint8)
    scale = write_mp4(path, frames, 8)
    video = load_video(path)
    assert scale == 9 and video.size == (280, 432) and video.drawn_size == (31, 48)
    assert (
        video.at(4).drawn_size
        == load_video(video).drawn_size
        == load_video(load_video(video), 4).drawn_size
        == (31, 48)
    )
    write_mp4(path, np.zeros((4, 256, 256, 3), np.uint8), 8)
    assert load_video(path).drawn_size == (256, 256)


@pytest.mark.parametrize(
    ("tag", "drawn"),
    [
        ("pixels of 48x48 repeated 6 times", (48, 48)),
        ("pixels of 48x48 repeated 7 times", None),  # scaled by another tool, which kept the tag
        ("pixels of 0x0 repeated 288 times", None),
        ("pixels of 48x48 repeated 6 times, they say", None),
    ],
)
def test_a_tag_counts_only_where_the_picture_bears_it_out(tag, drawn):
    assert drawn_size({"comment": tag}, 288, 288) == drawn
    assert drawn_size({}, 288, 288) is None
