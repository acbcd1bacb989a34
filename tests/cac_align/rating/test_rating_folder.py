"""What is found in a folder, and that nothing outside of it is."""

import json
import os
import shutil

import pytest

from cac_align.rating.folder import OutsideError, find_ratable_videos, inside


def test_finds_videos_with_size_rate_length_and_prompt(folder):
    (folder / "a/one.txt").write_text("a ball <b>rolls</b>\n")
    (folder / "ratings").mkdir()
    shutil.copy(folder / "a/one.mp4", folder / "ratings/x.mp4")
    videos, left_out = find_ratable_videos(folder)
    assert [v.path for v in videos] == ["a/one.mp4", "a/two.mp4", "b/five.mp4", "b/four.mp4", "b/three.mp4"]
    assert {(v.num_frames, v.fps, v.width, v.height) for v in videos} == {(33, 16.0, 256, 256)}
    assert videos[0].prompt == "a ball <b>rolls</b>" and videos[1].prompt == ""
    assert left_out == []


def test_best_of_n_folders_bring_their_prompt_and_no_video_twice(folder):
    run = folder / "dog"
    (run / "candidates").mkdir(parents=True)
    for name in ("candidates/00.mp4", "candidates/01.mp4", "best.mp4"):
        shutil.copy(folder / "a/one.mp4", run / name)
    (run / "result.json").write_text(json.dumps({"prompt": "a dog", "candidates": []}))
    found = [(v.path, v.prompt, v.group) for v in find_ratable_videos(folder)[0] if v.path.startswith("dog")]
    assert found == [("dog/candidates/00.mp4", "a dog", "dog"), ("dog/candidates/01.mp4", "a dog", "dog")]
    assert [v.path for v in find_ratable_videos(run)[0]] == ["candidates/00.mp4", "candidates/01.mp4"]


def test_links_out_broken_files_and_doubles_are_left_out_with_the_reason(folder, tmp_path):
    shutil.copy(folder / "a/one.mp4", tmp_path / "outside.mp4")
    (folder / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (folder / "same.mp4").symlink_to(folder / "a/one.mp4")
    (folder / "text.mp4").write_text("no video")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "a/two.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "elsewhere").symlink_to(tmp_path)
    videos, left_out = find_ratable_videos(folder)
    assert len(videos) == 5 and all(v.prompt == "" for v in videos)
    reasons = dict(line.split(": ", 1) for line in left_out)
    assert "leads out" in reasons["link.mp4"] and "same file" in reasons["same.mp4"] and "cannot" in reasons["text.mp4"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x"])
def test_inside_refuses_what_leads_out(folder, tmp_path, name):
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(OutsideError, match="leads out"):
        inside(folder, name)


def test_a_loop_of_links_is_left_out(folder):
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(folder / "pipe.mp4")
    os.mkfifo(folder / "a/one.txt")
    videos, left_out = find_ratable_videos(folder)
    assert len(videos) == 5 and [line.split(":")[0] for line in left_out] == ["pipe.mp4", "loop.mp4"]
